"""How a worker knows that its partitions may have gone to another one, before it writes over that one's records."""

import asyncio
import time
from collections.abc import Callable

from schemas.errors import StateError

POLL_S = 0.02


def running_s() -> float:
    """Read the clock that also counts the time of a suspended machine."""
    kind = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)  # only Linux counts suspended time apart
    return time.clock_gettime(kind)


class Lease:
    """Two rules, for the two ways in which a worker loses its partitions without being told.

    The broker gives the partitions of a member away once it has heard no heartbeat for the session timeout. A process
    that did not run for `paused_s` (a frozen VM, SIGSTOP) must assume so and ends. A process that runs, but whose last
    accepted heartbeat is older than `silent_s` (cut off from the coordinator), produces nothing until the next one is
    accepted: if the group has gone on without it, that answer is a refusal, and its partitions are revoked.

    Args:
        paused_s: below the session timeout by what a request may still take after the check.
        silent_s: as well; a request waits in the producer for its timeout, and then travels.
        clock: seconds; counts the time of a suspended machine.
    """

    def __init__(self, paused_s: float, silent_s: float, clock: Callable[[], float] | None = None) -> None:
        self._paused_s = paused_s
        self.silent_s = silent_s
        self._clock = clock or running_s
        self._heard = self._clock()
        self.begin()

    def begin(self) -> None:
        """Start anew, with the process."""
        self._renewed = self._clock()

    def renew(self) -> None:
        """Say that the process runs. Called several times a second.

        Raises:
            StateError: as `check`; whichever runs first after a pause must see it, or a renewal would hide it.
        """
        self.check()
        self._renewed = self._clock()

    def heard(self, ago_s: float = 0.0) -> None:
        """Say that the coordinator accepted a heartbeat that was sent `ago_s` ago. From any thread."""
        self._heard = self._clock() - ago_s

    def check(self) -> None:
        """Refuse to go on after a pause.

        Raises:
            StateError: the process did not run for longer than the lease.
        """
        paused = self._clock() - self._renewed
        if paused > self._paused_s:
            raise StateError(
                f"worker: did not run for {paused:.1f} s, its partitions may have gone to another worker "
                f"(more than {self._paused_s:.1f} s); restart it"
            )

    @property
    def silence_s(self) -> float:
        """For how long no heartbeat was accepted."""
        return self._clock() - self._heard

    async def granted(self) -> None:
        """Wait until a heartbeat was accepted lately. Await it before each record batch of the changelog.

        Raises:
            StateError: as `check`.
        """
        while self.silence_s > self.silent_s:
            await asyncio.sleep(POLL_S)
        self.check()
