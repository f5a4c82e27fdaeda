"""The parser of steps that time itself makes: dates of the profile, weekdays, days of the month, single dates."""

import datetime

from schemas.findings import WARNING
from schemas.taxonomy import is_known
from streams.patterns.durations import DAY_MS, parse_duration
from streams.patterns.durations import HINT as SPAN_HINT
from streams.patterns.grammar import WEEKDAYS, Cursor, PatternError, Problem, number
from streams.patterns.nodes import Calendar, MemberDate
from streams.patterns.spell import nearest

DEFAULT_MINUTE = 10 * 60  # 10:00: after breakfast and inside the usual hours for messages


def read_member_date(cursor: Cursor, problems: list[Problem]) -> MemberDate:
    """Read `3d before member.birth_date yearly at 10:00`, or the same with `after` or `on`."""
    start = cursor.take()
    offset = 0
    if start.kind == "span":
        try:
            span = parse_duration(start.text)
        except ValueError as error:
            raise PatternError(str(error), start.pos, SPAN_HINT, "span") from None
        if span % DAY_MS:
            raise PatternError(
                f"dates are counted in whole days (got {start.text})",
                start.pos,
                "write e.g. 3d before member.birth_date at 10:00",
                "date-offset",
            )
        offset = span // DAY_MS * (-1 if cursor.take().text == "before" else 1)
    word = cursor.token
    root, _, rest = word.text.partition(".")
    if word.kind != "word" or root != "member" or not rest:
        cursor.fail("a date of the profile", "e.g. on member.birth_date yearly, or on 2026-12-31")
    if is_known(word.text):
        hint = f"write {word.text} alone, or 7d after {word.text}"
        raise PatternError(f"'{word.text}' is an event and no date of the profile", word.pos, hint, "event-as-date")
    cursor.take()
    yearly = cursor.accept("yearly") is not None
    if not yearly and "birth" in rest:
        message = f"'{word.text}' without yearly names one day, most likely long past"
        problems.append(Problem("not-yearly", message, word.pos, f"write {word.text} yearly", WARNING))
    return MemberDate(offset, tuple(rest.split(".")), yearly, _at(cursor, problems), start.pos)


def read_calendar(cursor: Cursor, problems: list[Problem]) -> Calendar:
    """Read `every monday at 09:00`, `every day`, `every month on 15`, `on 2026-12-31 at 10:00`."""
    start = cursor.take()
    unit = cursor.token
    if start.text == "on":
        if unit.kind != "date":
            cursor.fail("a date", "e.g. on 2026-12-31 at 10:00")
        cursor.take()
        try:
            datetime.date.fromisoformat(unit.text)
        except ValueError:
            message = f"there is no such day (got {unit.text})"
            raise PatternError(message, unit.pos, "write year-month-day", "date") from None
        return Calendar("once", _at(cursor, problems), start.pos, date=unit.text)
    if unit.text in WEEKDAYS:
        cursor.take()
        return Calendar("week", _at(cursor, problems), start.pos, weekday=WEEKDAYS.index(unit.text))
    if cursor.accept("day"):
        return Calendar("day", _at(cursor, problems), start.pos)
    if cursor.accept("month"):
        cursor.expect("on", "write every month on 15")
        day = _day(cursor)
        return Calendar("month", _at(cursor, problems), start.pos, day=day)
    near = nearest(unit.text, (*WEEKDAYS, "day", "month"))
    hint = f"did you mean '{near}'?" if near else "write every day, every monday or every month on 15"
    return cursor.fail("'day', 'month' or a weekday", hint)


def _day(cursor: Cursor) -> int:
    token = cursor.token
    if token.kind != "number":
        cursor.fail("a day of the month", "a number from 1 to 31")
    value = number(cursor.take())
    if not isinstance(value, int) or not 1 <= value <= 31:
        message = f"there is no such day of the month (got {token.text})"
        raise PatternError(message, token.pos, "a number from 1 to 31", "date")
    return value


def _at(cursor: Cursor, problems: list[Problem]) -> int:
    if not cursor.sees("at"):
        problems.append(
            Problem("default-time", "no time of day is given: 10:00 is used", cursor.token.pos, "add at 10:00", WARNING)
        )
        return DEFAULT_MINUTE
    cursor.take()
    token = cursor.token
    if token.kind != "clock":
        cursor.fail("a time of day", "e.g. at 09:00")
    cursor.take()
    hour, minute = (int(part) for part in token.text.split(":"))
    if hour > 23 or minute > 59:
        raise PatternError(f"there is no such time of day (got {token.text})", token.pos, "from 00:00 to 23:59", "time")
    return hour * 60 + minute
