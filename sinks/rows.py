"""Records of the log to columns of ClickHouse tables. Pure and total: the same records always give the same columns.

Total, because a value that an insert refuses would be retried for ever: whatever a producer wrote, every cell fits its
column. Deterministic, because a range that is inserted again after a crash must be the same block.
"""

import math
from collections.abc import Callable, Iterable
from typing import Any

import msgspec

from schemas.codec import decode_attribution, decode_command, decode_decision, decode_event
from schemas.commands import TRANSACTIONAL, SendMessage
from schemas.errors import DecodeError
from schemas.events import TICK, Event
from schemas.ids import event_id_at
from schemas.member_commands import AccruePoints, decode_member_command
from schemas.records import Attribution, Decision

EVENTS = "events"
COMMANDS = "commands"
COMMANDS_TRANSACTIONAL = "commands-transactional"
COMMANDS_BULK = "commands-bulk"
MEMBER_COMMANDS = "member-commands"
DECISIONS = "decisions"
ATTRIBUTIONS = "attributions"
TOPICS = (EVENTS, COMMANDS, COMMANDS_TRANSACTIONAL, COMMANDS_BULK, MEMBER_COMMANDS, DECISIONS, ATTRIBUTIONS)

MAX_TIME_MS = 10_413_791_999_999  # 2299-12-31T23:59:59.999Z, the last instant of DateTime64(3)
MAX_UINT32 = 2**32 - 1
MAX_UINT64 = 2**64 - 1
RECEIPT_PREFIXES = ("delivery.", "engagement.")

TABLES: dict[str, tuple[str, ...]] = {
    "events": (
        "event_id", "type", "member_id", "anonymous_id", "occurred_at", "appended_at", "source", "tenant",
        "correlation_key",
        "schema_version", "product_id", "category", "order_id", "price", "quantity", "total", "currency", "data",
        "context",
        "log_partition", "log_offset",
    ),
    "decisions": (
        "decision_id", "campaign", "version", "member_id", "instance_id", "command_id", "outcome", "reason", "channel",
        "decided_at", "caused_at", "due_at", "anchor", "completed_by", "correlation", "inputs", "log_partition",
        "log_offset",
    ),
    "messages": (
        "command_id", "kind", "campaign", "version", "member_id", "instance_id", "step", "channel", "template",
        "category",
        "reason", "decided_at", "caused_at", "expires_at", "anchor", "attribution_window_ms", "data",
        "log_partition", "log_offset", "variant",
    ),
    "member_commands": (
        "command_id", "kind", "campaign", "version", "member_id", "instance_id", "step", "points", "reason",
        "expires_at", "added", "removed", "decided_at", "caused_at", "anchor", "log_partition", "log_offset",
    ),
    "receipts": (
        "event_id", "type", "status", "campaign", "version", "member_id", "command_id", "instance_id", "channel",
        "template",
        "attempt", "provider", "provider_message_id", "code", "reason", "machine", "occurred_at", "appended_at",
        "log_partition", "log_offset",
    ),
    "attributions": (
        "attribution_id", "campaign", "version", "member_id", "instance_id", "command_id", "channel", "model", "touch",
        "touched_at", "conversion_event_id", "conversion_type", "converted_at", "caused_at", "value", "currency",
        "order_id",
        "log_partition", "log_offset",
    ),
    "undecodable": ("topic", "log_partition", "log_offset", "reason", "appended_at"),
}  # fmt: skip

_json = msgspec.json.Encoder(order="deterministic").encode
Row = tuple[Any, ...]
DecodeEvent = Callable[[bytes | None], Event]


class LogRecord(msgspec.Struct, gc=False):
    """One record as the consumer got it; `append_ms` is negative when it has none."""

    offset: int
    append_ms: int
    value: bytes | None


class Batch(msgspec.Struct):
    """Rows of one offset range.

    `columns`: table -> one list per column of `TABLES[table]`; tables without rows are absent.
    """

    columns: dict[str, list[list[Any]]]
    row_count: int
    undecodable: dict[str, int]  # reason -> records


def build(topic: str, partition: int, records: Iterable[LogRecord], decode: DecodeEvent = decode_event) -> Batch:
    """Turn records of one partition into columns.

    Ticks give no row; what cannot be decoded gives one without its bytes.

    Args:
        topic: one of `TOPICS`.
        partition: of that topic.
        records: in log order.
        decode: reads an event; another one when producers write Avro.
    """
    rows: dict[str, list[Row]] = {}
    undecodable: dict[str, int] = {}
    emit = _EMIT[topic]
    for record in records:
        try:
            emit(rows, partition, record, decode)
        except DecodeError as error:
            undecodable[error.reason] = undecodable.get(error.reason, 0) + 1
            row = (topic, partition, record.offset, error.reason, _time(record.append_ms))
            rows.setdefault("undecodable", []).append(row)
    columns = {table: [list(column) for column in zip(*listed, strict=True)] for table, listed in rows.items()}
    return Batch(columns, sum(map(len, rows.values())), undecodable)


