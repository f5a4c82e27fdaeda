"""Explain says what the engine did with a member, and of those it left alone why."""

import json
from collections import Counter

import pytest
import yaml

import streams.explain
from schemas.instants import instant_ms, instant_text
from streams.campaigns import load_campaign
from streams.explain import explain
from streams.narrate import narrate
from streams.patterns.plan import Plan
from streams.replay import read_log, replay
from tests.oracle.generate import case

VIEW, ORDER, CART, SEARCH = "catalog.product.viewed", "order.created", "cart.item.added", "catalog.search.performed"
REMINDER = f"{VIEW} as v then no {ORDER} for 2h, same product_id"
SEND = {"channel": "email", "template": "hello"}
HOME = {"city": "Riga", "email": "m-1@example.com", "consent": {"email": True}}


def plan(pattern, name="reminder", **keys):
    text = yaml.safe_dump({"campaign": name, "pattern": pattern, "send": SEND, **keys})
    campaign, findings = load_campaign(text, "c.yaml", lenient=True)
    assert campaign is not None, findings
    return Plan(campaign)


def when(clock, day=21):
    return f"2026-11-{day:02d}T{clock}{':00' if clock.count(':') == 1 else ''}Z"


def ev(type_, event_id, clock, day=21, member="m-1", read=None, **data):
    event = {"type": type_, "event_id": event_id, "member_id": member, "occurred_at": when(clock, day), "data": data}
    return event | ({"appended_at": when(read, day)} if read else {})


def home(**more):
    return ev("member.registered", "reg", "08:00", **{**HOME, **more})


def tick(clock, day=21):
    return {"type": "tick", "occurred_at": when(clock, day)}


def log(events):
    return read_log([json.dumps(event).encode() for event in events])


def tell(plans, events, member="m-1", **options):
    plans = plans if isinstance(plans, list) else [plans]
    return explain(log(events), plans, member, **options)


def only(plans, events, **options):
    """The one campaign's explanation, and its words."""
    told = tell(plans, events, **options)
    (campaign,) = told["campaigns"]
    return campaign, narrate(told)


def last(campaign):
    return campaign["instances"][-1]


def view(event_id="v1", clock="10:00", product="p1", **more):
    return ev(VIEW, event_id, clock, product_id=product, **more)


# ---------------------------------------------------------------- entered


def test_waiting_for_an_absence_says_until_when_and_when_it_fires():
    campaign, words = only(plan(REMINDER), [home(), view()])
    assert campaign["state"] == "waiting"
    awaits = last(campaign)["awaits"]
    assert (awaits["number"], awaits["kind"], awaits["last"]) == (2, "absence", True)
    assert awaits["by"] == "2026-11-21T12:00:00.000Z"
    assert awaits["decided_at"] == "2026-11-21T12:00:05.000Z"
    assert "until 2026-11-21T12:00:00Z; fires at 2026-11-21T12:00:05Z unless it comes before then" in words


def test_a_matched_step_names_its_event_and_the_values_it_was_judged_by():
    reminder = plan(f"{VIEW}[price > 50] as v then no {ORDER} for 2h", where="member.city = 'Riga'")
    campaign, words = only(reminder, [home(), view(price=80)])
    (step,) = last(campaign)["steps"]
    assert step["event"] == {
        "event_id": "v1",
        "type": VIEW,
        "at": "2026-11-21T10:00:00.000Z",
        "read_at": "2026-11-21T10:00:00.000Z",
    }
    assert step["values"] == {"price": 80, "member.city": "Riga"}
    assert "price = 80, member.city = 'Riga'" in words


def test_lateness_of_the_campaign_moves_the_moment_of_firing():
    campaign, _ = only(plan(REMINDER, lateness="1m"), [home(), view()])
    assert last(campaign)["awaits"]["decided_at"] == "2026-11-21T12:01:00.000Z"


def test_waiting_for_an_event_says_when_it_gives_up_and_how_far_it_is():
    campaign, words = only(
        plan(f"{SEARCH} then 3+ {VIEW} within 10m"), [home(), ev(SEARCH, "s1", "10:00"), view(clock="10:01")]
    )
    awaits = last(campaign)["awaits"]
    assert (awaits["kind"], awaits["by"], awaits["have"]) == (
        "event",
        "2026-11-21T10:10:00.000Z",
        {"have": 1, "need": 3},
    )
    assert "waits until 2026-11-21T10:10:00Z, gives up at 2026-11-21T10:10:05Z; has 1 of 3" in words


