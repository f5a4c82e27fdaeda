"""When a member's date or a calendar date comes: local time in an IANA zone to ms UTC, both DST shifts included.

A local time that a spring shift skips is read with the offset before the shift, so it comes as much later as the clocks
jump; one that an autumn shift repeats means the first of the two (PEP 495, fold=0). 29 February is kept on the 28th in
other years; a day of the month beyond its end is the month's last.
"""

from calendar import monthrange
from collections.abc import Mapping
from datetime import UTC, date, datetime, timedelta, tzinfo
from functools import lru_cache
from typing import Any
from zoneinfo import ZoneInfo

from streams.patterns.nodes import Calendar, MemberDate

_YEARS_AHEAD = 3  # a yearly date with any offset comes again within this many years


@lru_cache(maxsize=1024)
def zone_of(name: str) -> tzinfo | None:
    """Look up an IANA zone; None if there is none of that name."""
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        return None


def member_zone(profile: Mapping[str, Any], default: str) -> tzinfo:
    """Return the member's zone (`timezone` in the profile), else the campaign's, else UTC."""
    name = profile.get("timezone")
    return (zone_of(name) if isinstance(name, str) else None) or zone_of(default) or UTC


def at_local(day: date, minute: int, zone: tzinfo) -> int:
    """Return ms UTC of a local wall-clock minute of a day."""
    local = datetime(day.year, day.month, day.day, minute // 60, minute % 60, tzinfo=zone)
    return int(local.timestamp()) * 1000


def read_date(value: Any) -> date | None:
    """Read a date from a profile: ISO text (a time after it is ignored) or ms UTC."""
    try:
        if isinstance(value, str):
            return date.fromisoformat(value[:10])
        if isinstance(value, int | float) and not isinstance(value, bool):
            return datetime.fromtimestamp(value / 1000, UTC).date()
    except (ValueError, OverflowError, OSError):
        return None
    return None


def next_member_date(
    node: MemberDate, profile: Mapping[str, Any], zone: tzinfo, after_ms: int
) -> tuple[int, str] | None:
    """Return (due in ms, label) of the next coming of a profile date after `after_ms`; None when there is none.

    The label names the coming itself (`birth_date/2026`), so that it identifies the instance whatever the clock said.
    """
    value: Any = profile
    for part in node.path:
        value = value.get(part) if isinstance(value, Mapping) else None
    base = read_date(value)
    if base is None:
        return None
    name = ".".join(node.path)
    if not node.yearly:
        due = _shifted(base, node, zone)
        return (due, f"{name}/{base.isoformat()}") if due is not None and due > after_ms else None
    # The date's own year is none of its anniversaries: who registered at 08:00 is not greeted at 10:00.
    start = max(datetime.fromtimestamp(after_ms / 1000, UTC).year - 1, base.year + 1)
    for year in range(start, start + _YEARS_AHEAD + 1):
        if not 1 <= year <= 9998:
            continue
        day = base.replace(year=year) if not (base.month == 2 and base.day == 29) else _leap_day(year)
        due = _shifted(day, node, zone)
        if due is not None and due > after_ms:
            return due, f"{name}/{year}"
    return None


def _leap_day(year: int) -> date:
    return date(year, 2, monthrange(year, 2)[1])


def _shifted(day: date, node: MemberDate, zone: tzinfo) -> int | None:
    try:
        return at_local(day + timedelta(days=node.offset_days), node.at_minute, zone)
    except (OverflowError, ValueError):
        return None


def next_calendar_date(node: Calendar, zone: tzinfo, after_ms: int) -> tuple[int, str] | None:
    """Return (due in ms, label) of the next calendar date after `after_ms`; None after the only one."""
    if node.unit == "once":
        day = read_date(node.date)
        due = at_local(day, node.at_minute, zone) if day is not None else None
        return (due, f"on/{node.date}") if due is not None and due > after_ms else None
    today = datetime.fromtimestamp(after_ms / 1000, zone).date()
    for ahead in range(-1, 63):  # the 31st of a month, seen from the day after, is at most two months away
        day = today + timedelta(days=ahead)
        if not _falls_on(node, day):
            continue
        due = at_local(day, node.at_minute, zone)
        if due > after_ms:
            return due, f"every/{day.isoformat()}"
    return None


def _falls_on(node: Calendar, day: date) -> bool:
    if node.unit == "day":
        return True
    if node.unit == "week":
        return day.weekday() == node.weekday
    last = monthrange(day.year, day.month)[1]
    return day.day == min(node.day or 1, last)
