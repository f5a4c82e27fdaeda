"""The sink: records of the log's topics into ClickHouse, each offset range exactly once.

Per cycle, for each partition that has records (its range first..last, cut at any place):

    1 commit offset `first` with metadata `v1 first last nonce`      "I am about to insert this range"
    2 insert the range's rows, per table, token `topic:partition:first-last:nonce`
    3 commit offset `last + 1` with empty metadata                   "it is in"

What a crash does:

    before 1        nothing was inserted; the range is read and cut anew
    between 1 and 2 the next owner reads the metadata, reads exactly first..last, inserts it with the same token
    inside 2        the same; blocks that are in are dropped by their token, the others go in
    between 2 and 3 the same; all blocks are dropped by their token
    after 3         nothing to do

Commit 1 is refused when the partition has gone to another member, so a sleeper that wakes up inserts nothing, or a
block whose token the new owner uses too. The nonce tells runs apart: after a topic was made anew its offsets start
again at 0, and without it the new range 0-99 would be dropped as a repeat of the old one. Behind all this, tables
keep one row per deterministic id.

While ClickHouse is away partitions are paused, the member stays in its group, and the range in hand is tried again with
growing pauses. Memory holds at most one cycle (`Limits`) and the client's fetch queue.
"""

import secrets
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

import msgspec
import structlog
from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, Message, TopicPartition
from tenacity import RetryCallState, Retrying, retry_if_exception_type, stop_after_attempt, wait_exponential_jitter

from agents import failpoints
from agents.topics import ATTRIBUTIONS, COMMANDS_OF, DECISIONS, EVENTS, MEMBER_COMMANDS
from schemas.codec import decode_event
from schemas.errors import RegistryUnreachable
from sinks.rows import Batch, DecodeEvent, LogRecord, build

GROUP = "tidings-sink"
TOPICS = (EVENTS, *COMMANDS_OF.values(), MEMBER_COMMANDS, DECISIONS, ATTRIBUTIONS)
FETCH_COUNT = 5_000
FETCH_QUEUE_KIB = 16_384
POLL_SECONDS = 0.1
COMMITTED_SECONDS = 10.0
# Ten inserts a second and process: ClickHouse merges that many small parts without falling behind.
MS_PER_INSERT = 100
MAX_BACKOFF_SECONDS = 15.0
RECORD_OVERHEAD_BYTES = 200  # a Python object around each value; an estimate on the safe side

log = structlog.get_logger(__name__)
_backoff = wait_exponential_jitter(multiplier=0.2, max=MAX_BACKOFF_SECONDS, jitter=0.2)
# Without the commits' metadata no partition may be taken on; after this the member leaves and its process ends.
_ask_broker = Retrying(
    retry=retry_if_exception_type(KafkaException),
    stop=stop_after_attempt(5),
    wait=wait_exponential_jitter(max=2),
    reraise=True,
)


class Inserter(Protocol):
    """What the sink needs of `sinks.clickhouse.Warehouse`."""

    def insert(self, table: str, columns: list[list[Any]], token: str) -> None:
        """Insert one block; a repeat with the same token changes nothing."""

    def forget(self) -> None:
        """Drop a connection that failed."""


class Limits(msgspec.Struct, frozen=True):
    """A cycle ends at the first of these: rows and bytes over all partitions, age of the oldest record in hand."""

    rows: int = 50_000
    size_bytes: int = 32 * 1024 * 1024
    age_ms: int = 500


class Counters(msgspec.Struct):
    """What this process has done since its start.

    `rows`: by table. `lag`: records known to be behind, at the last report.
    """

    records: int = 0
    inserts: int = 0
    repeated_ranges: int = 0
    failures: int = 0
    outage: bool = False
    lag: int = 0
    rows: dict[str, int] = {}
    undecodable: dict[str, int] = {}


class Range(msgspec.Struct, frozen=True):
    """Offsets `first`..`last`, both included, and the nonce of the run that cut them."""

    first: int
    last: int
    nonce: str

    def metadata(self) -> str:
        """Spell the range for the commit's metadata."""
        return f"v1 {self.first} {self.last} {self.nonce}"

    def token(self, topic: str, partition: int) -> str:
        """Name the block for ClickHouse."""
        return f"{topic}:{partition}:{self.first}-{self.last}:{self.nonce}"


def parse_range(metadata: str | None) -> Range | None:
    """Read a commit's metadata; None when it announces no range (or is another build's)."""
    words = (metadata or "").split(" ")
    if len(words) != 4 or words[0] != "v1" or not (words[1].isdigit() and words[2].isdigit()):
        return None
    return Range(int(words[1]), int(words[2]), words[3])


