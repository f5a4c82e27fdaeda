"""What a worker appends to its own partitions of `events`: ticks, and suspensions of campaigns that keep failing.

Ticks: where a timer has come due and no record moves the clock, the owner appends one to its own partition.

Consuming the tick proves that everything before it was consumed, and its append time is the clock. The wall clock only
decides whether to append one, never when a timer fires. Duplicate ticks are harmless, and so is one that leaves in the
moment in which the partition goes to another worker. So is a suspension that is said twice.
"""

from dataclasses import dataclass

import structlog
from aiokafka.errors import KafkaError, KafkaTimeoutError

from agents.batching import Sent
from agents.engine import Engine
from agents.engine_worker import EngineWorker, PartitionTask
from schemas.codec import encode_event
from schemas.events import CAMPAIGN_SUSPENDED, TICK, Event
from streams.breaker import FAILED_MAX, LOOKED_AT

BEAT_S = 0.25
LOST_AFTER_MS = 5_000  # a record neither seen nor failed by then is given up and sent again

log = structlog.get_logger(__name__)


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
        self._suspended: dict[tuple[int, str, str], int] = {}  # when we said so last

    async def beat(self) -> None:
        """Append a tick to every owned partition whose next timer is due and whose clock stands still."""
        now = self._worker.wall_ms()
        for partition in [p for p in self._outstanding if p not in self._worker.tasks]:
            del self._outstanding[partition]
        for partition, task in list(self._worker.tasks.items()):
            try:
                await self._look_after(partition, task, now)
            except KafkaError as error:
                if not (error.retriable or isinstance(error, KafkaTimeoutError)):
                    raise
                # A broker that restarts. What was to be said still is: the next beat tries again.
                log.info("not appended", partition=partition, error=type(error).__name__)
        self._worker.update_gauges()

    async def _look_after(self, partition: int, task: PartitionTask, now: int) -> None:
        engine = task.engine
        if engine.breaker.tripped and not (task.closing or task.recording):
            await self._suspend(partition, engine, now)
        due = engine.next_fire_ms
        if due is None or now < due or task.closing or not task.idle:
            return
        if task.recording:
            return  # who sends a recorded log ends it with a tick of its own: ours would tear its time apart
        if self._pending(partition, engine.clock_ms, now):
            return
        value = encode_event(Event(type=TICK, occurred_at_ms=now))
        sent = await self._worker.outbox.send_event(self._topic, partition, value)
        self._outstanding[partition] = _Outstanding(engine.clock_ms, now, sent)
        self._worker.metrics.ticks += 1

    async def _suspend(self, partition: int, engine: Engine, now: int) -> None:
        for name, version in sorted(engine.breaker.tripped):
            place = (partition, name, version)
            if now - self._suspended.get(place, 0) < LOST_AFTER_MS:
                continue
            self._suspended[place] = now
            data = {"campaign": name, "version": version}
            value = encode_event(Event(type=CAMPAIGN_SUSPENDED, occurred_at_ms=now, data=data, source="tidings"))
            await self._worker.outbox.send_event(self._topic, partition, value)
            log.error("campaign suspended", campaign=name, partition=partition, failed=FAILED_MAX, of=LOOKED_AT)

    def _pending(self, partition: int, clock_ms: int, now: int) -> bool:
        last = self._outstanding.get(partition)
        if last is None:
            return False
        if any(sent.acked.done() and sent.acked.exception() is not None for sent in last.sent):
            return False
        return last.clock_ms == clock_ms and now - last.sent_ms < LOST_AFTER_MS
