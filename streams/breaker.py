"""When to stop a campaign that raises again and again, before it costs the others time and floods the dead letters.

It only counts, in memory: opening is a control record `campaign.suspended` on the partition's own log, which the worker
appends (`agents/pacemaker.py`) and `streams/registry.py` applies. So a replay of the log stops the campaign at the same
offset, whatever crashes lay between. Counts that a crash takes along begin anew.
"""

from typing import Final

FAILED_MAX: Final = 20  # failures among the last LOOKED_AT matches of a campaign on one partition open it
LOOKED_AT: Final = 100

Ref = tuple[str, str]
"""(campaign id, version)"""


class Breaker:
    """Counts matches that raised among the last ones of each campaign version.

    `watched`: per campaign version that failed lately, how many matches it had since its first failure, then which of
    them failed. Empty as a rule: then nothing need be counted, and `passed` not be called. `tripped`: whom to suspend.
    """

    __slots__ = ("watched", "tripped")

    def __init__(self) -> None:
        self.watched: dict[Ref, list[int]] = {}
        self.tripped: set[Ref] = set()

    def passed(self, ref: Ref) -> None:
        """Count a match that did not raise."""
        seen = self.watched.get(ref)
        if seen is not None:
            seen[0] += 1
            self._forget_old(ref, seen)

    def failed(self, ref: Ref) -> None:
        """Count a match that raised."""
        seen = self.watched.setdefault(ref, [0])
        seen[0] += 1
        seen.append(seen[0])
        self._forget_old(ref, seen)
        if len(seen) > FAILED_MAX:
            self.tripped.add(ref)
            del seen[1]  # FAILED_MAX of them are enough to know

    def forget(self, plan_id: str) -> None:
        """Begin anew for a campaign that was suspended, withdrawn or published."""
        for ref in [ref for ref in self.watched if ref[0] == plan_id]:
            del self.watched[ref]
        self.tripped = {ref for ref in self.tripped if ref[0] != plan_id}

    def _forget_old(self, ref: Ref, seen: list[int]) -> None:
        while len(seen) > 1 and seen[1] <= seen[0] - LOOKED_AT:
            del seen[1]
        if len(seen) == 1:
            del self.watched[ref]
