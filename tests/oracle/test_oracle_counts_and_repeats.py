"""SEMANTICS D, E and F: counts, aggregates, `all of`, repeats, caps, output; worked out by hand. Times in seconds."""

import pytest

from schemas.ids import command_id, instance_id
from tests.oracle.cases import DAY, Event, correlations, ev, run, short, tick
from tests.oracle.evaluate import firings

NO = "A then no B for 10s"


def test_47_the_n_latest_must_span_less_and_include_the_record_just_read():
    assert run("2+ A within 10s", ev("A", 0), ev("A", 9.999)) == [("A9.999", "A9.999", 9.999)]
    assert run("2+ A within 10s", ev("A", 0), ev("A", 10)) == []
    # Of 0, 20, 5 the two latest are 5 and 20: they include 5 but span 15. Then 12: 12 and 20 span 8.
    log = [ev("A", 0), ev("A", 20), ev("A", 5, a=21), ev("A", 12, a=22)]
    assert run("2+ A within 10s", *log) == [("A12", "A12", 22)]
    # A straggler that is not among the latest completes nothing.
    log = [ev("A", 5), ev("A", 4, a=6), tick(20)]
    assert run("1+ A within 10s then no B for 10s", *log, on_repeat={"parallel": 2}) == [("A5", 15, 20)]


def test_47_an_aggregates_window_ends_at_the_greatest_event_time():
    pattern = "sum(A.n) >= 10 within 10s"
    assert run(pattern, ev("A", 0, n=5), ev("A", 9.999, n=5)) == [("A9.999", "A9.999", 9.999)]
    assert run(pattern, ev("A", 0, n=5), ev("A", 10, n=5)) == []
    assert run(pattern, ev("A", 10, n=5), ev("A", 0, a=11, n=50)) == []
    assert run(pattern, ev("A", 10, n=5), ev("A", 1, a=11, n=5)) == [("A1", "A1", 11)]


def test_48_the_completing_record_anchors_and_due_counts_from_the_greatest_event_time():
    log = [ev("A", 4), ev("A", 0, a=5), tick(18.999), tick(19)]
    assert run("2+ A within 10s then no B for 10s", *log) == [("A0", 14, 19)]


def test_49_what_fired_is_spent():
    assert run("2+ A within 1m", *[ev("A", n) for n in range(5)]) == [("A1", "A1", 1), ("A3", "A3", 3)]
    log = [ev("A", 0, n=5), ev("A", 1, n=5), ev("A", 2, n=5), ev("A", 3, n=5)]
    assert run("sum(A.n) >= 10 within 1m", *log) == [("A1", "A1", 1), ("A3", "A3", 3)]


def test_49_a_live_instance_spends_nothing():
    log = [ev("A", 0), ev("A", 1), ev("A", 2), tick(17)]
    assert run("2+ A within 1m then no B for 10s", *log) == [("A2", 12, 17)]
    assert run("2+ A within 1m then no B for 10s", *log, on_repeat="keep") == [("A1", 11, 17)]
    # A cancelled one spends nothing either: after B, one more A is enough.
    log = [ev("A", 0), ev("A", 1), ev("B", 2), ev("A", 3), tick(18)]
    assert run("2+ A within 1m then no B for 10s", *log) == [("A3", 13, 18)]
    # A fired one spends what was read before its firing record, not that record.
    log = [ev("A", 0), ev("A", 1), ev("A", 16), ev("A", 17), tick(32)]
    assert run("2+ A within 1m then no B for 10s", *log) == [("A1", 11, 16), ("A17", 27, 32)]


def test_50_a_suppressed_match_spends_too():
    log = [ev("A", n) for n in range(4)]
    assert run("2+ A within 1m", *log, cooldown="2s") == [("A1", "A1", 1), ("A3", "A3", 3)]
    assert run("2+ A within 1m", *log, cooldown="3s") == [("A1", "A1", 1)]
    switch = ev("member.updated", 1.5, ok=True)
    assert run("2+ A within 1m", ev("A", 0), ev("A", 1), switch, ev("A", 2), _if_still="member.ok") == []


