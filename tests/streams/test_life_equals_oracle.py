"""Dates, pauses, drains and stops of the engine against the oracle's: every firing and every word equal."""

import pytest

from tests.oracle.life import life, life_case
from tests.streams.flows.test_journeys_equal_oracle import plans_of, said, spelled
from tests.streams.test_engine_equals_oracle import fired

SEEDS = 400
CHUNK = 100


@pytest.mark.parametrize("first", range(0, SEEDS, CHUNK))
def test_engine_begins_holds_and_ends_exactly_what_the_oracle_says(first):
    compared = count = firing_count = 0
    reasons = set()
    for seed in range(first, first + CHUNK):
        campaigns, events = life_case(seed)
        plans = plans_of(campaigns)
        if plans is None:
            continue
        wanted, firings = life(campaigns, events)
        assert spelled(said(plans, events, batch=1 + seed % 17)) == spelled(wanted), f"seed {seed}"
        assert spelled(fired(plans_of(campaigns), events, 1 + seed % 11)) == spelled(firings), f"seed {seed}"
        compared += 1
        count += len(wanted)
        firing_count += len(firings)
        reasons |= {line["reason"] for line in wanted}
    assert compared > CHUNK * 0.8, "the loader refuses too much of what the generator writes"
    assert count > CHUNK
    assert firing_count > CHUNK // 2
    assert {"paused", "stopped", "expired", "accrue", "tag", "segment"} <= reasons