def test_what_came_while_waiting_and_did_not_count_is_told_with_the_reason():
    other = ev(ORDER, "o1", "10:30", items=[{"product_id": "p2"}])
    nothing = ev(ORDER, "o2", "10:40", total=5)
    campaign, words = only(plan(REMINDER), [home(), view(), other, nothing])
    differs, missing = last(campaign)["did_not_count"]
    assert differs["why"] == "same_differs"
    assert differs["facts"] == {"values": {"product_id": "p2"}, "wanted": {"product_id": "p1"}}
    assert missing["why"] == "same_missing"
    assert "product_id = 'p2', this match is for product_id = 'p1'" in words
    assert "the event has no product_id" in words


def test_an_event_outside_the_window_of_the_awaited_step_is_told():
    early = ev(ORDER, "o1", "09:59", read="10:30", product_id="p1")
    late = ev(ORDER, "o2", "12:00:00", read="12:00:01", product_id="p1")
    campaign, words = only(plan(REMINDER), [home(), view(), early, late])
    assert [miss["why"] for miss in last(campaign)["did_not_count"]] == ["before_window", "after_window"]
    assert "it happened before 2026-11-21T10:00:00Z, when this step began" in words


def test_a_predicate_over_an_alias_shows_both_values():
    pattern = f"{VIEW} as v then {ORDER}[total > v.price] within 1h"
    campaign, words = only(plan(pattern), [home(), view(price=80), ev(ORDER, "o1", "10:10", total=40)])
    (miss,) = last(campaign)["did_not_count"]
    assert miss["checks"][0]["values"] == {"total": 40, "v.price": 80}
    assert "total > v.price is false: total = 40, v.price = 80" in words


def test_counted_events_are_all_named():
    views = [view(f"v{n}", f"10:0{n}") for n in range(3)]
    campaign, _ = only(plan(f"3+ {VIEW} within 1h then no {ORDER} for 2h"), [home(), *views])
    (step,) = last(campaign)["steps"]
    assert (step["event"]["event_id"], step["with"]) == ("v2", ["v0", "v1"])


# ---------------------------------------------------------------- ended


def test_completed_says_when_it_fired_by_which_command_and_what_the_receipts_say():
    events = [home(), view(), tick("12:00:05")]
    command = last(only(plan(REMINDER), events)[0])["command"]["command_id"]
    receipt = ev("delivery.bounced", "r1", "12:00:07", command_id=command, attempt=1, code="550", reason="refused")
    campaign, words = only(plan(REMINDER), [*events, receipt])
    assert campaign["state"] == "fired"
    assert last(campaign)["ended"]["at"] == "2026-11-21T12:00:05.000Z"
    assert last(campaign)["steps"][1]["event"] is None
    assert [r["status"] for r in last(campaign)["command"]["receipts"]] == ["bounced"]
    assert f"fired at 2026-11-21T12:00:05Z, email command {command}" in words
    assert "delivery: bounced at 2026-11-21T12:00:07Z (550 refused)" in words


def test_completed_by_an_event_names_it_in_the_last_step():
    campaign, _ = only(
        plan(f"{VIEW} then {ORDER} within 1h"), [home(), view(), ev(ORDER, "o1", "10:10"), tick("12:00")]
    )
    assert campaign["state"] == "fired"
    assert [step["event"]["event_id"] for step in last(campaign)["steps"]] == ["v1", "o1"]


def test_cancelled_names_the_event_that_did_it():
    order = ev(ORDER, "o1", "10:30", product_id="p1", total=7)
    campaign, words = only(plan(REMINDER), [home(), view(), order])
    assert (campaign["state"], last(campaign)["ended"]["by"]["event_id"]) == ("cancelled", "o1")
    assert f"cancelled by {ORDER} o1 at 2026-11-21T10:30:00Z" in words


def test_cancelled_at_its_birth_names_the_event_read_before():
    order = ev(ORDER, "o1", "10:30", product_id="p1")
    campaign, _ = only(plan(REMINDER), [home(), order, ev(VIEW, "v1", "10:00", read="10:31", product_id="p1")])
    assert (campaign["state"], last(campaign)["ended"]["by"]["event_id"]) == ("cancelled", "o1")


