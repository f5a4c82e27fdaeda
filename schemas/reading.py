"""What all readers of producers' records share: names of types, ids, instants, and how a refusal is worded."""

import re
from typing import Final, NoReturn

import msgspec

from schemas.errors import DecodeError
from schemas.instants import instant_ms
from schemas.taxonomy import CUSTOM, EVENT_TYPES

MAX_ID: Final = 256  # member records keep the last 16 event ids, so ids must be short

_dotted = re.compile(r"[a-z0-9_]+(?:\.[a-z0-9_]+)+").fullmatch
_camel = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
_not_word = re.compile(r"[^a-z0-9]+")
_decode_any = msgspec.json.Decoder().decode


def snake(name: str) -> str:
    """Write any name in snake_case: `Foo Bar` and `fooBar` become `foo_bar`; "" if no letter or digit is left."""
    return _not_word.sub("_", _camel.sub("_", name).lower()).strip("_")


def wire_type(name: str) -> str:
    """Settle the type an event rides as.

    A known type and any dotted lower-case name stay as they are (newer producers), `custom.<name>` too; whatever
    else is somebody's own event and becomes `custom.<snake_case>`.

    Raises:
        DecodeError: `no-type`, when nothing readable is left.
    """
    if name in EVENT_TYPES or _dotted(name):
        return name
    word = snake(name.removeprefix(CUSTOM))
    if not word:
        raise DecodeError("no-type", "event: no type; name one such as order.created")
    return CUSTOM + word


def read_instant(place: str, value: str | int | float) -> int:
    """Read an instant of a record to milliseconds.

    Raises:
        DecodeError: `bad-time`.
    """
    try:
        return instant_ms(value)
    except (ValueError, OverflowError) as error:
        raise DecodeError("bad-time", f"event: {place} is {error}; give RFC 3339 text or milliseconds") from None


def text_id(place: str, value: str | int | None) -> str | None:
    """Read an id, which some shops write as a number; empty counts as absent.

    Raises:
        DecodeError: `bad-id`, when longer than `MAX_ID` characters.
    """
    if value is None or value == "":
        return None
    try:
        text = str(value)
    except ValueError:  # Python refuses to write out integers of thousands of digits
        text = ""
    if 0 < len(text) <= MAX_ID:
        return text
    raise DecodeError("bad-id", f"event: {place} is longer than {MAX_ID} characters")


def refuse_json(place: str, value: bytes, error: Exception) -> NoReturn:
    """Turn the JSON reader's error into a refusal that names a reason and holds nothing of the payload."""
    if isinstance(error, OverflowError):
        raise DecodeError("wrong-type", f"{place}: a number beyond 64 bits") from None
    if not isinstance(error, msgspec.ValidationError):
        if value[:1] == b"\0":
            raise DecodeError(
                "unknown-schema", f"{place}: Avro in Confluent wire format; set a schema registry, or send JSON"
            ) from None
        raise DecodeError("not-json", f"{place}: no JSON ({_cause(error)})") from None
    try:
        found = _decode_any(value)
    except (ValueError, RecursionError) as deeper:
        raise DecodeError("not-json", f"{place}: no JSON ({_cause(deeper)})") from None
    if not isinstance(found, dict):
        raise DecodeError("not-an-object", f"{place}: JSON, but no object") from None
    if found.get("type") is None and ("field `type`" in str(error) or "`$.type`" in str(error)):
        raise DecodeError("no-type", f"{place}: no type; name one such as order.created") from None
    if "of length" in str(error):
        raise DecodeError("bad-id", f"{place}: an id is longer than {MAX_ID} characters ({error})") from None
    raise DecodeError("wrong-type", f"{place}: {error}") from None


def _cause(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return "nested too deeply"
    if isinstance(error, UnicodeDecodeError):
        return "bytes that are no UTF-8"
    return str(error)
