"""The simulator: few seeds here, thousands by `python -m tidings simulate` in CI."""

import json
import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
import structlog
from click.testing import CliRunner

from schemas.errors import OperatorError
from schemas.events import Record
from streams.campaigns import load_campaign
from streams.engine import PartitionEngine
from streams.patterns.plan import Plan
from tables.store import MemoryStore
from tests.oracle import crowd, evaluate, exceeded, flows, generate
from tests.simulation.mutations import MUTATIONS, Mutation, applied
from tidings.cli.simulate import read_seeds, simulate
from tidings.simulation.checks import spoken
from tidings.simulation.faults import DEFAULT, KINDS, read_kinds
from tidings.simulation.run import run_seed
from tidings.simulation.workload import json_bytes, spell, with_append_times

pytestmark = pytest.mark.simulation

SEEDS = Path(__file__).with_name("seeds")
ORACLE: Any = SimpleNamespace(
    case=generate.case, firings=evaluate.firings, journeys=crowd.crowd, exceeded=exceeded.exceeded
)
FLOWS: Any = SimpleNamespace(
    case=flows.mixed_case, firings=evaluate.firings, journeys=crowd.crowd, exceeded=exceeded.exceeded
)
FOUND = json.loads((SEEDS / "found.json").read_text())
RED = json.loads((SEEDS / "mutations.json").read_text())
SEARCHED = 400  # seeds tried when those that were red no longer are


@pytest.fixture(autouse=True)
def quiet() -> Any:
    with structlog.testing.capture_logs():
        yield


@pytest.mark.parametrize("first", range(1, 81, 20))
def test_no_seed_differs_from_oracle_replay_and_invariants(first: int) -> None:
    for seed in range(first, first + 20):
        assert run_seed(seed, FLOWS).violations == [], f"python -m tidings simulate --seeds {seed} --verbose"


def test_the_seeds_have_journeys_to_judge() -> None:
    assert sum(run_seed(seed, FLOWS).counts["journeys"] for seed in range(1, 31)) > 30


def test_the_seeds_have_bounds_of_policies_to_count() -> None:
    assert sum(run_seed(seed, FLOWS).counts["bounds"] for seed in (10, 11, 14)) > 30


@pytest.mark.parametrize("known", FOUND, ids=lambda known: str(known["seed"]))
def test_seed_that_once_failed_stays_green(known: dict[str, Any]) -> None:
    assert run_seed(known["seed"], ORACLE, read_kinds(known["faults"])).violations == [], known["found"]


@pytest.mark.parametrize("kind", sorted(DEFAULT))
def test_each_kind_of_trouble_alone_changes_nothing(kind: str) -> None:
    for seed in range(500, 506):
        assert run_seed(seed, ORACLE, frozenset({kind})).violations == []


def test_a_seed_is_one_run() -> None:
    first, second = (run_seed(7, ORACLE, telling=True) for _ in range(2))
    assert first.story == second.story
    assert first.story


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.name)
def test_without_this_guard_the_simulation_is_red(mutation: Mutation) -> None:
    known = RED.get(mutation.name, {}).get("seeds", [])
    kinds = read_kinds(RED.get(mutation.name, {}).get("faults", "all,-heartbeats"))
    with applied(mutation):
        assert any(_is_red(seed, kinds) for seed in (*known, *range(1, SEARCHED))), mutation.guard


def _is_red(seed: int, kinds: frozenset[str]) -> bool:
    try:
        return bool(run_seed(seed, ORACLE, kinds).violations)
    except Exception:  # a guard taken away may also break the run itself
        return True


def _log(seed: int) -> tuple[list[Plan], list[Record]]:
    campaigns, events = flows.mixed_case(seed)
    loaded = [load_campaign(spell(campaign), "c.yaml", lenient=True)[0] for campaign in campaigns]
    records = []
    for offset, event in enumerate(with_append_times(events)):
        a = event.pop("appended_at")
        records.append(Record(offset, a, None, json_bytes(event)))
    return [Plan(campaign) for campaign in loaded if campaign is not None], records


