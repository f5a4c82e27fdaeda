"""Until when a step of a flow waits: spans, and local times in the member's zone with both DST shifts."""

from collections.abc import Mapping
from datetime import datetime, timedelta, tzinfo
from typing import Any

from schemas.flow import WaitStep
from streams.dates import at_local, member_zone

MINUTE_MS = 60_000


def wait_end(step: WaitStep, since_ms: int, profile: Mapping[str, Any], zone: str) -> int | None:
    """Return the instant until which a wait begun at `since_ms` lasts; None where there is nothing to wait for.

    Args:
        step: the wait.
        since_ms: when it was reached.
        profile: the member's, for its time zone.
        zone: IANA name for members that have none.
    """
    if step.span_ms is not None:
        return since_ms + step.span_ms
    zone_of_member = member_zone(profile, zone)
    if step.window is not None:
        return _window_begins(step.window, since_ms, zone_of_member)
    today = _local(since_ms, zone_of_member)
    if step.at_minute is None and today.weekday() in step.weekdays:
        return None
    for ahead in range(9):  # a weekday is a week away at most
        day = today.date() + timedelta(days=ahead)
        due = at_local(day, step.at_minute or 0, zone_of_member)
        if day.weekday() in step.weekdays and due >= since_ms:
            return due if due > since_ms else None
    raise ValueError(f"wait '{step.name}': no such local time within nine days of {since_ms}")


def _window_begins(window: tuple[int, int], since_ms: int, zone: tzinfo) -> int | None:
    """Return the first instant at which the local time lies in the window; None if it does at `since_ms`.

    An hour that an autumn shift repeats comes twice; of one that a spring shift skips, what is left counts.
    """
    if _inside(window, since_ms, zone):
        return None
    today = _local(since_ms, zone).date()
    for ahead in range(9):
        day = today + timedelta(days=ahead)
        naive = datetime(day.year, day.month, day.day, window[0] // 60, window[0] % 60, tzinfo=zone)
        for fold in (0, 1):
            begins = int(naive.replace(fold=fold).timestamp()) * 1000
            if begins < since_ms or not _inside(window, begins, zone):
                continue
            while _inside(window, begins - MINUTE_MS, zone):  # its first minutes were skipped: it begins at the shift
                begins -= MINUTE_MS
            return begins
    raise ValueError(f"no local time between minutes {window[0]} and {window[1]} within nine days of {since_ms}")


def _local(at_ms: int, zone: tzinfo) -> datetime:
    return datetime.fromtimestamp(at_ms / 1000, zone)


def _inside(window: tuple[int, int], at_ms: int, zone: tzinfo) -> bool:
    now = _local(at_ms, zone)
    minute, (start, end) = now.hour * 60 + now.minute, window
    return start <= minute < end if start < end else minute >= start or minute < end