def test_killed_names_the_event_of_without():
    pattern = f"{VIEW} then {CART} within 1h without {ORDER}[total > 5]"
    campaign, words = only(plan(pattern), [home(), view(), ev(ORDER, "o1", "10:30", total=7)])
    assert (campaign["state"], last(campaign)["ended"]["by"]["event_id"]) == ("killed", "o1")
    assert f"ended by 'without': {ORDER} o1" in words


def test_blocked_by_without_read_before_names_it():
    pattern = f"{SEARCH} then {VIEW} within 1h then {CART} within 1h without {ORDER}"
    events = [ev(SEARCH, "s1", "10:00"), ev(ORDER, "o1", "10:20"), ev(VIEW, "v1", "10:10", read="10:21")]
    campaign, words = only(plan(pattern), [home(), *events, ev(CART, "c1", "10:30")])
    (miss,) = last(campaign)["did_not_count"]
    assert (miss["why"], miss["facts"]["by"]["event_id"]) == ("without", "o1")
    assert "blocked by 'without'" in words


def test_expired_names_the_step_that_did_not_come():
    campaign, words = only(plan(f"{VIEW} then {ORDER} within 1h"), [home(), view(), tick("11:00:05")])
    assert (campaign["state"], last(campaign)["ended"]["due"]) == ("expired", "2026-11-21T11:00:00.000Z")
    assert "its time ran out at 2026-11-21T11:00:00Z" in words


def test_begun_anew_names_the_later_anchor():
    campaign, words = only(plan(REMINDER), [home(), view(), view("v2", "10:30")])
    assert [life["result"] for life in campaign["instances"]] == ["replaced", "waiting"]
    assert campaign["instances"][0]["ended"]["by"]["event_id"] == "v2"
    assert f"begun anew by {VIEW} v2" in words


def test_evicted_is_told():
    campaign, words = only(plan(REMINDER), [home(), *(view(f"v{n}", f"10:0{n}", product=f"p{n}") for n in range(9))])
    assert campaign["instances"][0]["result"] == "evicted"
    assert "pushed out, too many instances lived at once" in words


def test_withdrawn_is_told():
    text = yaml.safe_dump({"campaign": "reminder", "pattern": REMINDER, "send": SEND})
    publish = {"type": "campaign.published", "data": {"campaign": "reminder", "yaml": text, "path": "r.yaml"}}
    withdraw = {"type": "campaign.withdrawn", "data": {"campaign": "reminder"}}
    events = [{**publish, "occurred_at": when("07:00")}, home(), view()]
    told = explain(log(events), None, "m-1")
    assert told["campaigns"][0]["state"] == "waiting"
    told = explain(log([*events, {**withdraw, "occurred_at": when("10:05")}]), None, "m-1")
    assert told["campaigns"][0]["state"] == "withdrawn"
    assert "the campaign was withdrawn" in narrate(told)


# ---------------------------------------------------------------- suppressed


def twice(second="13:00"):
    return [home(), view(), tick("12:00:05"), view("v2", second), tick("23:00")]


def test_cooldown_says_when_it_fired_and_when_it_is_free_again():
    campaign, words = only(plan(REMINDER, cooldown="1d"), twice())
    ended = last(campaign)["ended"]
    assert (campaign["state"], ended["reason"]) == ("suppressed", "cooldown")
    assert ended["cap"] == {
        "fired_at": ["2026-11-21T12:00:05.000Z"],
        "free_again_at": "2026-11-22T12:00:05.000Z",
    }
    assert "cooldown of 1d, fired at 2026-11-21T12:00:05Z, free again at 2026-11-22T12:00:05Z" in words


def test_limit_says_which_firings_fill_it_and_when_one_leaves():
    campaign, words = only(plan(REMINDER, limit="1 per 7d"), twice())
    assert last(campaign)["ended"]["cap"]["free_again_at"] == "2026-11-28T12:00:05.000Z"
    assert "limit reached (1 per 1w), fired at 2026-11-21T12:00:05Z" in words


