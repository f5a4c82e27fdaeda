"""Delivery's two hands on Kafka: an outbox that does not give up, and a reader of `commands` that knows what it owns.

Not Faust: an agent acknowledges one event after the other, while here hundreds of mails are under way and end in any
order; Faust then commits past unfinished ones, and drops acknowledged ones at a rebalance.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, NamedTuple

import structlog
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, Producer, TopicPartition

from agents.topics import LARGE_MESSAGE_BYTES_MAX

log = structlog.get_logger("agents.send")

SESSION_TIMEOUT_MS = 45_000  # Kafka's default since 3.0
REQUEST_TIMEOUT_S = 10.0
POLL_S = 0.001  # between two looks for acknowledgements, while some are to come
ANSWER_SHARE = 1 / 8  # of the session: how long a commit's answer may take before the next one is asked for
START_TIMEOUT_S = 3.0  # in the reader's thread, where rebalances wait meanwhile; asked again after it
DELIVERY_TIMEOUT_MS = 30_000  # below the session: what was not written by then is written again only if we still own it
_CONSUMER_ONLY = ("session.", "heartbeat.", "group.", "fetch.", "max.poll.", "auto.", "queued.")


class Record(NamedTuple):
    """A record to write; without a partition its key chooses."""

    topic: str
    key: bytes | None
    value: bytes | None
    partition: int = -1
    headers: list[tuple[str, str | bytes | None]] | None = None


class Outbox:
    """Writes records and waits for their acknowledgement; tries again until it is cancelled."""

    def __init__(self, kafka: Mapping[str, Any]) -> None:
        self._producer = Producer(
            {
                "linger.ms": 2,
                "compression.type": "lz4",
                "partitioner": "murmur2_random",  # as Java and Faust: equal members, equal partitions
                "message.max.bytes": LARGE_MESSAGE_BYTES_MAX,  # a dead letter's; the default is less
                **{name: value for name, value in kafka.items() if not name.startswith(_CONSUMER_ONLY)},
                "enable.idempotence": True,
                "acks": "all",
                "delivery.timeout.ms": DELIVERY_TIMEOUT_MS,
            }
        )
        self._loop = asyncio.get_running_loop()
        self._unanswered: set[asyncio.Future[int]] = set()
        self._polling = False
        self._closed = False

    async def send(
        self,
        topic: str,
        key: bytes | None,
        value: bytes | None,
        partition: int = -1,
        headers: list[tuple[str, str | bytes | None]] | None = None,
    ) -> int:
        """Write one record and return its offset once it is acknowledged by all.

        Raises:
            KafkaException: an error that no repetition mends (too large, not authorized, fenced).
        """
        return (await self.send_all(Record(topic, key, value, partition, headers)))[0]

    async def send_all(self, *records: "Record") -> list[int]:
        """Write records, in no order between them, and return their offsets once all are acknowledged by all.

        Raises:
            KafkaException: as for `send`.
        """
        futures = [await self._produce(record) for record in records]
        return [await self._acknowledged(record, future) for record, future in zip(records, futures, strict=True)]

    async def _produce(self, record: "Record") -> asyncio.Future[int]:
        future: asyncio.Future[int] = self._loop.create_future()
        answered = partial(self._answered, future)
        while True:
            try:
                self._producer.produce(
                    record.topic, record.value, record.key, record.partition,
                    on_delivery=answered, headers=record.headers or [],
                )  # fmt: skip
            except BufferError:  # the broker is slow or away: librdkafka's queue is the bound
                await asyncio.sleep(0.1)
                continue
            self._unanswered.add(future)
            if not self._polling:
                self._polling = True
                self._loop.call_later(POLL_S, self._poll)
            return future

    async def _acknowledged(self, record: "Record", future: asyncio.Future[int]) -> int:
        while True:
            try:
                return await asyncio.shield(future)  # who gives up waiting does not call the record back
            except KafkaException as error:
                problem = error.args[0]
                if problem.fatal() or problem.code() in _PERMANENT:
                    raise
                log.warning("delivery.write-again", topic=record.topic, error=problem.name())
                await asyncio.sleep(0.5)
            future = await self._produce(record)

    async def settled(self) -> None:
        """Wait until each record handed over so far is acknowledged or given up, whether somebody waits for it or not.

        Before SENT_TOPIC is read back: a result that a revoke did not wait for is still on its way, and a mail whose
        result is not found is sent again.
        """
        if self._unanswered:
            await asyncio.wait(set(self._unanswered))

    def topic_partitions(self, topic: str) -> int:
        """Return a topic's number of partitions, making it where the broker makes topics on first use. Blocks.

        Raises:
            KafkaException: no answer, or no such topic.
        """
        metadata = self._producer.list_topics(topic, timeout=REQUEST_TIMEOUT_S).topics[topic]
        if metadata.error is not None:
            raise KafkaException(metadata.error)
        return len(metadata.partitions)

    def cluster_id(self) -> str:
        """Return the cluster's id. Blocks."""
        return str(self._producer.list_topics(timeout=REQUEST_TIMEOUT_S).cluster_id or "")

    def close(self) -> None:
        """Stop. What was not acknowledged had nobody waiting for it any more. Blocks."""
        self._closed = True
        self._producer.purge()
        self._producer.flush(1)

    def _poll(self) -> None:
        """Take answers in the loop's own thread: one of its own would ask for Python's lock once for each record."""
        self._producer.poll(0)
        self._polling = bool(self._unanswered) and not self._closed
        if self._polling:
            self._loop.call_later(POLL_S, self._poll)

    def _answered(self, future: asyncio.Future[int], error: KafkaError | None, message: Message) -> None:
        if self._closed:
            return  # by another thread
        self._unanswered.discard(future)
        if future.done():
            return
        if error is None:
            future.set_result(message.offset() or 0)
        else:
            future.set_exception(KafkaException(error))
            future.exception()  # looked at: nobody may be waiting for it


