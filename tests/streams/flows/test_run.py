"""Journeys on the engine: how they wait, end at once, are held, edited and bounded; each rule by itself."""

import pytest

from schemas.ids import command_id, instance_id
from streams.policies.contact import judge
from streams.policies.verdict import Held, Suppressed
from streams.schedule import next_wake
from tables.codec import decode_member, encode_member
from tables.member_state import JOURNEYS_MAX
from tests.streams.flows.runs import MINUTE, START, Shop

SEND = "{channel: email, template: a}"
TWO = f"flow:\n- send: {SEND}\n  name: first\n- wait: 10m\n- send: {SEND}\n  name: second\n"


def shop(flow, **more):
    return Shop(**more).publish(0, flow).join()


def test_a_wait_counts_from_the_message_before_and_is_judged_at_its_lateness():
    run = shop(TWO).put(1, "cart.item.added", product_id="p")
    run.tick(11 + 4 / 60)
    assert run.sent() == [("first", 1)]
    run.tick(11 + 5 / 60)
    assert run.sent() == [("first", 1), ("second", 11.08)]
    assert run.said()[-1] == "completed end second @11.0833"
    assert run.journeys() == []


def test_messages_are_never_nearer_than_the_wait_between_them_after_a_gap_in_the_log():
    run = shop(TWO + f"- wait: 10m\n- send: {SEND}\n").put(1, "cart.item.added", product_id="p")
    run.tick(300).tick(301).tick(310).tick(311)
    assert run.sent() == [("first", 1), ("second", 300), ("send", 310)]


def test_an_order_of_this_product_ends_this_journey_at_once_and_no_other():
    run = shop(TWO + "exit_on: order.created\n")
    run.put(1, "cart.item.added", product_id="p").put(2, "cart.item.added", product_id="q")
    run.put(3, "order.created", items=[{"product_id": "p"}])
    assert run.said()[-1] == "exited exit_on wait @3"
    assert [journey["correlation"] for journey in run.journeys()] == ["q"]
    run.tick(20)
    assert run.sent() == [("first", 1), ("first", 2), ("second", 20)]


def test_any_key_ends_all_journeys_of_the_member():
    run = shop(TWO + "exit_on: {event: consent.revoked, key: any}\n")
    run.put(1, "cart.item.added", product_id="p").put(2, "cart.item.added", product_id="q")
    run.put(3, "consent.revoked", channel="email")
    assert run.journeys() == []


def test_goal_is_asked_before_exit_on_and_before_the_wait():
    flow = "flow:\n- wait: {until: 'order.created[total > 1]', timeout: 1d}\n- exit: waited\n"
    run = shop(flow + "exit_on: 'order.created[total > 2]'\ngoal: 'order.created[total > 3]'\n")
    for minute, total in ((1, 2), (2, 3), (3, 4)):
        run.put(minute, "cart.item.added", product_id="p")
        run.put(minute + 0.5, "order.created", total=total, items=[{"product_id": "p"}])
    assert [word for word in run.said() if word.startswith("exited")] == [
        "exited waited exit @1.5", "exited exit_on wait @2.5", "exited goal wait @3.5",
    ]  # fmt: skip


def test_an_event_from_before_the_match_ends_nothing_one_read_late_from_after_it_does():
    run = shop(TWO + "exit_on: order.created\n").put(1, "cart.item.added", product_id="p")
    run.put(2, "order.created", late_s=61, items=[{"product_id": "p"}])
    assert len(run.journeys()) == 1
    run.put(11 + 4 / 60, "order.created", late_s=600, items=[{"product_id": "p"}])
    assert run.journeys() == []


def test_the_record_that_begins_a_journey_does_not_move_it():
    run = shop(f"flow:\n- wait: {{until: cart.item.added, timeout: 1d}}\n- send: {SEND}\n")
    run.put(1, "cart.item.added", product_id="p")
    assert run.sent() == []
    run.put(2, "cart.item.added", product_id="p")
    assert run.sent() == [("send", 2)]
    assert len(run.journeys()) == 1  # the second one began another


