"""The simulated broker: logs with broker time, holes and compaction, and producers with all their troubles."""

import asyncio
from bisect import bisect_left
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextvars import ContextVar
from typing import Any

import msgspec
from aiokafka.errors import KafkaTimeoutError

from agents.batching import Entry, Sent
from agents.topics import CHANGELOG, COMMANDS_OF, EVENTS
from streams.registry import META_CLOCK
from tidings.simulation.faults import Faults
from tidings.simulation.world import World

PRODUCER_TIMEOUT_MS = 5_000  # half of the session timeout, as agents/wiring.py sets it
MAX_WIRE_MS = 2_000  # assumed: what a request that has left may spend on the network; with the lease < session timeout
LOG_APPEND_TIME = 1
ORIGIN: ContextVar[int] = ContextVar("origin")  # partition whose epoch is being sent; each partition has its own tasks

_unpack = msgspec.msgpack.Decoder(list[Any]).decode


class Stored(msgspec.Struct, gc=False):
    """One record in a partition, with the names that aiokafka gives. `origin`: partition whose epoch wrote it."""

    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    origin: int
    written_ms: int
    timestamp_type: int = LOG_APPEND_TIME
    headers: tuple[tuple[str, bytes], ...] = ()


class Log:
    """One partition of one topic."""

    def __init__(self) -> None:
        self.records: list[Stored] = []
        self.end = 0

    def after(self, offset: int, limit: int) -> list[Stored]:
        """List up to `limit` records with an offset of at least `offset`."""
        start = bisect_left(self.records, offset, key=lambda record: record.offset)
        return self.records[start : start + limit]


