"""Messages that wait for the morning, journeys in the contest, and receipts that give a slot back."""

import pytest

from tests.helpers.runs import HOUR, event, tick
from tests.streams.policies.judging import (
    NIGHT,
    ORDER,
    SENT,
    T,
    campaign,
    decisions,
    flow,
    member,
    orders,
    policies,
    reasons,
)


def test_a_message_in_quiet_hours_waits_on_the_members_wall_and_then_goes():
    policy = policies(quiet_hours=NIGHT)
    here, at = member(timezone="Europe/Moscow"), T + 19 * HOUR  # 22:00 in Moscow
    free = T + 30 * HOUR  # 09:00 the next day
    said = decisions([campaign()], policy, here, event(ORDER, at, "o"), tick(free - 1), tick(free))
    assert [(d.outcome, d.reason, d.decided_at_ms) for d in said] == [
        ("held", "quiet_hours", at),
        ("eligible", SENT, free),
    ]
    assert said[0].inputs["until_ms"] == free
    assert said[0].command_id == said[1].command_id


def test_a_held_message_is_asked_for_again_with_everything():
    policy = policies(quiet_hours=NIGHT)
    at, free = T + 22 * HOUR, T + 33 * HOUR
    off = event("consent.revoked", at + 1, "k", channel="email")
    assert reasons([campaign()], policy, member(), event(ORDER, at, "o"), off, tick(free)) == [
        "quiet_hours",
        "no_consent",
    ]
    moved = event("member.updated", at + 1, "u", timezone="America/New_York")  # where it is 04:00 then
    said = reasons([campaign()], policy, member(), event(ORDER, at, "o"), moved, tick(free), tick(free + 5 * HOUR))
    assert said == ["quiet_hours", "quiet_hours", SENT]


def test_what_would_wait_beyond_its_lifetime_is_not_held():
    policy = policies(quiet_hours=NIGHT)
    said = decisions([campaign(lifetime="2h")], policy, member(), event(ORDER, T + 22 * HOUR, "o"))
    assert [(d.outcome, d.reason) for d in said] == [("suppressed", "expired")]


def test_held_messages_compete_by_priority_when_the_night_is_over():
    policy = policies(quiet_hours=NIGHT, caps=[{"limit": "1 per 1d"}])
    plans = [campaign("a", priority=10), campaign("b", priority=90)]
    night = event(ORDER, T + 22 * HOUR, "o")
    said = {d.campaign: d.reason for d in decisions(plans, policy, member(), night, tick(T + 33 * HOUR))}
    assert said == {"a": "priority_lost", "b": SENT}


def test_journeys_and_plain_campaigns_compete_in_one_contest():
    policy = policies(caps=[{"limit": "2 per 1d"}])
    plans = [flow("f", priority=50), campaign("a", priority=60), campaign("z", priority=20)]
    said = [
        (d.campaign, d.inputs.get("step"), d.reason)
        for d in decisions(plans, policy, member(), *orders(1))
        if d.outcome in ("eligible", "suppressed")
    ]
    assert said == [
        ("a", None, SENT),
        ("f", "first", SENT),
        ("f", "second", "priority_lost"),
        ("z", None, "priority_lost"),
    ]


def test_a_journey_goes_on_after_its_message_lost_its_slot():
    policy = policies(caps=[{"limit": "1 per 1d"}])
    said = decisions([flow("f", 50, second=50)], policy, member(), *orders(1))
    assert [d.reason for d in said] == ["flow", SENT, "frequency_cap", "end"]


@pytest.mark.parametrize(
    ("kinds", "second"),
    [
        (["delivery.delivered", "delivery.expired"], "frequency_cap"),
        (["delivery.expired", "delivery.delivered"], "frequency_cap"),
        (["delivery.expired", "delivery.delivered", "delivery.expired"], "frequency_cap"),
        (["delivery.undelivered"], SENT),
        (["delivery.bounced", "engagement.clicked"], "frequency_cap"),
        (["engagement.opened", "delivery.failed"], "frequency_cap"),
    ],
)
def test_what_came_keeps_its_slot_in_whatever_order_it_is_told(kinds, second):
    policy = policies(caps=[{"limit": "1 per 1d"}])
    first = decisions([campaign()], policy, member(), *orders(1))[0]
    told = [event(kind, T + HOUR + n, f"x{n}", command_id=first.command_id) for n, kind in enumerate(kinds, 1)]
    assert reasons([campaign()], policy, member(), *orders(1), *told, *orders(2)[1:]) == [SENT, second]


def test_a_receipt_that_names_no_command_of_ours_changes_nothing():
    policy = policies(caps=[{"limit": "1 per 1d"}])
    told = [
        event("delivery.failed", T + HOUR + n, f"x{n}", command_id=name) for n, name in enumerate(["", "no-hex"], 1)
    ]
    assert reasons([campaign()], policy, member(), *orders(1), *told, *orders(2)[1:]) == [SENT, "frequency_cap"]
