"""SEMANTICS C: sequences, `without`, `same`, predicates; worked out by hand. Times in seconds."""

from typing import Any

import pytest

from tests.oracle.cases import DAY, correlations, ev, run, tick
from tests.oracle.language import PatternError, read_pattern

AB = "A then B within 10s"


def test_27_equal_time_is_enough_earlier_is_not():
    assert run(AB, ev("A", 5), ev("B", 5, a=6)) == [("A5", "B5", 6)]
    assert run(AB, ev("A", 5), ev("B", 4.999, a=6)) == []
    assert run(AB, ev("A", 0), ev("B", 9.999)) == [("A0", "B9.999", 9.999)]
    assert run(AB, ev("A", 0), ev("B", 10)) == []


def test_27_without_within_a_step_waits_thirty_days():
    month = 30 * DAY
    assert run("A then B", ev("A", 0), ev("B", month - 0.001)) == [("A0", f"B{month - 0.001:g}", month - 0.001)]
    assert run("A then B", ev("A", 0), ev("B", month)) == []
    assert run("A then B, within 60d", ev("A", 0), ev("B", month)) == [("A0", f"B{month:g}", month)]


def test_28_a_positive_event_read_before_its_predecessor_does_not_match():
    assert run(AB, ev("B", 5), ev("A", 1, a=6), tick(7)) == []


def test_29_what_is_read_past_window_and_lateness_no_longer_matches():
    assert run(AB, ev("A", 0), ev("B", 9, a=14.999)) == [("A0", "B9", 14.999)]
    assert run(AB, ev("A", 0), ev("B", 9, a=15)) == []
    assert run("A then B then C, within 10s", ev("A", 0), ev("B", 1), ev("C", 9, a=15)) == []


def test_30_one_event_moves_an_instance_by_one_step():
    assert run("A then A", ev("A", 0)) == []
    assert run("A then A", ev("A", 0), ev("A", 1)) == [("A0", "A1", 1)]
    assert run("A then A then A", ev("A", 0), ev("A", 1)) == []


def test_31_an_event_that_advances_starts_nothing_for_that_key():
    assert run("A then A", *[ev("A", n) for n in range(5)]) == [("A0", "A1", 1), ("A2", "A3", 3)]
    log = [ev("A", 0, p="x"), ev("A", 1, p="y"), ev("A", 2, p="x"), ev("A", 3, p="y")]
    assert correlations("A then A, same p", *log) == ["x", "y"]


@pytest.mark.parametrize(
    "text",
    [
        "A within 1h",
        "A without B then C",
        "A then no B for 1h then C",
        "A then",
        "A for 1h",
        "3+ all of (A, B)",
        "A, same",
        "A[x =]",
        "A then B within x",
        "sum(A.x) >= 3",
        " then ".join("ABCDEFGHI"),
    ],
)
def test_32_36_what_means_nothing_is_refused(text: str):
    with pytest.raises(PatternError):
        read_pattern(text)


def test_33_without_kills_while_its_step_is_awaited():
    pattern = "A then B within 10s without X"
    assert run(pattern, ev("A", 0), ev("X", 1), ev("B", 2)) == []
    # X read while awaited kills even if the B read later is earlier by e than X.
    assert run(pattern, ev("A", 0), ev("X", 5), ev("B", 2, a=6)) == []
    # X before A by e does nothing.
    assert run(pattern, ev("A", 3), ev("X", 2, a=4), ev("B", 5)) == [("A3", "B5", 5)]
    # A killed instance holds no key: the next A starts anew under keep.
    assert run(pattern, ev("A", 0), ev("X", 1), ev("A", 2), ev("B", 3)) == [("A2", "B3", 3)]
    # Past the step's window X does not kill.
    assert run(pattern, ev("A", 0), ev("X", 10), ev("B", 9, a=11)) == [("A0", "B9", 11)]


def test_33_without_read_before_the_previous_step_blocks_what_is_after_it():
    pattern = "A then B within 10s without X"
    log = [ev("X", 4), ev("A", 1, a=5)]
    assert run(pattern, *log, ev("B", 6)) == []
    # Blocked, not killed: a B whose e is not after X's still matches.
    assert run(pattern, *log, ev("B", 6), ev("B", 3, a=7)) == [("A1", "B3", 7)]
    assert run(pattern, *log, ev("B", 4, a=7)) == [("A1", "B4", 7)]


