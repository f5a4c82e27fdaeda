"""SEMANTICS A and B, worked out by hand. Spans: T = 10 s, L = 5 s, so what anchors at 0 fires at 15."""

from tests.oracle.cases import DAY, correlations, ev, run, tick
from tests.oracle.evaluate import firings

NO = "A then no B for 10s"


def test_absence_fires_at_the_first_record_at_due_plus_lateness():
    assert run(NO, ev("A", 0), tick(14.999)) == []
    assert run(NO, ev("A", 0), tick(14.999), tick(15)) == [("A0", 10, 15)]
    assert run(NO, ev("A", 0), ev("Z", 40, m="other")) == [("A0", 10, 40)]


def test_01_append_time_that_goes_back_clamps_with_the_records_own():
    # C stays 20; the record's own a = 8 clamps e to 8, inside [0, 10). A1 fired at 20 already, so nothing is undone.
    assert run(NO, ev("A", 0), tick(20), ev("B", 9, a=8)) == [("A0", 10, 20)]
    # Own a = 30 under C = 40: e of this A is clamped to 30, due 40, fires at C = 45 and not before.
    log = [tick(40), ev("A", 99, a=30, id="x"), tick(44.999), tick(45)]
    assert run(NO, *log) == [("x", 40, 45)]


def test_02_equal_append_times_go_by_offset():
    # B read at the same a as the firing record, but before it, cancels; after it does not. C reaches 15 by the first.
    assert run(NO, ev("A", 0), tick(14), ev("B", 9, a=14), tick(15)) == []
    assert run(NO, ev("A", 0), tick(15), ev("B", 9, a=15)) == [("A0", 10, 15)]


def test_03_a_cancelling_event_that_is_the_firing_record_is_too_late():
    assert run(NO, ev("A", 0), ev("B", 9, a=14.999), tick(15)) == []
    assert run(NO, ev("A", 0), ev("B", 9, a=15)) == [("A0", 10, 15)]


def test_04_ticks_only_move_the_clock_and_are_never_duplicates():
    assert run(NO, ev("A", 0), tick(5), tick(5), tick(15), tick(15)) == [("A0", 10, 15)]
    assert run("tick then no B for 10s", tick(0), tick(100)) == []


def test_05_the_end_of_the_log_fires_nothing():
    assert run(NO, ev("A", 0)) == []


def test_06_a_repeat_within_sixteen_only_moves_the_clock():
    assert run("A", ev("A", 0, id="x"), ev("A", 3, id="x")) == [("x", "x", 0)]
    # The first wins even if it was another type: the second is no B.
    assert run(NO, ev("Z", 0, id="x"), ev("A", 1), ev("B", 2, id="x"), tick(16)) == [("A1", 11, 16)]
    others = [ev("Z", n) for n in range(1, 17)]
    assert run("A[n = 1]", ev("A", 0, id="x", n=0), *others[:15], ev("A", 20, id="x", n=1)) == []
    assert run("A[n = 1]", ev("A", 0, id="x", n=0), *others, ev("A", 20, id="x", n=1)) == [("x", "x", 20)]


def test_06_a_repeat_still_fires_what_is_due():
    assert run(NO, ev("A", 0, id="x"), ev("A", 0, a=15, id="x")) == [("x", 10, 15)]


def test_07_a_missing_id_is_the_place_in_the_log():
    bare = {"type": "A", "member_id": "m", "occurred_at": 0}
    assert run("A", tick(0), bare, bare) == [("events/0/1", "events/0/1", 0), ("events/0/2", "events/0/2", 0)]


def test_08_exactly_seven_days_old_counts_one_millisecond_more_does_not():
    week = 7 * DAY
    assert run("A", ev("A", 0, a=week)) == [("A0", "A0", week)]
    assert run("A", ev("A", 0, a=week + 0.001)) == []


