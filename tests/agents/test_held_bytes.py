"""While the broker takes nothing, a worker fetches no more than it may hold."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Producer

import agents.batching
from agents.topics import EVENTS
from tests.agents.counting_engine import CountingEngine
from tests.agents.engine_bench import applied, in_thread, start_broker, until, worker
from tests.agents.test_engine_worker import running
from tidings.brokers.memory import MemoryBroker

COUNT, SIZE, HELD = 3_000, 1_000, 500_000


@pytest.fixture
def broker() -> Iterator[MemoryBroker]:
    with start_broker() as started:
        yield started


def fill(bootstrap: str) -> None:
    # Many small fetches: this broker answers with one producer's batch at a time.
    producer = Producer({"bootstrap.servers": bootstrap, "batch.num.messages": 100, "compression.type": "none"})
    for number in range(COUNT):
        producer.produce(EVENTS, b"x" * SIZE, f"m{number % 50}")
    assert producer.flush(30) == 0


async def test_a_stalled_worker_holds_a_bounded_number_of_bytes_and_goes_on_after(
    broker: MemoryBroker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agents.batching, "HELD_BYTES_MAX", HELD)
    built = worker(broker.bootstrap, tmp_path, CountingEngine)
    flows = asyncio.Event()
    send = built.worker.outbox.send_changelog

    async def stalled(*args: Any) -> Any:
        await flows.wait()
        return await send(*args)

    monkeypatch.setattr(built.worker.outbox, "send_changelog", stalled)
    await in_thread(fill, broker.bootstrap)
    async with running(built):
        tracker = built.worker.consumer.tracker
        await until(lambda: tracker.held_bytes >= HELD, "the worker is full")
        seen = [tracker.held_bytes]
        for _ in range(25):
            await asyncio.sleep(0.04)
            seen.append(tracker.held_bytes)
        assert max(seen) < 2 * HELD  # a fetch may exceed what its mean size let expect
        assert seen[-1] == seen[5], "it stands still"
        flows.set()
        await until(lambda: applied(built) == COUNT, "all applied", 40)
        await until(lambda: tracker.held_bytes == 0, "nothing is held")
