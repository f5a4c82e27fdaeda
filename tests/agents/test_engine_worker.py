"""The engine worker on a broker that speaks Kafka's protocol: what goes in, what must come out."""

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest
from confluent_kafka import Consumer, Producer, TopicPartition

from agents.topics import APP_ID, CHANGELOG, COMMANDS, DEAD_LETTERS, DECISIONS, EVENTS
from agents.wiring import EngineApp, run_engine_app
from schemas.codec import decode_command
from schemas.errors import StateError
from tables.rocks import RocksStore
from tests.agents.counting_engine import BAD, META, CountingEngine
from tests.agents.engine_bench import (
    PARTITIONS,
    SMALL,
    TOPICS,
    applied,
    command_ids,
    expected_ids,
    in_thread,
    produce,
    read_all,
    start_broker,
    until,
    worker,
)
from tidings.brokers.memory import MemoryBroker


@pytest.fixture
def broker() -> Iterator[MemoryBroker]:
    with start_broker() as running:
        yield running


@asynccontextmanager
async def running(built: EngineApp) -> AsyncIterator[EngineApp]:
    await built.app.start()
    try:
        yield built
    finally:
        await built.app.stop()


def applies(built: EngineApp, count: int) -> bool:
    return applied(built) == count


def events(count: int, members: int = 40, seed: int = 7) -> list[tuple[str, bytes]]:
    chance = random.Random(seed)
    return [(f"m{chance.randrange(members)}", b"{}") for _ in range(count)]


def folded_changelog(bootstrap: str) -> dict[bytes, bytes]:
    fold: dict[tuple[int, bytes], bytes | None] = {}
    for message in sorted(read_all(bootstrap, CHANGELOG), key=lambda m: (m.partition(), m.offset())):
        fold[message.partition(), message.key()] = message.value()
    return {key: value for (_, key), value in fold.items() if value is not None and key != META}


def stored_members(data_dir: Path) -> dict[bytes, bytes]:
    found: dict[bytes, bytes] = {}
    for partition in range(PARTITIONS):
        store = RocksStore(data_dir / "engine" / f"members-{partition}.db", SMALL)
        members, _, hints = store.dump()
        found |= members
        assert sorted(hints) == sorted((msgspec.msgpack.decode(v)[1], k) for k, v in members.items())
        store.close()
    return found


async def test_every_event_is_applied_once_and_every_command_leaves_once(broker: MemoryBroker, tmp_path: Path) -> None:
    log = events(3_000)
    async with running(worker(broker.bootstrap, tmp_path)) as built:
        await in_thread(produce, broker.bootstrap, log)
        await until(lambda: applied(built) == len(log), "all events applied")
        assert built.metrics.records == len(log)
        assert built.metrics.epochs < len(log) / 10
        assert built.worker.recovered
    ids = await in_thread(command_ids, broker.bootstrap)
    assert sorted(ids) == sorted(expected_ids(log))
    assert len(await in_thread(read_all, broker.bootstrap, DECISIONS)) == len(ids)
    assert not built.worker.recovered
    assert stored_members(tmp_path) == folded_changelog(broker.bootstrap)


async def test_command_is_keyed_by_member_and_lies_where_a_murmur2_producer_puts_that_key(
    broker: MemoryBroker, tmp_path: Path
) -> None:
    log = events(200, members=12)
    async with running(worker(broker.bootstrap, tmp_path)) as built:
        await in_thread(produce, broker.bootstrap, log)
        await until(lambda: applied(built) == len(log), "all events applied")
    place = {m.key(): m.partition() for m in await in_thread(read_all, broker.bootstrap, EVENTS)}
    for message in await in_thread(read_all, broker.bootstrap, COMMANDS):
        assert decode_command(message.value()).member_id.encode() == message.key()
        assert message.partition() == place[message.key()]


async def test_unusable_record_becomes_a_dead_letter_and_its_neighbours_are_applied(
    broker: MemoryBroker, tmp_path: Path
) -> None:
    log = [("a", b"{}"), ("a", BAD), ("a", b"{}"), ("a", b"{}")]
    async with running(worker(broker.bootstrap, tmp_path)) as built:
        await in_thread(produce, broker.bootstrap, log)
        await until(lambda: applied(built) == len(log), "all events applied")
        assert built.metrics.dead_letters == {"not-json": 1}
    (letter,) = await in_thread(read_all, broker.bootstrap, DEAD_LETTERS)
    assert (letter.key(), letter.value()) == (b"a", BAD)
    headers = {name: value.decode() for name, value in letter.headers()}
    assert headers.keys() == {"topic", "partition", "offset", "reason", "message", "failed_at_ms"}
    assert (headers["topic"], headers["offset"], headers["reason"]) == ("events", "1", "not-json")
    assert set(await in_thread(command_ids, broker.bootstrap)) == expected_ids(log)