class Broker:
    """All topics. Appends are atomic per batch and acknowledged only when safe (acks=all, no unclean election)."""

    def __init__(self, world: World, faults: Faults, partitions: int) -> None:
        self.partitions = partitions
        self.events = [Log() for _ in range(partitions)]
        self.changelog = [Log() for _ in range(partitions)]
        self.outputs: dict[str, list[Stored]] = {}
        self.fold: list[dict[bytes, bytes]] = [{} for _ in range(partitions)]
        self.compactions = 0
        self.appended: Callable[[int], None] = lambda partition: None
        self.commanded: Callable[[Stored], None] = lambda record: None
        self.changed_by: Callable[[Any, int], None] = lambda process, partition: None
        self._world = world
        self._faults = faults
        self._behind_ms = 0
        self._all: list[dict[bytes, list[tuple[int, bytes | None]]]] = [{} for _ in range(partitions)]
        self._applied: list[dict[bytes, int]] = [{} for _ in range(partitions)]

    def append_event(self, partition: int, key: bytes | None, value: bytes, append_ms: int | None = None) -> None:
        """Append to `events`; without `append_ms` the leader's clock decides, which may be behind the last leader's."""
        world, log = self._world, self.events[partition]
        if append_ms is None:
            if self._faults.on("skew") and world.chance(5):
                self._behind_ms = world.rng.choice([0, 0, 1, 300, 1_000, 4_000])
                world.tell(f"leader change: broker clock {self._behind_ms} ms behind")
            append_ms = world.now - self._behind_ms
        if self._faults.anywhere("holes") and world.chance(10):
            log.end += world.rng.choice([1, 1, 2, 7])
        log.records.append(Stored(log.end, append_ms, key, value, partition, world.now))
        world.tell(f"events[{partition}] {log.end} a={append_ms} {value[:160]!r}")
        log.end += 1
        self.appended(partition)

    def append(self, topic: str, partition: int, entries: Sequence[Entry], origin: int, process: Any) -> int:
        """Append a producer's batch; returns the offset of its first record."""
        if topic == EVENTS:
            for key, value, _ in entries:
                self.append_event(partition, key, value or b"")
            return self.events[partition].end - len(entries)
        if topic == CHANGELOG:
            return self._append_changelog(partition, entries, process)
        kept = self.outputs.setdefault(topic, [])
        for key, value, headers in entries:
            spelled = b"|".join([value or b"", *(item for _, item in headers)])
            kept.append(Stored(len(kept), self._world.now, key, spelled, origin, self._world.now))
            self._world.tell(f"{topic} <- [{origin}] {spelled[:150]!r}")
            if topic in COMMANDS_OF.values():
                self.commanded(kept[-1])
        return len(kept) - len(entries)

    def _append_changelog(self, partition: int, entries: Sequence[Entry], process: Any) -> int:
        world, log = self._world, self.changelog[partition]
        self.changed_by(process, partition)
        base = log.end
        applied, fold = self._applied[partition], self.fold[partition]
        for key, value, _ in entries:
            if key is None:
                raise ValueError("changelog: record without key")
            log.records.append(Stored(log.end, world.now, key, value, partition, world.now))
            self._all[partition].setdefault(key, []).append((log.end, value))
            log.end += 1
            self._require_monotonic(partition, key, value, applied)
            if value is None:
                fold.pop(key, None)
            else:
                fold[key] = value
        world.tell(f"changelog[{partition}] {base}..{log.end - 1} by {process.name}, applied {applied.get(META_CLOCK)}")
        if self._faults.anywhere("compaction") and world.chance(15):
            self._compact(log)
        return base

    def was_stored(self, partition: int, key: bytes, value: bytes | None) -> bool:
        """Tell whether this very value of a key was ever in a changelog."""
        return any(stored == value for _, stored in reversed(self._all[partition].get(key, [])))

    def folded(self, partition: int, offset: int) -> dict[bytes, bytes]:
        """Fold a changelog, as if never compacted, up to and including an offset."""
        found: dict[bytes, bytes] = {}
        for key, values in self._all[partition].items():
            latest = next((value for at, value in reversed(values) if at <= offset), None)
            if latest is not None:
                found[key] = latest
        return found

    def _require_monotonic(self, partition: int, key: bytes, value: bytes | None, applied: dict[bytes, int]) -> None:
        """I8: what a member (or the partition, in its meta record) has applied never goes back."""
        if value is None or (key[:1] == b"\x00" and key != META_CLOCK):
            return
        fields = _unpack(value)
        number = fields[1] if key == META_CLOCK else fields[2]
        if number < applied.get(key, -1):
            self._world.accuse("I8", f"changelog[{partition}] {key!r}: applied {number} after {applied[key]}")
        applied[key] = max(number, applied.get(key, -1))

    def _compact(self, log: Log) -> None:
        """Keep the last record of each key in an old part of the log, and maybe drop its old tombstones.

        Tombstones go only with `tombstones`: assumed is that no store comes back older than delete.retention.ms.
        """
        cut = self._world.rng.randrange(len(log.records) + 1)
        last: dict[bytes | None, int] = {record.key: record.offset for record in log.records}
        drop = self._faults.anywhere("tombstones") and self._world.chance(50)
        old = [
            record
            for record in log.records[:cut]
            if last[record.key] == record.offset and not (drop and record.value is None)
        ]
        log.records = old + log.records[cut:]
        self.compactions += 1


class _Batch:
    __slots__ = ("acked", "born", "count", "entries", "future", "origin", "stored_at", "topic")

    def __init__(self, topic: str, entries: Sequence[Entry], origin: int, born: int, future: Any) -> None:
        self.topic = topic
        self.entries = entries
        self.origin = origin
        self.born = born
        self.future = future
        self.stored_at: int | None = None
        self.acked = False


class _Metadata:
    __slots__ = ("offset",)

    def __init__(self, offset: int) -> None:
        self.offset = offset


