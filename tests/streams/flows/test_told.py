"""Journeys as people see them: `explain` in JSON and in words, and cases files."""

import json

from streams.campaigns import load_campaign
from streams.case_runs import check_case
from streams.cases import read_cases
from streams.explain import explain
from streams.narrate import narrate
from streams.patterns.plan import Plan
from streams.policies.load import load_policy
from streams.replay import read_log
from tests.streams.flows.runs import MINUTE, PROFILE, START

TEXT = """campaign: cart
pattern: cart.item.added as c, same product_id
exit_on: order.created
flow:
- split: {one: {}, other: {weight: 1}}
  name: ways
- send: {channel: email, template: a, data: {price: c.price}}
  name: first
- wait: {until: engagement.clicked, timeout: 1h}
  name: click
- send: {channel: sms, template: b}
  name: second
"""


def plan():
    campaign, findings = load_campaign(TEXT, "c.yaml")
    assert campaign is not None, findings
    return Plan(campaign)


def event(minute, type_, **data):
    at = START + minute * MINUTE
    return json.dumps(
        {"event_id": f"e{minute}", "type": type_, "member_id": "m", "occurred_at": at, "data": data}
    ).encode()


def told(*more):
    begin = [event(0, "member.registered", **PROFILE), event(1, "cart.item.added", product_id="p", price=3)]
    return explain(read_log([*begin, *more]), [plan()], "m")


def life(explained):
    return explained["campaigns"][0]["instances"][-1]


def test_explain_says_where_a_journey_stands_and_until_when():
    explained = told()
    assert explained["campaigns"][0]["state"] == "waiting"
    stands = life(explained)["journey"]["stands_at"]
    assert (stands["step"], stands["waits_for"]) == ("click", "engagement.clicked")
    assert (stands["until"], stands["decided_at"]) == ("2026-03-02T11:01:00.000Z", "2026-03-02T11:01:05.000Z")
    words = narrate(explained)
    assert "waits for engagement.clicked: until 2026-03-02T11:01:00Z; goes on at 2026-03-02T11:01:05Z" in words


def test_explain_tells_each_message_with_its_receipts():
    first = life(told())["journey"]["steps"][1]
    journey = life(told(event(2, "delivery.delivered", command_id=first["command_id"])))["journey"]
    assert [(step["step"], step["outcome"]) for step in journey["steps"]] == [
        ("ways", "assigned"),
        ("first", "eligible"),
    ]
    assert [receipt["status"] for receipt in journey["steps"][1]["receipts"]] == ["delivered"]


def test_explain_says_why_a_journey_ended():
    explained = told(event(5, "order.created", items=[{"product_id": "p"}]))
    assert explained["campaigns"][0]["state"] == "fired"
    end = life(explained)["journey"]["steps"][-1]
    assert (end["step"], end["outcome"], end["reason"], end["by"]) == ("click", "exited", "exit_on", "e5")
    assert "step click, 2026-03-02T10:05:00Z: exited, exit_on, because of e5" in narrate(explained)


def test_explain_tells_two_matches_of_one_record_apart():
    both = event(3, "cart.item.added", items=[{"product_id": "x"}, {"product_id": "y"}])
    lives = told(both)["campaigns"][0]["instances"]
    assert [life["correlation"] for life in lives] == [{"product_id": "p"}, {"product_id": "x"}, {"product_id": "y"}]
    assert [len(life["journey"]["steps"]) for life in lives] == [2, 2, 2]


CASCADE = """campaign: cart
pattern: cart.item.added as c, same product_id
flow:
- cascade: [push 10m a, sms 1h b]
  name: news
- wait: 1d
"""


def cascaded(*more, policy=None):
    campaign, findings = load_campaign(CASCADE, "c.yaml")
    assert campaign is not None, findings
    profile = {**PROFILE, "push_token": "t", "consent": {"push": True, "sms": True}, "timezone": "Europe/Moscow"}
    begin = [event(0, "member.registered", **profile), event(1, "cart.item.added", product_id="p")]
    return explain(read_log([*begin, *more]), [Plan(campaign)], "m", policy=policy)


def about(explained, number, minute, kind, **more):
    sent = [step for step in life(explained)["journey"]["steps"] if step["outcome"] == "eligible"]
    return event(minute, kind, command_id=sent[number]["command_id"], **more)


def test_explain_says_at_which_leg_a_cascade_stands():
    explained = cascaded(event(12, "app.opened"))
    stands = life(explained)["journey"]["stands_at"]
    assert (stands["step"], stands["waits_for"]) == ("news.sms", "the sms message to be delivered")
    assert life(explained)["journey"]["outcomes"] == {"news.push": "sent", "news.sms": "sent"}
    assert "stands at step news.sms since 2026-03-02T10:11:55Z, waits for the sms message to be" in narrate(explained)


def test_explain_tells_what_ended_a_cascade_and_that_both_legs_were_delivered():
    both = cascaded(event(12, "app.opened"))
    late = [about(both, 0, 13, "delivery.delivered"), about(both, 1, 14, "engagement.opened", machine=True)]
    words = narrate(cascaded(event(12, "app.opened"), *late))
    assert "step news, 2026-03-02T10:13:00Z: the cascade ends: 'push', because of e13" in words
    assert "delivery: delivered at 2026-03-02T10:13:00Z" in words
    assert "engagement: opened by a machine at 2026-03-02T10:14:00Z" in words
    assert "step news, 2026-03-02T10:14:00Z: delivered by push and sms, because of e14" in words


def test_explain_tells_of_each_leg_why_it_was_not_sent_or_is_held():
    policy, findings = load_policy(
        "caps: [{limit: 1 per 1d, channel: push}]\nquiet_hours: [{from: '13:05', to: '14:00', channels: [sms]}]\n", "p"
    )
    assert policy is not None, findings
    words = narrate(cascaded(event(6, "cart.item.added", product_id="q"), policy=policy))
    assert "step news.push, 2026-03-02T10:06:00Z: did not send: frequency cap" in words
    assert "1 of 1 sent at 2026-03-02T10:01:00Z (1 per 1d, channel push), free again at 2026-03-03T10:01:00Z" in words
    assert "step news.sms, 2026-03-02T10:06:00Z: held: quiet_hours" in words
    assert "quiet 13:05-14:00, it was 2026-03-02T13:06:00+03:00 in Europe/Moscow, free at 2026-03-02T11:00:00Z" in words


CASE = """- name: a case
  events:
    - {at: 10:00, type: cart.item.added, id: c1, product_id: p1, price: 3}
    - {at: 10:30, type: order.created, id: o1, items: [{product_id: p1}]}
  until: 12:00
  expect:
    - {fires: 10:00, anchor: c1, step: first, data: {price: 3}}
"""


def differences(more):
    cases, findings = read_cases(CASE + more, "c.cases.yaml")
    assert not findings
    return [finding.message for finding in check_case(cases[0], plan(), "c.cases.yaml")]


def test_a_case_names_steps_and_ends():
    assert differences("    - {fires: 10:30, decision: exited, reason: exit_on, completed_by: o1}\n") == []


def test_a_case_need_not_name_the_end():
    assert differences("") == []


def test_a_message_that_did_not_come_is_missed_with_what_came_instead():
    (message,) = differences("    - {fires: 11:00, anchor: c1, step: second}\n")
    assert message.endswith(
        "expected 'cart' to fire at step second at 11:00 for c1, but it left its flow at 10:30 (exit_on)"
    )


def test_an_end_for_another_reason_differs():
    assert "(exit_on)" in differences("    - {decision: exited, reason: goal}\n")[0]
