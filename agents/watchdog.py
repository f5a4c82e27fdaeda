"""Ends a worker that makes no progress although there is some to make: whoever supervises it starts it anew.

Three places can stand still: the recovery (the changelog is not at its end and nothing of it arrives, or its end is
reached and nobody hands the partitions over), a partition (records are there, and its applied offset does not move),
and the way out (an epoch waits for the broker's acks). The last two show alike: what is applied does not move.
"""

from collections.abc import Hashable, Mapping
from dataclasses import dataclass

RECOVERY_STALL_S = 60.0  # of nothing read; a fetch waits 20 ms, a broker that fails over takes seconds
PROGRESS_STALL_S = 120.0  # above what a producer's timeout, a session and a rebalance take after one another
BEAT_S = 1.0


@dataclass(frozen=True)
class Limits:
    """How long a place may stand still, in seconds; 0 turns a watch off."""

    recovery_s: float = RECOVERY_STALL_S
    progress_s: float = PROGRESS_STALL_S


@dataclass(frozen=True)
class Progress:
    """What the worker looks like now.

    `recovery`: None when recovered, or without partitions; else whatever changes when the recovery gets on.
    `rebalancing`: the group is, which may take as long as its slowest member; `progress_s` is the bound then.
    `remaining`: changelog records still to read. `applied`: offset per partition that has something to do.
    """

    recovery: Hashable | None
    remaining: int
    applied: Mapping[int, int]
    rebalancing: bool = False


class Watchdog:
    """Compares what it sees with what it saw."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._recovery: tuple[Hashable, float] | None = None
        self._applied: dict[int, tuple[int, float]] = {}

    def look(self, seen: Progress, now_s: float) -> str | None:
        """Say what stands still, and for how long; None while everything moves."""
        return self._recovery_stall(seen, now_s) or self._partition_stall(seen, now_s)

    def _recovery_stall(self, seen: Progress, now_s: float) -> str | None:
        if seen.recovery is None or self._recovery is None or self._recovery[0] != seen.recovery:
            self._recovery = None if seen.recovery is None else (seen.recovery, now_s)
            return None
        waited = now_s - self._recovery[1]
        if not 0 < (self._limits.progress_s if seen.rebalancing else self._limits.recovery_s) < waited:
            return None
        if seen.rebalancing:
            return f"worker: the group's rebalance does not end (got {waited:.0f} s); start it again"
        return (
            f"worker: the recovery stands still (got {seen.remaining} changelog records to read, and none for "
            f"{waited:.0f} s); start it again, and if that does not help check that the broker answers"
        )

    def _partition_stall(self, seen: Progress, now_s: float) -> str | None:
        before, self._applied = self._applied, {}
        for partition, offset in seen.applied.items():
            last = before.get(partition)
            since = now_s if last is None or last[0] != offset else last[1]
            self._applied[partition] = (offset, since)
        for partition, (offset, since) in self._applied.items():
            if 0 < self._limits.progress_s < now_s - since:
                return (
                    f"worker: partition {partition} stands still (got records after offset {offset}, and none applied "
                    f"for {now_s - since:.0f} s); start it again, and if that does not help check that the broker "
                    "accepts what it produces"
                )
        return None
