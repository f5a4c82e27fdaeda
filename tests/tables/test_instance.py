"""An instance keeps apart what few instances have, and says the same as if it did not."""

from tables.member_state import NO_MAP, NO_ROWS, Instance


def begun() -> Instance:
    instance = Instance("v1", "p1", "p1", "e1", (7, 1), 100, 100)
    instance.step = 1
    instance.begun()
    return instance


def dated(instance: Instance) -> tuple[int | None, int | None, int | None, bool]:
    return instance.due, instance.end, instance.deadline, instance.undated


def test_it_has_a_due_or_an_end_and_never_both() -> None:
    instance = begun()
    assert dated(instance) == (None, None, None, True)
    instance.due = 500
    assert dated(instance) == (500, None, 500, False)
    instance.end = None
    assert dated(instance) == (500, None, 500, False)
    instance.end = 700
    assert dated(instance) == (None, 700, 700, True)
    instance.due = None
    assert dated(instance) == (None, 700, 700, True)
    instance.end = None
    assert dated(instance) == (None, None, None, True)


def test_what_is_empty_is_kept_nowhere() -> None:
    instance = begun()
    instance.aliases, instance.last, instance.seen, instance.counted = {}, {}, NO_MAP, ()
    instance.seen_without, instance.blocked_e = NO_MAP, None
    assert instance.plain
    instance.seen = {}  # about to be filled: it must be this one
    seen = instance.seen
    seen[3] = (1, 2)
    assert instance.seen == {3: (1, 2)}
    assert not instance.plain
    assert instance.matched == ((0, "e1", 100),)
    assert instance.own == (7,)


def test_what_began_it_is_spelled_out_when_more_happens() -> None:
    instance = begun()
    instance.matched = (*instance.matched, (1, "e2", 200))
    assert instance.matched == ((0, "e1", 100), (1, "e2", 200))
    assert instance.own == (7,)
    assert not instance.as_begun
    other = begun()
    other.own = ()
    assert (other.own, other.matched) == ((), ((0, "e1", 100),))


def test_a_fresh_one_has_matched_nothing() -> None:
    instance = Instance("v1", None, None, "e1", (7, 1), 100, 100)
    assert (instance.matched, instance.own, instance.as_begun) == (NO_ROWS, NO_ROWS, False)


def test_a_plain_one_that_reached_its_deadline_tells_of_it() -> None:
    instance = begun()
    instance.due = 500
    instance.reach()
    assert instance.matched == ((0, "e1", 100), (1, "", 500))
    assert instance.own == (7,)


def test_it_takes_the_form_of_begun_when_it_has_come_to_no_more() -> None:
    instance = Instance("v1", "p1", "p1", "e1", (7, 1), 100, 100)
    instance.matched, instance.own = ((0, "e1", 100),), (7,)
    instance.last = {"price": 5}
    instance.tidy()
    assert instance.as_begun
    assert not instance.plain
    assert instance.last == {"price": 5}
    instance.last = {}
    for matched, own in ((((0, "e2", 100),), (7,)), (((0, "e1", 100),), (8,)), (((0, "e1", 100),), (7, 8))):
        other = Instance("v1", "p1", "p1", "e1", (7, 1), 100, 100)
        other.matched, other.own = matched, own
        other.tidy()
        assert not other.as_begun
        assert (other.matched, other.own) == (matched, own)
