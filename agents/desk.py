"""What a channel that ends with us keeps: a topic, written by whoever has something, read whole by every worker.

A desk is opened by the first provider that needs it, so that who has no such channel needs no such topic.
"""

import asyncio
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import structlog

from agents.replica import Fold, Replica
from agents.send_log import Outbox
from agents.topics import EVENTS
from schemas.codec import encode_event
from schemas.errors import OperatorError
from schemas.events import Event

AGAIN_S = 5.0

log = structlog.get_logger("agents.desk")


class Desk:
    """One topic and its replica.

    Args:
        kafka: librdkafka settings.
        path: the replica's directory.
        topic: see `agents/topics.py`.
        fold: see `Replica`.
        kept_ms: see `Replica`.
        clock_ms: the wall clock.
    """

    def __init__(
        self, kafka: Mapping[str, Any], path: Path, topic: str, fold: Fold, kept_ms: int, clock_ms: Callable[[], int]
    ) -> None:
        self.clock_ms = clock_ms
        self._kafka = kafka
        self._path = path
        self._topic = topic
        self._fold = fold
        self._kept_ms = kept_ms
        self._replica: Replica | None = None
        self._outbox: Outbox | None = None
        self._tasks: set[asyncio.Task[Any]] = set()
        self._closing = asyncio.Event()

    @property
    def begun(self) -> bool:
        """Whether a provider needs it."""
        return self._outbox is not None

    @property
    def replica(self) -> Replica | None:
        """What is kept; None while it is not open or not read to its end."""
        replica = self._replica
        return replica if replica is not None and replica.ready.is_set() else None

    def changed(self, keys: list[bytes]) -> None:
        """Learn which values changed; called in the loop."""

    def begin(self) -> None:
        """Open, unless it is open already. Call inside a running loop."""
        if self._outbox is None and not self._closing.is_set():
            self._outbox = Outbox(self._kafka)
            self.start(self._run())

    async def append(self, key: bytes, value: bytes) -> None:
        """Write one record, and return once it is acknowledged.

        Raises:
            KafkaException: no repetition mends it.
        """
        await self._open_outbox().send(self._topic, key, value)

    async def append_event(self, event: Event) -> None:
        """Write an event to `events`; as `append`."""
        await self._open_outbox().send(EVENTS, (event.member_id or "").encode(), encode_event(event))

    def start(self, work: Any) -> None:
        """Run a coroutine until the desk closes."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    async def close(self) -> None:
        """Close; what is not acknowledged by now is not waited for."""
        self._closing.set()
        for task in self._tasks:
            if task.get_name() != self._topic:
                task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._outbox is not None:
            await asyncio.to_thread(self._outbox.close)

    def _open_outbox(self) -> Outbox:
        if self._outbox is None:
            raise RuntimeError(f"desk {self._topic}: written to before it was begun")
        return self._outbox

    def _done(self, task: "asyncio.Task[Any]") -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("desk.failed", topic=self._topic, error=type(error).__name__)

    async def _run(self) -> None:
        if (task := asyncio.current_task()) is not None:
            task.set_name(self._topic)
        while not self._closing.is_set():
            replica = Replica(
                self._path, self._kafka, self._topic, self._fold, self._kept_ms, self.clock_ms, self.changed
            )
            try:
                async with replica.open():
                    self._replica = replica
                    await self._first(self._closing, replica.ended)
            except OperatorError as error:
                log.error("desk.not-open", topic=self._topic, error=str(error))
            except Exception as error:  # whatever it is: a desk that stays shut would hold its channel up for good
                log.error("desk.not-open", topic=self._topic, error=type(error).__name__)
            finally:
                self._replica = None
            await self._first(self._closing, timeout_s=AGAIN_S)

    async def _first(self, *events: asyncio.Event, timeout_s: float | None = None) -> None:
        """Wait until one of some events is set."""
        waits = {asyncio.create_task(event.wait()) for event in events}
        try:
            await asyncio.wait(waits, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