def _event(rows: dict[str, list[Row]], partition: int, record: LogRecord, decode: DecodeEvent) -> None:
    event = decode(record.value)
    if event.type == TICK:
        return
    data = event.data
    get = data.get
    appended = _time(record.append_ms)
    event_id = event.event_id or event_id_at(EVENTS, partition, record.offset)
    rows.setdefault("events", []).append(
        (
            event_id,
            event.type,
            event.member_id or "",
            event.anonymous_id or "",
            _time(event.occurred_at_ms),
            appended,
            event.source or "",
            event.tenant or "",
            event.correlation_key or "",
            _whole(event.schema_version, MAX_UINT32),
            _text(get("product_id")),
            _text(get("category")),
            _text(get("order_id")),
            _number(get("price")),
            _number(get("quantity")),
            _number(get("total")),
            _text(get("currency")),
            _json(data).decode() if data else "{}",
            _json(event.context).decode() if event.context else "",
            partition,
            record.offset,
        )
    )
    if event.type.startswith(RECEIPT_PREFIXES):
        rows.setdefault("receipts", []).append(_receipt(event, event_id, appended, partition, record.offset))


def _receipt(event: Event, event_id: str, appended: int, partition: int, offset: int) -> Row:
    get = event.data.get
    return (
        event_id,
        event.type,
        event.type.rpartition(".")[2],
        _text(get("campaign")),
        _text(get("version")),
        event.member_id or "",
        _text(get("command_id")),
        _text(get("instance_id")),
        _text(get("channel")),
        _text(get("template")),
        _whole(get("attempt"), MAX_UINT32),
        _text(get("provider")),
        _text(get("provider_message_id")),
        _text(get("code")),
        _text(get("reason")),
        int(get("bot") is True or get("machine") is True),
        _time(event.occurred_at_ms),
        appended,
        partition,
        offset,
    )


def _decision(rows: dict[str, list[Row]], partition: int, record: LogRecord, decode: DecodeEvent) -> None:
    said: Decision = decode_decision(record.value)
    rows.setdefault("decisions", []).append(
        (
            said.decision_id,
            said.campaign,
            said.version,
            said.member_id,
            said.instance_id,
            said.command_id,
            said.outcome,
            said.reason,
            said.channel or "",
            _time(said.decided_at_ms),
            _time(said.caused_at_ms),
            None if said.due_ms is None else _time(said.due_ms),
            said.anchor,
            said.completed_by or "",
            _json(said.correlation).decode(),
            _json(said.inputs).decode(),
            partition,
            record.offset,
        )
    )


def _command(rows: dict[str, list[Row]], partition: int, record: LogRecord, decode: DecodeEvent) -> None:
    command = decode_command(record.value)
    send = command if isinstance(command, SendMessage) else None
    rows.setdefault("messages", []).append(
        (
            command.command_id,
            "send" if send else "cancel",
            command.campaign,
            send.version if send else "",
            command.member_id,
            command.instance_id,
            send.step if send else "",
            send.channel if send else "",
            send.template if send else "",
            send.category if send else "",
            "" if isinstance(command, SendMessage) else command.reason,
            _time(command.decided_at_ms),
            _time(command.caused_at_ms),
            _time(send.expires_at_ms) if send else None,
            send.anchor if send else "",
            _whole(send.attribution_window_ms, MAX_UINT64) if send else 0,
            _json(send.data).decode() if send and send.category != TRANSACTIONAL else "{}",  # may hold a code, a link
            partition,
            record.offset,
            send.variant if send else "",
        )
    )


def _member_command(rows: dict[str, list[Row]], partition: int, record: LogRecord, decode: DecodeEvent) -> None:
    command = decode_member_command(record.value)
    accrued = command if isinstance(command, AccruePoints) else None
    expires_ms = accrued.expires_at_ms if accrued is not None else None
    rows.setdefault("member_commands", []).append(
        (
            command.command_id,
            type(command).__name__,
            command.campaign,
            command.version,
            command.member_id,
            command.instance_id,
            command.step,
            _number(accrued.points) if accrued is not None else None,
            accrued.reason if accrued is not None else "",
            None if expires_ms is None else _time(expires_ms),
            [] if isinstance(command, AccruePoints) else command.add,
            [] if isinstance(command, AccruePoints) else command.remove,
            _time(command.decided_at_ms),
            _time(command.caused_at_ms),
            command.anchor,
            partition,
            record.offset,
        )
    )


def _attribution(rows: dict[str, list[Row]], partition: int, record: LogRecord, decode: DecodeEvent) -> None:
    credit: Attribution = decode_attribution(record.value)
    rows.setdefault("attributions", []).append(
        (
            credit.attribution_id,
            credit.campaign,
            credit.version,
            credit.member_id,
            credit.instance_id,
            credit.command_id,
            credit.channel,
            credit.model,
            credit.touch,
            _time(credit.touched_at_ms),
            credit.conversion_event_id,
            credit.conversion_type,
            _time(credit.converted_at_ms),
            _time(credit.caused_at_ms),
            _number(credit.value),
            credit.currency or "",
            credit.order_id or "",
            partition,
            record.offset,
        )
    )


_EMIT: dict[str, Callable[[dict[str, list[Row]], int, LogRecord, DecodeEvent], None]] = {
    EVENTS: _event,
    COMMANDS: _command,
    COMMANDS_TRANSACTIONAL: _command,
    COMMANDS_BULK: _command,
    MEMBER_COMMANDS: _member_command,
    DECISIONS: _decision,
    ATTRIBUTIONS: _attribution,
}


def _time(value_ms: int) -> int:
    return 0 if value_ms < 0 else min(value_ms, MAX_TIME_MS)


def _text(value: object) -> str:
    """Text stays; a number keeps its JSON spelling; anything else is in `data` only."""
    if isinstance(value, str):
        return value
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else ""


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None  # one NaN would turn every sum into NaN


def _whole(value: object, most: int) -> int:
    return min(value, most) if isinstance(value, int) and not isinstance(value, bool) and value > 0 else 0
