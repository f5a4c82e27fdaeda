"""Quiet hours and calendar periods in an IANA zone, by what the clock on the member's wall shows.

A moment is quiet when the wall clock then shows a time inside the window. So a minute that an autumn shift repeats is
judged alike both times, and of one that a spring shift skips there is nothing to judge.
"""

from datetime import UTC, date, datetime, time, timedelta, tzinfo

from schemas.policy import QuietHours
from streams.dates import at_local
from streams.patterns.durations import DAY_MS, MINUTE_MS

DAY_MINUTES = 1_440
PERIODS = ("day", "week", "month")


def local(at_ms: int, zone: tzinfo) -> datetime:
    """Return what the wall clock shows; milliseconds are cut off."""
    return datetime.fromtimestamp(at_ms // 1000, zone)


def is_quiet(hours: QuietHours, at_ms: int, zone: tzinfo) -> bool:
    """Tell whether a moment lies inside the window, its first minute included, its last one not."""
    shown = local(at_ms, zone)
    minute = shown.hour * 60 + shown.minute
    if hours.from_minute < hours.to_minute:
        return hours.from_minute <= minute < hours.to_minute
    return minute >= hours.from_minute or minute < hours.to_minute


def quiet_until(hours: QuietHours, at_ms: int, zone: tzinfo) -> int:
    """Return the first moment after a quiet one that is not quiet.

    It is the window's end on the wall clock, unless the clocks are changed before it: then each minute is looked at.
    """
    shown = local(at_ms, zone)
    ends = [end for ahead in (0, 1) for end in _instants(shown.date() + timedelta(days=ahead), hours.to_minute, zone)]
    end = min((end for end in ends if end > at_ms), default=at_ms + DAY_MS)
    if local(end, zone).utcoffset() == shown.utcoffset():
        return end
    minute = at_ms // MINUTE_MS
    for ahead in range(1, 2 * DAY_MINUTES):
        if not is_quiet(hours, (minute + ahead) * MINUTE_MS, zone):
            return (minute + ahead) * MINUTE_MS
    return end


def _instants(day: date, minute: int, zone: tzinfo) -> list[int]:
    """List the moments at which the wall clock of a day shows a minute: one, two if repeated, none if skipped."""
    first = datetime.combine(day, time(minute // 60, minute % 60), zone)
    moments = (int(first.replace(fold=fold).timestamp()) * 1000 for fold in (0, 1))
    return [at for at in moments if local(at, zone).time() == first.time()]


def period_of(period: str, at_ms: int, zone: tzinfo) -> int:
    """Number the calendar day, week (from Monday) or month that holds a moment."""
    day = local(at_ms, zone).date()
    if period == "month":
        return day.year * 12 + day.month - 1
    return day.toordinal() - day.weekday() if period == "week" else day.toordinal()


def period_end(period: str, at_ms: int, zone: tzinfo) -> int:
    """Return the first moment of the next calendar period."""
    day = local(at_ms, zone).date()
    if period == "month":
        following = (day.replace(day=28) + timedelta(days=4)).replace(day=1)
    else:
        following = day + timedelta(days=7 - day.weekday() if period == "week" else 1)
    return at_local(following, 0, zone)


def wall_clock(at_ms: int, zone: tzinfo) -> str:
    """Spell what the wall clock shows, with the offset: 2026-03-29T03:15:00+02:00."""
    return local(at_ms, zone).isoformat()


def zone_name(zone: tzinfo) -> str:
    """Name a zone."""
    return "UTC" if zone is UTC else str(zone)
