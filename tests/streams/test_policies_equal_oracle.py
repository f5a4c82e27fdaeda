"""The arbiter against the oracle: random policies over random logs, every verdict equal; caps never exceeded."""

import json
from collections import Counter

import pytest
import yaml

from streams.policies.load import load_policy
from streams.replay import read_log, replay
from tests.oracle.generate import case
from tests.oracle.policies import Message, cap_of, in_span, matches, member_zone, never_came, verdicts
from tests.oracle.policy_cases import policy_case
from tests.streams.test_engine_equals_oracle import plans_of

SEEDS = 1_000
CHUNK = 100
VERDICTS = {"eligible": "sent", "held": "held", "suppressed": ""}
OWN = {"if_still", "once", "limit", "cooldown"}  # said by the campaign, before the arbiter is asked


def policy_value(policy):
    value, findings = load_policy(yaml.safe_dump(policy), "policies.yaml")
    assert value is not None, findings
    return value


def engine_says(campaigns, policy, events, batch):
    lines = (json.dumps(event).encode() for event in events)
    epochs = replay(read_log(lines), plans_of(campaigns), batch=batch, policy=policy_value(policy))
    said = []
    for decision in (d for epoch in epochs for d in epoch.decisions):
        repeated = decision.reason == "duplicate" and "address" not in decision.inputs
        if decision.outcome in VERDICTS and decision.reason not in OWN and not repeated:
            verdict = VERDICTS[decision.outcome] or decision.reason
            said.append((decision.command_id, decision.decided_at_ms, verdict))
    return sorted(said)


def oracle_says(messages):
    return sorted((m.firing["command_id"], clock, verdict) for m in messages for clock, verdict in m.said)


@pytest.mark.parametrize("first", range(0, SEEDS, CHUNK))
def test_the_arbiter_says_exactly_what_the_oracle_says(first):
    seen: Counter[str] = Counter()
    for seed in range(first, first + CHUNK):
        campaigns, policy, events = policy_case(seed)
        messages = verdicts(campaigns, policy, events)
        wanted = oracle_says(messages)
        assert engine_says(campaigns, policy, events, 1 + seed % 13) == wanted, f"seed {seed}"
        seen.update(verdict for _, _, verdict in wanted)
        assert exceeded(messages, policy) == [], f"seed {seed}"
    missing = {"sent", "held", "frequency_cap", "no_consent", "topic_off", "invalid_address"} - set(seen)
    assert not missing, seen


def test_each_reason_comes_up_among_the_seeds():
    seen = {verdict for seed in range(400) for m in verdicts(*policy_case(seed)) for _, verdict in m.said}
    assert seen >= {
        "sent", "held", "frequency_cap", "priority_lost", "no_consent", "topic_off", "quiet_hours_cancel", "expired",
        "invalid_address", "control", "duplicate", "budget",
    }  # fmt: skip


@pytest.mark.parametrize("seed", range(60))
def test_patterns_of_every_kind_ask_the_arbiter_alike(seed):
    campaigns, events = case(seed)
    if any("send" not in c for c in campaigns) or plans_of(campaigns) is None:
        return
    campaigns = [{**c, "send": {**c["send"], "priority": 10 * n}} for n, c in enumerate(campaigns)]
    profile = {"email": "x@shop.example", "consent": {"email": True}}
    members = sorted({e["member_id"] for e in events if e.get("member_id")})
    at = 1_759_000_000_000
    first = [
        {"type": "member.registered", "member_id": m, "occurred_at": at, "appended_at": at, "data": profile}
        for m in members
    ]
    policy = {"caps": [{"limit": "2 per 1m", "reserve": "1 for priority 10"}, {"limit": "3 per calendar day"}]}
    wanted = oracle_says(verdicts(campaigns, policy, first + events))
    assert engine_says(campaigns, policy, first + events, 1 + seed % 7) == wanted


def exceeded(messages: list[Message], policy) -> list[str]:
    """Count what went out under each cap at each moment, and never came back as not delivered."""
    found = []
    for m in (m for m in messages if m.verdict == "sent" and m.category != "transactional"):
        zone = member_zone(m.past[-1].profile, policy)
        for cap in policy.get("caps", ()):
            count, span, period = cap_of(cap)
            inside = [
                x
                for x in messages
                if x.verdict == "sent"
                and x.member_id == m.member_id
                and x.category != "transactional"
                and not never_came(x, m.past)
                and (x.offset, not x.timers) <= (m.offset, not m.timers)
                and matches(x, cap)
                and in_span(x.clock, m.clock, span, period, zone)
            ]
            if matches(m, cap) and len(inside) > count:
                found.append(f"{cap} at {m.clock}: {len(inside)}")
    return found