_PERMANENT = frozenset(
    {
        KafkaError.MSG_SIZE_TOO_LARGE,
        KafkaError.TOPIC_AUTHORIZATION_FAILED,
        KafkaError.CLUSTER_AUTHORIZATION_FAILED,
        KafkaError.INVALID_RECORD,
    }
)


class CommandReader:
    """A consumer of one topic. New partitions give nothing until `begin`; before one is given up `revoked` is awaited.

    `confirmed_at` is the monotonic time at which we asked for the last commit that the group's coordinator accepted. A
    worker that was stopped for longer than the session (SIGSTOP, a sleeping laptop) finds it too old, and waits for a
    new one.

    The client is called in the reader's own thread alone. confluent-kafka lets one thread at a time into a consumer: a
    call from the loop waits until `consume` returns, and that may be waiting, in a rebalance, for the loop.

    A partition is paused, sought or resumed only once it has given a record. librdkafka numbers such calls, and drops
    its own start of a partition as outdated if one of them is numbered in between: nothing is ever read of it then.
    """

    def __init__(
        self,
        kafka: Mapping[str, Any],
        group: str,
        topic: str,
        assigned: Callable[[list[int]], None],
        revoked: Callable[[list[int]], Awaitable[Mapping[int, int]]],
    ) -> None:
        config = {"session.timeout.ms": SESSION_TIMEOUT_MS, "queued.max.messages.kbytes": 16_384, **kafka}
        self.session_s = int(config["session.timeout.ms"]) / 1000
        self.confirmed_at = float("-inf")
        self.held = False  # nothing is to be read
        self.owned: set[int] = set()
        self.committed: dict[int, int] = {}
        self._topic = topic
        self._assigned = assigned
        self._revoked = revoked
        self._loop = asyncio.get_running_loop()
        self._generation = 0
        self._wanted: Mapping[int, int] = {}  # to commit at the next read
        # Of this assignment alone, as are `_asked`:
        self._begun: set[int] = set()  # partitions that may be read on
        self._started: set[int] = set()  # that gave a record
        self._ahead: set[int] = set()  # that gave records before they were begun
        self._asked: dict[str, float] = {}  # when, monotonic, by the number of the commit
        self._commits = 0
        self._reading = ThreadPoolExecutor(1, "delivery-read")
        self._consumer = Consumer(
            {
                **config,
                "group.id": group,
                "enable.auto.commit": False,
                "enable.auto.offset.store": False,
                "auto.offset.reset": "earliest",
                "on_commit": self._on_commit,  # called inside consume()
            }
        )
        self._consumer.subscribe([topic], on_assign=self._on_assign, on_revoke=self._on_revoke, on_lost=self._on_lost)

    async def read(self, limit: int, timeout_s: float) -> list[Message]:
        """Read up to `limit` records of owned partitions, waiting for the first at most `timeout_s`; serves rebalances.

        Raises:
            KafkaException: the broker refuses us; trouble that passes is logged by librdkafka and waited out.
        """
        return await self._loop.run_in_executor(self._reading, self._read, limit, timeout_s)

    def commit(self, offsets: Mapping[int, int]) -> None:
        """Have the next offset of each partition committed by the next read; never blocks.

        The answer moves `committed` and renews the lease. While one request is unanswered the last offsets wait, but
        not for ever: librdkafka gives an answer up only after a minute, and the lease would be gone by then.
        """
        self._wanted = offsets

    async def start_offset(self, partition: int) -> int:
        """Return where reading starts: the committed offset, else the first there is.

        Raises:
            KafkaException: no answer.
        """
        return await self._loop.run_in_executor(self._reading, self._start_offset, partition)

    async def begin(self, partition: int, offset: int) -> None:
        """Read a new partition from its start offset on, unless the group rebalances before.

        Raises:
            KafkaException: the broker refuses us.
        """
        generation = self._generation
        while not await self._loop.run_in_executor(self._reading, self._begin_at, partition, offset, generation):
            await asyncio.sleep(0.05)

    async def hold(self, held: bool) -> None:
        """Read nothing, or read on; what was fetched ahead is dropped and fetched again.

        A partition that has given nothing before may give a few records yet.
        """
        await self._loop.run_in_executor(self._reading, self._hold, held)

    async def close(self) -> None:
        """Leave the group; `revoked` is awaited for what is owned."""
        await self._loop.run_in_executor(self._reading, self._consumer.close)
        self._reading.shutdown()

    # ------------------------------------------------------------ in threads

    def _read(self, limit: int, timeout_s: float) -> list[Message]:
        self._commit_wanted()
        generation = self._generation
        # `consume` waits until it has `limit` records or the time is over: a lone command would wait for company.
        first = self._consumer.poll(timeout_s)
        messages = [] if first is None else [first]
        if messages and limit > 1:
            messages += self._consumer.consume(limit - 1, 0)
        found = good_messages(messages)
        if generation != self._generation:  # all of it is read again: from before the rebalance or from right after
            self._ahead.update(number for message in found if (number := message.partition()) is not None)
            return []
        return self._let_through(found)

    def _let_through(self, messages: list[Message]) -> list[Message]:
        """Keep back what has not begun, and stop what may not be read on."""
        found = {number for message in messages if (number := message.partition()) is not None}
        fresh = found - self._started
        if fresh:
            self._started |= fresh
            if stopped := {number for number in fresh if self.held or number not in self._begun}:
                self._consumer.pause(self._places(stopped))
        early = found - self._begun
        if not early:
            return messages
        self._ahead |= early
        return [message for message in messages if message.partition() in self._begun]

    def _places(self, partitions: Iterable[int]) -> list[TopicPartition]:
        return [TopicPartition(self._topic, partition) for partition in partitions]

    def _commit_wanted(self) -> None:
        now = time.monotonic()
        if self._asked and now - max(self._asked.values()) < self.session_s * ANSWER_SHARE:
            return
        wanted, self._wanted = self._wanted, {}
        # The number comes back with the answer, which may be late: it counts from when that request was made.
        number = str(self._commits)
        places = [TopicPartition(self._topic, p, at, metadata=number) for p, at in wanted.items() if p in self.owned]
        if not places:
            return
        self._commits += 1
        self._asked[number] = now
        try:
            self._consumer.commit(offsets=places, asynchronous=True)
        except KafkaException as error:
            del self._asked[number]
            log.info("delivery.commit-refused", error=error.args[0].name())

    def _on_commit(self, error: KafkaError | None, places: list[TopicPartition]) -> None:
        asked = next((at for place in places if (at := self._asked.pop(place.metadata or "", None)) is not None), None)
        refused = error or next((place.error for place in places if place.error), None)
        if refused is not None:
            log.info("delivery.commit-refused", error=refused.name())
        elif asked is not None:
            self.confirmed_at = max(self.confirmed_at, asked)
            self.committed = {place.partition: place.offset for place in places}

    def _start_offset(self, partition: int) -> int:
        place = TopicPartition(self._topic, partition)
        committed = self._consumer.committed([place], timeout=START_TIMEOUT_S)[0]
        if committed.error:
            raise KafkaException(committed.error)
        low, _ = self._consumer.get_watermark_offsets(place, timeout=START_TIMEOUT_S)
        return max(committed.offset, low)

    def _begin_at(self, partition: int, offset: int, generation: int) -> bool:
        if generation != self._generation or partition not in self.owned:
            return True
        if partition in self._ahead:
            try:
                self._consumer.seek(TopicPartition(self._topic, partition, offset))
            except KafkaException as error:
                if error.args[0].code() == KafkaError._STATE:  # noqa: SLF001 its own name
                    return False  # read before a rebalance, and since then not started again
                raise
            self._ahead.discard(partition)
        # Else the client itself asks the group for the place, which is `offset`, and has not gone beyond it.
        self._begun.add(partition)
        if partition in self._started and not self.held:
            self._consumer.resume(self._places((partition,)))
        return True

    def _hold(self, held: bool) -> None:
        self.held = held
        if places := self._places(self._begun & self._started):
            (self._consumer.pause if held else self._consumer.resume)(places)

    def _on_assign(self, consumer: Consumer, places: list[TopicPartition]) -> None:
        self._generation += 1
        self._asked, self.committed, self._wanted = {}, {}, {}
        self._begun, self._started, self._ahead = set(), set(), set()
        self.owned = {place.partition for place in places}
        consumer.assign(places)
        self._loop.call_soon_threadsafe(self._assigned, sorted(self.owned))

    def _on_revoke(self, consumer: Consumer, places: list[TopicPartition]) -> None:
        """Finish, commit, give up, in this order: the next owner starts after our last result."""
        self._generation += 1
        self._asked = {}  # no answer from before counts
        partitions = [place.partition for place in places]
        # The bound lies in `revoked` itself, well below max.poll.interval.ms.
        offsets = asyncio.run_coroutine_threadsafe(_as_coroutine(self._revoked(partitions)), self._loop).result()
        places = [TopicPartition(self._topic, p, offset) for p, offset in offsets.items()]
        if places:
            try:
                consumer.commit(offsets=places, asynchronous=False)
            except KafkaException as error:  # the next owner reads some of it again, and finds it done
                log.info("delivery.commit-refused", error=error.args[0].name())
        self._give_up(partitions)
        self._wanted = {}  # older than what was just committed

    def _on_lost(self, consumer: Consumer, places: list[TopicPartition]) -> None:
        """We were given up for dead: another worker may own these already, so there is nothing to commit."""
        self._generation += 1
        self._asked = {}  # no answer from before counts
        partitions = [place.partition for place in places]
        self._give_up(partitions)
        asyncio.run_coroutine_threadsafe(_as_coroutine(self._revoked(partitions)), self._loop).result()

    def _give_up(self, partitions: Sequence[int]) -> None:
        self.owned -= set(partitions)
        self._begun -= set(partitions)
        self.confirmed_at = float("-inf")
        # A pause would be kept until the partition comes back, and then nobody knows of it.
        if paused := self._places(self._started.intersection(partitions)):
            self._consumer.resume(paused)


def good_messages(messages: Iterable[Message]) -> list[Message]:
    """Leave out what a consumer only remarks on.

    Raises:
        KafkaException: the broker refuses us; trouble that passes is logged by librdkafka and waited out.
    """
    good: list[Message] = []
    for message in messages:
        error = message.error()
        if error is None:
            good.append(message)
        elif error.fatal() or not error.retriable():
            if error.code() in (KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._ALL_BROKERS_DOWN):  # noqa: SLF001
                continue  # a topic that appears on first use; brokers that restart
            raise KafkaException(error)
    return good


async def _as_coroutine(awaitable: Awaitable[Mapping[int, int]]) -> Mapping[int, int]:
    return await awaitable