@pytest.mark.parametrize(
    ("pattern", "by"),
    [
        ("count(A) >= 3 within 1m", "A2"),
        ("count(A.p) >= 2 within 1m", "A2"),
        ("distinct(A.p) >= 2 within 1m", "A2"),
        ("max(A.n) > 2 within 1m", "A1"),
        ("min(A.n) < 2 within 1m", "A0"),
        ("avg(A.n) = 2 within 1m", "A1"),
        ("sum(A.items.k) >= 6 within 1m", "A2"),
        ("sum(A.k) >= 6 within 1m", "A2"),
    ],
)
def test_51_aggregates(pattern: str, by: str):
    items = [{"k": 1}, {"k": 2}, {}]
    log = [ev("A", 0, p="x", n=1, items=items), ev("A", 1, n=3), ev("A", 2, p="y", n=2, items=[{"k": 3}])]
    assert run(pattern, *log)[0] == (by, by, float(by[1]))


def test_51_an_event_without_the_attribute_takes_no_part():
    assert run("avg(A.n) < 10 within 1m", ev("A", 0), ev("A", 1, n=None), ev("A", 2, n="7")) == []


def test_51_counts_are_per_correlation_key():
    log = [ev("A", 0, p="x"), ev("A", 1, p="y"), ev("A", 2, p="y")]
    assert correlations("2+ A within 1m, same p", *log) == ["y"]
    assert correlations("count(A) >= 2 within 1m, same p", *log) == ["y"]


def test_52_all_of_in_any_order_anchored_by_the_first_read():
    pattern = "all of (A, B, C) within 10s"
    assert run(pattern, ev("C", 2), ev("A", 1, a=3), ev("B", 9)) == [("C2", "B9", 9)]
    assert run(pattern, ev("A", 0), ev("B", 1), ev("C", 10)) == []
    # The latest read of each: A5 replaces A0.
    assert run(pattern, ev("A", 0), ev("B", 4), ev("A", 5), ev("C", 12)) == [("B4", "C12", 12)]
    # A late A whose set would span too much gives way to an earlier read one.
    assert run("all of (A, B) within 10s", ev("A", 20), ev("A", 1, a=21), ev("B", 22)) == [("A20", "B22", 22)]
    assert run("all of (A, B), within 10s", ev("A", 0), ev("B", 9)) == [("A0", "B9", 9)]
    assert run("all of (A, B), within 10s", ev("A", 0), ev("B", 10)) == []


def test_52_all_of_then_absence_counts_from_the_greatest_and_fires_once():
    log = [ev("B", 4), ev("A", 1, a=5), tick(19), tick(30)]
    assert run("all of (A, B) within 10s then no C for 10s", *log) == [("B4", 14, 19)]
    log = [ev("A", 0), ev("B", 1), ev("B", 2), ev("A", 3)]
    assert run("all of (A, B) within 10s", *log) == [("A0", "B1", 1), ("B2", "A3", 3)]


def test_52_all_of_as_a_later_step_stays_in_its_window():
    pattern = "A then all of (B, C) within 10s"
    assert run(pattern, ev("A", 0), ev("C", 1), ev("B", 9)) == [("A0", "B9", 9)]
    assert run(pattern, ev("A", 0), ev("C", 1), ev("B", 10)) == []
    assert run(pattern, ev("B", 1), ev("A", 0, a=2), ev("C", 3)) == []


def test_a_count_as_a_later_step_starts_with_its_step():
    pattern = "A then 2+ B within 10s"
    assert run(pattern, ev("B", 1), ev("A", 0, a=2), ev("B", 3), ev("B", 4)) == [("A0", "B4", 4)]
    assert run(pattern, ev("A", 0), ev("B", 3), ev("B", 10)) == []
    assert run("A then sum(B.n) >= 4 within 10s", ev("A", 0), ev("B", 1, n=2), ev("B", 2, n=2)) == [("A0", "B2", 2)]
    log = [ev("A", 0), ev("B", 6), ev("B", 3, a=7), tick(20.999), tick(21)]
    assert run("A then 2+ B within 10s then no C for 10s", *log) == [("A0", 16, 21)]


def test_53_restart_is_the_default_with_an_absence_keep_without():
    log = [ev("A", 0), ev("A", 4), tick(40)]
    assert run(NO, *log) == [("A4", 14, 40)]
    assert run("A then B within 1m", *log[:2], ev("B", 5)) == [("A0", "B5", 5)]