def test_once_says_when_it_fired():
    campaign, words = only(plan(REMINDER, once=True), twice())
    assert last(campaign)["ended"]["cap"] == {"fired_at": ["2026-11-21T12:00:05.000Z"], "free_again_at": None}
    assert "fires only once, fired at 2026-11-21T12:00:05Z" in words


def test_if_still_shows_the_values_at_the_firing():
    moved = ev("member.updated", "u1", "11:00", city="Tartu")
    campaign, words = only(
        plan(REMINDER, **{"if still": "member.city = 'Riga'"}), [home(), view(), moved, tick("12:01")]
    )
    assert last(campaign)["ended"]["reason"] == "if_still"
    assert "'if still' no longer held: member.city = 'Riga' is false: member.city = 'Tartu'" in words


def test_no_consent_says_for_which_channel():
    revoked = ev("consent.revoked", "c1", "11:00", channel="email")
    campaign, words = only(plan(REMINDER), [home(), view(), revoked, tick("12:01")])
    assert (campaign["state"], last(campaign)["ended"]["reason"]) == ("suppressed", "no_consent")
    assert "no consent for email: member.consent.email is false" in words


def test_no_address_names_the_attribute_and_never_the_address():
    campaign, words = only(plan(REMINDER), [home(email="nonsense"), view(), tick("12:01")])
    assert last(campaign)["ended"]["reason"] == "invalid_address"
    assert "the address cannot be used: member.email" in words
    assert "nonsense" not in words


def test_a_late_event_is_told_beside_the_firing_that_it_could_not_stop():
    order = ev(ORDER, "o1", "11:00", read="12:30", product_id="p1")
    campaign, words = only(plan(REMINDER), [home(), view(), tick("12:00:05"), order])
    assert (campaign["state"], last(campaign)["late"]["event_id"]) == ("fired", "o1")
    assert f"too late to stop it: {ORDER} o1 at 2026-11-21T11:00:00Z, read at 2026-11-21T12:30:00Z" in words


# ---------------------------------------------------------------- never entered


def why_not(campaign):
    assert (campaign["state"], campaign["instances"]) == ("never_entered", [])
    return [miss["why"] for miss in campaign["did_not_start"]]


def test_never_entered_as_the_predicate_is_false():
    pattern = f"{ORDER}[total > 100] then no review.posted for 2d"
    campaign, words = only(plan(pattern), [home(), ev(ORDER, "o1", "10:00", total=40)])
    assert why_not(campaign) == ["predicate"]
    assert f"not started by {ORDER} o1 at 2026-11-21T10:00:00Z: total > 100 is false: total = 40" in words


def test_never_entered_as_a_value_has_the_wrong_type():
    campaign, words = only(plan(f"{VIEW}[color > 100]"), [home(), view(color="140")])
    assert why_not(campaign) == ["predicate"]
    assert "color > 100 is false: color = '140' (text does not compare with a number)" in words


def test_never_entered_as_an_attribute_is_missing():
    campaign, words = only(plan(f"{ORDER}[total > 100]"), [home(), ev(ORDER, "o1", "10:00")])
    assert why_not(campaign) == ["predicate"]
    assert "total > 100 is false: total = missing" in words


def test_never_entered_although_the_router_skipped_the_campaign():
    campaign, words = only(plan(f"{VIEW}[category = 'tv']"), [home(), view(category="radio")])
    assert why_not(campaign) == ["predicate"]
    assert "category = 'tv' is false: category = 'radio'" in words


def test_never_entered_as_where_is_false():
    campaign, words = only(plan(REMINDER, where="not member.staff"), [home(staff=True), view()])
    assert why_not(campaign) == ["where"]
    assert "where: not member.staff is false: member.staff = true" in words


def test_never_entered_as_the_correlation_is_missing():
    campaign, words = only(plan(REMINDER), [home(), ev(VIEW, "v1", "10:00")])
    assert why_not(campaign) == ["same_missing"]
    assert "the event has no product_id" in words


def test_never_entered_as_no_such_event_was_read():
    campaign, words = only(plan(REMINDER), [home()])
    assert (why_not(campaign), campaign["never_read"]) == ([], [VIEW])
    assert f"no event of type {VIEW} was read for this member" in words


