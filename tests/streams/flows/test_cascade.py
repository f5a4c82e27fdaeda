"""Cascades: one message over channels in order, until one delivers it."""

import pytest
import yaml

from schemas.commands import CancelMessage, SendMessage
from tests.streams.flows.runs import MINUTE, START, Shop

PUSHING = {"push_token": "t", "consent": {"email": True, "sms": True, "push": True, "viber": True}}
FLOW = """flow:
- cascade: [push 10m a, viber 3h b, sms c]
  name: news
- wait: 2h
- branch:
  - if: outcome.news = 'push'
    then: [{exit: by_push}]
  - if: outcome.news = 'sms'
    then: [{exit: by_sms}]
"""


def shop(flow=FLOW, head=None, **profile):
    found = Shop()
    found.publish(-2, flow, **({"head": head} if head else {}))
    return found.join(-1, **{**PUSHING, **profile}).put(0, "cart.item.added", product_id="p")


def sent_by(found, channel):
    return next(c for c in found.commands if isinstance(c, SendMessage) and c.channel == channel)


def receipt(found, minute, channel, type_="delivery.delivered", **more):
    command = sent_by(found, channel)
    data = {"command_id": command.command_id, "instance_id": command.instance_id, "step": command.step, **more}
    return found.put(minute, type_, **data)


def outcome(found):
    return [d.inputs["variant"] for d in found.decisions if (d.outcome, d.reason) == ("assigned", "cascade")]


def test_next_leg_follows_when_nothing_was_delivered_within_the_time_of_the_one_before():
    found = shop().tick(10).tick(10 + 5 / 60).tick(190).tick(200)
    assert found.sent() == [("news.push", 0), ("news.viber", 10.08), ("news.sms", 200)]


def test_leg_that_is_delivered_in_time_ends_the_cascade():
    found = receipt(shop(), 9, "push").tick(300)
    assert found.sent() == [("news.push", 0)]
    assert outcome(found) == ["push"]
    assert found.said()[-1].startswith("exited by_push")


@pytest.mark.parametrize("word", ["undelivered", "bounced", "rejected", "expired", "failed", "cancelled"])
def test_failed_leg_is_followed_at_once(word):
    found = receipt(shop(), 1, "push", f"delivery.{word}")
    assert found.sent() == [("news.push", 0), ("news.viber", 1)]


@pytest.mark.parametrize(
    ("kind", "more"),
    [
        ("delivery.failed", {"reason": "outcome_unknown"}),
        ("delivery.unknown", {}),
        ("delivery.sent", {}),
        ("delivery.deferred", {}),
    ],
)
def test_what_says_nothing_of_the_delivery_changes_nothing(kind, more):
    found = receipt(shop(), 1, "push", kind, **more).tick(9)
    assert found.sent() == [("news.push", 0)]
    assert found.tick(11).sent()[1:] == [("news.viber", 11)]


def test_leg_that_may_not_be_sent_is_passed_over_at_once():
    found = shop(push_token="", consent={"viber": False, "sms": True, "push": True})
    assert found.sent() == [("news.sms", 0)]
    assert [line for line in found.said() if line.startswith("suppressed")] == [
        "suppressed no_address news.push @0",
        "suppressed no_consent news.viber @0",
    ]


def test_cascade_of_which_no_leg_may_be_sent_ends_with_the_last_reason():
    found = shop(consent={"push": False, "viber": False, "sms": False})
    assert found.sent() == []
    assert outcome(found) == ["no_consent"]


def test_last_leg_without_a_time_is_waited_for_as_long_as_its_message_is_of_use():
    flow = "flow:\n- cascade: {legs: [push 10m, sms], template: a, lifetime: 1h}\n  name: news\n- wait: 1m\n"
    found = shop(flow).tick(11).tick(70.9)
    assert outcome(found) == []
    assert outcome(found.tick(71)) == ["timeout"]


def test_late_delivery_of_an_earlier_leg_ends_the_cascade_and_calls_the_later_message_back():
    found = shop().tick(11)
    receipt(found, 12, "push")
    cancels = [c for c in found.commands if isinstance(c, CancelMessage)]
    assert [c.command_id for c in cancels] == [sent_by(found, "viber").command_id]
    assert cancels[0].reason == "late_delivery"
    assert outcome(found) == ["push"]
    found.tick(500)
    assert [c.step for c in found.commands if isinstance(c, SendMessage)] == ["news.push", "news.viber"]


