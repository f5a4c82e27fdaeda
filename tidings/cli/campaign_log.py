"""Campaigns as the log has them: the last control record of each, from every partition."""

import time
from collections.abc import Iterator
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from agents.topics import EVENTS
from schemas.campaign import Campaign
from schemas.codec import decode_event
from schemas.errors import DecodeError, OperatorError
from schemas.events import (
    CAMPAIGN_DRAINED,
    CAMPAIGN_PAUSED,
    CAMPAIGN_PUBLISHED,
    CAMPAIGN_RESUMED,
    CAMPAIGN_STOPPED,
    CAMPAIGN_SUSPENDED,
    CAMPAIGN_WITHDRAWN,
    CONTROL_TYPES,
    LIFE_TYPES,
    POLICY_PUBLISHED,
    POLICY_WITHDRAWN,
    Event,
)
from schemas.instants import instant_text
from streams.campaigns import load_campaign
from streams.life import LIVE, STOPPED, state_by_dates
from streams.registry import POLICY_NAME
from tidings.cli.progress import Bar
from tidings.config import Settings

READ_TIMEOUT_S = 30.0
WITHDRAWN, MIXED = "withdrawn", "mixed"
SUSPENDED = "suspended"
OVER = (WITHDRAWN, STOPPED, SUSPENDED)  # only publishing it again changes anything
POLICY_TYPES = frozenset({POLICY_PUBLISHED, POLICY_WITHDRAWN})
_STATES = {
    CAMPAIGN_PUBLISHED: LIVE, CAMPAIGN_WITHDRAWN: WITHDRAWN, CAMPAIGN_SUSPENDED: SUSPENDED,
    POLICY_PUBLISHED: LIVE, POLICY_WITHDRAWN: WITHDRAWN,
    CAMPAIGN_PAUSED: "paused", CAMPAIGN_RESUMED: LIVE, CAMPAIGN_DRAINED: "draining", CAMPAIGN_STOPPED: STOPPED,
}  # fmt: skip


def from_log(settings: Settings) -> list[dict[str, Any]]:
    """Read the last control record of each campaign from every partition of the log.

    Raises:
        OperatorError: the broker is out of reach (exit code 3).
    """
    last: dict[str, dict[int, Event]] = {}
    count, records = _control_records(settings)
    for partition, event in records:
        name = POLICY_NAME if event.type in POLICY_TYPES else event.data.get("campaign")
        if isinstance(name, str):
            copies = last.setdefault(name, {})
            if event.type in (CAMPAIGN_SUSPENDED, *LIFE_TYPES) and partition in copies:
                if event.type in LIFE_TYPES and _STATES[copies[partition].type] in OVER:
                    continue  # what is over stays so
                event.data = {**copies[partition].data, **event.data}  # whose text is that of its publication
            elif event.type == CAMPAIGN_PUBLISHED and partition in copies and copies[partition].type == CAMPAIGN_PAUSED:
                event.type = CAMPAIGN_PAUSED  # an edit ends no pause
            copies[partition] = event
    return [_row(name, last[name], count) for name in sorted(last)]


def _row(name: str, copies: dict[int, Event], count: int) -> dict[str, Any]:
    newest = max(copies.values(), key=lambda event: event.occurred_at_ms)
    same = [e for e in copies.values() if (e.type, e.data.get("version")) == (newest.type, newest.data.get("version"))]
    whole = len(same) == count
    text = newest.data.get("yaml") if newest.type not in (CAMPAIGN_WITHDRAWN, POLICY_WITHDRAWN) else ""
    campaign = load_campaign(text if isinstance(text, str) else "", name)[0] if name != POLICY_NAME else None
    return {
        "campaign": name,
        "version": newest.data.get("version", ""),
        "state": _state(newest.type, campaign) if whole else MIXED,
        "partitions": f"{len(same)}/{count}",
        "published_at": instant_text(newest.occurred_at_ms),
        "title": campaign.title if campaign is not None else "",
        "path": newest.data.get("path", ""),
        "yaml": text or "",
    }


def _state(kind: str, campaign: Campaign | None) -> str:
    """Name the state of a campaign by its last control record and its dates."""
    state = _STATES[kind]
    return state if state != LIVE or campaign is None else state_by_dates(campaign, int(time.time() * 1000))


def _control_records(settings: Settings) -> tuple[int, list[tuple[int, Event]]]:
    """Read `events` up to its present end: how many partitions it has, and its control records with theirs."""
    consumer = Consumer(settings.confluent_consumer("tidings-campaigns-cli", log_level=0, enable_partition_eof=True))
    try:
        partitions = consumer.list_topics(EVENTS, timeout=READ_TIMEOUT_S).topics[EVENTS].partitions
        spans: dict[int, tuple[int, int]] = {}
        for number in sorted(partitions):
            low, high = consumer.get_watermark_offsets(TopicPartition(EVENTS, number), timeout=READ_TIMEOUT_S)
            if high > low:
                spans[number] = low, high
        consumer.assign([TopicPartition(EVENTS, number, low) for number, (low, _) in spans.items()])
        ends = {number: high for number, (_, high) in spans.items()}
        with Bar("reading the log", sum(high - low for low, high in spans.values())) as bar:
            return len(partitions), list(_read_to(consumer, ends, bar))
    except KafkaException as error:
        got = error.args[0].name()
        raise OperatorError(
            f"TIDINGS_BROKER: no useful answer from {settings.bootstrap} (got {got}); start the broker, or correct its"
            " address",
            exit_code=3,
        ) from None
    finally:
        consumer.close()


def _read_to(consumer: Consumer, ends: dict[int, int], bar: Bar) -> Iterator[tuple[int, Event]]:
    open_ = set(ends)
    quiet_until = time.monotonic() + READ_TIMEOUT_S
    count = 0
    while open_:
        messages = consumer.consume(2_000, timeout=0.2)
        if messages:
            quiet_until = time.monotonic() + READ_TIMEOUT_S
        elif time.monotonic() > quiet_until:
            partitions = ", ".join(map(str, sorted(open_)))
            raise OperatorError(
                f"topic '{EVENTS}': partitions {partitions} give no records (got none for {READ_TIMEOUT_S:.0f} s);"
                " check that the cluster's brokers are up",
                exit_code=3,
            )
        for message in messages:
            partition, error = message.partition() or 0, message.error()
            if error is not None:
                if error.code() == KafkaError._PARTITION_EOF:  # noqa: SLF001 the client's own name for it
                    open_.discard(partition)
                continue
            count += 1
            event = _control(message)
            if event is not None:
                yield partition, event
            if (message.offset() or 0) + 1 >= ends[partition]:
                open_.discard(partition)
        bar.at(count)


def _control(message: Message) -> Event | None:
    value = message.value()
    if value is None or message.key() is not None or not (b'"campaign.' in value or b'"policy.' in value):
        return None  # most records: not worth decoding
    try:
        event = decode_event(value)
    except DecodeError:
        return None
    return event if event.member_id is None and event.type in CONTROL_TYPES else None