def test_only_the_receipt_of_its_own_message_is_waited_for():
    flow = f"flow:\n- send: {SEND}\n- wait: {{until: engagement.opened as o, timeout: 1d}}\n- exit: opened\n"
    run = shop(flow).put(1, "cart.item.added", product_id="p").put(2, "cart.item.added", product_id="q")
    run.put(3, "engagement.opened", instance_id=run.commands[1].instance_id, command_id=run.commands[1].command_id)
    assert [journey["correlation"] for journey in run.journeys()] == ["p"]


def test_a_condition_sees_the_match_the_awaited_event_and_earlier_outcomes():
    flow = """flow:
- wait: {until: review.posted as r, timeout: 5m}
  name: review
- branch:
    - if: outcome.review = 'happened' and r.rating >= 4 and c.price > 10 and member.vip and price > 10
      then: [{exit: praised}]
    - if: outcome.review = 'timeout'
      then: [{exit: silent}]
    - else: [{exit: poor}]
"""
    run = shop(flow).put(0.5, "member.updated", vip=True)
    for minute, price in ((1, 20), (2, 5)):
        run.put(minute, "cart.item.added", product_id="p", price=price)
        run.put(minute + 0.5, "review.posted", product_id="p", rating=5)
    run.put(3, "cart.item.added", product_id="p", price=20).tick(9)
    assert [word.split()[1] for word in run.said() if word.startswith("exited")] == ["praised", "poor", "silent"]


def test_a_split_and_its_variants_keep_a_member_on_one_way_and_record_it():
    split = "- split: {a: {then: [{exit: a}]}, b: {weight: 3}}"
    flow = f"flow:\n{split}\n- send: {SEND}\n  variants: {{x: one, y: two}}\n"
    run = Shop().publish(0, flow)
    ways: dict[str, set[str]] = {}
    for number in range(200):
        member = f"m{number}"
        run.put(1, "member.registered", member, email="a@x.example", consent={"email": True})
        for _ in range(2):
            run.put(1, "cart.item.added", member, product_id=f"p{run.offset}")
    for decision in run.decisions:
        if decision.outcome == "assigned":
            ways.setdefault(decision.member_id, set()).add(decision.inputs["variant"])
    assert all(len(taken) == 1 for taken in ways.values())
    share = sum(taken == {"b"} for taken in ways.values()) / len(ways)
    assert 0.6 < share < 0.9
    assert {command.template for command in run.commands} == {"one", "two"}
    first = run.commands[0]
    assert first.command_id == command_id(first.instance_id, "send", "x" if first.template == "one" else "y")


def test_a_member_without_consent_goes_on_without_the_message():
    run = shop(TWO).put(0.5, "consent.revoked", channel="email").put(1, "cart.item.added", product_id="p")
    assert run.said()[1:] == ["suppressed no_consent first @1"]
    run.put(2, "consent.granted", channel="email").tick(12)
    assert run.sent() == [("second", 12)]


# ---------------------------------------------------------------- held


def until(minute, then=judge):
    """An arbiter that holds every message until a minute, and asks another one afterwards."""

    def held(request, state, clock_ms):
        until_ms = START + round(minute * MINUTE)
        return Held(until_ms, "quiet_hours", {"zone": "UTC"}) if clock_ms < until_ms else then(request, state, clock_ms)

    return held


def test_a_held_message_stands_and_leaves_on_the_clock():
    run = shop(TWO, arbiter=until(5)).put(1, "cart.item.added", product_id="p")
    assert run.said() == ["entered flow - @1", "held quiet_hours first @1"]
    assert run.journeys()[0]["held"]
    run.restart()
    run.tick(4.99).tick(5)
    assert run.sent() == [("first", 5)]
    run.tick(14.99)
    assert run.sent() == [("first", 5)]
    run.tick(15)
    assert run.sent() == [("first", 5), ("second", 15)]


