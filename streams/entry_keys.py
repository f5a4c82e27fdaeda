"""The keys of a campaign file that say when it begins something and for whom not: `start` `end` `control` `holdout`."""

import re
from datetime import UTC, date

from schemas.campaign import Group
from schemas.instants import instant_ms
from streams import marks
from streams.campaign_keys import Keys
from streams.dates import at_local, zone_of

HINT = "write 2026-06-01, 2026-06-01 10:00, or 2026-06-01T10:00:00+03:00"
_PERCENT = re.compile(r"([0-9]{1,2}(?:\.[0-9]{1,2})?) ?%")
_LOCAL = re.compile(r"([0-9]{4}-[0-9]{2}-[0-9]{2})(?:[ T]([0-9]{2}):([0-9]{2})(?::00)?)?")


def read_dates(keys: Keys, timezone: str) -> tuple[int | None, int | None]:
    """Take `start` and `end` as ms UTC, local ones in the campaign's zone."""
    start, end = (_moment(keys, key, timezone) for key in ("start", "end"))
    if start is not None and end is not None and start >= end:
        keys.add("wrong-order", "end", "the campaign ends before it starts", "write a later end; the end is exclusive")
    return start, end


def read_groups(keys: Keys, campaign: str) -> tuple[Group, ...]:
    """Take `control: 10%` and `holdout: {group: spring, percent: 5%}`: whom the campaign leaves out."""
    found: list[Group] = []
    share = _percent(keys, "control")
    if share is not None:
        found.append(Group("control", f"control/{campaign}", share))
    inner = keys.inner("holdout", ("group", "percent"))
    if inner is not None:
        name, share = inner.identifier("group"), _percent(inner, "percent", required=True)
        if name is not None and share is not None:
            found.append(Group(f"holdout:{name}", f"holdout/{name}", share))
    return tuple(found)


def _percent(keys: Keys, key: str, *, required: bool = False) -> float | None:
    value = keys.scalar(key, required=required)
    if value is None:
        return None
    match = _PERCENT.fullmatch(value.text.strip())
    if match and 0 < float(match[1]) < 100:
        return float(match[1])
    keys.add("wrong-number", key, f"'{key}' is above 0% and below 100% (got '{value.text[:40]}')", "write 10% or 2.5%")
    return None


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
