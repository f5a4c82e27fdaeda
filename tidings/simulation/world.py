"""Virtual time, chance and accusations of one run; and an event loop on which a worker's real asyncio code runs.

One seed is one run: everything happens in one thread, in the order of a heap of (time, sequence number).
"""

import asyncio
import random
from asyncio import events
from collections import deque
from collections.abc import Callable
from heapq import heappop, heappush
from typing import Any, NamedTuple

STORY_LINES = 4_000  # of the latest past; what a reader may need of a small failing seed


class Violation(NamedTuple):
    """A broken rule: its short name (I1..I8, firings, states, liveness …) and the facts."""

    rule: str
    text: str


class World:
    """Clock, chance and story of one run.

    Args:
        seed: names the run; equal seeds give equal runs.
        start_ms: virtual time at the beginning, ms since the epoch.
        telling: keep the story, which costs time.
    """

    def __init__(self, seed: int, start_ms: int, *, telling: bool = False) -> None:
        self.rng = random.Random(f"tidings-{seed}")  # noqa: S311 - repeatable on purpose
        self.now = start_ms
        self.telling = telling
        self.story: deque[str] = deque(maxlen=STORY_LINES)
        self.violations: list[Violation] = []
        self.happened = 0
        self._heap: list[tuple[int, int, Callable[[], Any]]] = []
        self._sequence = 0

    def at(self, time_ms: int, do: Callable[[], Any]) -> None:
        """Let something happen at a virtual time, not before now."""
        self._sequence += 1
        heappush(self._heap, (max(self.now, time_ms), self._sequence, do))

    def after(self, delay_ms: int, do: Callable[[], Any]) -> None:
        """Let something happen after a delay."""
        self.at(self.now + delay_ms, do)

    def step(self, until_ms: int | None = None) -> bool:
        """Let the next thing happen. False when nothing is left, or nothing before `until_ms`."""
        if not self._heap or (until_ms is not None and self._heap[0][0] > until_ms):
            return False
        self.now, _, do = heappop(self._heap)
        self.happened += 1
        do()
        return True

    def chance(self, of_100: float) -> bool:
        """True in so many of 100 cases."""
        return self.rng.random() * 100 < of_100

    def accuse(self, rule: str, text: str) -> None:
        """Write down that a rule was broken. The run goes on, so that its outcome is judged too."""
        if len(self.violations) < 50:
            self.violations.append(Violation(rule, text))
        self.tell(f"!! {rule}: {text}")

    def tell(self, line: str) -> None:
        """Add a line to the story."""
        if self.telling:
            self.story.append(f"{self.now} {line}")


class VirtualLoop(asyncio.BaseEventLoop):
    """An asyncio loop without selector whose time is the world's.

    One per process of a worker. It runs callback by callback, so a process can be killed or frozen between any two of
    them, which is: at every await point.
    """

    def __init__(self, world: World, wake: Callable[[Callable[[], Any]], None]) -> None:
        super().__init__()
        self.steps = 0
        self.halted: Callable[[], bool] = lambda: False
        self._world = world
        self._wake = wake
        self._queue: deque[asyncio.Handle] = self._ready  # type: ignore[attr-defined]
        self.set_exception_handler(self._report)

    def time(self) -> float:
        """See asyncio; seconds of virtual time."""
        return self._world.now / 1000

    def call_at(  # type: ignore[override]  # the same, with arguments of any type
        self, when: float, callback: Any, *args: Any, context: Any = None
    ) -> asyncio.TimerHandle:
        """See asyncio; rounded up to the next ms."""
        timer = asyncio.TimerHandle(when, callback, args, self, context)

        def ring() -> None:
            if not timer.cancelled():
                self._wake(lambda: self._queue.append(timer))

        self._world.at(-int(-when * 1000 // 1), ring)
        return timer

    def run_ready(self) -> None:
        """Run callbacks until none is ready or the process is halted."""
        events._set_running_loop(self)  # noqa: SLF001 - what run_forever does; there is no public way
        try:
            while self._queue and not self.halted():
                handle = self._queue.popleft()
                if not handle.cancelled():
                    self.steps += 1
                    handle._run()  # noqa: SLF001 - likewise
        finally:
            events._set_running_loop(None)  # noqa: SLF001

    def discard(self) -> None:
        """Forget everything that was to run: the process is gone."""
        self.set_exception_handler(lambda loop, context: None)
        for task in asyncio.all_tasks(self):
            task._log_destroy_pending = False  # type: ignore[attr-defined]  # noqa: SLF001 - killed on purpose
            coroutine: Any = task.get_coro()
            if getattr(coroutine, "cr_frame", None) is not None and coroutine.cr_await is None:
                coroutine.close()  # never begun: Python would warn that nobody awaited it
        self.close()

    def call_soon(  # type: ignore[override]  # likewise
        self, callback: Any, *args: Any, context: Any = None
    ) -> asyncio.Handle:
        """See asyncio. Nothing runs in a process that is gone."""
        handle = asyncio.Handle(callback, args, self, context)
        if not self.is_closed():
            self._queue.append(handle)
        return handle

    def _report(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        self._world.accuse("exception", f"{context.get('message')}: {error!r}")
