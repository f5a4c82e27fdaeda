"""Decoded members kept in memory between epochs, bounded in bytes: the one that changed longest ago leaves first.

All partitions of a process share one `HotBudget`: a worker that gets more partitions holds no more members.
"""

import weakref
from typing import Final

from mypy_extensions import mypyc_attr

from tables.member_state import Member

HOT_BYTES = 256 << 20  # some 47,000 members of workload W after 4 h
# What a decoded member takes for each byte of its record, by tracemalloc: of workload W (407 bytes) 12.1, compiled 9.5;
# with 8 views of several attributes 12.5 and 10.4; with five campaigns waiting 10.7 and 8.8; a profile, orders to be
# summed up 6 to 9 in both. The table's own share is the fixed part. One figure for both forms: they let go of the same
# members, so a run of the simulation is the same in both.
_COST_FIXED: Final = 350
_COST_PER_BYTE: Final = 13
_TEXT_PER_BYTE: Final = 2
_LARGE: Final = 1_024  # records above it are looked at: a long text in a profile takes what it takes, not 13 times that


@mypyc_attr(native_class=False)  # it has weak references
class HotBudget:
    """How many bytes, by estimate, the decoded members of all partitions of a process may take together."""

    def __init__(self, limit: int = HOT_BYTES) -> None:
        self.limit = limit
        self._parts: list[weakref.ref[HotMembers]] = []  # a partition that is given up goes with its engine

    def join(self, members: "HotMembers") -> None:
        """Count a partition's members, too."""
        self._parts.append(weakref.ref(members))

    @property
    def held(self) -> int:
        """What all of them take now."""
        return sum(part.held for part in self._live())

    def enforce(self) -> None:
        """Let members go until the limit holds, first from the partition that holds most."""
        parts = self._live()
        excess = sum(part.held for part in parts) - self.limit
        if excess <= 0:
            return
        for part in sorted(parts, key=lambda part: -part.held):
            excess -= part.shrink(excess)
            if excess <= 0:
                return

    def _live(self) -> "list[HotMembers]":
        parts = [part for ref in self._parts if (part := ref()) is not None]
        if len(parts) < len(self._parts):
            self._parts = [ref for ref in self._parts if ref() is not None]
        return parts


@mypyc_attr(native_class=False)
class HotMembers(dict[str, Member]):
    """Members of one partition by id, the one that changed longest ago first.

    Args:
        budget: what may stay after `evict`: bytes of these members alone, or a budget that they share with others.
    """

    def __init__(self, budget: HotBudget | int = HOT_BYTES) -> None:
        super().__init__()
        self.budget = budget if isinstance(budget, HotBudget) else HotBudget(budget)
        self.held = 0
        self._written = 0
        self.budget.join(self)

    def keep(self, member: Member, record_bytes: int) -> None:
        """Take in a member that was read, or changed; `record_bytes`: its record's present length, 0 for none."""
        cost = _COST_FIXED + _COST_PER_BYTE * record_bytes
        if record_bytes > _LARGE:
            texts = sum([len(value) for value in member.profile.values() if type(value) is str])
            cost -= (_COST_PER_BYTE - _TEXT_PER_BYTE) * min(texts, record_bytes)
        if self.pop(member.member_id, None) is None:
            member.cost = 0
        self.held += cost - member.cost
        member.cost = cost
        self[member.member_id] = member

    def evict(self, written: int) -> None:
        """Let members go until the budget holds, but none that an epoch after `written` changed."""
        self._written = written
        self.budget.enforce()

    def shrink(self, excess: int) -> int:
        """Let members go that take `excess` bytes together, or all whose changes are written; what they took."""
        gone: list[str] = []
        freed, written = 0, self._written
        for member_id, member in self.items():
            if freed >= excess or member.epoch > written:
                break
            freed += member.cost
            gone.append(member_id)
        self.held -= freed
        for member_id in gone:
            del self[member_id]
        return freed
