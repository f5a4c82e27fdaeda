"""Journeys of the engine against the oracle's: random flows over random logs, every word equal."""

import json

import pytest
import yaml

from schemas.commands import CancelMessage, SendMessage
from schemas.ids import command_id
from schemas.member_commands import AccruePoints
from streams.campaigns import load_campaign
from streams.patterns.plan import Plan
from streams.replay import read_log, replay
from tests.oracle.cascade_cases import cascade_case
from tests.oracle.flows import CHANNELS, flow_case
from tests.oracle.journeys import journeys

SEEDS = 600
CHUNK = 50


def plans_of(campaigns):
    plans = []
    for campaign in campaigns:
        loaded, _ = load_campaign(yaml.safe_dump(campaign, sort_keys=False), "c.yaml", lenient=True)
        if loaded is None:
            return None
        plans.append(Plan(loaded))
    return plans


def told_by(command):
    if isinstance(command, AccruePoints):
        return {"points": command.points, "expires": command.expires_at_ms}
    return {"add": command.add, "remove": command.remove}


def said(plans, events, batch):
    """What the engine's journeys say, in the oracle's words."""
    lines = []
    for epoch in replay(read_log([json.dumps(event).encode() for event in events]), plans, batch=batch):
        assert not epoch.dead_letters
        back = [c for c in epoch.commands if isinstance(c, CancelMessage)]
        sent = {command.command_id: command for command in epoch.commands if isinstance(command, SendMessage)}
        told = {command.command_id: told_by(command) for command in epoch.member_commands}
        for d in epoch.decisions:
            if not d.inputs.get("step"):
                continue
            line = {"instance": d.instance_id, "outcome": d.outcome, "reason": d.reason, "at": d.decided_at_ms}
            line |= {"due": d.due_ms, "by": d.completed_by}
            if d.outcome in ("eligible", "suppressed"):
                line |= {"step": d.inputs["step"], "variant": d.inputs.get("variant", ""), "command": d.command_id}
            if d.outcome == "eligible":
                command = sent.pop(d.command_id)
                line |= {"template": command.template, "data": command.data}
            if d.outcome == "issued":
                line |= {"step": d.inputs["step"], "command": d.command_id, "told": told.pop(d.command_id)}
            if d.outcome == "assigned":
                line |= {"step": d.inputs["step"], "variant": d.inputs["variant"]}
            if d.reason == "cascade":
                legs = {command_id(d.instance_id, f"{d.inputs['step']}.{channel}") for channel in CHANNELS}
                line["recalled"] = sorted(c.command_id for c in back if c.command_id in legs)
            if d.outcome == "noted":
                line["step"] = d.inputs["step"]
            lines.append(line)
        assert not sent
        assert not told
    return lines


def spelled(lines):
    return sorted(json.dumps(line, sort_keys=True) for line in lines)


@pytest.mark.parametrize("first", range(0, SEEDS, CHUNK))
def test_engine_says_exactly_what_the_oracle_asks_for(first):
    compared = count = 0
    endings = set()
    for seed in range(first, first + CHUNK):
        campaigns, events = flow_case(seed)
        plans = plans_of(campaigns)
        if plans is None:
            continue
        wanted, _ = journeys(campaigns, events)
        assert spelled(said(plans, events, batch=1 + seed % 17)) == spelled(wanted), f"seed {seed}"
        compared += 1
        count += len(wanted)
        endings |= {line["reason"] for line in wanted if line["outcome"] == "exited"}
    assert compared > CHUNK * 0.8, "the loader refuses too much of what the generator writes"
    assert count > CHUNK
    assert {"goal", "exit_on"} <= endings


@pytest.mark.parametrize("seed", range(40))
def test_where_a_batch_ends_changes_nothing(seed):
    campaigns, events = flow_case(seed)
    plans = plans_of(campaigns)
    if plans is not None:
        assert said(plans, events, batch=1) == said(plans, events, batch=10_000)


@pytest.mark.parametrize("first", range(0, SEEDS, 4 * CHUNK))
def test_engine_runs_cascades_exactly_as_the_oracle_does(first):
    compared = 0
    ends, words = set(), set()
    for seed in range(first, first + 4 * CHUNK):
        campaigns, events = cascade_case(seed)
        plans = plans_of(campaigns)
        if plans is None:
            continue
        wanted, _ = journeys(campaigns, events)
        assert spelled(said(plans, events, batch=1 + seed % 17)) == spelled(wanted), f"seed {seed}"
        compared += 1
        ends |= {line["variant"] for line in wanted if line["reason"] == "cascade"}
        words |= {line["reason"] for line in wanted} | {"recalled" for line in wanted if line.get("recalled")}
    assert compared > 4 * CHUNK * 0.8, "the loader refuses too much of what the generator writes"
    assert {"timeout", "no_consent", "email", "sms", "viber", "push"} <= ends
    assert {"double_delivery", "recalled"} <= words


@pytest.mark.parametrize("seed", range(40))
def test_where_a_batch_ends_changes_no_cascade(seed):
    campaigns, events = cascade_case(seed)
    plans = plans_of(campaigns)
    if plans is not None:
        assert said(plans, events, batch=1) == said(plans, events, batch=10_000)