def test_never_entered_as_the_event_was_too_old():
    old = ev(VIEW, "v1", "10:00", day=10, product_id="p1") | {"appended_at": when("10:00", 21)}
    campaign, words = only(plan(REMINDER), [home(), old])
    assert why_not(campaign) == ["too_old"]
    assert "too old, it happened more than 7d before it was read" in words


def test_a_duplicate_is_named_as_such():
    orders = [ev(ORDER, "o1", "10:00", total=1), ev(ORDER, "o1", "10:05", total=500)]
    campaign, words = only(plan(f"{ORDER}[total > 100]"), [home(), *orders])
    assert why_not(campaign) == ["predicate", "duplicate"]
    assert "an event with this id was read before" in words
    assert "1 of them read twice" in words


def test_never_entered_as_too_few_events_came():
    campaign, words = only(plan(f"3+ {VIEW} within 1h"), [home(), view(), view("v2", "10:50"), view("v3", "11:30")])
    assert why_not(campaign) == ["gathering"] * 3
    assert [miss["facts"]["have"] for miss in campaign["did_not_start"]] == [1, 2, 2]
    assert "v3 at 2026-11-21T11:30:00Z: 2 of 3 within 1h" in words


def test_never_entered_as_the_sum_is_too_small():
    orders = [ev(ORDER, f"o{n}", f"10:0{n}", total=120) for n in range(2)]
    campaign, words = only(plan(f"sum({ORDER}.total) >= 500 within 30d"), [home(), *orders])
    assert why_not(campaign) == ["gathering"] * 2
    assert "the sum is 240, must be >= 500 within 30d" in words


def test_never_entered_as_one_of_all_is_missing():
    pattern = "all of (profile.completed, app.installed), within 7d"
    campaign, words = only(plan(pattern), [home(), ev("profile.completed", "p1", "10:00")])
    assert why_not(campaign) == ["gathering"]
    assert "1 of 2 within 1w, missing app.installed" in words
    assert "no event of type app.installed was read for this member" in words


def test_a_start_that_the_running_match_does_not_allow_is_told():
    campaign, words = only(plan(REMINDER, on_repeat="keep"), [home(), view(), view("v2", "10:30")])
    (miss,) = campaign["did_not_start"]
    assert (miss["why"], miss["facts"]["anchor"]) == ("repeat", "v1")
    assert "the match begun by v1 still ran (on_repeat: keep)" in words


def test_a_date_that_the_profile_lacks_is_told_and_one_it_has_is_awaited():
    dated = plan("3d before member.birth_date yearly at 10:00")
    campaign, words = only(dated, [home()])
    assert campaign["state"] == "never_entered"
    assert "no date to wait for: member.birth_date is missing or past" in words
    campaign, words = only(dated, [home(birth_date="1990-12-24")])
    assert (campaign["state"], campaign["next_date"]["due"]) == ("waiting", "2026-12-21T10:00:00.000Z")
    assert "fires at 2026-12-21T10:00:05Z" in words


def test_a_date_on_which_where_was_false_is_told():
    dated = plan("on member.birth_date yearly at 10:00", where="member.city = 'Tartu'")
    campaign, words = only(dated, [home(birth_date="1990-11-21"), tick("10:01")])
    assert [miss["why"] for miss in campaign["did_not_start"]] == ["where"]
    assert "member.city = 'Tartu' is false: member.city = 'Riga'" in words


# ---------------------------------------------------------------- the whole


def test_an_unknown_member_is_told_with_how_many_were_seen():
    told = tell(plan(REMINDER), [home(), ev(VIEW, "v9", "10:00", member="m-2")], member="m-3")
    assert (told["known"], told["campaigns"], told["read"]["members"]) == (False, [], 2)
    assert narrate(told) == "member m-3: not found. The log holds 2 records of 2 members, none of this member."


def test_records_of_others_and_ticks_move_the_clock():
    campaign, _ = only(plan(REMINDER), [home(), view(), ev("app.opened", "a", "12:00:05", member="m-2")])
    assert campaign["state"] == "fired"


def test_as_of_a_moment_leaves_out_what_was_read_later():
    events = [home(), view(), ev(ORDER, "o1", "10:30", product_id="p1")]
    told = tell(plan(REMINDER), events, at_ms=instant_ms(when("10:29")))
    assert (told["campaigns"][0]["state"], told["as_of"]) == ("waiting", "2026-11-21T10:00:00.000Z")


