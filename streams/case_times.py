"""Times in cases files: `10:00`, `tue 10:00`, `+90m`, `+1d 10:00`, `2026-03-08 02:30`, RFC 3339, milliseconds.

A time of day without a date means Monday 2 March 2026, UTC; a weekday means that week's. `+…` counts from the event
before (or what the caller says). A Monday far from any summer-time shift, so that a plain case meets none.
"""

import re
from datetime import UTC, datetime

import msgspec

from schemas.instants import instant_ms
from streams.patterns.durations import DAY_MS, HOUR_MS, MINUTE_MS, SECOND_MS, WEEK_MS, parse_duration

MONDAY_MS = 1_772_409_600_000  # 2026-03-02T00:00:00Z
WEEKDAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
HINT = "write 10:00, tue 10:00, +90m (after the event before), +1d 10:00, 2026-03-08 10:00 or RFC 3339"

_CLOCK = r"([0-9]{1,2}):([0-9]{2})(?::([0-9]{2})(?:\.([0-9]{1,3}))?)?"
_OF_DAY = re.compile(_CLOCK)
_OF_WEEK = re.compile(rf"(mon|tue|wed|thu|fri|sat|sun)[a-z]{{0,6}} {_CLOCK}", re.IGNORECASE)
_LATER = re.compile(rf"\+([0-9a-z]{{2,40}})(?: {_CLOCK})?")
_DATED = re.compile(rf"([0-9]{{4}}-[0-9]{{2}}-[0-9]{{2}})[ ]{_CLOCK}")
_MS = re.compile(r"[0-9]{12,15}")
_FEW_MS = re.compile(r"([0-9]{1,9})ms")


class Time(msgspec.Struct, frozen=True):
    """An instant in ms UTC, as exact as it was written: `grain` is 60,000 for `10:00`, 1,000 for `10:00:05`, else 1."""

    ms: int
    grain: int = 1

    def covers(self, at_ms: int) -> bool:
        """Tell whether an instant is this one, as far as it was written."""
        return self.ms <= at_ms < self.ms + self.grain


def read_time(text: str, after_ms: int | None) -> Time:
    """Read a time; `after_ms` is what `+…` counts from, None when there is nothing to count from.

    Raises:
        ValueError: no time; the message is for people.
    """
    text = text.strip()
    if found := _OF_DAY.fullmatch(text):
        span, grain = _clock(found.groups())
        return Time(MONDAY_MS + span, grain)
    if found := _OF_WEEK.fullmatch(text):
        span, grain = _clock(found.groups()[1:])
        return Time(MONDAY_MS + WEEKDAYS.index(found[1].lower()) * DAY_MS + span, grain)
    if text.startswith("+"):
        return _later(text, after_ms)
    if found := _DATED.fullmatch(text):
        span, grain = _clock(found.groups()[1:])
        return Time(_day(found[1]) + span, grain)
    if _MS.fullmatch(text):
        return Time(instant_ms(int(text)))
    try:
        return Time(instant_ms(text), 1 if "." in text else SECOND_MS)
    except ValueError:
        raise ValueError(f"this is no time (got '{text[:40]}')") from None


def show_time(at_ms: int) -> str:
    """Write an instant as cases do: `10:00`, `tue 10:00:05`, `2026-03-10 10:00`."""
    moment = datetime.fromtimestamp(at_ms / 1000, UTC)
    clock = moment.strftime("%H:%M")
    if at_ms % MINUTE_MS:
        clock = moment.strftime("%H:%M:%S")
    if at_ms % SECOND_MS:
        clock += f".{at_ms % SECOND_MS:03d}"
    day = (at_ms - MONDAY_MS) // DAY_MS
    if day == 0:
        return clock
    return f"{WEEKDAYS[day]} {clock}" if 0 < day * DAY_MS < WEEK_MS else f"{moment:%Y-%m-%d} {clock}"


def _later(text: str, after_ms: int | None) -> Time:
    found = _LATER.fullmatch(text)
    if found is None:
        raise ValueError(f"this is no time (got '{text[:40]}')")
    if after_ms is None:
        raise ValueError(f"'{text}' has nothing before it to count from")
    few = _FEW_MS.fullmatch(found[1])
    span = int(few[1]) if few else parse_duration(found[1])
    if found[2] is None:
        return Time(after_ms + span)
    if span % DAY_MS:
        raise ValueError(f"before a time of day, '+' counts whole days (got '{text}')")
    clock, grain = _clock(found.groups()[1:])
    return Time(after_ms - after_ms % DAY_MS + span + clock, grain)


def _clock(parts: tuple[str | None, ...]) -> tuple[int, int]:
    hour, minute, second, fraction = (int(part) if part else 0 for part in (*parts[:3], (parts[3] or "").ljust(3, "0")))
    if hour > 23 or minute > 59 or second > 59:
        raise ValueError("a day has 24 hours, an hour 60 minutes, a minute 60 seconds")
    grain = 1 if parts[3] else SECOND_MS if parts[2] else MINUTE_MS
    return hour * HOUR_MS + minute * MINUTE_MS + second * SECOND_MS + fraction, grain


def _day(text: str) -> int:
    try:
        return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()) * 1000
    except ValueError:
        raise ValueError(f"there is no day {text}") from None
