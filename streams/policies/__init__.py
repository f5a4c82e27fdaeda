"""Whether a message may go to a member now: one verdict for every message, whatever campaign asks."""