def test_09_a_too_old_cancelling_event_does_not_cancel():
    long = "A then no B for 10d"
    old = ev("B", 1, a=8 * DAY)
    assert run(long, ev("A", 0), ev("B", DAY + 1, a=8 * DAY), tick(11 * DAY)) == []
    assert run(long, ev("A", 0), old, tick(11 * DAY)) == [("A0", 10 * DAY, 11 * DAY)]


def test_10_a_too_old_event_counts_but_completes_nothing():
    now = 8 * DAY
    assert run("2+ A within 9d", ev("A", 0, a=now), ev("A", 1, a=now)) == []
    assert run("2+ A within 9d", ev("A", 0, a=now), ev("A", now)) == [(f"A{now:g}", f"A{now:g}", now)]


def test_11_a_too_old_anchor_starts_and_re_anchors_nothing():
    now = 8 * DAY
    log = [ev("A", now), ev("A", 5, a=now + 1), tick(now + 15)]
    assert run(NO, *log) == [(f"A{now:g}", now + 10, now + 15)]


def test_12_13_lateness_is_the_campaigns_own_and_at_least_five_seconds():
    log = [ev("A", 0), tick(14.999), tick(15), tick(29.999), tick(30)]
    assert run(NO, *log, lateness="1s") == [("A0", 10, 15)]
    assert run(NO, *log, lateness="20s") == [("A0", 10, 30)]


def test_13_timers_of_one_record_fire_by_due():
    log = [ev("A", 5, m="m1"), ev("A", 3, a=5, m="m2"), tick(60)]
    fired = firings([{"campaign": "c", "pattern": NO}], log)
    assert [(x["member_id"], x["due"]) for x in fired] == [("m2", 13_000), ("m1", 15_000)]


def test_14_profile_goes_by_log_order_not_by_event_time():
    log = [ev("member.updated", 10, vip=True), ev("member.updated", 5, a=11, vip=False), ev("A", 12)]
    assert run("A", *log, where="member.vip") == []


def test_15_the_window_is_closed_at_the_anchor_and_open_at_due():
    assert run(NO, ev("A", 0), ev("B", 0, a=1), tick(15)) == []
    assert run(NO, ev("A", 0), ev("B", 9.999), tick(15)) == []
    assert run(NO, ev("A", 0), ev("B", 10), tick(15)) == [("A0", 10, 15)]
    assert run(NO, ev("A", 1), ev("B", 0.999, a=2), tick(16)) == [("A1", 11, 16)]


def test_15_b_read_before_a_cancels_too():
    assert run(NO, ev("B", 3), ev("A", 1, a=4), tick(20)) == []
    assert run(NO, ev("B", 3), ev("A", 3, a=4), tick(20)) == []
    assert run(NO, ev("B", 3), ev("A", 3.001, a=4), tick(20)) == [("A3.001", 13.001, 20)]


def test_16_an_anchor_read_past_its_firing_time_fires_at_the_next_record():
    assert run(NO, tick(100), ev("A", 0, a=100)) == []
    assert run(NO, tick(100), ev("A", 0, a=100), tick(100)) == [("A0", 10, 100)]
    assert run(NO, tick(100), ev("A", 0, a=100), ev("B", 1, a=100)) == [("A0", 10, 100)]
    assert run(NO, tick(100), ev("B", 1, a=100), ev("A", 0, a=100), tick(101)) == []


def test_17_an_event_cancels_older_instances_never_its_own():
    log = [ev("A", 0), ev("A", 4), tick(18.999), tick(19)]
    assert run("A then no A for 10s", *log) == [("A4", 14, 19)]
    assert run("A then no A for 10s", *log, on_repeat="keep") == [("A4", 14, 19)]
    assert run("no A for 10s", *log) == [("A4", 14, 19)]


