"""Bytes on the topics, as Avro, to values and back, for producers that keep a schema registry.

The `.avsc` files beside this module are the contract. `data`, `context` and the like are JSON text inside Avro: their
values nest, and 1, 1.0 and "1" are three values to a pattern. A map of unions in Avro would keep neither without
recursive records, and costs several times as much to read.

Wire format of Confluent: one zero byte, the schema id as four bytes big-endian, then the bare Avro body. The writer's
schema comes from `resolve(schema_id)`; ours is the reader's schema, so fields we do not know are skipped and fields the
writer lacks take their defaults (Avro's schema resolution). Nothing here reaches for the network.
"""

import io
import json
import pkgutil
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any, TypeVar

import fastavro
import msgspec
from fastavro.read import SchemaResolutionError

from schemas.codec import MAX_BYTES, decode_event, settled
from schemas.commands import CancelMessage, SendMessage
from schemas.errors import DecodeError
from schemas.events import LINE_FIELDS, Event
from schemas.member_commands import AccruePoints, MemberCommand, UpdateSegments, UpdateTags
from schemas.records import Attribution, Decision

MAGIC = b"\0"
HEADER_BYTES = 5
RECEIPT = "receipt"
Resolve = Callable[[int], Any]
_T = TypeVar("_T", SendMessage, CancelMessage, Decision, Attribution, AccruePoints, UpdateTags, UpdateSegments)

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_ONE_MS = timedelta(milliseconds=1)
_MS = "_ms"
_encode_json = msgspec.json.Encoder(order="deterministic").encode
_decode_json = msgspec.json.Decoder().decode

NAMES: Mapping[type, str] = {
    Event: "event",
    SendMessage: "send_message",
    CancelMessage: "cancel_message",
    Decision: "decision",
    Attribution: "attribution",
    AccruePoints: "accrue_points",
    UpdateTags: "update_tags",
    UpdateSegments: "update_segments",
}
_JSON_TEXT = frozenset({"data", "context", "member", "inputs", "correlation"})
_RECEIPT_ENVELOPE = frozenset({"event_id", "member_id", "occurred_at", "status"})


@cache
def schema_text(name: str) -> str:
    """Give the text of one contract: `receipt`, or one of the values of `NAMES`."""
    raw = pkgutil.get_data("schemas", f"avro/{name}.avsc")
    if raw is None:
        raise ValueError(f"schemas/avro/{name}.avsc: not part of this installation")
    return raw.decode()


@cache
def _schema(name: str) -> Any:
    return parse_schema(schema_text(name))


def parse_schema(text: str) -> Any:
    """Parse the text of an Avro schema to what `resolve` has to return.

    Raises:
        DecodeError: `unknown-schema`, when it is no Avro schema.
    """
    try:
        return fastavro.parse_schema(json.loads(text))
    except Exception as error:  # fastavro has no common root for its errors
        raise DecodeError("unknown-schema", f"schema: no Avro schema ({type(error).__name__})") from None


# ---------------------------------------------------------------- wire


def schema_id_of(value: bytes) -> int:
    """Read the schema id from Confluent's wire format.

    Raises:
        DecodeError: `empty`, `too-large` or `not-avro`.
    """
    if not value:
        raise DecodeError("empty", "event: no bytes; a tombstone is no event")
    if len(value) > MAX_BYTES:
        raise DecodeError("too-large", f"event: larger than {MAX_BYTES} bytes (got {len(value)})")
    if value[:1] != MAGIC or len(value) < HEADER_BYTES:
        raise DecodeError("not-avro", "event: not in Confluent wire format (a zero byte and a schema id of four bytes)")
    return int.from_bytes(value[1:HEADER_BYTES], "big")


def _read(name: str, value: bytes, resolve: Resolve) -> dict[str, Any]:
    writer = resolve(schema_id_of(value))
    body = io.BytesIO(value[HEADER_BYTES:])
    try:
        found = fastavro.schemaless_reader(body, writer, _schema(name))
    except SchemaResolutionError:
        raise DecodeError(
            "unknown-schema", f"{name}: the writer's schema does not fit schemas/avro/{name}.avsc"
        ) from None
    except Exception as error:  # torn bytes end in a dozen different exceptions of fastavro and of Python
        raise DecodeError("not-avro", f"{name}: the body does not follow its schema ({type(error).__name__})") from None
    if body.tell() != len(value) - HEADER_BYTES:
        raise DecodeError("not-avro", f"{name}: bytes after the end of the record")
    if not isinstance(found, dict):
        raise DecodeError("not-an-object", f"{name}: Avro, but no record")
    return found


def _write(name: str, fields: Mapping[str, Any], schema_id: int) -> bytes:
    out = io.BytesIO()
    out.write(MAGIC + schema_id.to_bytes(4, "big"))
    fastavro.schemaless_writer(out, _schema(name), dict(fields))
    return out.getvalue()


