"""A member's inbox: bounded, each message once, marks once, gone when it is over."""

from schemas.inbox import CLICKED, FORMAT, MOST, READ, InboxItem, InboxMark, encode_inbox_record, fold_inbox, read_inbox
from schemas.references import reference_of
from tests.sinks.channels.samples import send

T0 = 1_000_000


def item(n: int, until_ms: int = T0 * 10) -> bytes:
    message = reference_of(send(command_id=f"c{n}"))
    return encode_inbox_record(InboxItem(FORMAT, message, "in", T0 + n, until_ms, f"T{n}", "text"))


def mark(n: int, what: str, at_ms: int) -> bytes:
    return encode_inbox_record(InboxMark(FORMAT, f"c{n}", what, at_ms))


def folded(*records: bytes, at_ms: int = T0) -> bytes | None:
    value: bytes | None = None
    for record in records:
        value = fold_inbox(value, record, at_ms)
    return value


def ids(value: bytes | None, now_ms: int = T0) -> list[str]:
    return [one.item.message.command_id for one in read_inbox(value, now_ms)]


def test_the_newest_comes_first_and_a_message_told_twice_is_there_once() -> None:
    assert ids(folded(item(1), item(2), item(1), item(3))) == ["c3", "c2", "c1"]


def test_beyond_its_bound_the_oldest_goes() -> None:
    value = folded(*(item(n) for n in range(MOST + 3)))
    assert ids(value) == [f"c{n}" for n in reversed(range(3, MOST + 3))]


def test_a_mark_keeps_the_time_at_which_it_was_set_first() -> None:
    (kept,) = read_inbox(folded(item(1), mark(1, READ, 5), mark(1, READ, 9), mark(1, CLICKED, 7)), T0)
    assert (kept.read_ms, kept.clicked_ms, kept.shown_ms) == (5, 7, 0)


def test_marks_of_no_message_and_of_no_name_change_nothing() -> None:
    value = folded(item(1))
    assert fold_inbox(value, mark(2, READ, 5), T0) == value == fold_inbox(value, mark(1, "page", 5), T0)
    assert fold_inbox(value, b"\xc1torn", T0) == value and folded(mark(1, READ, 5)) is None


def test_a_message_that_is_over_is_not_shown_and_dropped_with_the_next_record() -> None:
    value = folded(item(1, until_ms=T0 + 5), item(2))
    assert ids(value, T0 + 4) == ["c2", "c1"] and ids(value, T0 + 5) == ["c2"]
    assert ids(fold_inbox(value, b"", T0 + 5), T0) == ["c2"]
    assert fold_inbox(folded(item(1, until_ms=T0 + 5)), b"", T0 + 5) is None
