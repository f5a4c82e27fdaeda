"""Bytes on the topics, as JSON, to values and back.

Decoding never trusts a producer: whatever the bytes, the answer is a value or a `DecodeError` with one of these
reasons, and no text of an error holds the payload (it may name a person).

    empty           no value at all (a tombstone, or zero bytes)
    too-large       more than `MAX_BYTES`
    not-json        no JSON: cut off, bad text, too deeply nested
    not-an-object   JSON, but no object
    unknown-schema  Avro with a schema id where JSON was expected
    no-type         no `type`, or an empty one
    no-time         no `occurred_at` (ticks and control records need none)
    bad-time        an instant that is none
    wrong-type      a field or a known attribute of the wrong JSON type, or a number beyond 64 bits
    bad-id          an id longer than `MAX_ID` characters

Encoding is deterministic: the same value gives the same bytes, so a repeat after a crash is equal byte for byte.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, TypeVar

import msgspec
from msgspec.structs import astuple

from schemas import segment
from schemas.attributes import ITEMS, JSON_TYPES
from schemas.commands import CancelMessage, Command, SendMessage
from schemas.envelope import Wire
from schemas.errors import DecodeError
from schemas.events import CONTROL_TYPES, TICK, Event
from schemas.instants import MAX_INSTANT_MS
from schemas.reading import MAX_ID, read_instant, refuse_json, text_id, wire_type
from schemas.records import Attribution, DeadLetter, Decision
from schemas.taxonomy import CHECKED, CHECKED_ITEM

_CHECKED: Final = CHECKED
_CHECKED_ITEM: Final = dict(CHECKED_ITEM)
ITEMS_TYPES: Final = JSON_TYPES[ITEMS]
_TOGETHER: Final = 256  # values decoded in one call: beyond, nothing is gained, and one bad value costs more
_PLAIN_BYTES: Final = 4_096  # longer records gain nothing from the short way
# 256 KiB: a quarter of what the topic takes, so that an oversized event arrives and is named
MAX_BYTES: Final = 262_144

_T = TypeVar("_T")


_plain_decoder: Final = msgspec.json.Decoder(Event)
_decode_plain: Final = _plain_decoder.decode
_decode_plain_lines: Final = _plain_decoder.decode_lines
_decode_wire: Final = msgspec.json.Decoder(Wire).decode
_decode_any: Final = msgspec.json.Decoder().decode
_encode: Final = msgspec.json.Encoder(order="deterministic").encode
_fits: Final = msgspec.msgpack.Encoder().encode
_fields: Final = astuple
_SMALL: Final = 1 << 60


# ---------------------------------------------------------------- events


def decode_event(value: bytes | None) -> Event:
    """Read one event: our envelope, or a Segment `track`, `identify`, `page`, `screen`, `alias` or `group` call.

    A type we do not know passes unchanged when it is dotted lower case (newer producers), else as `custom.<snake>`.
    `event_id` stays None when the producer gave none. A tick or control record without a time has `occurred_at_ms` 0.

    Raises:
        DecodeError: for every value that is no event; the reasons are listed at the head of this module.
    """
    if not value:
        raise DecodeError("empty", "event: no bytes; a tombstone is no event")
    if len(value) > MAX_BYTES:
        raise DecodeError("too-large", f"event: larger than {MAX_BYTES} bytes (got {len(value)})")
    return _plain_event(value) or _any_event(value)


def plain_events(values: Sequence[bytes | None]) -> list[Event | None]:
    """Read many values at once, in a third less time than one by one; give None for each that `decode_event` must read.

    Not None is exactly what `decode_event` gives back.
    """
    events: list[Event | None] = []
    for at in range(0, len(values), _TOGETHER):
        events += _plain_chunk(values[at : at + _TOGETHER])
    return events


def _plain_chunk(values: Sequence[bytes | None]) -> Sequence[Event | None]:
    """Read values together; one that cannot be read makes all of them be read one by one."""
    given = [value for value in values if value]
    try:
        joined = b"\n".join(given)
        events = _decode_plain_lines(joined)
    except (ValueError, OverflowError, RecursionError):
        return [_plain_event(value) if value else None for value in values]
    # A line break inside a value would pair events with the wrong values; a long one is not plain.
    paired = len(events) == len(values) and joined.count(b"\n") == len(values) - 1
    if not paired or max(map(len, given)) > _PLAIN_BYTES:
        return [_plain_event(value) if value else None for value in values]
    return [event if _is_plain(event) else None for event in events]


def _plain_event(value: bytes) -> Event | None:
    """Read the common case, a known event of our envelope with its time in milliseconds, without a second thought.

    Returns None for everything else, good or bad: `_any_event` judges it.
    """
    if len(value) > _PLAIN_BYTES:
        return None
    try:
        event = _decode_plain(value)
    except (ValueError, OverflowError, RecursionError):
        return None
    return event if _is_plain(event) else None


def _is_plain(event: Event) -> bool:
    kind: str
    at_ms: int
    event_id: str | None
    member_id: str | None
    data: dict[str, Any]
    # All fields at once: reading sixteen attributes one by one is measurably slower.
    (kind, at_ms, event_id, member_id, data, _, _, sent, received,
     _, _, _, _, _, _, context, _) = _fields(event)  # fmt: skip
    # Below: the first byte of our own keys in the store.
    if not member_id or not event_id or member_id < "\x01" or not 0 <= at_ms <= MAX_INSTANT_MS:
        return False
    if len(member_id) > MAX_ID or len(event_id) > MAX_ID or sent or received or context is not None:
        return False
    checked = _CHECKED.get(kind)
    if checked is None:
        return False
    for name, inner in data.items():
        of: type = type(inner)
        if of is not str and not _storable(inner):
            return False
        allowed = checked.get(name)
        if allowed is not None and of not in allowed and not (allowed is ITEMS_TYPES and _plain_items(inner)):
            return False
    return True


def _storable(value: Any) -> bool:
    """Tell whether a member's record can hold it: a number beyond 64 bits can be read, but never written."""
    if isinstance(value, int) and -_SMALL < value < _SMALL:
        return True
    if isinstance(value, int | list | dict):
        try:
            _fits(value)
        except (ValueError, OverflowError, RecursionError):
            return False
    return True