def test_18_of_two_such_events_at_one_time_the_later_read_stays():
    log = [ev("A", 0, id="x"), ev("A", 0, id="y"), tick(15)]
    assert run("no A for 10s", *log) == [("y", 10, 15)]
    assert run("A then no A for 10s", *log, on_repeat={"parallel": 2}) == [("y", 10, 15)]


def test_19_no_anchor_no_firing():
    assert run("no A for 10s", ev("B", 0), tick(1000)) == []


def test_20_the_last_by_event_time_anchors():
    assert run("no A for 10s", ev("A", 5), ev("A", 3, a=6), tick(20)) == [("A5", 15, 20)]
    log = [ev("A", 0), ev("B", 3), tick(18)]
    assert run("no any of (A, B) for 10s", *log) == [("B3", 13, 18)]


def test_21_after_an_absence_the_next_event_must_be_read_at_or_after_its_firing():
    then = "no A for 10s then B within 60s"
    # B at 12 is read before the absence is known (15): it does not count. B at 16 is the firing record itself: it does.
    assert run(then, ev("A", 0), ev("B", 12), tick(15)) == []
    assert run(then, ev("A", 0), ev("B", 12), ev("B", 16)) == [("A0", "B16", 16)]
    assert run(then, ev("A", 0), ev("B", 9.999, a=16), ev("B", 10, a=17)) == [("A0", "B10", 17)]
    assert run(then, ev("A", 0), tick(15), ev("B", 69.999)) == [("A0", "B69.999", 69.999)]
    assert run(then, ev("A", 0), tick(15), ev("B", 70)) == []


def test_22_due_counts_from_the_last_positive_step():
    log = [ev("A", 0), ev("B", 4), tick(18.999), tick(19)]
    assert run("A then B then no C for 10s", *log) == [("A0", 14, 19)]
    assert run("A then B then no C for 10s", ev("A", 0), ev("C", 2), ev("B", 4), tick(19)) == [("A0", 14, 19)]
    assert run("A then B then no C for 10s", ev("A", 0), ev("C", 5), ev("B", 4, a=6), tick(19)) == []


def test_23_no_all_of_needs_every_one():
    every = "A then no all of (B, C) for 10s"
    assert run(every, ev("A", 0), ev("B", 1), tick(15)) == [("A0", 10, 15)]
    assert run(every, ev("A", 0), ev("C", 1), ev("B", 2), tick(15)) == []
    assert run(every, ev("B", 1), ev("A", 0, a=2), ev("C", 3), tick(15)) == []
    assert run(every, ev("A", 0), ev("C", 1), ev("B", 10), tick(15)) == [("A0", 10, 15)]


def test_24_where_does_not_restrict_the_absent_event():
    assert run(NO, ev("A", 0, n=1), ev("B", 1, n=0), tick(15), where="n = 1") == []
    assert run("A then no B[n = 1] for 10s", ev("A", 0), ev("B", 1, n=0), tick(15)) == [("A0", 10, 15)]


def test_25_a_late_b_changes_no_firing():
    assert run(NO, ev("A", 0), tick(15), ev("B", 1, a=16), on_late="cancel") == [("A0", 10, 15)]


def test_26_a_predicate_on_the_profile_uses_the_profile_when_b_is_read():
    pattern = "A then no B[member.vip] for 10s"
    off, on = ev("member.updated", 2, vip=False), ev("member.updated", 2, vip=True)
    assert run(pattern, ev("A", 0), ev("B", 1), on, tick(15)) == [("A0", 10, 15)]
    assert run(pattern, ev("A", 0), on, ev("B", 3), off | {"event_id": "y"}, tick(15)) == []
    assert run(pattern, on, ev("B", 3), off | {"event_id": "y"}, ev("A", 0, a=4), tick(15)) == []


def test_absence_with_same_cancels_only_its_own_key():
    log = [ev("A", 0, p="x"), ev("A", 0, id="a2", p="y"), ev("B", 1, p="x"), tick(15)]
    assert correlations("A then no B for 10s, same p", *log) == ["y"]
