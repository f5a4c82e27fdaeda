"""Until when a step of a flow waits: spans, and local times in the member's zone with both DST shifts."""

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from schemas.flow import WaitStep
from streams.dates import at_local, member_zone


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
    local = member_zone(profile, zone)
    now = datetime.fromtimestamp(since_ms / 1000, local)
    minute = now.hour * 60 + now.minute
    if step.window is not None:
        start, end = step.window
        inside = start <= minute < end if start < end else minute >= start or minute < end
        if inside:
            return None
        wanted = start
    else:
        if step.at_minute is None and now.weekday() in step.weekdays:
            return None
        wanted = step.at_minute or 0
    for ahead in range(9):  # a weekday is a week away at most
        day = now.date() + timedelta(days=ahead)
        if step.window is None and day.weekday() not in step.weekdays:
            continue
        due = at_local(day, wanted, local)
        if due >= since_ms:
            return due if due > since_ms else None
    raise ValueError(f"wait '{step.name}': no such local time within nine days of {since_ms}")