def _plain_items(items: Any) -> bool:
    if type(items) is not list:
        return False
    for item in items:
        if type(item) is not dict:
            return False
        for name, inner in item.items():
            allowed = _CHECKED_ITEM.get(name)
            if allowed is not None and type(inner) not in allowed:
                return False
    return True


def _any_event(value: bytes) -> Event:
    try:
        # All fields at once, in the order of `Wire`.
        (kind, event_id, member, occurred, data, version, anonymous, sent, received,
         source, seq, correlation, causation, trace, tenant, context) = astuple(_decode_wire(value))  # fmt: skip
        # A number beyond 64 bits can be read, but never written to a member's record: refused at the door.
        if data:
            _fits(data)
        else:
            data = {}
        if context:
            _fits(context)
    except (ValueError, OverflowError, RecursionError) as error:
        refuse_json("event", value, error)
    checked = _CHECKED.get(kind)
    if checked is None:
        if kind in segment.CALLS and occurred is None:
            return check_data(segment.decode_call(value))
        kind = wire_type(kind)
        checked = _CHECKED.get(kind, {})
    for name, inner in data.items():  # the loop of `check_data`, spelled out here for speed
        allowed = checked.get(name)
        if allowed is not None and type(inner) not in allowed:
            _look_into(name, inner, allowed)
    if occurred is None:
        occurred = _without_time(kind)
    elif type(occurred) is not int or not 0 <= occurred <= MAX_INSTANT_MS:
        occurred = read_instant("occurred_at", occurred)
    if type(member) is not str:
        member = text_id("member_id", member)
    elif member[:1] == "\x00":  # the first byte of our own keys in the store
        raise DecodeError("bad-id", "member_id: begins with a zero character; send the member's own id")
    if type(event_id) is not str:
        event_id = text_id("event_id", event_id)
    if anonymous is not None:
        anonymous = text_id("anonymous_id", anonymous)
    if sent is not None:
        sent = read_instant("sent_at", sent)
    if received is not None:
        received = read_instant("received_at", received)
    if correlation is not None:
        correlation = text_id("correlation_key", correlation)
    return Event(
        kind, occurred, event_id or None, member or None, data, version, anonymous, sent, received,
        source, seq, correlation, causation, trace, tenant, context,
    )  # fmt: skip


def encode_event(event: Event) -> bytes:
    """Write one event in our envelope; instants as milliseconds, absent fields left out."""
    return _encode(
        Wire(
            type=event.type,
            event_id=event.event_id,
            member_id=event.member_id,
            occurred_at=event.occurred_at_ms,
            data=event.data or None,
            schema_version=event.schema_version,
            anonymous_id=event.anonymous_id,
            sent_at=event.sent_at_ms,
            received_at=event.received_at_ms,
            source=event.source,
            source_seq=event.source_seq,
            correlation_key=event.correlation_key,
            causation_id=event.causation_id,
            trace_id=event.trace_id,
            tenant=event.tenant,
            context=event.context,
        )
    )


def settled(event: Event) -> Event:
    """Give back an event read by other means than JSON, held to the same rules: type, ids, instant, attributes.

    Raises:
        DecodeError: `no-type`, `bad-time`, `bad-id` or `wrong-type`.
    """
    if len(event.type) > MAX_ID:
        raise DecodeError("bad-id", f"event: type is longer than {MAX_ID} characters")
    event.type = wire_type(event.type)
    event.event_id = text_id("event_id", event.event_id)
    event.member_id = text_id("member_id", event.member_id)
    event.anonymous_id = text_id("anonymous_id", event.anonymous_id)
    event.occurred_at_ms = read_instant("occurred_at", event.occurred_at_ms)
    try:
        _fits((event.data, event.context))
    except (OverflowError, RecursionError):
        raise DecodeError("wrong-type", "event: data holds a number beyond 64 bits or nests too deeply") from None
    return check_data(event)