def test_an_exit_ends_a_held_message_too():
    run = shop(TWO + "exit_on: order.created\n", arbiter=until(5)).put(1, "cart.item.added", product_id="p")
    run.put(2, "order.created", items=[{"product_id": "p"}]).tick(6)
    assert run.sent() == []


def test_a_plain_send_is_held_as_a_flow_of_one_and_keeps_its_id():
    run = shop(f"send: {SEND}\n", arbiter=until(5)).put(1, "cart.item.added", product_id="p").tick(5)
    assert run.said() == ["held quiet_hours - @1", "eligible sent_to_delivery - @5"]
    (command,) = run.commands
    named = instance_id("cart", "m", "p", command.anchor)
    assert command.command_id == command_id(named, "send") == run.decisions[0].command_id
    assert command.expires_at_ms == START + MINUTE + 86_400_000
    assert run.journeys() == []


def test_what_would_be_held_beyond_its_lifetime_is_suppressed():
    flow = "flow:\n- send: {channel: email, template: a, lifetime: 4m}\n"
    assert shop(flow, arbiter=until(5)).put(1, "cart.item.added", product_id="p").said()[1] == (
        "suppressed expired send @1"
    )
    plain = "send: {channel: email, template: a, lifetime: 4m}\n"
    assert shop(plain, arbiter=until(5)).put(1, "cart.item.added", product_id="p").said() == ["suppressed expired - @1"]


def test_a_late_event_ends_a_plain_send_that_is_still_held():
    head = "campaign: cart\npattern: cart.item.added then no order.created for 1m\non_late: cancel\n"
    run = Shop(arbiter=until(60)).publish(0, f"send: {SEND}\n", head).join()
    run.put(1, "cart.item.added").tick(3).put(4, "order.created", late_s=150).tick(61)
    assert "exited late_event - @4" in [word.replace(" send ", " - ") for word in run.said()]
    assert run.commands == []


def test_the_arbiters_inputs_are_in_the_decision():
    def no(request, state, clock_ms):
        return Suppressed("frequency_cap", {"asked": [request.step, request.variant, request.channel]})

    run = shop(TWO, arbiter=no).put(1, "cart.item.added", product_id="p")
    assert run.decisions[1].inputs == {"asked": ["first", "", "email"], "step": "first"}


# ---------------------------------------------------------------- versions


EDITED = TWO.replace("wait: 10m", "wait: 1h").replace("template: a", "template: b")


def test_a_journey_stays_on_its_version_while_it_drains():
    run = shop(TWO).put(1, "cart.item.added", product_id="p").publish(2, EDITED).tick(12)
    assert [command.template for command in run.commands] == ["a", "a"]


def test_an_edit_may_drop_the_journeys_that_run():
    run = shop(TWO).put(1, "cart.item.added", product_id="p").publish(2, EDITED + "on_edit: drop\n")
    run.put(3, "cart.item.added", product_id="q").tick(12).tick(70)
    assert "exited edited wait @3" in run.said()
    assert [(command.template, command.step) for command in run.commands] == [
        ("a", "first"),
        ("b", "first"),
        ("b", "second"),
    ]


@pytest.mark.parametrize("restarts", [False, True])
def test_an_edit_may_move_the_journeys_that_run_to_the_steps_of_the_same_name(restarts):
    run = shop(TWO).put(1, "cart.item.added", product_id="p").publish(2, EDITED + "on_edit: migrate\n")
    if restarts:
        run.restart()
    run.tick(12)  # the wait it stands in ends when it was to end
    assert [command.template for command in run.commands] == ["a", "b"]
    assert run.commands[1].version == run.decisions[-1].version != run.commands[0].version


def test_a_journey_whose_step_is_gone_ends_with_the_edit():
    flow = f"flow:\n- send: {SEND}\n  name: first\n- wait: 10m\n  name: other\non_edit: migrate\n"
    run = shop(TWO).put(1, "cart.item.added", product_id="p").publish(2, flow).tick(12)
    assert run.said()[-1] == "exited edited wait @12"


