"""A campaign that raises: it stops nobody else, and raised too often it is stopped by a record of the log."""

import json

import pytest

from streams.breaker import FAILED_MAX, LOOKED_AT, Breaker
from streams.engine import PartitionEngine
from streams.explain import explain
from streams.narrate import narrate
from streams.replay import read_log
from tables.store import MemoryStore
from tests.helpers.runs import HOUR, Durable, event, plan, run, tick

VIEW, ORDER = "catalog.product.viewed", "order.created"
T = 1_772_409_600_000
TEXT = f"campaign: bad\npattern: {VIEW} as v then no {ORDER} for 2h, same product_id\n"
GOOD = TEXT.replace("bad", "good")
REF = ("bad", "v1")
SEND = "send: {channel: email, template: t, data: {x: 'ROUNDED'}}\n"


def control(kind: str, at: int, **data):
    return {"type": f"campaign.{kind}", "member_id": None, "occurred_at": at, "appended_at": at, "data": data}


def published(text: str, at: int = T):
    return control("published", at, campaign=text.split()[1], yaml=text, path="x.yaml")


def suspended(at: int, text: str = TEXT, **changes):
    return control("suspended", at, **{"campaign": text.split()[1], "version": plan(text).version, **changes})


def view(n: int, at: int | None = None):
    return event(VIEW, T + n if at is None else at, f"v{n}", product_id=f"p{n}")


def broken(engine: PartitionEngine, name: str = "bad") -> None:
    def fail(*_args):
        raise ZeroDivisionError

    engine.registry.live[name].keys_of = fail
    engine.registry.live[name].wait = None  # the short way asks nothing that could raise
    engine.registry.live[name].same = (("other",),)  # not the one that its history shares


# ---------------------------------------------------------------- counting


def test_it_trips_at_the_bound_and_not_before() -> None:
    breaker = Breaker()
    for _ in range(FAILED_MAX - 1):
        breaker.failed(REF)
    assert not breaker.tripped
    breaker.failed(REF)
    assert breaker.tripped == {REF}


