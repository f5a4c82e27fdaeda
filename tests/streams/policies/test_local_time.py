"""Quiet hours and calendar periods on the wall clock, through every kind of clock change."""

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest

from schemas.policy import QuietHours
from streams.policies.local_time import is_quiet, period_end, period_of, quiet_until

MINUTE, HOUR = 60_000, 3_600_000
# Two days around a change: spring and autumn, an hour and half an hour, at midnight, and a change of the zone itself.
CHANGES = [
    ("Europe/Berlin", "2026-03-28T12:00"), ("Europe/Berlin", "2026-10-24T12:00"),
    ("Europe/Moscow", "2011-03-26T12:00"), ("Europe/Moscow", "2014-10-25T12:00"), ("Europe/Moscow", "2026-03-28T12:00"),
    ("America/Sao_Paulo", "2018-11-03T12:00"), ("America/Sao_Paulo", "2018-02-17T12:00"),
    ("Australia/Lord_Howe", "2026-04-04T03:00"), ("Australia/Lord_Howe", "2026-10-03T03:00"),
    ("Asia/Kathmandu", "2026-05-01T12:00"), ("Pacific/Apia", "2011-12-29T12:00"),
]  # fmt: skip
WINDOWS = [(21, 0, 9, 0), (22, 0, 2, 30), (1, 30, 2, 15), (2, 15, 3, 0), (2, 30, 2, 15), (23, 30, 0, 0), (0, 0, 1, 30)]


def ms(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()) * 1_000


def shown(at: int, zone: str) -> str:
    return datetime.fromtimestamp(at / 1_000, ZoneInfo(zone)).strftime("%m-%d %H:%M")


@pytest.mark.parametrize(("zone", "start"), CHANGES)
@pytest.mark.parametrize("window", WINDOWS)
def test_what_is_quiet_ends_at_the_first_minute_that_is_not(zone, start, window):
    hours, place = QuietHours(window[0] * 60 + window[1], window[2] * 60 + window[3]), ZoneInfo(zone)
    begin = ms(start)
    for at in range(begin, begin + 40 * HOUR, 11 * MINUTE):
        if not is_quiet(hours, at + 7_123, place):
            continue
        first = next(m for m in range(at + MINUTE, at + 60 * HOUR, MINUTE) if not is_quiet(hours, m, place))
        assert quiet_until(hours, at + 7_123, place) == first, (shown(at, zone), shown(first, zone))


@pytest.mark.parametrize(
    ("zone", "at", "until"),
    [
        ("Europe/Moscow", "2026-07-01T19:00", "2026-07-02T06:00"),  # 22:00 to 09:00, UTC+3 all the year
        ("Europe/Berlin", "2026-03-28T22:00", "2026-03-29T07:00"),  # 23:00+01 to 09:00+02: an hour less of night
        ("Europe/Berlin", "2026-10-24T20:00", "2026-10-25T08:00"),  # 22:00+02 to 09:00+01: an hour more
        ("America/Sao_Paulo", "2018-11-04T01:00", "2018-11-04T11:00"),  # midnight is skipped that night
        ("Australia/Lord_Howe", "2026-04-04T11:00", "2026-04-04T22:30"),  # 22:00+11 to 09:00+10:30
        ("Australia/Lord_Howe", "2026-10-03T11:00", "2026-10-03T22:00"),  # 21:30+10:30 to 09:00+11
    ],
)
def test_quiet_hours_end_at_nine_on_the_members_wall(zone, at, until):
    assert quiet_until(QuietHours(21 * 60, 9 * 60), ms(at), ZoneInfo(zone)) == ms(until)


def test_a_window_that_ends_in_a_skipped_hour_ends_with_the_jump():
    berlin = ZoneInfo("Europe/Berlin")
    assert quiet_until(QuietHours(22 * 60, 2 * 60 + 30), ms("2026-03-28T23:00"), berlin) == ms("2026-03-29T01:00")


def test_a_repeated_hour_is_judged_alike_both_times():
    berlin, hours = ZoneInfo("Europe/Berlin"), QuietHours(2 * 60, 2 * 60 + 30)
    for first in ("2026-10-25T00:10", "2026-10-25T01:10"):  # 02:10 twice
        assert is_quiet(hours, ms(first), berlin)
        assert quiet_until(hours, ms(first), berlin) == ms(first) + 20 * MINUTE


@pytest.mark.parametrize("period", ["day", "week", "month"])
@pytest.mark.parametrize(("zone", "start"), CHANGES)
def test_a_calendar_period_ends_when_the_next_one_begins(zone, start, period):
    place, begin = ZoneInfo(zone), ms(start)
    for at in range(begin, begin + 36 * HOUR, 37 * MINUTE):
        end = period_end(period, at, place)
        assert period_of(period, end, place) != period_of(period, at, place)
        assert period_of(period, end - 1, place) == period_of(period, at, place)
