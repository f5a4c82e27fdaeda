"""Ticks: where a timer has come due and no record moves the clock, the owner appends one to its own partition.

Consuming the tick proves that everything before it was consumed, and its append time is the clock. The wall clock only
decides whether to append one, never when a timer fires. Duplicate ticks are harmless, and so is one that leaves in the
moment in which the partition goes to another worker.
"""

from dataclasses import dataclass

from agents.batching import Sent
from agents.engine_worker import EngineWorker
from schemas.codec import encode_event
from schemas.events import TICK, Event

BEAT_S = 0.25
LOST_AFTER_MS = 5_000  # a tick neither seen nor failed by then is given up and sent again


@dataclass
class _Outstanding:
    clock_ms: int
    sent_ms: int
    sent: list[Sent]


class Pacemaker:
    """Beats every BEAT_S; at most one tick per partition is outstanding."""

    def __init__(self, worker: EngineWorker, events_topic: str) -> None:
        self._worker = worker
        self._topic = events_topic
        self._outstanding: dict[int, _Outstanding] = {}

    async def beat(self) -> None:
        """Append a tick to every owned partition whose next timer is due and whose clock stands still."""
        now = self._worker.wall_ms()
        for partition in [p for p in self._outstanding if p not in self._worker.tasks]:
            del self._outstanding[partition]
        for partition, task in list(self._worker.tasks.items()):
            engine = task.engine
            due = engine.next_fire_ms
            if due is None or now < due or task.closing or not task.idle:
                continue
            if task.recording:
                continue  # who sends a recorded log ends it with a tick of its own: ours would tear its time apart
            if self._pending(partition, engine.clock_ms, now):
                continue
            value = encode_event(Event(type=TICK, occurred_at_ms=now))
            sent = await self._worker.outbox.send_event(self._topic, partition, value)
            self._outstanding[partition] = _Outstanding(engine.clock_ms, now, sent)
            self._worker.metrics.ticks += 1
        self._worker.update_gauges()

    def _pending(self, partition: int, clock_ms: int, now: int) -> bool:
        last = self._outstanding.get(partition)
        if last is None:
            return False
        if any(sent.acked.done() and sent.acked.exception() is not None for sent in last.sent):
            return False
        return last.clock_ms == clock_ms and now - last.sent_ms < LOST_AFTER_MS
