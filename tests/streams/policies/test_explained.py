"""What the arbiter said, told by explain: each reason with what it was taken on."""

import pytest
import yaml

from schemas.events import Record
from streams.explain import explain
from streams.narrate import narrate
from streams.replay import read_log
from tests.helpers.runs import HOUR, event, tick
from tests.streams.policies.judging import (
    NIGHT,
    ORDER,
    T,
    bounce,
    campaign,
    flow,
    json_lines,
    member,
    orders,
    policies,
)


def told(policy, *events, plans=None):
    said = explain(read_log(json_lines(events)), plans or [campaign()], "m1", policy=policy)
    return said, narrate(said)


@pytest.mark.parametrize(
    ("keys", "events", "words"),
    [
        (
            {"caps": [{"limit": "1 per 1d"}]},
            [member(), *orders(2)],
            "frequency cap; 1 of 1 sent at 2026-03-02T01:00:00Z (1 per 1d), free again at 2026-03-03T01:00:00Z",
        ),
        (
            {"quiet_hours": [{"from": "21:00", "to": "09:00", "then": "cancel"}]},
            [member(timezone="Asia/Kathmandu"), event(ORDER, T + 17 * HOUR, "o")],
            "quiet hours; quiet 21:00-09:00, it was 2026-03-02T22:45:00+05:45 in Asia/Kathmandu",
        ),
        (
            {"control_group": {"percent": 99.99, "salt": "s"}},
            [member(), *orders(1)],
            "the member is in the control group; bucket",
        ),
        (
            {},
            [member(), bounce(T + 1), *orders(1)],
            "the address cannot be used: member.email, hard bounce at 2026-03-02",
        ),
        (
            {},
            [member(), event("consent.revoked", T + 1, "k", channel="email", topic="marketing"), *orders(1)],
            "the member turned the topic off: email, topic 'marketing'",
        ),
    ],
)
def test_a_suppression_is_told_with_its_facts(keys, events, words):
    _, text = told(policies(timezone="UTC", **keys), *events)
    assert words in text


def test_a_lost_contest_names_the_slots():
    plans = [campaign("a", priority=10), campaign("b", priority=90)]
    _, text = told(policies(caps=[{"limit": "1 per 1d"}]), member(), *orders(1), plans=plans)
    assert "a message of higher priority has the slot; 1 of 1 sent" in text


def test_what_one_members_log_cannot_tell_is_named():
    said, text = told(policies(budgets=[{"limit": "9 in all"}], dedupe={"address": "1d"}), member(), *orders(1))
    assert said["policies"]["not_asked"] == ["budgets", "dedupe"]
    assert "not asked here, for it takes all members' records: budgets, dedupe" in text


def test_policies_published_on_the_log_are_told_too():
    published = {
        "type": "policy.published", "member_id": None, "occurred_at": T, "appended_at": T,
        "data": {"yaml": yaml.safe_dump({"caps": [{"limit": "1 per 1d"}]}), "path": "p", "partitions": 1},
    }  # fmt: skip
    text = yaml.safe_dump({"campaign": "c", "pattern": ORDER, "send": {"channel": "email", "template": "t"}})
    begun = {**published, "type": "campaign.published", "data": {"campaign": "c", "yaml": text, "path": "c"}}
    log = list(read_log(json_lines([begun, published, member(), *orders(2)])))
    assert all(isinstance(record, Record) for record, _ in log)
    assert "frequency cap" in narrate(explain(log, None, "m1"))


def test_a_held_message_is_told_with_its_hours_and_then_with_its_caps():
    policy = policies(quiet_hours=NIGHT, caps=[{"limit": "1 per 1d"}])
    night = [member(timezone="Europe/Moscow"), event(ORDER, T + 19 * HOUR, "o")]
    _, text = told(policy, *night)
    assert "held: quiet_hours" in text
    assert "quiet 21:00-09:00, it was 2026-03-02T22:00:00+03:00 in Europe/Moscow, free at 2026-03-03T06:00:00Z" in text
    _, text = told(policy, *night, tick(T + 30 * HOUR))
    assert "0 of 1 sent (1 per 1d)" in text


def test_a_message_of_a_journey_is_told_with_its_caps():
    _, text = told(policies(caps=[{"limit": "1 per 1d"}]), member(), *orders(1), plans=[flow("f", 50, second=50)])
    assert "0 of 1 sent (1 per 1d)" in text
    assert "did not send: frequency cap" in text
    assert "1 of 1 sent at 2026-03-02T01:00:00Z (1 per 1d), free again at 2026-03-03T01:00:00Z" in text