# ---------------------------------------------------------------- fields


@cache
def _contract(kind: type[msgspec.Struct]) -> tuple[str, ...]:
    return tuple(field for field in kind.__struct_fields__ if field not in LINE_FIELDS)


def _fields(value: msgspec.Struct, name: str) -> dict[str, Any]:
    known = {field["name"] for field in _schema(name)["fields"]}
    fields: dict[str, Any] = {}
    for field in _contract(type(value)):
        inner = getattr(value, field)
        if field in _JSON_TEXT:
            absent = inner is None and field == "context"
            fields[field] = None if absent else _encode_json(inner).decode()
        else:
            fields[field if field in known else field.removesuffix(_MS)] = inner
    return fields


def _values(found: Mapping[str, Any], fields: tuple[str, ...], name: str) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for field in fields:
        inner = found[field] if field in found else found[field.removesuffix(_MS)]
        if isinstance(inner, datetime):
            inner = (inner - _EPOCH) // _ONE_MS
        elif field in _JSON_TEXT and inner is not None:
            inner = _json(name, field, inner)
        values[field] = inner
    return values


def _json(name: str, field: str, text: Any) -> Any:
    try:
        return _decode_json(text)
    except (ValueError, RecursionError, TypeError):
        raise DecodeError("not-json", f"{name}: {field} is no JSON text") from None


# ---------------------------------------------------------------- events


def encode_event_avro(event: Event, schema_id: int) -> bytes:
    """Write one event under the id that the registry gave `schema_text("event")`."""
    return _write("event", _fields(event, "event"), schema_id)


def decode_event_avro(value: bytes, resolve: Resolve) -> Event:
    """Read one event in Confluent wire format.

    Args:
        value: the record's value.
        resolve: schema id to the parsed schema of the writer; raises DecodeError `unknown-schema` for an id that the
            registry does not have. What it raises when the registry is out of reach passes through: that is no dead
            letter.

    Raises:
        DecodeError: reasons as in `schemas.codec`, and `not-avro`.
    """
    found = _read("event", value, resolve)
    values = _values(found, _contract(Event), "event")
    for field in ("data", "context"):
        if values[field] is not None and not isinstance(values[field], dict):
            raise DecodeError("wrong-type", f"event: {field} must be a JSON object")
    values["data"] = values["data"] or {}
    return settled(Event(**values))


def event_decoder(resolve: Resolve | None) -> Callable[[bytes | None], Event]:
    """Choose how events are read: JSON only, or, with a registry, each record by its first byte (zero: Avro)."""
    if resolve is None:
        return decode_event

    def decode(value: bytes | None) -> Event:
        if value and value[:1] == MAGIC:
            return decode_event_avro(value, resolve)
        return decode_event(value)

    return decode


# ---------------------------------------------------------------- commands, decisions, attributions


def encode_record_avro(
    record: SendMessage | CancelMessage | Decision | Attribution | MemberCommand, schema_id: int
) -> bytes:
    """Write one record of ours under the id that the registry gave the schema of its kind."""
    name = NAMES[type(record)]
    return _write(name, _fields(record, name), schema_id)


def decode_record_avro(kind: type[_T], value: bytes, resolve: Resolve) -> _T:
    """Read one record of the given kind.

    Raises:
        DecodeError: reasons as for events.
    """
    name = NAMES[kind]
    values = _values(_read(name, value, resolve), kind.__struct_fields__, name)
    try:
        return msgspec.convert(values, kind, from_attributes=False)
    except msgspec.ValidationError as error:
        raise DecodeError("wrong-type", f"{name}: {error}") from None


# ---------------------------------------------------------------- receipts


def encode_receipt_avro(event: Event, schema_id: int) -> bytes:
    """Write a `delivery.<status>` event as the flat record that providers' adapters send."""
    known = [field["name"] for field in _schema(RECEIPT)["fields"]]
    fields = {name: event.data[name] for name in known if name in event.data}
    fields |= {
        "event_id": event.event_id,
        "member_id": event.member_id,
        "occurred_at": event.occurred_at_ms,
        "status": event.type.removeprefix("delivery."),
    }
    return _write(RECEIPT, fields, schema_id)


def decode_receipt_avro(value: bytes, resolve: Resolve) -> Event:
    """Read a receipt as the event `delivery.<status>`; fields that are null are left out of `data`.

    Raises:
        DecodeError: reasons as for events.
    """
    found = _read(RECEIPT, value, resolve)
    data = {name: inner for name, inner in found.items() if name not in _RECEIPT_ENVELOPE and inner is not None}
    data["status"] = found["status"]
    at = found["occurred_at"]
    return settled(
        Event(
            type=f"delivery.{found['status']}",
            occurred_at_ms=(at - _EPOCH) // _ONE_MS if isinstance(at, datetime) else at,
            event_id=found["event_id"],
            member_id=found["member_id"],
            data=data,
        )
    )