def test_33_a_too_old_event_neither_kills_nor_blocks():
    pattern = "A then B within 20d without X"
    now = 8 * DAY
    assert run(pattern, ev("A", 0), ev("X", 1, a=now), ev("B", now)) == [("A0", f"B{now:g}", now)]
    assert run(pattern, ev("X", 2, a=now), ev("A", DAY + 1, a=now), ev("B", now)) == [(f"A{DAY + 1}", f"B{now:g}", now)]


def test_34_without_guards_only_its_own_step():
    pattern = "A then B without X then C"
    assert run(pattern, ev("A", 0), ev("B", 1), ev("X", 2), ev("C", 3)) == [("A0", "C3", 3)]
    pattern = "A then B then C without X"
    assert run(pattern, ev("A", 0), ev("X", 1), ev("B", 2), ev("C", 3)) == [("A0", "C3", 3)]
    assert run(pattern, ev("A", 0), ev("B", 2), ev("X", 2, a=3), ev("C", 4)) == []


def test_35_an_event_that_is_both_goes_to_without_and_equal_times_go_by_the_log():
    assert run("A then B without any of (X, B)", ev("A", 0), ev("B", 1)) == []
    pattern = "A then B without X"
    assert run(pattern, ev("A", 0), ev("B", 1), ev("X", 1, a=2)) == [("A0", "B1", 1)]
    assert run(pattern, ev("A", 0), ev("X", 1), ev("B", 1, a=2)) == []
    assert run("A then B without A", ev("A", 0), ev("B", 1)) == [("A0", "B1", 1)]


def test_36_without_on_a_first_count_blocks_between_the_counted():
    pattern = "2+ A within 10s without X"
    assert run(pattern, ev("A", 0), ev("X", 1), ev("A", 2)) == []
    assert run(pattern, ev("A", 0), ev("X", 2), ev("A", 2, a=3)) == [("A2", "A2", 3)]
    assert run(pattern, ev("X", 0), ev("A", 0, a=1), ev("A", 2)) == []
    assert run(pattern, ev("A", 0), ev("X", 1), ev("A", 2), ev("A", 3)) == [("A3", "A3", 3)]


def test_37_the_whole_limit_is_about_positive_events_only():
    pattern = "A then B then C, within 10s"
    assert run(pattern, ev("A", 0), ev("B", 5), ev("C", 9.999)) == [("A0", "C9.999", 9.999)]
    assert run(pattern, ev("A", 0), ev("B", 5), ev("C", 10)) == []
    assert run("A then no B for 20s, within 10s", ev("A", 0), tick(25)) == [("A0", 20, 25)]


def test_38_a_missing_or_null_attribute_neither_matches_nor_cancels():
    pattern = "A then no B for 10s, same p"
    assert run(pattern, ev("A", 0), tick(15)) == []
    assert run(pattern, ev("A", 0, p=None), tick(15)) == []
    assert run(pattern, ev("A", 0, p="x"), ev("B", 1), ev("B", 2, p=None), tick(15)) == [("A0", 10, 15)]
    assert run("A then B, same p", ev("A", 0, p="x"), ev("B", 1), ev("B", 2, p="x")) == [("A0", "B2", 2)]


def test_39_an_order_cancels_by_any_of_its_items():
    pattern = "A then no B for 10s, same p"
    items = [{"p": "y"}, {"p": "x"}]
    assert run(pattern, ev("A", 0, p="x"), ev("B", 1, items=items), tick(15)) == []
    # The top-level attribute goes first where it is present.
    assert run(pattern, ev("A", 0, p="x"), ev("B", 1, p="z", items=items), tick(15)) == [("A0", 10, 15)]
    assert run("A[p = 'x']", ev("A", 0, items=items)) == [("A0", "A0", 0)]
    assert run("A[items.p = 'x']", ev("A", 0, p="z", items=items)) == [("A0", "A0", 0)]


def test_40_one_instance_per_distinct_value():
    items = [{"p": "y"}, {"p": "x"}, {"p": "y"}, {"q": 1}]
    log = [ev("A", 0, items=items), tick(15)]
    assert correlations("A then no B for 10s, same p", *log) == ["y", "x"]


def test_41_each_comparison_may_hold_by_another_item():
    items = [{"a": 1, "b": 5}, {"a": 7, "b": 2}]
    assert run("A[items.a = 1 and items.b = 2]", ev("A", 0, items=items)) == [("A0", "A0", 0)]