def test_double_delivery_is_told_once_even_when_the_journey_has_gone_on():
    found = shop().tick(11)
    receipt(found, 12, "push")
    receipt(found, 13, "viber")
    receipt(found, 14, "viber")
    noted = [d for d in found.decisions if d.outcome == "noted"]
    assert [(d.reason, d.inputs["channels"]) for d in noted] == [("double_delivery", ["push", "viber"])]
    assert found.counts["decisions.noted.double_delivery"] == 1


def test_receipt_told_twice_or_after_delivery_changes_nothing():
    found = receipt(shop(), 1, "push")
    receipt(found, 2, "push")
    receipt(found, 3, "push", "delivery.failed")
    receipt(found, 4, "push", "engagement.opened")
    assert found.sent() == [("news.push", 0)]
    assert outcome(found) == ["push"]


def test_delivery_after_a_failure_is_believed():
    found = receipt(shop(), 1, "push", "delivery.expired")
    receipt(found, 2, "push")
    assert outcome(found) == ["push"]


def test_failure_of_an_earlier_leg_changes_nothing():
    found = shop().tick(11)
    receipt(found, 12, "push", "delivery.expired").tick(100)
    assert [step for step, _ in found.sent()] == ["news.push", "news.viber"]


def test_who_opens_a_message_has_got_it():
    found = receipt(shop(), 5, "push", "engagement.opened").tick(60)
    assert found.sent() == [("news.push", 0)]


def test_receipt_of_another_journey_changes_nothing():
    found = shop()
    found.put(1, "delivery.delivered", command_id="f" * 32, instance_id="e" * 32, step="news.push").tick(11)
    assert [step for step, _ in found.sent()] == ["news.push", "news.viber"]


def test_message_of_a_leg_is_not_sent_any_more_when_the_next_one_is():
    found = shop().tick(11).tick(200)
    after = [(c.expires_at_ms - START) / MINUTE for c in found.commands]
    assert after == [10, 11 + 180, 200 + 1440]


def test_restart_between_legs_changes_nothing():
    found = shop().tick(11)
    found.restart()
    receipt(found, 12, "push")
    found.restart()
    assert outcome(found) == ["push"]


def test_goal_ends_a_cascade_at_once():
    found = shop(FLOW + "goal: order.created\n").put(1, "order.created", items=[{"product_id": "p"}]).tick(300)
    assert found.sent() == [("news.push", 0)]


def test_member_view_tells_at_which_leg_a_cascade_stands():
    stands = shop().tick(11).journeys()[0]
    assert (stands["step"], stands["waits_for"]) == ("news.viber", "the viber message to be delivered")
    assert stands["outcomes"] == {"news.push": "sent", "news.viber": "sent"}


@pytest.mark.parametrize(
    ("edited", "ends"), [("viber 3h b, sms c", None), ("whatsapp 1h b, push c", "edited"), (None, "edited")]
)
def test_an_edit_that_migrates_takes_a_journey_on_at_the_leg_of_the_same_channel(edited, ends):
    found = shop().tick(11)  # stands at news.viber
    step = f"- cascade: [{edited}]\n  name: news\n" if edited else "- wait: 1h\n  name: news\n"
    found.publish(12, f"on_edit: migrate\nflow:\n{step}- exit: other\n").tick(191)
    exits = [d.reason for d in found.decisions if d.outcome == "exited"]
    assert exits == ([ends] if ends else [])
    assert [step for step, _ in found.sent()] == ["news.push", "news.viber", *([] if ends else ["news.sms"])]


def test_two_cascades_of_a_flow_hear_of_their_own_messages():
    flow = (
        "flow:\n- cascade: [push 10m a, sms 10m b]\n  name: one\n- cascade: [push 10m a, sms 10m b]\n  name: two\n"
        "- wait: 1d\n"
    )
    found = receipt(shop(flow), 1, "push")
    assert [step for step, _ in found.sent()] == ["one.push", "two.push"]
    receipt(found, 2, "push").tick(12)  # of the first again
    assert [step for step, _ in found.sent()] == ["one.push", "two.push", "two.sms"]


