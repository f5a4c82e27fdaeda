"""The engine against the oracle: random campaigns over random logs, every firing equal, field for field."""

import json

import msgspec
import pytest
import yaml

from streams.campaigns import load_campaign
from streams.patterns.plan import Plan
from streams.replay import read_log, replay
from tests.oracle.evaluate import firings
from tests.oracle.generate import case

SEEDS = 1_200
CHUNK = 100


def plans_of(campaigns):
    plans = []
    for campaign in campaigns:
        loaded, _ = load_campaign(yaml.safe_dump(campaign), "c.yaml", lenient=True)
        if loaded is None:
            return None
        plans.append(Plan(loaded))
    return plans


def spelled(found):
    return sorted(json.dumps(firing, sort_keys=True) for firing in found)


def fired(plans, events, batch):
    lines = [json.dumps(event).encode() for event in events]
    return [msgspec.to_builtins(f) for epoch in replay(read_log(lines), plans, batch=batch) for f in epoch.firings]


@pytest.mark.parametrize("first", range(0, SEEDS, CHUNK))
def test_engine_fires_exactly_what_the_oracle_asks_for(first):
    compared = firing_count = 0
    for seed in range(first, first + CHUNK):
        campaigns, events = case(seed)
        plans = plans_of(campaigns)
        if plans is None:
            continue
        wanted = firings(campaigns, events)
        assert spelled(fired(plans, events, batch=1 + seed % 17)) == spelled(wanted), f"seed {seed}"
        compared += 1
        firing_count += len(wanted)
    assert compared > CHUNK * 0.8, "the loader refuses too much of what the generator writes"
    assert firing_count > CHUNK


@pytest.mark.parametrize("seed", range(40))
def test_where_a_batch_ends_changes_nothing(seed):
    campaigns, events = case(seed)
    plans = plans_of(campaigns)
    if plans is not None:
        assert fired(plans, events, batch=1) == fired(plans, events, batch=10_000)
