"""Micro-batches inside Faust: one Faust event = the records of one partition from one fetch.

Subclasses of Faust's public classes; which private names they lean on is listed, and checked against the installed
Faust, in tests/agents/test_faust_contract.py. Why each override is needed: docs/guarantees.md.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from typing import Any

import faust
import structlog
from aiokafka.errors import IllegalStateError
from faust.serializers.schemas import Schema
from faust.transport.drivers import aiokafka as driver
from faust.types import TP
from faust.types.transports import SchedulingStrategyT
from faust.types.tuples import ConsumerMessage, Message, ack_lock
from mode import Service
from mode.utils.queues import FlowControlEvent, ThrowableQueue

from agents import failpoints
from agents.fetching import BatchConsumerThread, Heard
from agents.reading import Reading

MAX_BATCH_RECORDS = 5_000  # a 1 MiB fetch of ~200 B events; bounds one epoch to tens of ms of compute
MAX_BATCH_BYTES = 4 << 20  # as well: a compressed fetch may hold any number of large records
HELD_BYTES_MAX = 64 << 20  # of records fetched and not yet durable, over all partitions, if nobody sets less
RECORD_BYTES = 500  # the objects of one record beside its value; an estimate on the safe side
ROOM_S = 0.02
WATCH_S = 1.0
_COMMIT_TRIES = 2

log = structlog.get_logger(__name__)

RevokeHook = Callable[[set[TP]], Awaitable[None]]


class BatchScheduler(SchedulingStrategyT):
    """Yields lists of records, round-robin over partitions, instead of single records."""

    def __init__(self) -> None:
        """Keep nothing; Faust's base class asks for this method."""

    def iterate(self, records: Mapping[TP, list[Any]]) -> Iterator[tuple[TP, Any]]:
        """Cut each partition's records into lists of at most MAX_BATCH_RECORDS and MAX_BATCH_BYTES, in log order."""
        left = {tp: _batches(found) for tp, found in records.items()}
        while left:
            for tp in list(left):
                batch = next(left[tp], None)
                if batch is None:
                    del left[tp]
                else:
                    yield tp, batch


def size_of(records: Sequence[Any]) -> int:
    """Estimate what records of aiokafka take in memory."""
    return RECORD_BYTES * len(records) + sum(len(record.value or b"") for record in records)


def _batches(records: list[Any]) -> Iterator[list[Any]]:
    for start in range(0, len(records), MAX_BATCH_RECORDS):
        found = records[start : start + MAX_BATCH_RECORDS]
        if size_of(found) <= MAX_BATCH_BYTES:
            yield found
            continue
        begin, size = 0, 0
        for place, record in enumerate(found):
            size += size_of((record,))
            if size > MAX_BATCH_BYTES and place > begin:
                yield found[begin:place]
                begin, size = place, size_of((record,))
        yield found[begin:]


class BatchMessage(ConsumerMessage):
    """A Faust message whose value is a list of aiokafka records: `first` and `offset` are its first and last offset."""

    __slots__ = ("first",)

    def __init__(self, tp: TP, records: Any, generation_id: int) -> None:
        last = records[-1]
        super().__init__(
            tp.topic, tp.partition, last.offset, last.timestamp / 1000.0, last.timestamp_type,
            None, None, records, None, 0, 0, tp, generation_id=generation_id,
        )  # fmt: skip
        self.first: int = records[0].offset


class BatchSchema(Schema[Any, Any]):
    """Hands the list on as it is: a bad record is the engine's business, not a reason to ack a whole batch."""

    def compile(self, app: Any, **_options: Any) -> Callable[..., Awaitable[Any]]:
        """Return the function by which Faust turns a message into an event."""

        async def decode(message: Message, **_more: Any) -> Any:
            return app.create_event(None, message.value, message.headers, message)

        return decode