def test_54_an_older_anchor_read_later_is_ignored_an_equal_one_wins():
    assert run(NO, ev("A", 4), ev("A", 2, a=5), tick(19)) == [("A4", 14, 19)]
    assert run(NO, ev("A", 4), ev("A", 4, id="y"), tick(19)) == [("y", 14, 19)]


def test_55_an_anchor_at_or_after_due_leaves_the_waiting_one():
    assert run(NO, ev("A", 0), ev("A", 9.999), tick(40)) == [("A9.999", 19.999, 40)]
    both = [("A0", 10, 40), ("A10", 20, 40)]
    for repeat in ("restart", "keep", {"parallel": 1}):
        assert run(NO, ev("A", 0), ev("A", 10), tick(40), on_repeat=repeat) == both


def test_56_an_anchor_cancelled_at_birth_still_ends_the_one_before():
    # A1 at 0 waits until 10. B at 12 is read, then A at 9: it re-anchors, and dies by B.
    assert run(NO, ev("A", 0), ev("B", 12), ev("A", 9, a=13), tick(60)) == []
    assert run(NO, ev("A", 0), ev("B", 12), ev("A", 9, a=13), tick(60), on_repeat="keep") == [("A0", 10, 60)]


def test_57_restart_starts_the_whole_again():
    pattern = "A then B then no C for 10s"
    assert run(pattern, ev("A", 0), ev("B", 1), ev("A", 2), tick(60)) == []
    assert run(pattern, ev("A", 0), ev("B", 1), ev("A", 2), ev("B", 3), tick(60)) == [("A2", 13, 60)]


def test_58_keep_holds_the_key_until_the_window_ends():
    pattern = "A then B within 10s"
    log = [ev("A", 0), ev("A", 5), ev("B", 12)]
    assert run(pattern, *log) == []
    assert run(pattern, ev("A", 0), ev("A", 10), ev("B", 12)) == [("A10", "B12", 12)]


def test_58_parallel_ignores_what_is_more_and_one_event_moves_all():
    log = [ev("A", 0), ev("A", 1), ev("A", 2), ev("B", 3)]
    assert run("A then B", *log, on_repeat={"parallel": 2}) == [("A0", "B3", 3), ("A1", "B3", 3)]
    assert run(NO, *log, tick(40), on_repeat={"parallel": 2}) == []
    assert run(NO, *log[:3], tick(40), on_repeat={"parallel": 2}) == [("A0", 10, 40), ("A1", 11, 40)]


def test_59_a_ninth_instance_evicts_the_earliest_due():
    log = [ev("A", n, p=n) for n in range(9)]
    fired = run("A then no B for 10s, same p", *log, tick(60))
    assert [anchor for anchor, _, _ in fired] == [f"A{n}" for n in range(1, 9)]
    # Of those that wait for a positive step only the oldest started goes.
    fired = run("A then B, same p", *log, *[ev("B", 20 + n, p=n) for n in range(9)])
    assert [anchor for anchor, _, _ in fired] == [f"A{n}" for n in range(1, 9)]


def test_59_a_65th_instance_of_a_member_evicts_across_campaigns():
    campaigns = [{"campaign": f"c{n}", "pattern": "A then no B for 10s, same p"} for n in range(9)]
    log = [ev("A", n, p=n) for n in range(8)]
    fired = firings(campaigns, [*log, tick(60)])
    assert len(fired) == 64
    # Before A7 there are 63. The nine A0 share a due, so the oldest goes first: c0's to c7's, one per start beyond 64.
    assert sorted(x["campaign"] for x in fired if x["anchor"] == "A0") == ["c8"]
    assert len(firings(campaigns, [*log, tick(60)], bounds=False)) == 72


def test_60_caps_are_per_member_or_per_key():
    log = [ev("A", 0, p="x"), ev("A", 1, p="y"), ev("A", 2, p="x")]
    assert run("A, same p", *log, once=True) == [("A0", "A0", 0)]
    assert run("A, same p", *log, once=True, per="key") == [("A0", "A0", 0), ("A1", "A1", 1)]


def test_61_cooldown_counts_on_the_clock_from_the_last_firing():
    assert run("A", ev("A", 0), ev("A", 9.999), ev("A", 10), cooldown="10s") == [("A0", "A0", 0), ("A10", "A10", 10)]
    # fired at C = 100, not at its due 10: an A completed at 105 is within the cooldown.
    assert run(NO, ev("A", 0), tick(100), ev("A", 101), tick(120), cooldown="21s") == [("A0", 10, 100)]
    assert run(NO, ev("A", 0), tick(100), ev("A", 101), tick(120), cooldown="20s") == [
        ("A0", 10, 100),
        ("A101", 111, 120),
    ]