def check_data(event: Event) -> Event:
    """Give the event back if its known attributes have JSON types they may have.

    Raises:
        DecodeError: `wrong-type`.
    """
    checked = _CHECKED.get(event.type, {})
    for name, inner in event.data.items():
        allowed = checked.get(name)
        if allowed is not None and type(inner) not in allowed:
            _look_into(name, inner, allowed)
    return event


def _look_into(name: str, value: Any, allowed: frozenset[type]) -> None:
    if allowed is not ITEMS_TYPES or type(value) is not list:
        wanted = "a list" if allowed is ITEMS_TYPES else _wanted(allowed)
        raise DecodeError("wrong-type", f"event: data.{name} must be {wanted} (got {_kind(value)})")
    for place, item in enumerate(value):
        if type(item) is not dict:
            raise DecodeError("wrong-type", f"event: data.{name}[{place}] must be an object (got {_kind(item)})")
        for inner_name, inner in item.items():
            inner_allowed = _CHECKED_ITEM.get(inner_name)
            if inner_allowed is not None and type(inner) not in inner_allowed:
                raise DecodeError(
                    "wrong-type",
                    f"event: data.{name}[{place}].{inner_name} must be {_wanted(inner_allowed)} (got {_kind(inner)})",
                )


_KINDS: Final = {str: "text", bool: "a flag", int: "a number", float: "a number", list: "a list", dict: "an object"}


def _kind(value: Any) -> str:
    return _KINDS.get(type(value), "null")


def _wanted(allowed: frozenset[type]) -> str:
    if str in allowed:
        return "text"
    return next(_KINDS[kind] for kind in (int, bool, list, dict) if kind in allowed)


def _without_time(kind: str) -> int:
    if kind == TICK or kind in CONTROL_TYPES:
        return 0
    raise DecodeError("no-time", "event: no occurred_at; give RFC 3339 text or milliseconds")


def _decoded(place: str, value: bytes | None, decode: Callable[[bytes], _T]) -> _T:
    if not value:
        raise DecodeError("empty", f"{place}: no bytes")
    try:
        return decode(value)
    except (ValueError, OverflowError, RecursionError) as error:
        refuse_json(place, value, error)


# ---------------------------------------------------------------- commands, decisions, attributions

_decode_command: Final[Callable[[bytes], SendMessage | CancelMessage]] = msgspec.json.Decoder(Command).decode
_decode_decision: Final = msgspec.json.Decoder(Decision).decode
_decode_attribution: Final = msgspec.json.Decoder(Attribution).decode


def encode_command(command: SendMessage | CancelMessage) -> bytes:
    """Write one command; its kind is the field `type`."""
    return _encode(command)


def decode_command(value: bytes | None) -> SendMessage | CancelMessage:
    """Read one command. Fields it does not know are ignored, missing optional ones take their defaults.

    Raises:
        DecodeError: no command; reasons as for events.
    """
    return _decoded("command", value, _decode_command)


def encode_decision(decision: Decision) -> bytes:
    """Write one decision."""
    return _encode(decision)


def decode_decision(value: bytes | None) -> Decision:
    """Read one decision.

    Raises:
        DecodeError: no decision; reasons as for events.
    """
    return _decoded("decision", value, _decode_decision)


def encode_attribution(attribution: Attribution) -> bytes:
    """Write one attribution."""
    return _encode(attribution)


def decode_attribution(value: bytes | None) -> Attribution:
    """Read one attribution.

    Raises:
        DecodeError: no attribution; reasons as for events.
    """
    return _decoded("attribution", value, _decode_attribution)


# ---------------------------------------------------------------- dead letters


def dead_letter_headers(letter: DeadLetter) -> list[tuple[str, bytes]]:
    """Spell where a dead letter stood and why it was refused as Kafka headers, UTF-8 text, in a fixed order."""
    return [
        ("topic", letter.topic.encode()),
        ("partition", b"%d" % letter.partition),
        ("offset", b"%d" % letter.offset),
        ("reason", letter.reason.encode()),
        ("message", letter.message.encode("utf-8", "replace")),
        ("failed_at_ms", b"%d" % letter.failed_at_ms),
    ]


def dead_letter_from(headers: Sequence[tuple[str, bytes | None]], key: bytes | None, value: bytes | None) -> DeadLetter:
    """Put a dead letter together from a record of the topic `dead-letters`; headers it does not know are ignored.

    Raises:
        DecodeError: `wrong-type`: a header is missing or is no number where one belongs.
    """
    found: Mapping[str, bytes | None] = dict(headers)
    try:
        failed = int(found.get("failed_at_ms") or 0)
        return DeadLetter(
            topic=(found["topic"] or b"").decode(),
            partition=int(found["partition"] or b""),
            offset=int(found["offset"] or b""),
            reason=(found["reason"] or b"").decode(),
            message=(found.get("message") or b"").decode("utf-8", "replace"),
            failed_at_ms=min(max(failed, 0), MAX_INSTANT_MS),
            key=key,
            value=value,
        )
    except (KeyError, ValueError) as error:
        cause = type(error).__name__
        raise DecodeError("wrong-type", f"dead letter: a header is missing or ill-formed ({cause})") from None