def test_one_campaign_of_several_is_told_alone():
    told = tell([plan(REMINDER), plan(f"{ORDER}", name="thanks")], [home(), view()], campaign="thanks")
    assert [campaign["campaign"] for campaign in told["campaigns"]] == ["thanks"]
    assert told["known_campaigns"] == ["reminder", "thanks"]


def test_a_line_that_is_no_event_changes_nothing():
    lines = [json.dumps(event).encode() for event in (home(), view())]
    told = explain(read_log([lines[0], b"{broken", lines[1]]), [plan(REMINDER)], "m-1")
    assert told["campaigns"][0]["state"] == "waiting"


@pytest.mark.parametrize("first", range(0, 300, 50))
def test_explain_tells_every_firing_of_the_engine_and_a_reason_for_every_event(first, monkeypatch):
    monkeypatch.setattr(streams.explain, "LIVES_MAX", 10_000)
    monkeypatch.setattr("streams.trace.MISSES_MAX", 10_000)
    for seed in range(first, first + 50):
        campaigns, events = case(seed)
        loaded = [load_campaign(yaml.safe_dump(campaign), "c.yaml", lenient=True)[0] for campaign in campaigns]
        plans = [Plan(campaign) for campaign in loaded if campaign is not None]
        fired = [f for epoch in replay(log(events), plans) for f in epoch.firings]
        for member in sorted({event["member_id"] for event in events if event.get("member_id")}):
            told = tell(plans, events, member=member)
            assert narrate(told)
            compare(told, [f for f in fired if f.member_id == member], plans, events, f"seed {seed}, {member}")


def compare(told, fired, plans, events, where):
    wanted = Counter((f.campaign, f.instance_id, instant_text(f.fired_at)) for f in fired)
    found: Counter[tuple[str, str, str]] = Counter()
    types = {plan.id: plan.start_types for plan in plans}
    mine = [event for event in events if event.get("member_id") == told["member_id"]]
    for campaign in told["campaigns"]:
        misses = [*campaign["did_not_start"], *(m for life in campaign["instances"] for m in life["did_not_count"])]
        assert not [miss for miss in misses if miss["why"] in ("unknown", "failed")], where
        moved = set()
        for life in campaign["instances"]:
            moved |= {step["event"]["event_id"] for step in life["steps"] if step["event"]}
            sent = life["result"] == "suppressed" and life["ended"]["contact"]
            if life["result"] == "fired" or sent:
                found[campaign["campaign"], life["instance_id"], life["ended"]["at"]] += 1
            if life["result"] in ("cancelled", "killed"):
                assert life["ended"]["by"]["type"], where
        told_of = moved | {miss["event"]["event_id"] for miss in campaign["did_not_start"]}
        starts = [event for event in mine if event["type"] in types[campaign["campaign"]]]
        assert {e["event_id"] for e in starts if e.get("event_id")} <= told_of, where
    assert found == wanted, where


def test_many_events_that_started_nothing_are_counted_by_reason():
    events = [view(f"v{n}", f"10:{n:02d}", price=n) for n in range(30)]
    campaign, words = only(plan(f"{VIEW}[price > 50]"), [home(), *events, ev(VIEW, "v29", "11:00", price=99)])
    assert campaign["did_not_start_counts"] == {"predicate": 30, "duplicate": 1}
    assert len(campaign["did_not_start"]) == 20
    assert "31 events started nothing: 1 read twice, 30 condition false; the last 5:" in words


def test_on_late_cancel_is_told_with_the_late_event():
    order = ev(ORDER, "o1", "11:00", read="12:30", product_id="p1")
    campaign, words = only(plan(REMINDER, on_late="cancel"), [home(), view(), tick("12:00:05"), order])
    assert last(campaign)["late"]["cancel_sent"] is True
    assert "the sender was told to cancel" in words


def test_a_campaign_that_fails_on_an_event_is_told():
    broken = plan(REMINDER, where="member.city = 'Riga'")
    broken.where = lambda data, aliases, profile, now: 1 / 0
    campaign, words = only(broken, [home(), view()])
    assert why_not(campaign) == ["failed"]
    assert "the campaign failed on this event" in words