def _run(plans: list[Plan], records: list[Record], cuts: list[int], *, restarts: bool, cache: int) -> Any:
    """Run a log cut at places, maybe with a new engine on the store after each cut."""
    store, said = MemoryStore(), []
    engine = PartitionEngine(0, store, campaigns=plans, hot_bytes=cache)
    for start, end in zip([0, *cuts], [*cuts, len(records)], strict=True):
        epoch = engine.run(records[start:end])
        said += [value for values in spoken(epoch).values() for value in values]
        store.write(epoch.members, epoch.meta, epoch.hints, None)
        engine.written(epoch)
        if restarts:
            engine = PartitionEngine(0, store, campaigns=plans, hot_bytes=cache)
    return sorted(said), store.members, store.metas, store.hints


@pytest.mark.parametrize("seed", range(1, 41))
def test_where_batches_end_and_engines_restart_changes_no_byte(seed: int) -> None:
    plans, records = _log(seed)
    rng = random.Random(seed)
    whole = _run(plans, records, [], restarts=False, cache=1 << 28)
    for _ in range(3):
        cuts = sorted(rng.sample(range(1, len(records)), k=rng.randrange(len(records) - 1)))
        restarts, cache = rng.random() < 0.5, rng.choice([0, 2_000, 1 << 28])
        assert _run(plans, records, cuts, restarts=restarts, cache=cache) == whole


@pytest.mark.parametrize("seed", range(1, 21))
def test_timers_that_are_let_go_change_no_byte(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    plans, records = _log(seed)
    rng = random.Random(seed)
    whole = _run(plans, records, [], restarts=False, cache=1 << 28)
    monkeypatch.setattr("streams.engine.HINTS_PAGE", 2)
    for cache in (0, 2_000, 1 << 28):
        cuts = sorted(rng.sample(range(1, len(records)), k=rng.randrange(len(records) // 2, len(records))))
        assert _run(plans, records, cuts, restarts=False, cache=cache) == whole


@pytest.mark.parametrize("seed", range(1, 41))
def test_ticks_that_move_no_clock_change_no_firing(seed: int) -> None:
    plans, records = _log(seed)
    rng = random.Random(seed)
    named = [_with_id(record) for record in records]
    ticked: list[Record] = []
    for record in named:
        ticked.append(Record(len(ticked), record.append_ms, None, record.value))
        for _ in range(rng.choice([0, 0, 1, 3])):
            value = json_bytes({"type": "tick", "member_id": None, "occurred_at": record.append_ms})
            ticked.append(Record(len(ticked), record.append_ms - rng.choice([0, 1, 5_000]), None, value))
    assert _ids(plans, ticked) == _ids(plans, named)


def _with_id(record: Record) -> Record:
    event = msgspec.json.decode(record.value or b"{}")
    event.setdefault("event_id", f"events/0/{record.offset}")
    return Record(record.offset, record.append_ms, None, json_bytes(event))


def _ids(plans: list[Plan], records: list[Record]) -> list[str]:
    epoch = PartitionEngine(0, MemoryStore(), campaigns=plans).run(records)
    return sorted(firing.instance_id for firing in epoch.firings)


def test_seeds_are_read_as_written() -> None:
    assert read_seeds("3,7..9") == [3, 7, 8, 9]
    with pytest.raises(OperatorError, match="got '9..x'"):
        read_seeds("9..x")
    with pytest.raises(OperatorError, match="empty"):
        read_seeds("9..3")


def test_faults_are_read_as_written() -> None:
    assert read_kinds("all,-pause") == DEFAULT - {"pause"}
    assert read_kinds("none") == frozenset()
    assert frozenset(KINDS) > DEFAULT
    with pytest.raises(OperatorError, match="got 'flood'"):
        read_kinds("flood")


def test_command_says_how_many_differ() -> None:
    result = CliRunner().invoke(simulate, ["--seeds", "1..2", "--processes", "1"])
    assert result.exit_code == 0, result.output
    assert "0 differing" in result.output
