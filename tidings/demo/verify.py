"""Reading what happened back from the topics, and asking a pure replay of the same log whether it agrees."""

import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from confluent_kafka import OFFSET_BEGINNING, Consumer, Message, TopicPartition

from agents.topics import ATTRIBUTIONS, COMMANDS_OF, DEAD_LETTERS, DECISIONS, EVENTS
from schemas.codec import decode_attribution, decode_command, decode_decision, decode_event
from schemas.commands import SendMessage
from schemas.errors import DecodeError, OperatorError
from schemas.events import Event
from schemas.log import Record, append_ms_of
from schemas.records import Attribution, Decision
from streams.replay import replay
from tidings.config import Settings

READ_S = 30.0
FETCH, FETCH_S = 5_000, 0.1  # `consume` waits for that many or that long
LOG_APPEND_TIME = 2  # confluent-kafka's word for it


@dataclass
class Log:
    """Everything a run left in the topics. `records`: by partition of `events`, with the engine's append times."""

    records: dict[int, list[Record]] = field(default_factory=dict)
    commands: dict[str, SendMessage] = field(default_factory=dict)
    commanded_at_ms: dict[str, int] = field(default_factory=dict)
    commands_repeated: int = 0
    cancels: int = 0
    decisions: dict[str, Decision] = field(default_factory=dict)
    attributions: dict[str, Attribution] = field(default_factory=dict)
    dead_letters: Counter[str] = field(default_factory=Counter)
    types: Counter[str] = field(default_factory=Counter)
    # by event id, each once: type, channel, by a machine; `told`: by the company for Viber and text messages
    receipts: dict[str, tuple[str, str, bool]] = field(default_factory=dict)
    told: set[str] = field(default_factory=set)
    left: set[str] = field(default_factory=set)  # event ids of one-click unsubscribes
    appended_at_ms: dict[str, int] = field(default_factory=dict)  # by event id; the first of repeated ones


@dataclass(frozen=True, slots=True)
class Agreement:
    """What the live run and the replay each have, by id."""

    live_commands: frozenset[str]
    replay_commands: frozenset[str]
    live_attributions: frozenset[str]
    replay_attributions: frozenset[str]

    @property
    def holds(self) -> bool:
        """Whether they are equal, and not empty."""
        return bool(self.live_commands) and (self.live_commands, self.live_attributions) == (
            self.replay_commands,
            self.replay_attributions,
        )


def read_topics(settings: Settings) -> Log:
    """Read what was written, topic by topic, from beginning to end.

    Raises:
        OperatorError: the broker no longer holds the beginning of `events`.
    """
    log = Log()
    consumer = Consumer(settings.confluent_consumer("tidings-demo-reader", {"log_level": 0}))
    try:
        for message in dump(consumer, EVENTS):
            _take_event(log, message)
        for message in (message for topic in COMMANDS_OF.values() for message in dump(consumer, topic)):
            command = decode_command(_bytes(message.value()))
            if not isinstance(command, SendMessage):
                log.cancels += 1
            elif command.command_id in log.commands:
                log.commands_repeated += 1
            else:
                log.commands[command.command_id] = command
                log.commanded_at_ms[command.command_id] = message.timestamp()[1]
        for message in dump(consumer, DECISIONS):
            decision = decode_decision(_bytes(message.value()))
            log.decisions[decision.decision_id] = decision
        for message in dump(consumer, ATTRIBUTIONS):
            attribution = decode_attribution(_bytes(message.value()))
            log.attributions[attribution.attribution_id] = attribution
        for message in dump(consumer, DEAD_LETTERS):
            reason = dict(message.headers() or [])["reason"]
            log.dead_letters[reason.decode() if isinstance(reason, bytes) else str(reason)] += 1
    finally:
        consumer.close()
    return log


def dump(consumer: Consumer, topic: str) -> Iterator[Message]:
    """Yield every record of a topic up to its present end; each partition's in order, without joining a group.

    Raises:
        OperatorError: the beginning is gone, or the broker does not answer.
    """
    ends: dict[int, int] = {}
    places: list[TopicPartition] = []
    for partition in sorted(consumer.list_topics(topic, timeout=READ_S).topics[topic].partitions):
        low, high = consumer.get_watermark_offsets(TopicPartition(topic, partition), timeout=READ_S, cached=False)
        if low > 0:
            raise OperatorError(
                f"topic '{topic}', partition {partition}: the broker holds only its newest records (got offsets from"
                f" {low}); ask for fewer --events, or take --broker local",
                exit_code=1,
            )
        if high > 0:
            ends[partition] = high
            places.append(TopicPartition(topic, partition, OFFSET_BEGINNING))
    consumer.assign(places)
    answered = time.monotonic()
    while ends:
        messages = consumer.consume(FETCH, FETCH_S)
        if messages:
            answered = time.monotonic()
        elif time.monotonic() > answered + READ_S:
            raise OperatorError(
                f"topic '{topic}': no answer from the broker (got none for {READ_S:.0f} s)", exit_code=3
            )
        for message in messages:
            error = message.error()
            if error is not None:
                raise OperatorError(f"topic '{topic}': cannot be read (got {error.name()}); try again", exit_code=3)
            partition, offset = message.partition() or 0, message.offset() or 0
            if offset < ends.get(partition, 0):
                yield message
        # The position also passes what is no message: the marks of transactions, and what they took back.
        for place in consumer.position([TopicPartition(topic, partition) for partition in ends]):
            if place.offset >= ends[place.partition]:
                del ends[place.partition]
    consumer.unassign()


def replay_agrees(log: Log) -> Agreement:
    """Run the same engine over the same log, without a broker, with the campaigns that the log itself publishes."""
    commands: set[str] = set()
    attributions: set[str] = set()
    for partition, records in sorted(log.records.items()):
        pairs = ((record, _event(record)) for record in records)
        for epoch in replay(pairs, None, partition=partition, topic=EVENTS):
            commands.update(c.command_id for c in epoch.commands if isinstance(c, SendMessage))
            attributions.update(a.attribution_id for a in epoch.attributions)
    return Agreement(frozenset(log.commands), frozenset(commands), frozenset(log.attributions), frozenset(attributions))


def _take_event(log: Log, message: Message) -> None:
    records = log.records.setdefault(message.partition() or 0, [])
    kind, broker_ms = message.timestamp()
    append_ms, recorded = append_ms_of(broker_ms, message.headers())
    if kind != LOG_APPEND_TIME and not recorded and records:  # as the engine: never back
        append_ms = max(append_ms, records[-1].append_ms)
    record = Record(message.offset() or 0, append_ms, _bytes(message.key()), _bytes(message.value()))
    records.append(record)
    event = _event(record)
    if event is None:
        return
    log.types[event.type] += 1
    if event.event_id is not None:
        log.appended_at_ms.setdefault(event.event_id, append_ms)
        _take_receipt(log, event.event_id, event)


def _take_receipt(log: Log, event_id: str, event: Event) -> None:
    if event.type == "consent.revoked" and event.data.get("source") == "one-click":
        log.left.add(event_id)
    if event.type.startswith(("delivery.", "engagement.")):
        machine = event.data.get("bot") is True or event.data.get("machine") is True
        log.receipts.setdefault(event_id, (event.type, str(event.data.get("channel")), machine))
        if event.source == "tidings-receipts" and event.data.get("provider") in ("viber", "sms"):
            log.told.add(event_id)


def _event(record: Record) -> Event | None:
    try:
        return decode_event(record.value)
    except DecodeError:
        return None


def _bytes(raw: str | bytes | None) -> bytes | None:
    return raw.encode() if isinstance(raw, str) else raw