class OffsetTracker:
    """Which batches of a partition were delivered, and up to where all of them are acked.

    `held_bytes`: of all batches delivered and not acked.
    """

    def __init__(self) -> None:
        self.held_bytes = 0
        self._sizes: dict[TP, dict[int, int]] = {}
        self._delivered: dict[TP, deque[int]] = {}
        self._acked: dict[TP, set[int]] = {}

    def delivered(self, tp: TP, last_offset: int, size: int = 0) -> None:
        """Note a batch handed to the app, in log order."""
        self._sizes.setdefault(tp, {})[last_offset] = size
        self.held_bytes += size
        self._delivered.setdefault(tp, deque()).append(last_offset)

    def ack(self, tp: TP, last_offset: int) -> bool:
        """Note that the batch ending at `last_offset` is durable. False when it is not one we delivered."""
        if last_offset not in self._delivered.get(tp, ()):
            return False
        self._acked.setdefault(tp, set()).add(last_offset)
        self.held_bytes -= self._sizes[tp].pop(last_offset, 0)
        return True

    def committable(self, tp: TP) -> int | None:
        """Take the acked prefix away and return its last offset + 1; None when the oldest batch is not acked."""
        waiting, acked = self._delivered.get(tp), self._acked.get(tp)
        offset = None
        while waiting and acked and waiting[0] in acked:
            last = waiting.popleft()
            acked.discard(last)
            offset = last + 1
        return offset

    def forget(self, tps: set[TP] | None = None) -> None:
        """Drop what is known of these partitions (None: of all), because they are revoked or read again."""
        for tp in list(self._delivered) if tps is None else tps:
            self._delivered.pop(tp, None)
            self._acked.pop(tp, None)
            self.held_bytes -= sum(self._sizes.pop(tp, {}).values())


