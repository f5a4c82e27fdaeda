"""Dead letters: look at them, send them back to where they came from, or set them aside.

Kafka deletes no single record, so what became of a letter is itself a record of the same topic and partition: a *mark*,
with no value and the headers `mark` (`replaying`, `replayed` or `discarded`), `letter` (`partition/offset` of the
dead-letter topic), `at_ms` and, for `replaying`, `from_offset`. A letter without a mark is open. Marks are younger than
their letters, so retention never leaves a resolved letter looking open.

Replaying one letter takes three writes, each awaited: mark `replaying`, the original bytes and key to the original
partition with the header `replayed_from`, mark `replayed`. Between the first and the last a crash leaves the letter
`replaying`; the next replay looks for that header from `from_offset` on and sends only if it is not there. Two
operators who replay the same letter in the same moment can still send it twice; events with an event_id are then
dropped by the engine as duplicates.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import msgspec
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, Producer, TopicPartition

from schemas.codec import dead_letter_from
from schemas.errors import DecodeError, OperatorError
from schemas.records import DeadLetter

TOPIC = "dead-letters"
MARK, LETTER, REPLAYED_FROM, FROM_OFFSET = "mark", "letter", "replayed_from", "from_offset"
OPEN, REPLAYING, REPLAYED, DISCARDED = "open", "replaying", "replayed", "discarded"
STATES = (OPEN, REPLAYING, REPLAYED, DISCARDED)
UNDECIDED = frozenset({OPEN, REPLAYING})

TIMEOUT_S = 15.0  # for metadata, and for the acknowledgement of one write
BATCH = 500  # records per poll
MAX_MESSAGE_BYTES = 16_777_216  # a record that was too large for us must still fit into the way back
_NO_CONTACT = 3  # exit code: something needed is out of reach

Progress = Callable[[int], None]


class StoredLetter(msgspec.Struct):
    """A dead letter as it lies in the topic.

    `id` is its `partition/offset` there; `state` one of `STATES`; `from_offset` is where, in the original partition, a
    replay that did not finish may have written.
    """

    id: str
    letter: DeadLetter
    state: str = OPEN
    at_ms: int | None = None
    from_offset: int | None = None


class DeadLetters:
    """The dead-letter topic of one broker.

    Args:
        config: librdkafka's configuration: addresses and security.
        topic: the dead-letter topic.
        timeout_s: how long to wait for the broker at each step.
    """

    def __init__(self, config: Mapping[str, Any], *, topic: str = TOPIC, timeout_s: float = TIMEOUT_S) -> None:
        self._config = {**config, "error_cb": _quiet, "log_level": 0}
        self._topic = topic
        self._timeout_s = timeout_s

    # ------------------------------------------------------------ reading

    def read(self) -> list[StoredLetter]:
        """Read all letters with their states, in the order of failure. They are held in memory: about their own size.

        Records of the topic that are neither letter nor mark are passed over.

        Raises:
            OperatorError: the broker is out of reach, or there is no such topic.
        """
        letters: dict[str, StoredLetter] = {}
        marks: list[Message] = []
        for message in self._scan(self._topic):
            headers = _headers(message)
            if MARK in headers:
                marks.append(message)
                continue
            try:
                letter = dead_letter_from(list(headers.items()), message.key(), message.value())
            except DecodeError:
                continue
            place = f"{message.partition()}/{message.offset()}"
            letters[place] = StoredLetter(id=place, letter=letter)
        for message in marks:
            _apply_mark(letters, _headers(message))
        return sorted(letters.values(), key=lambda s: (s.letter.failed_at_ms, _place(s.id)))

    def _scan(self, topic: str, partition: int | None = None, start: int | None = None) -> Iterator[Message]:
        """Yield what lies in a topic now; what is written while we read is not waited for."""
        consumer = Consumer(
            {
                **self._config,
                "group.id": "tidings-dead-letters",  # librdkafka wants one; nothing is committed under it
                "enable.auto.commit": False,
                "auto.offset.reset": "earliest",
                "fetch.message.max.bytes": MAX_MESSAGE_BYTES,
            }
        )
        try:
            partitions = self._partitions(consumer, topic) if partition is None else [partition]
            ends: dict[int, int] = {}
            starts: list[TopicPartition] = []
            for number in partitions:
                low, high = consumer.get_watermark_offsets(TopicPartition(topic, number), timeout=self._timeout_s)
                first = max(low, start or 0)
                if high > first:
                    ends[number] = high
                    starts.append(TopicPartition(topic, number, first))
            consumer.assign(starts)
            yield from self._until(consumer, topic, ends)
        except KafkaException as error:
            raise _unreachable(topic, error.args[0]) from None
        finally:
            consumer.close()

    def _partitions(self, consumer: Consumer, topic: str) -> list[int]:
        found = consumer.list_topics(topic, timeout=self._timeout_s).topics[topic]
        if found.error is not None:
            cause = found.error.name()
            raise OperatorError(
                f"topic {topic}: not to be read (got {cause}); create it with 'python -m tidings topics create'",
                exit_code=_NO_CONTACT,
            )
        return sorted(found.partitions)

    def _until(self, consumer: Consumer, topic: str, ends: dict[int, int]) -> Iterator[Message]:
        quiet_since = time.monotonic()
        while ends:
            batch = consumer.consume(BATCH, timeout=0.2)
            if batch:
                quiet_since = time.monotonic()
            elif time.monotonic() - quiet_since > self._timeout_s:
                raise _unreachable(topic, KafkaError(KafkaError._TIMED_OUT))  # noqa: SLF001 - its public name is this
            for message in batch:
                error = message.error()
                if error is not None:
                    raise _unreachable(topic, error)
                end = ends.get(message.partition() or 0)
                if end is not None and (message.offset() or 0) < end:
                    yield message
            # The position also passes what is no message: gaps left by compaction and transactions.
            for place in consumer.position([TopicPartition(topic, number) for number in ends]):
                if place.offset >= ends[place.partition]:
                    del ends[place.partition]

    # ------------------------------------------------------------ deciding

    def replay(self, letters: Iterable[StoredLetter], done: Progress | None = None) -> int:
        """Send letters back to their topics, oldest first, and mark them; return how many were really sent.

        Letters that are resolved are passed over. `done` is called after each letter with 1.

        Raises:
            OperatorError: a write was not acknowledged; what came before is marked, the rest is as it was.
        """
        producer = self._producer()
        sent = 0
        for stored in letters:
            if stored.state in UNDECIDED:
                sent += self._replay_one(producer, stored)
            if done is not None:
                done(1)
        return sent

    def _replay_one(self, producer: Producer, stored: StoredLetter) -> int:
        letter = stored.letter
        already = stored.state == REPLAYING and self._arrived(stored)
        if not already:
            place = TopicPartition(letter.topic, letter.partition)
            start = stored.from_offset
            if start is None:
                start = self._end(place)
                # A crash after this line leaves `replaying`: the next replay looks from `start` on before it sends.
                self._mark(producer, stored, REPLAYING, start)
            origin = f"{self._topic}/{stored.id}".encode()
            self._write(producer, letter.topic, letter.partition, letter.key, letter.value, [(REPLAYED_FROM, origin)])
        self._mark(producer, stored, REPLAYED)
        return 0 if already else 1

    def _end(self, place: TopicPartition) -> int:
        consumer = Consumer({**self._config, "group.id": "tidings-dead-letters", "enable.auto.commit": False})
        try:
            return int(consumer.get_watermark_offsets(place, timeout=self._timeout_s)[1])
        except KafkaException as error:
            raise _unreachable(place.topic, error.args[0]) from None
        finally:
            consumer.close()

    def _arrived(self, stored: StoredLetter) -> bool:
        origin = f"{self._topic}/{stored.id}".encode()
        found = self._scan(stored.letter.topic, stored.letter.partition, stored.from_offset or 0)
        return any(_headers(message).get(REPLAYED_FROM) == origin for message in found)

    def discard(self, letters: Iterable[StoredLetter], done: Progress | None = None) -> int:
        """Mark letters as set aside; their bytes stay in the topic until its retention ends. Returns how many.

        Raises:
            OperatorError: a mark was not acknowledged.
        """
        producer = self._producer()
        count = 0
        for stored in letters:
            if stored.state in UNDECIDED:
                self._mark(producer, stored, DISCARDED)
                count += 1
            if done is not None:
                done(1)
        return count

    # ------------------------------------------------------------ writing

    def _producer(self) -> Producer:
        return Producer(
            {
                **self._config,
                "acks": "all",
                "enable.idempotence": True,
                "message.max.bytes": MAX_MESSAGE_BYTES,
                "message.timeout.ms": int(self._timeout_s * 1000),
            }
        )

    def _mark(self, producer: Producer, stored: StoredLetter, mark: str, from_offset: int | None = None) -> None:
        headers = [
            (MARK, mark.encode()),
            (LETTER, stored.id.encode()),
            ("at_ms", b"%d" % (time.time_ns() // 1_000_000)),
        ]
        if from_offset is not None:
            headers.append((FROM_OFFSET, b"%d" % from_offset))
        self._write(producer, self._topic, _place(stored.id)[0], stored.letter.key, None, headers)
        stored.state = mark
        stored.from_offset = from_offset

    def _write(
        self,
        producer: Producer,
        topic: str,
        partition: int,
        key: bytes | None,
        value: bytes | None,
        headers: Sequence[tuple[str, bytes]],
    ) -> None:
        failures: list[KafkaError] = []

        def acknowledged(error: KafkaError | None, _message: Message) -> None:
            if error is not None:
                failures.append(error)

        try:
            producer.produce(topic, value, key, partition, acknowledged, headers=list(headers))
        except KafkaException as error:
            raise _unreachable(topic, error.args[0]) from None
        left = producer.flush(self._timeout_s)
        if failures or left:
            raise _unreachable(topic, failures[0] if failures else None)


# ---------------------------------------------------------------- helpers


def select(
    letters: Sequence[StoredLetter],
    ids: Sequence[str] = (),
    *,
    reason: str | None = None,
    topic: str | None = None,
    states: frozenset[str] = frozenset(STATES),
) -> list[StoredLetter]:
    """Choose letters by id, reason, original topic and state; no ids means all.

    Raises:
        OperatorError: an id that is no letter.
    """
    known = {stored.id for stored in letters}
    for wanted in ids:
        if wanted not in known:
            raise OperatorError(f"dead letter {wanted}: no such letter; take an id from 'dead-letters list'")
    return [
        stored
        for stored in letters
        if (not ids or stored.id in ids)
        and (reason is None or stored.letter.reason == reason)
        and (topic is None or stored.letter.topic == topic)
        and stored.state in states
    ]


def _apply_mark(letters: dict[str, StoredLetter], headers: Mapping[str, bytes]) -> None:
    stored = letters.get(headers.get(LETTER, b"").decode("utf-8", "replace"))
    mark = headers[MARK].decode("utf-8", "replace")
    if stored is None or mark not in STATES:
        return
    stored.state = mark
    stored.at_ms = int(headers.get("at_ms", b"0"))
    stored.from_offset = int(headers[FROM_OFFSET]) if FROM_OFFSET in headers else None


def _headers(message: Message) -> dict[str, bytes]:
    found: Any = message.headers() or []  # the client's own annotation is wider than what it returns
    return {name: value for name, value in found if value is not None}


def _place(letter_id: str) -> tuple[int, int]:
    partition, _, offset = letter_id.partition("/")
    return int(partition), int(offset)


def _quiet(_error: KafkaError) -> None:
    """Keep librdkafka from writing to stderr; what matters comes back as an exception."""


def _unreachable(topic: str, error: KafkaError | None) -> OperatorError:
    cause = error.name() if error is not None else "no acknowledgement in time"
    return OperatorError(
        f"topic {topic}: the broker did not carry it out (got {cause}); check TIDINGS_BROKER and that the broker runs",
        exit_code=_NO_CONTACT,
    )