def test_failures_further_apart_than_the_window_never_trip_it() -> None:
    breaker = Breaker()
    for _ in range(4 * FAILED_MAX):
        breaker.failed(REF)
        for _ in range(LOOKED_AT // FAILED_MAX):
            breaker.passed(REF)
    assert not breaker.tripped


def test_failures_just_close_enough_trip_it() -> None:
    breaker = Breaker()
    for _ in range(FAILED_MAX):
        breaker.failed(REF)
        for _ in range(LOOKED_AT // FAILED_MAX - 1):
            breaker.passed(REF)
    assert breaker.tripped == {REF}


def test_a_campaign_that_recovers_is_forgotten_and_others_are_not_counted() -> None:
    breaker = Breaker()
    breaker.failed(REF)
    breaker.passed(("other", "v1"))
    assert list(breaker.watched) == [REF]
    for _ in range(LOOKED_AT):
        breaker.passed(REF)
    assert not breaker.watched


# ---------------------------------------------------------------- in the engine


def test_a_campaign_that_keeps_raising_trips_and_its_suspension_ends_its_dead_letters() -> None:
    partition = Durable()
    partition.feed(published(TEXT), published(GOOD))
    broken(partition.engine)
    epoch = partition.feed(*(view(n) for n in range(FAILED_MAX)))
    assert [letter.reason for letter in epoch.dead_letters] == ["campaign-failed"] * FAILED_MAX
    assert partition.engine.breaker.tripped == {("bad", plan(TEXT).version)}
    epoch = partition.feed(suspended(T + 100), *(view(n) for n in range(100, 140)), tick(T + 3 * HOUR))
    assert epoch.dead_letters == []
    assert {firing.campaign for firing in epoch.firings} == {"good"}
    assert not partition.engine.breaker.tripped


def test_a_suspension_survives_a_restart_and_publishing_again_closes_it() -> None:
    partition = Durable()
    partition.feed(published(TEXT), published(GOOD), suspended(T + 1))
    states = [("bad", "suspended"), ("good", "live")]
    for _ in range(2):
        view_ = partition.engine.campaigns_view()
        assert [(row["campaign"], row["state"]) for row in view_] == states
        assert view_[0]["pattern"].startswith(VIEW) and view_[0]["since_offset"] == 2
        partition.engine = partition._open()
    partition.feed(published(TEXT, T + 2), view(3))
    assert [(row["campaign"], row["state"]) for row in partition.engine.campaigns_view()] == [
        ("bad", "live"),
        ("good", "live"),
    ]
    assert [f.campaign for f in partition.feed(tick(T + 3 * HOUR)).firings] == ["bad", "good"]


def test_what_a_suspended_campaign_had_begun_is_dropped() -> None:
    story = (published(TEXT), view(1), suspended(T + 2), published(TEXT, T + 3), view(4), tick(T + 3 * HOUR))
    assert [f.anchor for e in run(None, *story) for f in e.firings] == ["v4"]


@pytest.mark.parametrize("changes", [{"version": "other"}, {"campaign": "nobody"}, {"version": None}])
def test_a_suspension_of_what_does_not_run_changes_nothing(changes) -> None:
    partition = Durable()
    partition.feed(published(TEXT), suspended(T + 1, **changes))
    assert [row["state"] for row in partition.engine.campaigns_view()] == ["live"]


def test_withdrawing_a_suspended_campaign_takes_it_off_the_list() -> None:
    partition = Durable()
    partition.feed(published(TEXT), suspended(T + 1), control("withdrawn", T + 2, campaign="bad"))
    assert partition.engine.campaigns_view() == []
    assert partition._open().campaigns_view() == []


def test_a_replay_from_the_start_and_one_over_restarts_end_in_equal_meta() -> None:
    story = [published(TEXT), view(1), suspended(T + 2), view(3), published(GOOD, T + 4), tick(T + 3 * HOUR)]
    once, cut = Durable(), Durable()
    once.feed(*story)
    for made in story:
        cut.feed(made)
        cut.engine = cut._open()
    assert once.engine.registry._listed() == cut.engine.registry._listed()
    assert [m for m in once.store.meta() if b"bad" in m] == [m for m in cut.store.meta() if b"bad" in m] != []


def test_explain_says_since_when_a_campaign_is_stopped() -> None:
    story = [published(TEXT), view(1), suspended(T + 60_000)]
    told = explain(read_log(json.dumps(e).encode() for e in story), None, "m1")
    (campaign,) = told["campaigns"]
    assert (campaign["state"], campaign["suspended_at"]) == ("suspended", "2026-03-02T00:01:00.000Z")
    assert "stopped at 2026-03-02T00:01:00Z: it failed too often" in narrate(told)


def test_explain_of_a_withdrawn_campaign_that_nothing_started_names_it_no_more() -> None:
    picky = TEXT.replace(VIEW, f"{VIEW}[price > 5]", 1)
    story = [published(picky), view(1), control("withdrawn", T + 2, campaign="bad")]
    assert explain(read_log(json.dumps(e).encode() for e in story), None, "m1")["campaigns"] == []


# ---------------------------------------------------------------- what raises where


def test_a_conclusion_that_raises_is_a_dead_letter_and_a_decision_and_the_rest_go_on() -> None:
    bad, good = plan(TEXT), plan(GOOD)

    def fail(*_args):
        raise ZeroDivisionError

    bad.if_still = fail
    epochs = run([bad, good], view(1), view(2), tick(T + 3 * HOUR))
    assert [d.reason for e in epochs for d in e.dead_letters] == ["campaign-failed"] * 2
    decisions = [(d.campaign, d.outcome, d.reason) for e in epochs for d in e.decisions]
    assert sorted(decisions) == [("bad", "suppressed", "campaign_failed")] * 2 + [("good", "eligible", "no_send")] * 2


def test_a_history_that_raises_is_a_dead_letter_and_the_event_still_counts_elsewhere() -> None:
    first, other = plan(TEXT), plan(f"campaign: other\npattern: {VIEW}\n")
    for series in first.series.values():

        def fail(*_args):
            raise ZeroDivisionError

        series.local = fail
    epochs = run([first, other], event(ORDER, T, "o1", product_id="p1"), view(1))
    assert [d.reason for e in epochs for d in e.dead_letters] == ["campaign-failed"]
    assert [f.campaign for e in epochs for f in e.firings] == ["other"]


@pytest.mark.parametrize("where", ["pattern", "where", "if still", "send"])
def test_a_number_too_large_to_round_is_missing_and_fails_no_campaign(where: str) -> None:
    rounded = "round(v.total, -308)"
    text = {
        "pattern": f"campaign: c\npattern: {ORDER}[round(total, -308) > 1 or total > 1] as v\n",
        "where": f"campaign: c\npattern: {ORDER} as v\nwhere: not {rounded} > 1\n",
        "if still": f"campaign: c\npattern: {ORDER} as v\nif still: not {rounded} > 1\n",
        "send": f"campaign: c\npattern: {ORDER} as v\n" + SEND.replace("ROUNDED", rounded),
    }[where]
    who = event("member.registered", T, "r", email="a@shop.example", consent={"email": True})
    epochs = run([plan(text)], who, event(ORDER, T, "o1", total=1.7e308))
    assert [d.reason for e in epochs for d in e.dead_letters] == []
    assert len([f for e in epochs for f in e.firings]) == 1


def test_an_engine_that_nobody_breaks_watches_nothing() -> None:
    engine = PartitionEngine(0, MemoryStore(), campaigns=[plan(TEXT)])
    engine.run([])
    assert not engine.breaker.watched
