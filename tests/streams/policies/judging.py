"""Campaigns, policies and events in few words, and what becomes of them."""

import msgspec
import yaml

from streams.policies.load import load_policy
from streams.replay import read_log, replay
from tests.helpers.runs import HOUR, MINUTE, event, plan

T = 1_772_409_600_000  # Monday 2026-03-02T00:00Z
ORDER, VIEW = "order.created", "catalog.product.viewed"


def campaign(name="c", pattern=ORDER, **send):
    made = {"campaign": name, "pattern": pattern, "send": {"channel": "email", "template": "t", **send}}
    return plan(yaml.safe_dump(made))


def policies(**keys):
    policy, findings = load_policy(yaml.safe_dump(keys), "policies.yaml")
    assert policy is not None, findings
    return policy


def member(at=T, who="m1", **data):
    profile = {"email": f"{who}@shop.example", "phone": "7900", "consent": {"email": True, "sms": True}, **data}
    return event("member.registered", at, f"r-{who}", who, **profile)


def orders(count, step=MINUTE, start=T + HOUR, who="m1"):
    return [event(ORDER, start + n * step, f"{who}-o{n}", who) for n in range(count)]


def json_lines(events):
    return [msgspec.json.encode(e) for e in events]


def decisions(plans, policy, *events, batch=3):
    return [
        d for epoch in replay(read_log(json_lines(events)), plans, batch=batch, policy=policy) for d in epoch.decisions
    ]


def reasons(plans, policy, *events):
    return [d.reason for d in decisions(plans, policy, *events)]


SENT = "sent_to_delivery"
NIGHT = [{"from": "21:00", "to": "09:00"}]


def flow(name, priority, second=10):
    def send(rank):
        return {"channel": "email", "template": "t", "priority": rank}

    steps = [{"name": "first", "send": send(priority)}, {"name": "second", "send": send(second)}]
    return plan(yaml.safe_dump({"campaign": name, "pattern": ORDER, "flow": steps}))


def bounce(at, kind="hard", **data):
    return event("delivery.bounced", at, f"b{at}", channel="email", kind=kind, command_id="00" * 16, **data)
