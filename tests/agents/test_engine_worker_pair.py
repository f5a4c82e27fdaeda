"""Two workers with the counting double on Apache Kafka.

The in-memory cluster refuses commits in a rebalance and now and then the SyncGroup of its own leader: it cannot
carry these.
"""

import asyncio
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from agents.wiring import EngineApp
from tests.agents.engine_bench import (
    PARTITIONS,
    applied,
    command_ids,
    committed,
    expected_ids,
    in_thread,
    kafka_topics,
    produce,
    until,
    worker,
)
from tests.agents.test_engine_worker import events, folded_changelog, stored_members
from tests.agents.test_engine_worker_kill import process
from tidings.brokers.local import LocalBroker

pytestmark = [pytest.mark.kafka, pytest.mark.slow]


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalBroker]:
    with LocalBroker(tmp_path_factory.mktemp("kafka"), Path(__file__).parents[2] / ".cache") as running:
        yield running


@pytest.fixture
def bootstrap(broker: LocalBroker) -> Iterator[str]:
    with kafka_topics(broker.bootstrap):
        yield broker.bootstrap


def pair(bootstrap: str, tmp_path: Path, standby_replicas: int = 0) -> list[EngineApp]:
    return [
        worker(bootstrap, tmp_path / name, session_timeout_s=10.0, standby_replicas=standby_replicas)
        for name in ("one", "two")
    ]


async def trickle(bootstrap: str, log: list[tuple[str, bytes]], seconds: float) -> None:
    step = max(1, int(len(log) / seconds / 20))
    for start in range(0, len(log), step):
        await in_thread(produce, bootstrap, log[start : start + step])
        await asyncio.sleep(0.05)


async def test_second_worker_takes_over_part_and_then_all_of_the_partitions_without_loss_or_repeat(
    bootstrap: str, tmp_path: Path
) -> None:
    log = events(3_000)
    first, second = pair(bootstrap, tmp_path)
    for one in (first, second):
        one.app.conf.broker_commit_interval = 600.0  # so that only a revoke and a stop commit
    await first.app.start()
    trickling = asyncio.create_task(trickle(bootstrap, log, 12.0))  # all through both rebalances
    await until(lambda: first.metrics.records > 0, "first worker works")
    await second.app.start()
    try:
        await until(lambda: len(first.worker.tasks) == len(second.worker.tasks) == 2, "partitions shared")
        assert set(first.worker.tasks).isdisjoint(second.worker.tasks)
        assert not set(first.stores.partitions()) & set(second.stores.partitions())
        assert await in_thread(committed, bootstrap) > 0
        await until(lambda: second.metrics.records > 100, "both work")
    finally:
        await first.app.stop()
    try:
        await trickling
        await until(lambda: applied(second) == len(log), "second worker works alone", 40)
    finally:
        await second.app.stop()
    assert await in_thread(committed, bootstrap) == len(log)
    assert first.worker.failure is None
    assert second.worker.failure is None
    assert first.metrics.records + second.metrics.records == len(log)
    assert sorted(await in_thread(command_ids, bootstrap)) == sorted(expected_ids(log))
    assert stored_members(tmp_path / "two") == await in_thread(folded_changelog, bootstrap)


async def test_standby_holds_a_copy_equal_to_the_owners(bootstrap: str, tmp_path: Path) -> None:
    log = events(1_000)
    both = pair(bootstrap, tmp_path, standby_replicas=1)
    for one in both:
        await one.app.start()
    try:
        await until(lambda: all(len(one.worker.tasks) == 2 for one in both), "partitions shared")
        await until(lambda: all(one.stores.partitions() == [0, 1, 2, 3] for one in both), "standbys open")
        await in_thread(produce, bootstrap, log)
        await until(lambda: applied(*both) == len(log), "all events applied")

        def copies_agree() -> bool:
            kept = [[one.stores.open(p).dump() for p in range(PARTITIONS)] for one in both]
            return kept[0] == kept[1]

        await until(copies_agree, "standbys caught up")
        await both[0].app.stop()
        await until(lambda: len(both[1].worker.tasks) == 4, "the other takes over", 40)
        assert both[1].worker.recovery.records_read == 0  # it had everything
        assert applied(both[1]) == len(log)
    finally:
        for one in both:
            await one.app.stop()


async def test_static_member_that_is_back_within_its_session_costs_the_others_no_rebalance(
    bootstrap: str, tmp_path: Path
) -> None:
    def made(name: str) -> EngineApp:
        return worker(
            bootstrap, tmp_path / name, session_timeout_s=20.0, instance=name, canonical_url=f"http://{name}:6066"
        )

    log = events(600)
    first, second = made("one"), made("two")
    for one in (first, second):
        await one.app.start()
    try:
        await until(lambda: len(first.worker.tasks) == len(second.worker.tasks) == 2, "partitions shared", 40)
        owned, rebalances = set(first.worker.tasks), second.metrics.rebalances
        await first.app.stop()
        await in_thread(produce, bootstrap, log)
        first = made("one")
        await first.app.start()
        await until(lambda: set(first.worker.tasks) == owned, "the same partitions again", 15)
        await until(lambda: applied(first, second) == len(log), "all events applied")
        assert second.metrics.rebalances == rebalances
        assert first.worker.recovery.records_read == 0
    finally:
        for one in (first, second):
            await one.app.stop()
    assert sorted(await in_thread(command_ids, bootstrap)) == sorted(expected_ids(log))


async def test_sigterm_under_load_ends_within_10_s_with_what_landed_committed(bootstrap: str, tmp_path: Path) -> None:
    log = events(8_000)
    async with process(bootstrap, tmp_path / "one", 10.0) as child:
        loading = asyncio.create_task(trickle(bootstrap, log, 6.0))
        await asyncio.sleep(3)
        child.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(child.wait(), 10) == 0
        await loading
    done = await in_thread(committed, bootstrap)
    assert 0 < done < len(log)
    successor = worker(bootstrap, tmp_path / "one", session_timeout_s=10.0)
    await successor.app.start()
    try:
        await until(lambda: applied(successor) == len(log), "the rest applied", 40)
        assert successor.metrics.records == len(log) - done  # nothing that had landed was repeated
    finally:
        await successor.app.stop()
    assert sorted(await in_thread(command_ids, bootstrap)) == sorted(expected_ids(log))


async def test_worker_frozen_past_its_session_writes_nothing_over_its_successor(bootstrap: str, tmp_path: Path) -> None:
    log = events(4_000)
    successor = worker(bootstrap, tmp_path / "two", session_timeout_s=6.0)
    async with process(bootstrap, tmp_path / "one", 6.0) as frozen:
        trickling = asyncio.create_task(trickle(bootstrap, log, 25.0))
        await successor.app.start()
        try:
            await until(lambda: len(successor.worker.tasks) == 2, "partitions shared")
            frozen.send_signal(signal.SIGSTOP)  # most likely with epochs in flight
            await until(lambda: len(successor.worker.tasks) == 4, "successor owns all", 40)
            await asyncio.sleep(1)
            frozen.send_signal(signal.SIGCONT)
            assert await asyncio.wait_for(frozen.wait(), 20) == 1  # it noticed, and ended itself
            await trickling
            await until(lambda: applied(successor) == len(log), "successor has applied everything", 40)
        finally:
            await successor.app.stop()
    assert set(await in_thread(command_ids, bootstrap)) == expected_ids(log)
    assert stored_members(tmp_path / "two") == await in_thread(folded_changelog, bootstrap)