class Writer:
    """Stands in for agents.batching.BatchWriter: an idempotent producer whose requests and acks are late or lost.

    Per partition of a topic one request is under way at a time and order is kept, as aiokafka does. What has left the
    process arrives even if the process is killed or frozen; what has not left, waits for it or is gone.
    """

    def __init__(self, world: World, faults: Faults, broker: Broker, process: Any) -> None:
        self._world = world
        self._faults = faults
        self._broker = broker
        self._process = process
        self._queues: dict[tuple[str, int], deque[_Batch]] = {}
        self._busy: set[tuple[str, int]] = set()

    async def partition_count(self, topic: str) -> int:
        """See BatchWriter."""
        return self._broker.partitions if topic in (EVENTS, CHANGELOG) else 2

    async def send(
        self,
        topic: str,
        partition: int,
        entries: Sequence[Entry],
        before_each: Callable[[], Awaitable[None]] | None = None,
    ) -> list[Sent]:
        """See BatchWriter."""
        loop = asyncio.get_running_loop()
        origin = partition if topic in (EVENTS, CHANGELOG) else ORIGIN.get()
        sent: list[Sent] = []
        for part in self._split(entries):
            if before_each is not None:
                if sent:
                    await sent[-1].acked
                await before_each()
            future = loop.create_future()
            future.add_done_callback(_look_at)
            batch = _Batch(topic, part, origin, self._world.now, future)
            self._queues.setdefault((topic, partition), deque()).append(batch)
            sent.append(Sent(asyncio.shield(future), len(part)))
            sent[-1].acked.add_done_callback(_look_at)
            try:
                if self._faults.on("network") and self._world.chance(10):
                    await asyncio.sleep(self._world.rng.choice([0, 0.001, 0.05]))
            finally:  # what was handed over leaves, also if who did so is cancelled
                self._pump((topic, partition))
        return sent

    async def flush(self) -> None:
        """Wait until everything handed over is acknowledged or failed."""
        waiting = [batch.future for queue in self._queues.values() for batch in queue]
        if waiting:
            await asyncio.wait(waiting)

    def _split(self, entries: Sequence[Entry]) -> list[Sequence[Entry]]:
        if len(entries) < 2 or not self._faults.on("network") or not self._world.chance(40):
            return [entries]
        cut = self._world.rng.randrange(1, len(entries))
        return [entries[:cut], entries[cut:]]

    def _pump(self, place: tuple[str, int]) -> None:
        queue = self._queues[place]
        if place in self._busy or not queue:
            return
        batch, world = queue[0], self._world
        if world.now - batch.born > PRODUCER_TIMEOUT_MS:
            self._finish(place, None)
            return
        self._busy.add(place)
        troubled = self._faults.on("network")
        if troubled and world.chance(4):
            world.tell(f"{self._process.name}: request to {place} lost")
            world.after(world.rng.choice([50, 400, 1_500]), lambda: self._process.deliver(lambda: self._again(place)))
            return
        lost_ack = troubled and world.chance(5)
        world.after(self._faults.delay(world, MAX_WIRE_MS), lambda: self._arrive(place, batch, lost_ack))

    def _arrive(self, place: tuple[str, int], batch: _Batch, lost_ack: bool) -> None:
        world = self._world
        known = batch.stored_at is not None
        if batch.stored_at is None:  # idempotent: a repeated request is acknowledged, not stored twice
            batch.stored_at = self._broker.append(*place, batch.entries, batch.origin, self._process)
        if lost_ack:
            world.tell(f"{self._process.name}: ack of {place} lost")
            world.after(world.rng.choice([100, 600]), lambda: self._process.deliver(lambda: self._again(place)))
            return
        offset = -1 if known and world.chance(50) else batch.stored_at
        world.after(
            self._faults.delay(world, MAX_WIRE_MS), lambda: self._process.deliver(lambda: self._finish(place, offset))
        )

    def _again(self, place: tuple[str, int]) -> None:
        self._busy.discard(place)
        self._pump(place)

    def _finish(self, place: tuple[str, int], offset: int | None) -> None:
        self._busy.discard(place)
        batch = self._queues[place].popleft()
        if not batch.future.done():
            if offset is None:
                batch.future.set_exception(KafkaTimeoutError())
            else:
                batch.acked = True
                batch.future.set_result(_Metadata(offset))
        self._pump(place)


def _look_at(future: "asyncio.Future[Any]") -> None:
    """Take note of an error that nobody awaits any more."""
    if not future.cancelled():
        future.exception()
