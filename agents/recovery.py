"""How far the recovery of the member records is: for the log, for /ready, and for the watchdog."""

import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any

import structlog

LOG_EVERY_S = 5.0
BAR_CELLS = 20

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Standing:
    """One look at a recovery. `rate`: records per second since it began. `eta_s`: None while nobody can tell."""

    total: int
    left: int
    rate: float
    eta_s: float | None

    @property
    def percent(self) -> float:
        """How much is done."""
        return 100.0 if self.total <= 0 else 100 * (self.total - self.left) / self.total

    def bar(self) -> str:
        """Draw it."""
        done = int(BAR_CELLS * self.percent / 100)
        return f"[{'#' * done}{'.' * (BAR_CELLS - done)}] {self.percent:.0f}%"

    def page(self) -> dict[str, Any]:
        """Say it as JSON."""
        return {
            "records_total": self.total,
            "records_left": self.left,
            "percent": round(self.percent, 1),
            "records_per_second": round(self.rate),
            "eta_s": None if self.eta_s is None else round(self.eta_s, 1),
        }


class RecoveryProgress:
    """Looks at Faust's recovery once a second.

    Args:
        recovery: gives Faust's service; asked late, since it exists only once the app runs.
        clock: seconds.
    """

    def __init__(self, recovery: Callable[[], Any], clock: Callable[[], float] = time.monotonic) -> None:
        self._recovery = recovery
        self._clock = clock
        self._round: Hashable = None
        self._total = 0
        self._began = 0.0
        self._logged = 0.0
        self.standing: Standing | None = None
        self.records_read = 0  # by the latest recovery that came to its end

    def left(self) -> int:
        """Count the changelog records of our partitions that are still to read."""
        try:
            return int(sum(left for left in self._recovery().active_remaining().values() if left > 0))
        except (AttributeError, TypeError):  # between two rebalances some offset is not known yet
            return 0

    def signature(self) -> Hashable:
        """Return something that changes whenever the recovery gets on."""
        recovery = self._recovery()
        found = (recovery.active_offsets, recovery.active_highwaters)
        return tuple(tuple(sorted((str(tp), n) for tp, n in counts.items() if n is not None)) for counts in found)

    def look(self, round_: Hashable) -> Standing:
        """Take a look; `round_` changes with each assignment. Writes a line to the log every LOG_EVERY_S."""
        now, left = self._clock(), self.left()
        if round_ != self._round or left > self._total:
            self._round, self._total, self._began, self._logged = round_, left, now, now
        done, elapsed = self._total - left, now - self._began
        rate = done / elapsed if elapsed > 0 else 0.0
        self.standing = Standing(self._total, left, rate, left / rate if rate > 0 else None)
        if left and now - self._logged >= LOG_EVERY_S:
            self._logged = now
            log.info("recovering member records", progress=self.standing.bar(), **self.standing.page())
        return self.standing

    def done(self) -> None:
        """Say that the partitions are ours and complete."""
        if self.standing is not None and self._total:
            log.info("member records recovered", records=self._total, took_s=round(self._clock() - self._began, 1))
        self.records_read = self._total
        self.standing, self._round, self._total = None, None, 0