class BatchConsumer(driver.Consumer):
    """Delivers BatchMessages, commits only what is durable, and makes a revoke wait for the engine.

    `quiesce` is awaited at the start of a revoke, before anything is forgotten; `released` after Faust's own part.
    `rewind` is asked after each seek to the committed offsets: where to read from, per partition that may be read.
    """

    _thread: BatchConsumerThread

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.tracker = OffsetTracker()
        self.held_most = HELD_BYTES_MAX
        self.mean_bytes = 4_096  # of a record and what is around it; cautious until the first batch
        self.reading = Reading()
        self.quiesce: RevokeHook | None = None
        self.released: RevokeHook | None = None
        self.rewind: Callable[[Mapping[TP, int]], Mapping[TP, int]] | None = None

    def room(self) -> int:
        """Say how many records may be fetched, by the mean size of those seen last."""
        return max(1, (self.held_most - self.tracker.held_bytes) // self.mean_bytes)

    def listen(self, heard: Heard) -> None:
        """Have `heard` called when the group's coordinator accepts a heartbeat, from another thread."""
        self._thread.heard = heard

    def unread(self, tp: TP) -> bool:
        """Tell whether the broker has records of a partition that were not fetched yet."""
        return self._thread.unread(tp)

    def group_state(self) -> tuple[bool, bool]:
        """Tell whether we have partitions, and whether the group is rebalancing."""
        return self._thread.group_state()

    async def _wait_next_records(self, timeout: float) -> tuple[Any, set[TP] | None]:  # noqa: ASYNC109 - Faust's
        """Return nothing when the flow was stopped meanwhile.

        The stock `getmany` would then seek to the committed offsets, which takes a while, and may come after the seek
        of the recovery that follows, and after the first deliveries.
        """
        records, active = await super()._wait_next_records(timeout)
        return (records, active) if self.flow_active else (None, active)

    @Service.task
    async def _watch_coordination(self) -> None:
        while not self.should_stop:
            await self.sleep(WATCH_S)
            error = self._thread.coordination_error()
            if error is not None:
                await self.crash(error)  # a restart joins the group anew
                return

    def _new_consumer_thread(self) -> BatchConsumerThread:
        return BatchConsumerThread(self, loop=self.loop, beacon=self.beacon)

    def _to_message(self, tp: TP, record: Any) -> ConsumerMessage:
        message = BatchMessage(tp, record, self.app.consumer_generation_id)
        size = size_of(record)
        self.mean_bytes = max(RECORD_BYTES, size // len(record))
        self.reading.delivered(tp, message.offset)
        if self.app.topics.acks_enabled_for(tp.topic):
            self.tracker.delivered(tp, message.offset, size)
        return message

    async def getmany(self, timeout: float) -> AsyncIterator[tuple[TP, Message]]:
        """Fetch, unless what was fetched before waits for the broker or the disk: then memory would be the queue."""
        if self.tracker.held_bytes >= self.held_most:
            await asyncio.sleep(ROOM_S)
            return  # asked again at once; meanwhile partitions may have been taken away
        async for tp, message in super().getmany(timeout):
            yield tp, message

    async def _add_gap(self, tp: TP, offset_from: int, offset_to: int) -> None:
        """Do nothing: delivered ranges are contiguous by construction, holes in the log lie inside them."""

    def ack(self, message: Message) -> bool:
        """Mark a batch as durable. An ack of another generation moves nothing (invariant I5)."""
        with ack_lock:
            if message.acked:
                return False
            message.acked = True
            self._unacked_messages.discard(message)
            moved = False
            if message.generation_id == self.app.consumer_generation_id:
                moved = self.tracker.ack(message.tp, message.offset)
                if moved:
                    self._acked[message.tp]  # noqa: B018 - a defaultdict: the commit loop walks its keys
                    self._n_acked += 1
            waiting = self._waiting_for_ack
            if waiting is not None and not waiting.done():
                waiting.set_result(None)
            return moved

    def abandon(self, message: Message) -> None:
        """Let go of a batch that will be read again: Faust stops waiting for it, no offset moves."""
        message.acked = True
        self._unacked_messages.discard(message)

    def _new_offset(self, tp: TP) -> int | None:
        return self.tracker.committable(tp)

    async def commit(self, topics: Any = None, start_new_transaction: bool = True) -> bool:
        """See Faust; the laboratory looks on."""
        done = await super().commit(topics, start_new_transaction)
        if done and failpoints.hit is not None:
            failpoints.hit(failpoints.COMMITTED)
        return done

    async def commit_all(self) -> None:
        """Commit everything acked so far."""
        for _ in range(_COMMIT_TRIES):  # the first may only have waited for a commit that began before our acks
            if await self.commit():
                break

    async def on_partitions_revoked(self, revoked: set[TP]) -> None:
        """Let epochs in flight land, commit them, then let Faust take the partitions away.

        The stock method forgets acked offsets before it commits, so each rebalance would replay a commit interval.
        """
        if self.quiesce is not None:
            await self.quiesce(revoked)
        if failpoints.hit is not None:
            failpoints.hit(failpoints.QUIESCED)
        await self.commit_all()
        self.tracker.forget(revoked)
        await super().on_partitions_revoked(revoked)
        if self.released is not None:
            await self.released(revoked)
        if failpoints.hit is not None:
            failpoints.hit(failpoints.REVOKED)

    async def perform_seek(self) -> None:
        """Read each recovered partition from where its worker says, and no other.

        The stock method leaves a partition without a commit where it happens to stand. Faust lets fetches run before
        and while it seeks, twice at times: see agents/reading.py.
        """
        self.tracker.forget()
        self.reading.close()
        try:
            await super().perform_seek()
        finally:  # on an error too: another seek may have opened before, and nobody would open again
            await self._read_from_states()

    async def _read_from_states(self) -> None:
        if self.rewind is None:
            return
        committed = {tp: offset for tp, offset in self._committed_offset.items() if offset is not None}
        places = self.rewind(committed)
        for tp, offset in places.items():
            if committed.get(tp, 0) > offset:
                self._committed_offset[tp] = None  # so that commits on the way forward again are not held back
        await self._read_again(places)
        self.reading.open(places)

    async def _read_again(self, places: Mapping[TP, int]) -> None:
        for tp, offset in places.items():
            try:
                await self.seek(tp, offset)
            except IllegalStateError:  # no longer ours: its next owner reads it
                log.info("not sought, partition is gone", partition=tp.partition, offset=offset)

    async def _getmany(self, active_partitions: set[TP] | None, timeout: float) -> Any:  # noqa: ASYNC109 - Faust's name
        """Fetch; let through only what was fetched from the place where each partition is to be read on."""
        await self._read_again(self.reading.missed())
        turn = self.reading.turn
        records: Any = await super()._getmany(active_partitions, timeout)
        own = [tp for tp in records if self.app.topics.acks_enabled_for(tp.topic)]
        if turn != self.reading.turn:  # a seek came in between, before or after the records were taken
            again = {tp: place for tp in own if (place := self.reading.place(tp)) is not None}
            await self._read_again(again)
            return {tp: found for tp, found in records.items() if tp not in own}
        for tp in own:
            if self.reading.place(tp) is None:
                del records[tp]  # the seek that opens it comes later
            else:
                self.reading.fetched(tp, records[tp][-1].offset)
        return records


class BatchProducer(driver.Producer):
    """Idempotent, acks=all: the stock at-least-once producer is neither."""

    def _settings_extra(self) -> Mapping[str, Any]:
        return {"acks": "all", "enable_idempotence": True}


class LastingQueue(ThrowableQueue[Any]):
    """A queue that loses nothing when the flow is resumed; it is emptied while the flow is suspended, at a revoke.

    Faust empties its queues at each `resume`. The last one of a recovery comes when standbys are being read already:
    what of their changelogs then waits here would be lost, and nobody would read it again.
    """

    def __init__(self, maxsize: int, flow: FlowControlEvent, emptied: bool) -> None:
        super().__init__(maxsize, flow_control=flow, clear_on_resume=emptied)
        self._flow = flow

    def clear(self) -> None:
        """Empty it, unless the flow runs."""
        if not self._flow.is_active():
            super().clear()


class BatchTransport(driver.Transport):
    """The aiokafka transport with our consumer and producer."""

    Consumer = BatchConsumer
    Producer = BatchProducer


class BatchApp(faust.App):
    """A Faust app whose topics arrive in batches.

    `before_start` is called once its consumer exists, `before_stop` while it still has its partitions.
    """

    before_start: Callable[[], None] | None = None
    before_stop: Callable[[], Awaitable[None]] | None = None

    def FlowControlQueue(self, maxsize: int | None = None, *, clear_on_resume: bool = False) -> LastingQueue:  # noqa: N802 - Faust's name
        """See Faust; what waits in it when the flow is resumed stays."""
        return LastingQueue(maxsize or 0, self.flow_control, clear_on_resume)

    async def on_start(self) -> None:
        """See Faust."""
        await super().on_start()
        if self.before_start is not None:
            self.before_start()

    async def on_stop(self) -> None:
        """Finish and commit first: Faust's own stop seeks back to the committed offsets before it commits."""
        if self.before_stop is not None and self.crash_reason is None:
            await self.before_stop()
        await super().on_stop()

    async def _consumer_wait_empty(self, consumer: Any, logger: Any) -> None:
        """Wait for nothing after a crash.

        The stock method commits through the consumer's thread, which may be gone by then, and ends in a cancellation in
        place of what went wrong. What is not committed is read again and skipped.
        """
        if self.crash_reason is None:
            await super()._consumer_wait_empty(consumer, logger)

    def _new_transport(self) -> BatchTransport:
        return BatchTransport(self.conf.broker_consumer, self)

    def _new_producer_transport(self) -> BatchTransport:
        return BatchTransport(self.conf.broker_producer, self)


class BatchWriter:
    """Sends whole record batches through the app's producer; order within a partition is the order of the calls."""

    def __init__(self, app: faust.App, wall_ms: Callable[[], int]) -> None:
        self._app = app
        self._wall_ms = wall_ms
        self._partitions: dict[str, list[int]] = {}

    @property
    def _producer(self) -> Any:
        producer = self._app.producer._producer  # type: ignore[attr-defined]  # noqa: SLF001 - no public batch call
        if producer is None:
            raise RuntimeError("producer: not started (got None); write only between the app's start and stop")
        return producer

    async def partition_count(self, topic: str) -> int:
        """Ask the broker's metadata; creates the topic where the broker does so on first use."""
        return len(await self._producer.partitions_for(topic))

    async def send(
        self,
        topic: str,
        partition: int,
        entries: Sequence["Entry"],
        before_each: Callable[[], Awaitable[None]] | None = None,
    ) -> list["Sent"]:
        """Hand entries to the producer as few batches as their sizes allow. Await each result's `acked` for its ack.

        `before_each`: awaited before each batch, and each batch is then acked before the next is handed over. Without
        that, a batch that times out may be followed by one that does not.
        """
        producer = self._producer
        now = self._wall_ms()
        sent: list[Sent] = []
        position = 0
        while position < len(entries):
            if before_each is not None:
                if sent:
                    await sent[-1].acked
                await before_each()
            batch = producer.create_batch()
            count = 0
            while position < len(entries):
                key, value, headers = entries[position]
                if batch.append(timestamp=now, key=key, value=value, headers=headers) is None:
                    break
                position += 1
                count += 1
            batch.close()
            sent.append(Sent(await producer.send_batch(batch, topic, partition=partition), count))
        return sent


Entry = tuple[bytes | None, bytes | None, list[tuple[str, bytes]]]
"""(key, value, headers)"""


class Sent:
    """A record batch on its way: `acked` resolves to the broker's metadata."""

    __slots__ = ("acked", "count")

    def __init__(self, acked: "asyncio.Future[Any]", count: int) -> None:
        self.acked = acked
        self.count = count

    async def last_offset(self) -> int | None:
        """Wait for the ack. None when the broker had the batch already and no longer knows its offset."""
        metadata = await self.acked
        return metadata.offset + self.count - 1 if metadata.offset >= 0 else None
