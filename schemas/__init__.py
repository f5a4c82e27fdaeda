"""What travels: events, commands, decisions, receipts, attribution records, and their bytes. No I/O, no clock."""
