"""What an engine worker holds has a bound that its operator sets, whatever the number of partitions."""

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from agents.batching import HELD_BYTES_MAX
from agents.memory import MIB, EngineMemory, WorkerMemory
from schemas.events import Record
from streams.engine import PartitionEngine
from tables.declare import MemberStores

PARTITIONS, ROUNDS, EACH = 4, 30, 150
NOW = 1_700_000_000_000
SMALL = EngineMemory(2 * MIB, 8 * MIB, 4 * MIB)


@pytest.fixture
def memory() -> WorkerMemory:
    return WorkerMemory(SMALL)


@pytest.fixture
def stores(tmp_path: Path, memory: WorkerMemory) -> Iterator[MemberStores]:
    made = MemberStores(tmp_path, memory.resources)
    yield made
    made.close_all()


def epoch(partition: int, turn: int, first: int) -> list[Record]:
    found = []
    for number in range(EACH):
        data = {"city": f"{partition}-{turn}-{number}" * 40}
        event = {"type": "member.registered", "member_id": f"m{partition}-{turn}-{number}", "occurred_at": NOW + turn}
        found.append(Record(first + number, NOW + turn, None, msgspec.json.encode({**event, "data": data})))
    return found


def test_members_and_caches_of_all_partitions_stay_within_what_was_dealt_out(
    memory: WorkerMemory, stores: MemberStores
) -> None:
    engines = [PartitionEngine(p, stores.open(p), campaigns=[], hot_bytes=memory.hot) for p in range(PARTITIONS)]
    alone = PartitionEngine(9, stores.open(9), campaigns=[])
    seen: list[int] = []
    for turn in range(ROUNDS):
        for partition, engine in enumerate([*engines, alone]):
            done = engine.run(epoch(partition, turn, turn * EACH))
            stores.open(engine.partition).write(done.members, done.meta, done.hints, done.last_offset)
            engine.written(done)
            assert memory.hot.held <= SMALL.members
            seen.append(memory.used(0)["rocksdb"])
    written = PARTITIONS * ROUNDS * EACH * 700
    assert alone._members.held > SMALL.members  # noqa: SLF001 - one partition alone is enough to exceed it
    assert written > SMALL.rocksdb and max(seen) <= 1.5 * SMALL.rocksdb  # a memtable is full before it is flushed


@pytest.mark.parametrize("total", [128, 512, 4_096])
def test_a_total_is_dealt_out_whole_and_no_more_is_fetched_than_ever(total: int) -> None:
    dealt = EngineMemory.of(total)
    assert dealt.members + dealt.rocksdb + dealt.fetched == total * MIB
    assert 4 * MIB <= dealt.fetched <= HELD_BYTES_MAX