def test_moves_follow_each_other_through_several_edits():
    third = EDITED.replace("template: b", "template: c")
    run = shop(TWO).put(1, "cart.item.added", product_id="p")
    run.publish(2, EDITED + "on_edit: migrate\n").publish(3, third + "on_edit: migrate\n").tick(12)
    assert [command.template for command in run.commands] == ["a", "c"]


def test_withdrawing_ends_journeys_and_publishing_again_does_not_bring_them_back():
    run = shop(TWO).put(1, "cart.item.added", product_id="p").withdraw(2).publish(3, TWO).tick(12)
    assert run.said()[-1] == "exited withdrawn wait @12"
    assert run.sent() == [("first", 1)]


# ---------------------------------------------------------------- bounds, bytes, failures


def test_one_journey_more_than_a_member_may_have_is_not_begun():
    run = shop(TWO)
    for number in range(JOURNEYS_MAX + 1):
        run.put(1, "cart.item.added", product_id=f"p{number}")
    assert len(run.journeys()) == JOURNEYS_MAX
    assert run.said()[-2:] == ["entered flow - @1", "suppressed journeys_full - @1"]
    assert len(run.sent()) == JOURNEYS_MAX


def test_a_journey_is_the_same_after_it_was_stored():
    flow = "flow:\n- split: {a: {}, b: {}}\n- send: {channel: email, template: t, data: {p: c.price, q: quantity}}\n"
    run = shop(
        flow + "- wait: {until: review.posted as r, timeout: 5m}\n- branch: [{if: r.rating > 1, then: [{exit: x}]}]\n"
    )
    run.put(1, "cart.item.added", product_id="p", price=3, quantity=2)
    member = run.engine._members["m"]
    raw = encode_member(member, member.hint)
    (before,), (after,) = member.journeys, decode_member("m", raw).journeys
    stored = [name for name in before.__slots__ if name != "packed"]
    assert [getattr(before, name) for name in stored] == [getattr(after, name) for name in stored]
    assert encode_member(decode_member("m", raw), member.hint) == raw


def test_a_record_without_journeys_is_as_builds_before_wrote_it():
    run = shop(TWO)
    before = run.store.members[b"m"]
    run.put(1, "cart.item.added", product_id="p").tick(12)
    member = decode_member("m", run.store.members[b"m"])
    assert not member.journeys
    assert decode_member("m", before).journeys == ()


def test_an_arbiter_that_raises_ends_the_journey_and_stops_nothing():
    def broken(request, state, clock_ms):
        if request.step == "second":
            raise ZeroDivisionError
        return judge(request, state, clock_ms)

    run = shop(TWO, arbiter=broken).put(1, "cart.item.added", product_id="p").tick(12)
    assert run.said()[-1] == "exited failed second @12"
    assert [letter.reason for letter in run.letters] == ["campaign-failed"]
    assert run.journeys() == []


def test_the_view_says_where_a_journey_stands():
    run = shop(TWO).put(1, "cart.item.added", product_id="p")
    (journey,) = run.journeys()
    assert (journey["step"], journey["waits_for"], journey["outcomes"]) == ("wait", "10m", {"first": "sent"})
    assert journey["until"] == START + 11 * MINUTE
    assert journey["decided_at"] == START + 11 * MINUTE + 5_000


def test_bytes_that_are_kept_follow_every_move():
    run = shop(TWO).put(1, "cart.item.added", product_id="p")
    for minute in (2, 5, 11.2):
        run.put(minute, "cart.item.added", product_id=f"p{minute}").tick(minute + 0.1)
        member = run.engine._members["m"]
        kept, wake = encode_member(member, member.hint), next_wake(member)
        for journey in member.journeys:
            journey.packed = None
        member.journeys_moved()
        assert (encode_member(member, member.hint), next_wake(member)) == (kept, wake)
