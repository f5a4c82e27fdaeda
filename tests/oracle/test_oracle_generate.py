"""The generators: repeatable, within the language, and sharp enough that one wrong edge shows."""

import json

from tests.oracle import evaluate
from tests.oracle.evaluate import firings
from tests.oracle.generate import case


def test_a_seed_always_gives_the_same_case_and_plain_json():
    for seed in range(30):
        campaigns, events = case(seed)
        assert (campaigns, events) == case(seed)
        assert json.loads(json.dumps([campaigns, events])) == [campaigns, events]


def test_every_case_is_in_the_language_and_most_fire():
    counts = [len(firings(*case(seed))) for seed in range(200)]
    assert sum(n > 0 for n in counts) > 100


def test_a_firing_never_comes_before_due_plus_lateness_and_ids_are_distinct():
    for seed in range(150):
        fired = firings(*case(seed))
        assert all(x["fired_at"] >= x["due"] + 5_000 for x in fired if x["due"] is not None)
        assert len({x["command_id"] for x in fired}) == len(fired)


def test_a_tick_twice_changes_nothing():
    for seed in range(60):
        campaigns, events = case(seed)
        named = [x if "event_id" in x else x | {"event_id": f"n{n}"} for n, x in enumerate(events)]
        doubled = [y for x in named for y in ([x, x] if x["type"] == "tick" else [x])]
        assert firings(campaigns, doubled) == firings(campaigns, named)


def test_a_greatest_age_one_millisecond_less_is_noticed(monkeypatch):
    right = [firings(*case(seed)) for seed in range(120)]
    monkeypatch.setattr(evaluate, "MAX_AGE_MS", evaluate.MAX_AGE_MS - 1)
    assert right != [firings(*case(seed)) for seed in range(120)]