async def test_the_loop_has_a_turn_between_the_openings_of_any_two_partitions(
    broker: MemoryBroker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One store, or one engine with its timers, may take a second; eight in a row would look like a frozen process."""
    turns = [0]
    opened: list[int] = []
    made: list[int] = []

    async def count() -> None:
        while True:
            turns[0] += 1
            await asyncio.sleep(0)

    def noting(real: Callable[..., None], at: list[int]) -> Callable[..., None]:
        def call(*given: Any) -> None:
            at.append(turns[0])
            real(*given)

        return call

    monkeypatch.setattr(RocksStore, "_open", noting(RocksStore._open, opened))
    monkeypatch.setattr(CountingEngine, "__init__", noting(CountingEngine.__init__, made))
    counting = asyncio.create_task(count())
    async with running(worker(broker.bootstrap, tmp_path)) as built:
        await until(lambda: built.worker.recovered, "recovered")
    counting.cancel()
    assert len(opened) == len(made) == PARTITIONS
    assert len(set(opened)) == len(set(made)) == PARTITIONS


async def test_lone_event_is_not_held_back(broker: MemoryBroker, tmp_path: Path) -> None:
    async with running(worker(broker.bootstrap, tmp_path)) as built:
        for number in range(9):
            await in_thread(produce, broker.bootstrap, [("a", b"{}")])
            await until(partial(applies, built, number + 1), "event applied")
        latency = built.metrics.command_latency_ms
        assert latency.count == 3
        assert latency.total / 3 < 500


async def test_clean_restart_replays_nothing_and_continues(broker: MemoryBroker, tmp_path: Path) -> None:
    log = events(1_000)
    async with running(worker(broker.bootstrap, tmp_path)) as built:
        await in_thread(produce, broker.bootstrap, log[:600])
        await until(lambda: applied(built) == 600, "first part applied")
    async with running(worker(broker.bootstrap, tmp_path)) as built:
        await in_thread(produce, broker.bootstrap, log[600:])
        await until(lambda: applied(built) == 1_000, "second part applied")
        assert built.metrics.records == 400
        assert built.metrics.batches <= 400
    ids = await in_thread(command_ids, broker.bootstrap)
    assert sorted(ids) == sorted(expected_ids(log))


async def test_empty_data_directory_is_rebuilt_from_the_changelog(broker: MemoryBroker, tmp_path: Path) -> None:
    log = events(1_000)
    async with running(worker(broker.bootstrap, tmp_path / "one")) as built:
        await in_thread(produce, broker.bootstrap, log[:600])
        await until(lambda: applied(built) == 600, "first part applied")
    async with running(worker(broker.bootstrap, tmp_path / "two")) as built:
        assert applied(built) == 600
        await in_thread(produce, broker.bootstrap, log[600:])
        await until(lambda: applied(built) == 1_000, "second part applied")
    assert sorted(await in_thread(command_ids, broker.bootstrap)) == sorted(expected_ids(log))
    assert stored_members(tmp_path / "two") == folded_changelog(broker.bootstrap)


async def test_warm_restart_reads_only_the_tail_of_the_changelog(broker: MemoryBroker, tmp_path: Path) -> None:
    log = events(900)
    for start, name in ((0, "a"), (300, "b"), (600, "a")):
        async with running(worker(broker.bootstrap, tmp_path / name)) as built:
            await in_thread(produce, broker.bootstrap, log[start : start + 300])
            await until(partial(applies, built, start + 300), "part applied")
    assert sorted(await in_thread(command_ids, broker.bootstrap)) == sorted(expected_ids(log))
    assert stored_members(tmp_path / "a") == folded_changelog(broker.bootstrap)


async def test_state_behind_the_committed_offset_is_caught_up_from_the_log(
    broker: MemoryBroker, tmp_path: Path
) -> None:
    log = events(500)
    await in_thread(produce, broker.bootstrap, log)

    def commit_all() -> None:
        consumer = Consumer({"bootstrap.servers": broker.bootstrap, "group.id": APP_ID})
        ends = [
            TopicPartition(EVENTS, p, consumer.get_watermark_offsets(TopicPartition(EVENTS, p), timeout=5)[1])
            for p in range(PARTITIONS)
        ]
        consumer.commit(offsets=ends, asynchronous=False)
        consumer.close()

    await in_thread(commit_all)
    async with running(worker(broker.bootstrap, tmp_path)) as built:
        await until(lambda: applied(built) == len(log), "log read again")
    assert set(await in_thread(command_ids, broker.bootstrap)) == expected_ids(log)


async def test_timer_on_an_idle_partition_fires_by_a_tick(broker: MemoryBroker, tmp_path: Path) -> None:
    def engines(partition: int, store: Any) -> CountingEngine:
        return CountingEngine(partition, store, timer_ms=300)

    async with running(worker(broker.bootstrap, tmp_path, engines)) as built:
        await in_thread(produce, broker.bootstrap, [("a", b"{}")])
        await until(lambda: built.metrics.commands == 1, "timer fired")
        assert built.metrics.ticks >= 1
        await asyncio.sleep(1.0)
        assert built.metrics.commands == 1
        assert built.metrics.ticks <= 2
    ticks = [m for m in await in_thread(read_all, broker.bootstrap, EVENTS) if m.key() is None]
    assert len(ticks) == built.metrics.ticks
    assert msgspec.json.decode(ticks[0].value())["type"] == "tick"


async def test_timer_set_before_a_stop_fires_after_the_restart(broker: MemoryBroker, tmp_path: Path) -> None:
    def engines(partition: int, store: Any) -> CountingEngine:
        return CountingEngine(partition, store, timer_ms=1_500)

    async with running(worker(broker.bootstrap, tmp_path, engines)) as built:
        await in_thread(produce, broker.bootstrap, [("a", b"{}")])
        await until(lambda: applied(built) == 1, "event applied")
    async with running(worker(broker.bootstrap, tmp_path, engines)) as built:
        await until(lambda: built.metrics.commands == 1, "timer fired")


async def test_failing_engine_ends_the_worker_and_commits_nothing(broker: MemoryBroker, tmp_path: Path) -> None:
    class Failing(CountingEngine):
        def run(self, records: Any) -> Any:
            raise RuntimeError("engine failed")

    log = events(50)
    built = worker(broker.bootstrap, tmp_path / "one", Failing)
    await built.app.start()
    await in_thread(produce, broker.bootstrap, log)
    await until(lambda: built.worker.failure is not None and built.app.should_stop, "worker ended")
    await built.app.stop()
    async with running(worker(broker.bootstrap, tmp_path / "one")) as healthy:
        await until(lambda: applied(healthy) == len(log), "all events applied by the next worker")
    assert set(await in_thread(command_ids, broker.bootstrap)) == expected_ids(log)


async def test_broker_that_is_away_for_a_moment_costs_nothing(broker: MemoryBroker, tmp_path: Path) -> None:
    log = events(2_000)
    async with running(worker(broker.bootstrap, tmp_path, session_timeout_s=10.0)) as built:
        await in_thread(produce, broker.bootstrap, log[:1_000])
        broker.set_reachable(False)
        await asyncio.sleep(1.0)
        broker.set_reachable(True)
        await in_thread(produce, broker.bootstrap, log[1_000:])
        await until(lambda: applied(built) == len(log), "all events applied", 30)
        assert built.worker.failure is None
    assert set(await in_thread(command_ids, broker.bootstrap)) == expected_ids(log)


async def test_torn_changelog_record_ends_the_worker_instead_of_being_skipped(
    broker: MemoryBroker, tmp_path: Path
) -> None:
    producer = Producer({"bootstrap.servers": broker.bootstrap})
    producer.produce(CHANGELOG, key=b"m1", value=b"\xc1torn", partition=2)
    producer.flush(5)
    with pytest.raises(StateError, match="member record"):
        await asyncio.wait_for(run_engine_app(worker(broker.bootstrap, tmp_path), asyncio.Event()), 20)


async def test_changelog_with_other_partitions_than_events_ends_the_worker(tmp_path: Path) -> None:
    error = pytest.raises(StateError, match="same number of partitions")
    with MemoryBroker({**TOPICS, CHANGELOG: 2}) as broker, error:
        await asyncio.wait_for(run_engine_app(worker(broker.bootstrap, tmp_path), asyncio.Event()), 20)


async def test_store_of_a_newer_build_ends_the_worker(broker: MemoryBroker, tmp_path: Path) -> None:
    store = RocksStore(tmp_path / "engine" / "members-1.db", SMALL)
    store._meta.put(b"\xffformat", b"99")
    store.close()
    with pytest.raises(StateError, match="newer build"):
        await asyncio.wait_for(run_engine_app(worker(broker.bootstrap, tmp_path), asyncio.Event()), 20)
