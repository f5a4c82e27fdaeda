"""Waits until a local time: against a search minute by minute, around both shifts of several zones."""

import random
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from schemas.flow import WaitStep
from streams.flows.times import MINUTE_MS, wait_end

# Each around a shift of its clocks: forward at 02:00, back at 03:00, half an hour, at midnight, none.
SHIFTS = {
    "Europe/Berlin": ["2026-03-29", "2026-10-25"],
    "America/New_York": ["2026-03-08", "2026-11-01"],
    "Australia/Lord_Howe": ["2026-04-05", "2026-10-04"],
    "Africa/Cairo": ["2026-04-24", "2026-10-29"],
    "Asia/Omsk": ["2026-03-29"],
}


def instants(rng):
    zone = rng.choice(list(SHIFTS))
    day = datetime.fromisoformat(rng.choice(SHIFTS[zone])).replace(tzinfo=UTC)
    since = day + timedelta(minutes=rng.randrange(-2880, 2880), milliseconds=rng.choice([0, 0, 1, 30_000]))
    return zone, int(since.timestamp()) * 1000 + rng.choice([0, 0, 999])


def searched(since_ms, zone, holds):
    """Look at `since_ms` itself, then at every full minute after it."""
    at = since_ms
    while not holds(datetime.fromtimestamp(at / 1000, ZoneInfo(zone))):
        at = (at // MINUTE_MS + 1) * MINUTE_MS
    return None if at == since_ms else at


@pytest.mark.parametrize("seed", range(400))
def test_a_window_begins_at_the_first_minute_inside_it(seed):
    rng = random.Random(seed)
    zone, since = instants(rng)
    start, end = rng.sample(range(0, 1440, 30), 2)

    def holds(local):
        minute = local.hour * 60 + local.minute
        return start <= minute < end if start < end else minute >= start or minute < end

    found = wait_end(WaitStep("w", window=(start, end)), since, {"timezone": zone}, "UTC")
    assert found == searched(since, zone, holds)


@pytest.mark.parametrize("seed", range(40))
def test_a_weekday_begins_at_its_first_minute(seed):
    rng = random.Random(seed)
    zone, since = instants(rng)
    days = tuple(rng.sample(range(7), rng.choice([1, 2])))
    found = wait_end(WaitStep("w", weekdays=days), since, {}, zone)
    assert found == searched(since, zone, lambda local: local.weekday() in days)


def test_a_time_of_a_weekday_that_is_now_is_not_waited_for():
    noon = int(datetime(2026, 3, 2, 12, tzinfo=UTC).timestamp()) * 1000  # a Monday
    step = WaitStep("w", weekdays=(0,), at_minute=720)
    assert wait_end(step, noon, {}, "UTC") is None
    assert wait_end(step, noon - 1, {}, "UTC") == noon
    assert wait_end(step, noon + 1, {}, "UTC") == noon + 7 * 86_400_000


def test_the_members_own_zone_is_used_before_the_campaigns():
    noon = int(datetime(2026, 3, 2, 12, tzinfo=UTC).timestamp()) * 1000
    step = WaitStep("w", window=(13 * 60, 14 * 60))
    assert wait_end(step, noon, {"timezone": "Europe/Berlin"}, "UTC") is None
    assert wait_end(step, noon, {"timezone": "nowhere"}, "UTC") == noon + 3_600_000
