"""The keys of a campaign file that say when it begins something: `start` and `end`."""

import re
from datetime import UTC, date

from schemas.instants import instant_ms
from streams import marks
from streams.campaign_keys import Keys
from streams.dates import at_local, zone_of

HINT = "write 2026-06-01, 2026-06-01 10:00, or 2026-06-01T10:00:00+03:00"
_LOCAL = re.compile(r"([0-9]{4}-[0-9]{2}-[0-9]{2})(?:[ T]([0-9]{2}):([0-9]{2})(?::00)?)?")


def read_dates(keys: Keys, timezone: str) -> tuple[int | None, int | None]:
    """Take `start` and `end` as ms UTC, local ones in the campaign's zone."""
    start, end = (_moment(keys, key, timezone) for key in ("start", "end"))
    if start is not None and end is not None and start >= end:
        keys.add("wrong-order", "end", "the campaign ends before it starts", "write a later end; the end is exclusive")
    return start, end


def _moment(keys: Keys, key: str, timezone: str) -> int | None:
    value = keys.scalar(key)
    return None if value is None else _read(keys, key, value, timezone)


def _read(keys: Keys, key: str, value: marks.Scalar, timezone: str) -> int | None:
    text = value.text.strip()
    try:
        local = _LOCAL.fullmatch(text)
        if local:
            minute = int(local[2] or 0) * 60 + int(local[3] or 0)
            if minute >= 24 * 60 or int(local[3] or 0) > 59:
                raise ValueError
            return at_local(date.fromisoformat(local[1]), minute, zone_of(timezone) or UTC)
        return instant_ms(text)
    except (ValueError, OverflowError):
        keys.add("bad-time", key, f"this is no date (got '{text[:40]}')", HINT)
        return None