def test_62_a_suppressed_firing_does_not_prolong_the_cooldown():
    log = [ev("A", 0), ev("A", 6), ev("A", 12)]
    assert run("A", *log, cooldown="10s") == [("A0", "A0", 0), ("A12", "A12", 12)]


def test_62_an_anchor_during_the_cooldown_still_starts():
    log = [ev("A", 0), tick(15), ev("A", 16), tick(31)]
    assert run(NO, *log, cooldown="16s") == [("A0", 10, 15), ("A16", 26, 31)]


def test_63_limit_slides_and_is_half_open():
    log = [ev("A", n) for n in (0, 4, 9.999, 10, 13, 14)]
    fired = [at for _, _, at in run("A", *log, limit="2 per 10s")]
    assert fired == [0, 4, 10, 14]


def test_64_one_instance_id_fires_once():
    others = [ev("Z", n) for n in range(1, 18)]
    assert run("A", ev("A", 0, id="x"), *others, ev("A", 20, id="x")) == [("x", "x", 0)]


def test_65_fired_at_is_the_clock_not_the_records_own_time():
    assert run("A", tick(50), ev("A", 20, a=30)) == [("A20", "A20", 50)]


def test_66_an_instance_that_ends_makes_room_in_the_same_record():
    # The second A kills the first instance (it is the X of `without`) and starts a new one.
    pattern = "A then B without A"
    assert run(pattern, ev("A", 0), ev("A", 1), ev("B", 2)) == [("A1", "B2", 2)]


def test_67_68_the_output_has_the_fields_of_replay():
    events: list[Event] = [
        {"event_id": "x", "type": "A", "member_id": "m", "occurred_at": "1970-01-01T00:00:01.500Z", "data": {"p": "q"}},
        {"event_id": "y", "type": "B", "member_id": "m", "occurred_at": 2_000},
        {"event_id": "z", "type": "B", "member_id": "m", "occurred_at": 1_000},
        {"type": "tick", "member_id": None, "occurred_at": 60_000},
    ]
    name = instance_id("c", "m", "q", "x")
    assert firings([{"campaign": "c", "pattern": "A then no B for 10s, same p"}], events) == [
        {
            "campaign": "c",
            "member_id": "m",
            "anchor": "x",
            "correlation": "q",
            "due": 11_500,
            "completed_by": None,
            "fired_at": 60_000,
            "instance_id": name,
            "command_id": command_id(name, "send", ""),
        }
    ]


def test_68_missing_append_times_are_made_monotone():
    early = {"event_id": "y", "type": "B", "member_id": "m", "occurred_at": 1_000}
    late = {"event_id": "x", "type": "A", "member_id": "m", "occurred_at": 20_000}
    assert [short(x) for x in firings([{"campaign": "c", "pattern": "B"}], [late, early])] == [("y", "y", 20)]


def test_examples_of_the_design_run():
    view, order = "catalog.product.viewed", "order.created"
    abandoned = f"{view} as v then no {order} for 2h, same product_id"
    log = [ev(view, 0, product_id="p"), ev(order, 60, items=[{"product_id": "q"}]), tick(7205)]
    assert run(abandoned, *log) == [(f"{view}0", 7200, 7205)]
    drop = f"{view} as v then z.changed[product_id = v.product_id and drop >= 10] within 14d without {order}"
    log = [ev(view, 0, product_id="p"), ev("z.changed", 5, product_id="q", drop=20)]
    assert run(drop, *log) == []
    assert run(drop, *log, ev("z.changed", 6, product_id="p", drop=10)) == [(f"{view}0", "z.changed6", 6)]
    assert run(drop, *log, ev(order, 5.5), ev("z.changed", 6, product_id="p", drop=10)) == []
    quiet = "no any of (web.session.started, app.opened) for 30d"
    log = [ev("app.opened", 0), ev("web.session.started", DAY), tick(31 * DAY + 5)]
    assert run(quiet, *log) == [(f"web.session.started{DAY:g}", 31 * DAY, 31 * DAY + 5)]
