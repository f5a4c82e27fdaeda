"""Decoded members kept in memory between epochs, bounded in bytes: the one that changed longest ago leaves first."""

from tables.member_state import Member

HOT_BYTES = 256 << 20  # per partition: some 48,000 members of workload W after 4 h
# What a decoded member takes: tracemalloc says 5,260 bytes for a mean record of workload W (345 bytes), 3,050 for one
# of 221, 7,330 for one of 507, 780 for a profile alone (81), 250 for a new member; the table's own share is added.
_COST_FIXED = 350
_COST_PER_BYTE = 15


class HotMembers(dict[str, Member]):
    """Members by id, the one that changed longest ago first.

    Args:
        budget: how many bytes, by estimate, may stay after `evict`.
    """

    def __init__(self, budget: int = HOT_BYTES) -> None:
        super().__init__()
        self.budget = budget
        self.held = 0

    def keep(self, member: Member, record_bytes: int) -> None:
        """Take in a member that was read, or changed; `record_bytes`: its record's present length, 0 for none."""
        cost = _COST_FIXED + _COST_PER_BYTE * record_bytes
        if self.pop(member.member_id, None) is None:
            member.cost = 0
        self.held += cost - member.cost
        member.cost = cost
        self[member.member_id] = member

    def evict(self, written: int) -> None:
        """Let members go until the budget holds, but none that an epoch after `written` changed."""
        gone: list[str] = []
        held = self.held
        for member_id, member in self.items():
            if held <= self.budget or member.epoch > written:
                break
            held -= member.cost
            gone.append(member_id)
        self.held = held
        for member_id in gone:
            del self[member_id]