class Lane:
    """One assigned partition: records in hand, and the range that is on its way."""

    def __init__(self, topic: str, partition: int, redo: Range | None) -> None:
        self.topic = topic
        self.partition = partition
        self.redo = redo  # announced by a predecessor: must go in first, exactly
        self.records: list[LogRecord] = []
        self.size_bytes = 0
        self.since = 0.0
        self.range: Range | None = None
        self.announced = False
        self.batch: Batch | None = None
        self.done: set[str] = set()

    def add(self, record: LogRecord, size_bytes: int, now: float) -> None:
        """Keep one record; offsets only grow."""
        if not self.records:
            self.since = now
        if self.redo is not None and not self.records and record.offset > self.redo.last:
            log.warning(
                "sink_range_gone",
                topic=self.topic,
                partition=self.partition,
                first=self.redo.first,
                last=self.redo.last,
            )
            self.redo = None  # retention took the whole range while we were away
        self.records.append(record)
        self.size_bytes += size_bytes

    @property
    def ready(self) -> bool:
        """True when there is a range to insert: records in hand, and an announced range read to its end."""
        return bool(self.records) and (self.redo is None or self.records[-1].offset >= self.redo.last)

    def cut(self, nonce: str) -> bool:
        """Fix the range to insert next; False when there is none (or an announced one is not yet read to its end)."""
        if self.range is not None:
            return True
        if not self.ready:
            return False
        if self.redo is not None:
            self.range, self.announced = self.redo, True
        else:
            self.range = Range(self.records[0].offset, self.records[-1].offset, nonce)
        return True

    def inserted(self, now: float) -> int:
        """Forget the records of the range; returns how many they were."""
        if self.range is None:
            return 0
        last = self.range.last
        kept = [record for record in self.records if record.offset > last]
        count = len(self.records) - len(kept)
        self.records, self.since = kept, now
        self.size_bytes = sum(_size(record) for record in kept)
        self.range = self.batch = self.redo = None
        self.announced = False
        self.done = set()
        return count