# ---------------------------------------------------------------- under policies


def capped(*caps, **keys):
    found = Shop(arbiter=None)
    policy = yaml.safe_dump({"caps": [*caps], **keys})
    found.put(-3, "policy.published", None, yaml=policy, path="p.yaml", partitions=1)
    return found.publish(-2, FLOW).join(-1, **PUSHING)


def ordered(found, minute=0):
    return found.put(minute, "cart.item.added", product_id=f"p{minute}")


def reasons(found, channel):
    return [d.reason for d in found.decisions if d.channel == channel]


def test_a_cap_counts_a_cascade_once():
    found = ordered(capped({"limit": "1 per 1d"})).tick(11).tick(200)
    assert [step for step, _ in found.sent()] == ["news.push", "news.viber", "news.sms"]
    ordered(found, 201)
    assert reasons(found, "push") == ["sent_to_delivery", "frequency_cap"]


def test_a_cap_counts_a_cascade_at_the_time_of_its_newest_leg():
    found = ordered(capped({"limit": "1 per 4h"})).tick(11).tick(200)
    ordered(found, 241)  # four hours after the push, not after the text message
    assert reasons(found, "push") == ["sent_to_delivery", "frequency_cap"]
    ordered(found, 200 + 240)
    assert reasons(found, "push")[2:] == ["sent_to_delivery"]


def test_a_cap_of_a_channel_counts_the_leg_of_that_channel():
    found = ordered(capped({"limit": "1 per 1d", "channel": "sms"})).tick(11).tick(200)
    ordered(found, 201).tick(212).tick(400)
    assert reasons(found, "push") == ["sent_to_delivery", "sent_to_delivery"]
    assert reasons(found, "sms") == ["sent_to_delivery", "frequency_cap"]


def test_a_leg_that_failed_gives_its_slot_back_and_the_one_that_came_keeps_its_own():
    found = ordered(capped({"limit": "1 per 1d"})).tick(11)
    receipt(found, 12, "push")  # late: the viber message is called back
    receipt(found, 13, "viber", "delivery.cancelled")
    ordered(found, 14)
    assert reasons(found, "push") == ["sent_to_delivery", "frequency_cap"]


def test_a_cascade_of_which_every_leg_failed_counts_for_nothing():
    found = ordered(capped({"limit": "1 per 1d"}))
    for minute, channel in enumerate(["push", "viber", "sms"], 1):
        receipt(found, minute, channel, "delivery.rejected")
    assert outcome(found) == ["rejected"]
    ordered(found, 5)
    assert reasons(found, "push") == ["sent_to_delivery", "sent_to_delivery"]


def test_more_legs_than_a_cap_counts_push_no_other_message_out_of_its_memory():
    found = capped({"limit": "2 per 1d"})
    ordered(found).tick(11).tick(200)
    ordered(found, 201).tick(212).tick(400)
    ordered(found, 401)
    assert reasons(found, "push") == ["sent_to_delivery", "sent_to_delivery", "frequency_cap"]


def test_a_held_leg_has_its_whole_time_once_it_may_go():
    # 10:00 UTC; push may go again at 12:00
    hours = [{"from": "09:00", "to": "12:00", "channels": ["push"]}]
    found = ordered(capped(quiet_hours=hours)).tick(60)
    stands = found.journeys()[0]
    assert (stands["step"], stands["waits_for"], stands["held"]) == ("news.push", "the push message may go", True)
    found.tick(120).tick(129).tick(130.1)
    assert found.sent() == [("news.push", 120), ("news.viber", 130.1)]


def test_delivery_of_an_earlier_leg_ends_a_cascade_whose_next_leg_is_held():
    hours = [{"from": "10:05", "to": "12:00", "channels": ["viber"]}]
    found = ordered(capped(quiet_hours=hours)).tick(11)
    assert found.journeys()[0]["held"]
    receipt(found, 12, "push").tick(300)
    assert found.sent() == [("news.push", 0)]
    assert outcome(found) == ["push"]
