"""What transports to one provider have in common: a number of calls at a time, a pace, a circuit."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import structlog

from sinks.channels.circuit import Circuit
from sinks.outcome import Outcome, ProviderDown

WAITING_MAX = 10_000  # for a place; a lane holds no more

log = structlog.get_logger("sinks.channels")


class Pace:
    """Spreads calls to at most `per_second`; 0: as fast as they come."""

    def __init__(self, per_second: float) -> None:
        self._step_s = 1 / per_second if per_second > 0 else 0.0
        self._next = 0.0

    async def turn(self) -> None:
        """Wait for the next turn."""
        if not self._step_s:
            return
        now = asyncio.get_running_loop().time()
        at = max(now, self._next)
        self._next = at + self._step_s
        if at > now:
            await asyncio.sleep(at - now)


class Bounded:
    """The bounds and the health of one provider.

    Args:
        name: of the provider, for logs.
        connections: calls at a time.
        per_second: calls a second at most; 0: no bound.
    """

    def __init__(self, name: str, connections: int, per_second: float) -> None:
        self.circuit = Circuit()
        self._name = name
        self._slots = asyncio.Semaphore(connections)
        self._pace = Pace(per_second)

    def wait_s(self) -> float:
        """See `Transport`."""
        return self.circuit.wait_s(asyncio.get_running_loop().time())

    def retire(self) -> None:
        """See `Transport`: whoever has a place by now finds that this provider is not to be asked."""
        self._pace = Pace(0)
        for _ in range(WAITING_MAX):
            self._slots.release()

    @contextlib.asynccontextmanager
    async def place(self) -> AsyncIterator[None]:
        """Wait for a place and a turn; raises `ProviderDown` when the provider is to be left alone."""
        async with self._slots:
            await self._pace.turn()
            wait = self.wait_s()
            if wait > 0:
                raise ProviderDown(self.circuit.reason or "down", wait)
            yield

    def judge(self, outcome: Outcome) -> Outcome:
        """Learn from an outcome what it says about the provider."""
        if not outcome.healthy:
            self.bad(outcome.reason, outcome.retry_after_ms / 1000)
            return outcome
        if self.circuit.failures >= self.circuit.threshold:
            log.info("provider.up", provider=self._name, failures=self.circuit.failures)
        self.circuit.good()
        return outcome

    def bad(self, reason: str, retry_after_s: float = 0.0) -> None:
        """Note trouble of the provider."""
        before = self.circuit.failures
        self.circuit.bad(asyncio.get_running_loop().time(), reason, retry_after_s)
        if before < self.circuit.threshold <= self.circuit.failures:
            log.warning("provider.down", provider=self._name, reason=reason)

    def down(self, reason: str) -> ProviderDown:
        """Note that nothing could leave, and make the error that says so."""
        self.bad(reason)
        return ProviderDown(reason, max(0.05, self.wait_s()))