class RecordSink:
    """One member of the sink's consumer group. `run` blocks; everything happens in the thread that calls it.

    Args:
        config: librdkafka's settings for the connection, e.g. `Settings.confluent()`.
        warehouse: where rows go.
        decode: reads an event; another one when producers write Avro.
        report_seconds: how often progress is logged while there is any.
    """

    def __init__(
        self,
        config: Mapping[str, Any],
        warehouse: Inserter,
        *,
        topics: Iterable[str] = TOPICS,
        group: str = GROUP,
        limits: Limits | None = None,
        decode: DecodeEvent = decode_event,
        report_seconds: float = 10.0,
    ) -> None:
        self.counters = Counters()
        self._warehouse = warehouse
        self._topics = list(topics)
        self._limits = limits or Limits()
        self._decode = decode
        self._nonce = secrets.token_hex(4)
        self._lanes: dict[tuple[str, int], Lane] = {}
        self._attempt = 0
        self._retry_at = 0.0
        self._mean_bytes = 4096  # cautious until the first fetch
        self._report_seconds = report_seconds
        self._reported = (time.monotonic(), 0)
        self._consumer = Consumer(
            {
                **config,
                "group.id": group,
                "enable.auto.commit": False,
                "enable.auto.offset.store": False,
                "auto.offset.reset": "earliest",
                "queued.max.messages.kbytes": FETCH_QUEUE_KIB,
                # A topic that does not exist yet (the in-memory broker makes them on first use) is found soon.
                "topic.metadata.refresh.interval.ms": 5_000,
            }
        )

    def run(self, stop: threading.Event) -> Counters:
        """Consume until `stop` is set; then make one attempt to insert what is in hand, and leave the group."""
        log.info("sink_started", topics=self._topics)
        try:
            self._join()
            while not stop.is_set():
                if self.counters.outage:
                    self._wait()
                else:
                    self._fetch()
                if self._due():
                    self._cycle()
                self._report()
            if not self.counters.outage:
                self._cycle()
        finally:
            self._consumer.close()
            log.info("sink_stopped", **self._facts())
        return self.counters

    # ------------------------------------------------------------ partitions come and go

    def _join(self) -> None:
        self._consumer.subscribe(self._topics, on_assign=self._assigned, on_revoke=self._revoked, on_lost=self._revoked)

    def _assigned(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        committed = _ask_broker(consumer.committed, partitions, timeout=COMMITTED_SECONDS)
        for place in committed:
            redo = parse_range(place.metadata) if place.offset >= 0 else None
            if redo is not None and redo.first != place.offset:
                redo = None
            if redo is not None:
                self.counters.repeated_ranges += 1
                log.info(
                    "sink_range_repeated",
                    topic=place.topic, partition=place.partition, first=redo.first, last=redo.last,
                )  # fmt: skip
            self._lanes[place.topic, place.partition] = Lane(place.topic, place.partition, redo)
            if place.offset < 0:
                place.offset = OFFSET_BEGINNING
        consumer.assign(committed)  # nothing is paused or resumed here: librdkafka may drop its own start over it
        log.info("sink_assigned", partitions=len(committed))

    def _revoked(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        # librdkafka keeps a pause over a rebalance: one that began in an outage that is over would last for ever.
        consumer.resume(partitions)
        # What is in hand is dropped: the next owner starts at the commit, and repeats an announced range exactly.
        for place in partitions:
            self._lanes.pop((place.topic, place.partition), None)

    # ------------------------------------------------------------ records come in

    def _fetch(self) -> None:
        # Announced ranges that are still being read do not count: several of them, from several predecessors, may be
        # more than one cycle, and would leave no room for their own ends. Each was one cycle's share, which bounds
        # their sum.
        ready = self._ready()
        rows = self._limits.rows - sum(len(lane.records) for lane in ready)
        # By the size of the last fetch's records: 5,000 large ones would be gigabytes.
        room = (self._limits.size_bytes - sum(lane.size_bytes for lane in ready)) // self._mean_bytes
        self._take(self._consumer.consume(max(1, min(FETCH_COUNT, rows, room)), POLL_SECONDS))

    def _take(self, messages: list[Message]) -> int:
        now = time.monotonic()
        taken = 0
        for message in messages:
            error = message.error()
            if error is not None:
                self._complain(error)
                continue
            lane = self._lanes.get((message.topic() or "", message.partition() or 0))
            if lane is None:
                continue
            record = LogRecord(message.offset() or 0, message.timestamp()[1], message.value())
            size_bytes = _size(record)
            taken += size_bytes
            lane.add(record, size_bytes, now)
        if taken:
            self._mean_bytes = max(RECORD_OVERHEAD_BYTES, taken // len(messages))
        return taken

    def _complain(self, error: KafkaError) -> None:
        if error.code() not in (KafkaError._PARTITION_EOF, KafkaError.UNKNOWN_TOPIC_OR_PART):  # noqa: SLF001 - its public name
            log.warning("sink_consumer_error", code=error.name(), fatal=error.fatal())
        if error.fatal():
            raise KafkaException(error)

    # ------------------------------------------------------------ ranges go out

    def _due(self) -> bool:
        now = time.monotonic()
        if self.counters.outage:
            return now >= self._retry_at
        ready = self._ready()
        if not ready:
            return False
        age_ms = max(self._limits.age_ms, MS_PER_INSERT * len(ready))
        return (
            sum(len(lane.records) for lane in ready) >= self._limits.rows
            or sum(lane.size_bytes for lane in ready) >= self._limits.size_bytes
            or (now - min(lane.since for lane in ready)) * 1000 >= age_ms
        )

    def _ready(self) -> list[Lane]:
        return [lane for lane in self._lanes.values() if lane.ready]

    def _cycle(self) -> None:
        """Carry every lane that has a range through steps 1 to 3; what fails stays in hand for the next attempt."""
        lanes = [lane for lane in self._lanes.values() if lane.cut(self._nonce)]
        if not lanes:
            self._recovered()  # what failed has gone to another member with its partition
            return
        try:
            self._announce(lanes)
            for lane in lanes:
                self._insert(lane)
            self._finish(lanes)
        except KafkaException as error:
            self._failed("broker", error)
        except RegistryUnreachable as error:  # no fault of the record: it waits, as for ClickHouse
            self._failed("registry", error)
        except Exception as error:  # the driver's errors share no root that is public; each is retried alike
            self._warehouse.forget()
            self._failed("clickhouse", error)
        else:
            self._recovered()

    def _announce(self, lanes: list[Lane]) -> None:
        places = [
            TopicPartition(lane.topic, lane.partition, lane.range.first, metadata=lane.range.metadata())
            for lane in lanes
            if lane.range is not None and not lane.announced
        ]
        if places:
            self._commit(places)
        for lane in lanes:
            lane.announced = True

    def _insert(self, lane: Lane) -> None:
        if lane.range is None:
            return
        if lane.batch is None:
            last = lane.range.last
            lane.batch = build(lane.topic, lane.partition, (r for r in lane.records if r.offset <= last), self._decode)
        for table, columns in lane.batch.columns.items():
            if table in lane.done:
                continue
            if failpoints.hit is not None:
                failpoints.hit(failpoints.ANNOUNCED)
            self._warehouse.insert(table, columns, lane.range.token(lane.topic, lane.partition))
            if failpoints.hit is not None:
                failpoints.hit(failpoints.INSERTED)
            lane.done.add(table)
            self.counters.inserts += 1
            self.counters.rows[table] = self.counters.rows.get(table, 0) + len(columns[0])

    def _finish(self, lanes: list[Lane]) -> None:
        self._commit(
            [TopicPartition(x.topic, x.partition, x.range.last + 1, metadata="") for x in lanes if x.range is not None]
        )
        if failpoints.hit is not None:
            failpoints.hit(failpoints.FINISHED)
        now = time.monotonic()
        for lane in lanes:
            for reason, count in (lane.batch.undecodable if lane.batch else {}).items():
                self.counters.undecodable[reason] = self.counters.undecodable.get(reason, 0) + count
                log.warning(
                    "sink_undecodable", topic=lane.topic, partition=lane.partition, reason=reason, records=count
                )
            self.counters.records += lane.inserted(now)

    def _commit(self, places: list[TopicPartition]) -> None:
        for place in self._consumer.commit(offsets=places, asynchronous=False) or []:
            if place.error is not None:
                raise KafkaException(place.error)

    # ------------------------------------------------------------ trouble

    def _failed(self, place: str, error: Exception) -> None:
        self._attempt += 1
        self.counters.failures += 1
        self.counters.outage = True
        pause = _pause_seconds(self._attempt)
        self._retry_at = time.monotonic() + pause
        self._consumer.pause(self._consumer.assignment())
        # The first line only: further lines of a driver's error can quote data.
        cause = _code_of(error) if place == "clickhouse" else str(error).split("\n", 1)[0][:200]
        log.warning(
            "sink_retry",
            at=place,
            attempt=self._attempt,
            pause_ms=int(pause * 1000),
            error=type(error).__name__,
            cause=cause,
        )

    def _recovered(self) -> None:
        if self.counters.outage:
            log.info("sink_recovered", attempts=self._attempt)
            self._consumer.resume(self._consumer.assignment())
        self._attempt, self.counters.outage = 0, False

    def _wait(self) -> None:
        """Stay a live member of the group while nothing may be fetched; what a rebalance brought stops as it speaks."""
        if self._take(self._consumer.consume(1, min(POLL_SECONDS, max(0.0, self._retry_at - time.monotonic())))):
            self._consumer.pause(self._consumer.assignment())

    # ------------------------------------------------------------ telling

    def _report(self) -> None:
        now = time.monotonic()
        since, before = self._reported
        if now - since < self._report_seconds:
            return
        self._reported = (now, self.counters.records)
        self.counters.lag = self._lag()
        if self.counters.records != before or self.counters.outage:
            log.info(
                "sink_progress", per_second=round((self.counters.records - before) / (now - since)), **self._facts()
            )

    def _facts(self) -> dict[str, Any]:
        return msgspec.structs.asdict(self.counters)

    def _lag(self) -> int:
        behind = 0
        for place in self._consumer.position([TopicPartition(t, p) for t, p in self._lanes]) if self._lanes else []:
            _, high = self._consumer.get_watermark_offsets(place, cached=True)
            behind += max(0, high - max(place.offset, 0))
        return behind + sum(len(lane.records) for lane in self._lanes.values())


def run_sink(
    config: Mapping[str, Any],
    warehouse: Inserter,
    stop: threading.Event,
    *,
    limits: Limits | None = None,
    on_sink: Callable[[RecordSink], None] | None = None,
    **options: Any,
) -> Counters:
    """Run one sink until `stop` is set; `on_sink` gets it before it starts, to read its `counters` at any time."""
    sink = RecordSink(config, warehouse, limits=limits, **options)
    if on_sink:
        on_sink(sink)
    return sink.run(stop)


def _size(record: LogRecord) -> int:
    return RECORD_OVERHEAD_BYTES + len(record.value or b"")


def _pause_seconds(attempt: int) -> float:
    state = RetryCallState(Retrying(), None, (), {})
    state.attempt_number = attempt
    return _backoff(state)


def _code_of(error: Exception) -> str:
    """ClickHouse's own code and name, or where it could not be reached; never a value out of a row."""
    code, name = getattr(error, "code", None), getattr(error, "name", None)
    return (
        f"{code} {name}"
        if code
        else "no answer"
        if isinstance(error, OSError) or "refused" in str(error)
        else type(error).__name__
    )