@pytest.mark.parametrize(
    ("expression", "holds"),
    [
        ("x = 1", True),
        ("x != 1", False),
        ("x != 2", True),
        ("x = '1'", False),
        ("gone = 1", False),
        ("gone != 1", False),
        ("not gone = 1", True),
        ("nil != 1", False),
        ("gone is null", True),
        ("nil is null", True),
        ("x is null", False),
        ("yes", True),
        ("not gone", True),
        ("zero", False),
        ("yes = 1", False),
        ("x = true", False),
        ("x >= 1 and x < 2", True),
        ("x > 1 or yes", True),
        ("not (x > 1 or yes)", False),
        ("s in ('abc', \"d\")", True),
        ("s in ['d']", False),
        ("s contains 'b'", True),
        ("tags contains 'b'", True),
        ("tags contains 'c'", False),
        ("tags = 'a'", True),
        ("s < 'abd'", True),
        ("s < 1", False),
        ("n.m = 3", True),
        ("items.q != 1", True),
        ("q != 2", True),
    ],
)
def test_42_43_expressions(expression: str, holds: bool):
    data: dict[str, Any] = {"x": 1, "nil": None, "yes": True, "zero": 0, "s": "abc", "tags": ["a", "b"], "n": {"m": 3}}
    event = ev("A", 0, items=[{"q": 1}, {"q": 2}], **data)
    assert bool(run(f"A[{expression}]", event)) is holds
    assert bool(run("A", event, where=expression)) is holds


def test_43_correlation_has_the_form_of_same():
    log = [ev("A", 0, p="x", q=1), ev("A", 1, p="x", q="1"), ev("A", 2, p="x", q=True)]
    assert correlations("A", *log) == [None] * 3
    assert correlations("A, same p", *log) == ["x"] * 3
    assert correlations("A, same p, q", *log) == [["x", 1], ["x", "1"], ["x", True]]
    # Three values of q are three keys: none of these B is for the key of A.
    others = [ev("B", 3, q="1"), ev("B", 4, q=True), tick(50)]
    assert run("A then no B for 10s, same q", ev("A", 2, q=1), *others) == [("A2", 12, 50)]


def test_44_where_is_judged_at_every_positive_step():
    pattern = "A then B within 10s"
    assert run(pattern, ev("A", 0, n=1), ev("B", 1, n=0), ev("B", 2, n=1), where="n = 1") == [("A0", "B2", 2)]
    assert run(pattern, ev("A", 0, n=0), ev("B", 1, n=1), where="n = 1") == []
    # For counts: the completing event only.
    assert run("2+ A within 10s", ev("A", 0, n=0), ev("A", 1, n=1), where="n = 1") == [("A1", "A1", 1)]


def test_45_the_profile_is_folded_before_patterns_see_the_record():
    log = [ev("member.registered", 0, city="x", vip=True), ev("member.updated", 1, city="y")]
    assert run("member.updated", *log, where="member.city = 'y' and member.vip") == [("member.updated1",) * 2 + (1,)]
    granted, revoked = ev("consent.granted", 0, channel="email"), ev("consent.revoked", 1, channel="email")
    assert run("A", granted, ev("A", 2), where="member.consent.email") == [("A2", "A2", 2)]
    assert run("A", granted, revoked, ev("A", 2), where="member.consent.email") == []


def test_46_if_still_is_judged_at_firing_before_the_record_is_applied():
    keys = {"_if_still": "not member.vip"}
    pattern = "A then no B for 10s"
    assert run(pattern, ev("A", 0), ev("member.updated", 14, vip=True), tick(15), **keys) == []
    assert run(pattern, ev("A", 0), ev("member.updated", 15, vip=True), **keys) == [("A0", 10, 15)]


def test_69_a_step_name_wins_over_an_attribute():
    log = [ev("A", 0, n=1), ev("B", 1, v={"n": 2})]
    assert run("A as v then B[v.n = 1]", *log) == [("A0", "B1", 1)]
    assert run("A as v then B[v.n = 2]", *log) == []
    assert run("A as v then B[w.n = 2]", ev("A", 0), ev("B", 1, w={"n": 2})) == [("A0", "B1", 1)]


def test_69_compound_durations():
    assert run("A then B within 1m30s", ev("A", 0), ev("B", 89.999)) == [("A0", "B89.999", 89.999)]
    assert run("A then B within 1m30s", ev("A", 0), ev("B", 90)) == []


def test_without_obeys_same():
    log = [ev("A", 0, p="x"), ev("X", 1, p="y"), ev("B", 2, p="x")]
    assert run("A then B without X, same p", *log) == [("A0", "B2", 2)]
    assert run("A then B without X", *log) == []
