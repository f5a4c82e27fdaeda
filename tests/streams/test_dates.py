from datetime import UTC, date, datetime
from zoneinfo import ZoneInfo

import pytest

from streams.dates import at_local, member_zone, next_calendar_date, next_member_date, read_date
from streams.patterns.parser import parse_pattern

BERLIN = ZoneInfo("Europe/Berlin")


def ms(text: str) -> int:
    return int(datetime.fromisoformat(text).timestamp()) * 1000


def node(text: str):
    return parse_pattern(text).steps[0]


def text_of(found):
    return datetime.fromtimestamp(found[0] / 1000, UTC).isoformat() if found else None


def test_a_local_time_skipped_in_spring_comes_as_much_later_as_the_clocks_jump():
    assert at_local(date(2026, 3, 29), 2 * 60 + 30, BERLIN) == ms("2026-03-29T03:30:00+02:00")


def test_a_local_time_repeated_in_autumn_is_the_first_of_the_two():
    assert at_local(date(2026, 10, 25), 2 * 60 + 30, BERLIN) == ms("2026-10-25T02:30:00+02:00")


@pytest.mark.parametrize(
    ("after", "expected"),
    [
        ("2026-03-28T12:00:00+00:00", "2026-03-29T08:00:00+00:00"),  # the day the clocks go forward: 10:00 is 08:00 UTC
        ("2026-10-24T12:00:00+00:00", "2026-10-25T09:00:00+00:00"),  # the day they go back: 10:00 is 09:00 UTC
    ],
)
def test_every_day_keeps_its_wall_clock_over_both_shifts(after, expected):
    assert text_of(next_calendar_date(node("every day at 10:00"), BERLIN, ms(after))) == expected


def test_a_weekday_is_the_members_own():
    tokyo = ZoneInfo("Asia/Tokyo")
    found = next_calendar_date(node("every monday at 09:00"), tokyo, ms("2026-03-01T12:00:00+00:00"))
    assert text_of(found) == "2026-03-02T00:00:00+00:00"
    assert found is not None
    assert found[1] == "every/2026-03-02"


def test_a_month_too_short_has_its_last_day():
    found = next_calendar_date(node("every month on 31 at 09:00"), UTC, ms("2026-02-01T00:00:00+00:00"))
    assert text_of(found) == "2026-02-28T09:00:00+00:00"


def test_a_single_date_comes_once():
    on = node("on 2026-12-31 at 10:00")
    assert text_of(next_calendar_date(on, UTC, ms("2026-12-31T09:59:00+00:00"))) == "2026-12-31T10:00:00+00:00"
    assert next_calendar_date(on, UTC, ms("2026-12-31T10:00:00+00:00")) is None


def test_days_before_a_birthday_come_every_year():
    before = node("3d before member.birth_date yearly at 10:00")
    profile = {"birth_date": "1990-01-02"}
    assert (
        text_of(next_member_date(before, profile, UTC, ms("2026-06-01T00:00:00+00:00"))) == "2026-12-30T10:00:00+00:00"
    )
    found = next_member_date(before, profile, UTC, ms("2026-12-30T10:00:00+00:00"))
    assert text_of(found) == "2027-12-30T10:00:00+00:00"
    assert found is not None
    assert found[1] == "birth_date/2028"


@pytest.mark.parametrize(("year", "day"), [(2027, "2027-02-28"), (2028, "2028-02-29")])
def test_the_29th_of_february_is_kept_on_the_28th_in_other_years(year, day):
    on = node("on member.birth_date yearly at 10:00")
    found = next_member_date(on, {"birth_date": "2000-02-29"}, UTC, ms(f"{year}-01-01T00:00:00+00:00"))
    assert text_of(found) == f"{day}T10:00:00+00:00"


def test_a_yearly_date_first_comes_a_year_after_itself():
    on = node("on member.registered_on yearly at 10:00")
    found = next_member_date(on, {"registered_on": "2026-03-02"}, UTC, ms("2026-03-02T08:00:00+00:00"))
    assert text_of(found) == "2027-03-02T10:00:00+00:00"


@pytest.mark.parametrize("value", [None, "", "tomorrow", True, [], 1e30])
def test_what_is_no_date_never_comes(value):
    assert read_date(value) is None
    assert next_member_date(node("on member.birth_date yearly at 10:00"), {"birth_date": value}, UTC, 0) is None


def test_an_unknown_zone_falls_back_to_the_campaigns_then_utc():
    assert member_zone({"timezone": "Mars/Olympus"}, "Europe/Berlin") == BERLIN
    assert member_zone({}, "Mars/Olympus") == UTC
    assert member_zone({"timezone": "Europe/Berlin"}, "UTC") == BERLIN
