"""The order of one epoch's steps, with a producer whose acks the test gives by hand. Numbers I1..I6: DESIGN §5."""

import asyncio
from collections import defaultdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka.structs import RecordMetadata, TopicPartition
from faust.types import TP

from agents.batching import (
    MAX_BATCH_BYTES,
    MAX_BATCH_RECORDS,
    RECORD_BYTES,
    BatchConsumer,
    BatchScheduler,
    OffsetTracker,
    Sent,
    size_of,
)
from agents.engine_worker import EPOCH_BYTES, EPOCHS_IN_FLIGHT, PartitionTask
from agents.lease import Lease
from agents.metrics import EngineMetrics
from agents.outbox import Outbox
from schemas.errors import StateError
from tables.rocks import RocksStore
from tests.agents.counting_engine import CountingEngine
from tests.agents.engine_bench import SMALL

EVENTS = TP("events", 0)


class HandWriter:
    """Stands in for BatchWriter: keeps what is sent, acks when told."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self.waiting: list[tuple[str, asyncio.Future[Any]]] = []
        self._ends: dict[str, int] = defaultdict(int)
        self._counts: dict[int, int] = {}

    async def partition_count(self, topic: str) -> int:
        return 1

    async def send(self, topic: str, partition: int, entries: Any, before_each: Any = None) -> list[Sent]:
        if before_each is not None:
            await before_each()
        self.log.append(f"send {topic}")
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.waiting.append((topic, future))
        self._counts[id(future)] = len(entries)
        return [Sent(asyncio.shield(future), len(entries))]  # shielded, as aiokafka does

    async def ack(self, topic: str) -> None:
        place = next(i for i, (name, _) in enumerate(self.waiting) if name == topic)
        _, future = self.waiting.pop(place)
        self.log.append(f"ack {topic}")
        future.set_result(RecordMetadata(topic, 0, TopicPartition(topic, 0), self._ends[topic], 0, 0, 0))
        self._ends[topic] += self._counts.pop(id(future))
        await settle()

    def fail(self, topic: str) -> None:
        place = next(i for i, (name, _) in enumerate(self.waiting) if name == topic)
        self.waiting.pop(place)[1].set_exception(ConnectionError("broker is away"))


class LoggingStore(RocksStore):
    log: list[str]

    def write(self, *args: Any) -> None:
        self.log.append(f"write, changelog offset {args[3]}")
        super().write(*args)


class Bench:
    """A PartitionTask without Faust around it."""

    def __init__(self, path: Path) -> None:
        self.seconds = 0.0
        self.writer = HandWriter()
        self.store = LoggingStore(path / "members-0.db", SMALL)
        self.store.log = self.writer.log
        self.abandoned: list[Any] = []
        self.failures: list[BaseException] = []
        worker: Any = SimpleNamespace(
            outbox=Outbox(self.writer, "changelog"),  # type: ignore[arg-type]
            metrics=EngineMetrics(),
            lease=Lease(1.0, 1e9, lambda: self.seconds),
            turn=asyncio.Lock(),
            wall_ms=lambda: 10_000,
            consumer=SimpleNamespace(abandon=self.abandoned.append),
            fail=lambda partition, error: self.failures.append(error),
            breathe=lambda: None,
        )
        self.worker = worker
        self.engine = CountingEngine(0, self.store)
        self.task = PartitionTask(0, self.engine, self.store, worker)

    def batch(self, first: int, count: int) -> Any:
        records = [
            SimpleNamespace(offset=first + i, timestamp=1_000, timestamp_type=0, key=b"m", value=b"{}", headers=())
            for i in range(count)
        ]
        log = self.writer.log
        return SimpleNamespace(value=records, message=f"batch {first}", ack=lambda: log.append(f"batch {first} acked"))

    async def close(self) -> None:
        await self.task.quiesce(0)
        self.store.close()


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


@pytest.fixture
async def bench(tmp_path: Path):
    built = Bench(tmp_path)
    yield built
    await built.close()


async def test_outputs_are_acked_before_the_changelog_and_the_changelog_before_the_store(bench: Bench) -> None:
    await bench.task.accept(bench.batch(0, 3))
    await settle()
    assert bench.writer.log == ["send commands", "send decisions"]
    await bench.writer.ack("decisions")
    assert "send changelog" not in bench.writer.log
    await bench.writer.ack("commands")
    assert bench.writer.log[-1] == "send changelog"
    assert not any(line.startswith("write") for line in bench.writer.log)
    await bench.writer.ack("changelog")
    # two records lay in that batch (a member, meta), so the last offset is one more than the acked first one
    assert bench.writer.log[-2:] == ["write, changelog offset 1", "batch 0 acked"]
    assert bench.store.changelog_offset() == 1
    assert bench.task.idle


async def test_next_epoch_leaves_while_one_is_in_flight_but_is_never_written_ahead_of_its_acks(bench: Bench) -> None:
    await bench.task.accept(bench.batch(0, 3))
    await settle()
    await bench.task.accept(bench.batch(3, 3))
    await settle()
    assert bench.writer.log.count("send commands") == 2
    await bench.writer.ack("commands")
    await bench.writer.ack("commands")  # the second epoch's outputs come back first
    await bench.writer.ack("decisions")
    assert bench.writer.log.count("send changelog") == 1
    await bench.writer.ack("changelog")
    assert "batch 0 acked" in bench.writer.log
    assert "batch 3 acked" not in bench.writer.log
    await bench.writer.ack("decisions")
    await bench.writer.ack("changelog")
    assert bench.writer.log[-1] == "batch 3 acked"


async def test_what_piles_up_while_epochs_are_in_flight_becomes_one_epoch(bench: Bench) -> None:
    for number in range(EPOCHS_IN_FLIGHT):
        await bench.task.accept(bench.batch(number * 3, 3))
        await settle()
    for number in range(2, 6):
        await bench.task.accept(bench.batch(number * 3, 3))
    await settle()
    assert bench.writer.log.count("send commands") == EPOCHS_IN_FLIGHT
    for topic in ("commands", "decisions", "changelog"):
        await bench.writer.ack(topic)
    assert bench.writer.log.count("send commands") == EPOCHS_IN_FLIGHT + 1
    assert bench.engine.applied_offset == 17


async def test_between_epochs_of_two_partitions_the_loop_has_its_turn(bench: Bench, monkeypatch: Any) -> None:
    seen: list[str] = []
    run, loop = bench.engine.run, asyncio.get_running_loop()

    def noting(records: Any) -> Any:
        seen.append("epoch")
        loop.call_soon(seen.append, "loop")
        return run(records)

    monkeypatch.setattr(bench.engine, "run", noting)
    other = PartitionTask(1, bench.engine, bench.store, bench.worker)
    await bench.task.accept(bench.batch(0, 3))
    await other.accept(bench.batch(3, 3))
    await settle()
    await other.quiesce(0)
    assert seen == ["epoch", "loop"] * 2


async def test_failed_send_acks_nothing_writes_nothing_and_fails_the_worker(bench: Bench) -> None:
    await bench.task.accept(bench.batch(0, 3))
    await settle()
    bench.writer.fail("commands")
    await settle()
    assert isinstance(bench.failures[0], ConnectionError)
    assert bench.store.changelog_offset() is None
    assert not any("acked" in line for line in bench.writer.log)


async def test_revoke_waits_for_epochs_in_flight_and_drops_what_only_waits(bench: Bench) -> None:
    for number in range(EPOCHS_IN_FLIGHT + 1):
        await bench.task.accept(bench.batch(number * 3, 3))
        await settle()
    await bench.task.accept(bench.batch(9, 3))
    revoking = asyncio.create_task(bench.task.quiesce(5))
    await settle()
    assert bench.abandoned == ["batch 9"]
    for topic in ("commands", "decisions", "changelog") * (EPOCHS_IN_FLIGHT + 1):
        await bench.writer.ack(topic)
    await revoking
    assert bench.writer.log[-1] == "batch 6 acked"


async def test_after_a_revoke_that_ran_out_of_time_nothing_is_sent_or_written(bench: Bench) -> None:
    await bench.task.accept(bench.batch(0, 3))
    await settle()
    await bench.task.quiesce(0.01)
    before = list(bench.writer.log)
    for topic in ("commands", "decisions"):
        await bench.writer.ack(topic)
    await bench.task.accept(bench.batch(3, 3))
    await settle()
    assert [line for line in bench.writer.log if line.startswith(("send", "write", "batch"))] == before
    assert sorted(bench.abandoned) == ["batch 0", "batch 3"]
    assert bench.store.changelog_offset() is None


async def test_unknown_changelog_offset_leaves_the_stored_one(bench: Bench) -> None:
    await bench.task.accept(bench.batch(0, 1))
    await settle()
    _, future = bench.writer.waiting.pop()
    future.set_result(RecordMetadata("changelog", 0, TopicPartition("changelog", 0), -1, 0, 0, 0))
    await settle()
    assert bench.store.changelog_offset() is None
    assert bench.store.get_many([b"m"]) != [None]


async def test_worker_that_was_paused_sends_and_writes_nothing_more(bench: Bench) -> None:
    await bench.task.accept(bench.batch(0, 3))
    await settle()
    bench.seconds = 1.5  # while the acks of the outputs are awaited
    await bench.writer.ack("commands")
    await bench.writer.ack("decisions")
    assert "send changelog" not in bench.writer.log
    await bench.task.accept(bench.batch(3, 3))
    await settle()
    assert bench.writer.log.count("send commands") == 1
    assert len(bench.failures) == 2
    assert "did not run for 1.5 s" in str(bench.failures[0])


def test_renewal_after_a_pause_does_not_hide_the_pause() -> None:
    now = [0.0]
    lease = Lease(1.0, 0.5, lambda: now[0])
    now[0] = 0.9
    lease.renew()
    now[0] = 2.0
    with pytest.raises(StateError, match="did not run for 1.1 s"):
        lease.renew()
    with pytest.raises(StateError):
        lease.check()
    lease.begin()
    lease.check()


def test_without_broker_time_append_time_never_goes_back_nor_beyond_the_wall_clock(tmp_path: Path) -> None:
    async def times() -> list[int]:
        built = Bench(tmp_path)
        stamps = [(5_000, 0), (4_000, 0), (99_000, 0), (7_000, 1)]
        raw = [
            SimpleNamespace(offset=i, timestamp=t, timestamp_type=k, key=b"m", value=b"", headers=())
            for i, (t, k) in enumerate(stamps)
        ]
        found = [record.append_ms for record in built.task._records([SimpleNamespace(value=raw)])]
        await built.close()
        return found

    assert asyncio.run(times()) == [5_000, 5_000, 10_000, 7_000]


def test_nothing_is_committable_beyond_the_oldest_batch_that_is_not_durable() -> None:
    tracker = OffsetTracker()
    for last in (9, 19, 25):
        tracker.delivered(EVENTS, last)
    assert tracker.ack(EVENTS, 19)
    assert tracker.committable(EVENTS) is None
    assert tracker.ack(EVENTS, 9)
    assert tracker.committable(EVENTS) == 20
    assert tracker.committable(EVENTS) is None
    assert tracker.ack(EVENTS, 25)
    assert tracker.committable(EVENTS) == 26


def test_ack_of_a_batch_forgotten_by_a_rebalance_moves_nothing() -> None:
    tracker = OffsetTracker()
    tracker.delivered(EVENTS, 9)
    tracker.forget({EVENTS})
    assert not tracker.ack(EVENTS, 9)
    assert tracker.committable(EVENTS) is None


@pytest.mark.parametrize(("generation", "moves"), [(7, True), (6, False)])
def test_ack_of_another_generation_moves_nothing_and_is_not_waited_for(generation: int, moves: bool) -> None:
    tracker = OffsetTracker()
    tracker.delivered(EVENTS, 9)
    message = SimpleNamespace(acked=False, tp=EVENTS, offset=9, generation_id=generation)
    consumer: Any = SimpleNamespace(
        app=SimpleNamespace(consumer_generation_id=7),
        tracker=tracker,
        _acked=defaultdict(list),
        _n_acked=0,
        _waiting_for_ack=None,
    )
    consumer._unacked_messages = SimpleNamespace(discard=lambda gone: consumer.__dict__.update(gone=gone))
    assert BatchConsumer.ack(consumer, message) is moves  # type: ignore[arg-type]
    assert tracker.committable(EVENTS) == (10 if moves else None)
    assert consumer.gone is message
    assert not BatchConsumer.ack(consumer, message)


def test_scheduler_takes_turns_between_partitions_and_keeps_log_order() -> None:
    other = TP("events", 1)
    records = {EVENTS: sized(*[2] * (MAX_BATCH_RECORDS + 2)), other: sized(2, 2)}
    found = list(BatchScheduler().iterate(records))
    assert [(tp.partition, len(part)) for tp, part in found] == [(0, MAX_BATCH_RECORDS), (1, 2), (0, 2)]
    assert found[0][1] + found[2][1] == records[EVENTS]


def sized(*sizes: int) -> list[Any]:
    return [SimpleNamespace(value=b"x" * size) for size in sizes]


def test_large_records_are_cut_into_batches_by_their_bytes_and_none_is_lost() -> None:
    half = MAX_BATCH_BYTES // 2
    records = sized(half, 1, half, 10, 2 * MAX_BATCH_BYTES, 5, half - RECORD_BYTES, half - RECORD_BYTES)
    found = [batch for _, batch in BatchScheduler().iterate({EVENTS: records})]
    assert [len(batch) for batch in found] == [2, 2, 1, 2, 1]
    assert [record for batch in found for record in batch] == records
    assert all(size_of(batch) <= MAX_BATCH_BYTES for batch in found if len(batch) > 1)


def test_held_bytes_are_those_delivered_and_neither_acked_nor_taken_away() -> None:
    tracker, other = OffsetTracker(), TP("events", 1)
    for tp, last, size in ((EVENTS, 9, 100), (EVENTS, 19, 50), (other, 3, 7)):
        tracker.delivered(tp, last, size)
    assert tracker.held_bytes == 157
    for _ in range(2):  # said twice, it counts once
        tracker.ack(EVENTS, 19)
    assert tracker.held_bytes == 107
    tracker.forget({EVENTS})
    assert tracker.held_bytes == 7
    tracker.forget()
    assert tracker.held_bytes == 0


async def test_an_epoch_is_bounded_in_bytes(bench: Bench) -> None:
    for first in range(3):
        batch = bench.batch(first, 1)
        batch.value[0].value = b"x" * (EPOCH_BYTES - RECORD_BYTES)
        await bench.task.accept(batch)
    await settle()
    assert bench.engine.not_written == EPOCHS_IN_FLIGHT  # one batch each, though three were there
    assert bench.engine.applied_offset == EPOCHS_IN_FLIGHT - 1
