"""The worker with the real engine on Apache Kafka: append times of the broker, static membership, control records."""

import asyncio
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import (  # type: ignore[attr-defined]
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    ResourceType,
)
from faust.types import TP

from agents.letters import hash_of
from agents.topics import CHANGELOG, COMMANDS, DECISIONS, EVENTS
from agents.wiring import EngineApp, create_engine_app, run_engine_app
from schemas.codec import encode_event
from schemas.errors import StateError
from schemas.events import CAMPAIGN_PUBLISHED, Event
from streams.engine import PartitionEngine
from tests.agents.engine_bench import PARTITIONS, SMALL, applied, committed, in_thread, kafka_topics, read_all, until
from tidings.brokers.local import LocalBroker
from tidings.config import Settings
from tidings.demo.verify import read_topics, replay_agrees

pytestmark = [pytest.mark.kafka, pytest.mark.slow]

CAMPAIGN = """\
campaign: reminder
pattern: catalog.product.viewed as v then no order.created for 1s, same product_id
send: {channel: email, template: reminder}
"""
SESSION_S = 30.0  # long: a restart that had to wait for it would run into the tests' own limits


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalBroker]:
    cache = Path(__file__).parents[2] / ".cache"
    more = "log.cleaner.backoff.ms=200\n"
    with LocalBroker(tmp_path_factory.mktemp("kafka"), cache, more=more) as running:
        yield running


@pytest.fixture
def topics(broker: LocalBroker) -> Iterator[str]:
    with kafka_topics(broker.bootstrap):
        yield broker.bootstrap


def kafka_worker(bootstrap: str, data_dir: Path) -> EngineApp:
    return create_engine_app(
        bootstrap=[bootstrap], data_dir=data_dir, engines=PartitionEngine, partitions=PARTITIONS, instance="one",
        session_timeout_s=SESSION_S, resources=SMALL,
    )  # fmt: skip


@asynccontextmanager
async def running(built: EngineApp) -> AsyncIterator[EngineApp]:
    await built.app.start()
    try:
        yield built
    finally:
        await built.app.stop()


def publish(bootstrap: str, name: str = "reminder", text: str = CAMPAIGN) -> None:
    producer = Producer({"bootstrap.servers": bootstrap})
    data = {"campaign": name, "yaml": text, "path": f"campaigns/{name}.yaml", "version": ""}
    value = encode_event(Event(CAMPAIGN_PUBLISHED, 0, data=data))
    for partition in range(PARTITIONS):
        producer.produce(EVENTS, value=value, partition=partition)
    producer.flush(10)


def send(bootstrap: str, events: list[tuple[str, str, dict[str, Any]]]) -> None:
    producer = Producer({"bootstrap.servers": bootstrap, "partitioner": "murmur2_random"})
    now = int(time.time() * 1000)
    for number, (kind, member, data) in enumerate(events):
        event = Event(kind, now, event_id=f"{member}-{kind}-{number}-{now}", member_id=member, data=data)
        producer.produce(EVENTS, key=member, value=encode_event(event))
    producer.flush(10)


def register_and_view(bootstrap: str, members: list[str]) -> None:
    profile = {"email": "a@example.com", "consent": {"email": True}}
    send(bootstrap, [("member.registered", m, profile) for m in members])
    send(bootstrap, [("catalog.product.viewed", m, {"product_id": "p1"}) for m in members])


def outputs(bootstrap: str, topic: str) -> list[dict[str, Any]]:
    return [msgspec.json.decode(m.value()) for m in read_all(bootstrap, topic)]


async def test_absence_fires_by_a_tick_for_those_who_did_not_order(topics: str, tmp_path: Path) -> None:
    await in_thread(publish, topics)
    members = [f"m{i}" for i in range(20)]
    async with running(kafka_worker(topics, tmp_path)) as built:
        await in_thread(register_and_view, topics, members)
        await in_thread(send, topics, [("order.created", m, {"product_id": "p1", "order_id": m}) for m in members[:5]])
        await until(lambda: built.metrics.commands + built.metrics.decisions.total() > 0, "first firing", 30)
        await until(lambda: built.metrics.decisions.total() >= 15, "all firings", 10)
        assert built.metrics.ticks > 0
    decided = {d["member_id"]: d["outcome"] for d in await in_thread(outputs, topics, DECISIONS)}
    assert decided.keys() == set(members[5:])
    assert {c["member_id"] for c in await in_thread(outputs, topics, COMMANDS)} == set(members[5:])


async def test_static_member_comes_back_at_once_with_its_timers_and_commits(topics: str, tmp_path: Path) -> None:
    await in_thread(publish, topics)
    async with running(kafka_worker(topics, tmp_path)) as built:
        await in_thread(register_and_view, topics, ["a", "b", "c"])
        await until(lambda: applied(built) == 6 + PARTITIONS, "events applied")
    assert await in_thread(committed, topics) == 6 + PARTITIONS
    began = time.monotonic()
    async with running(kafka_worker(topics, tmp_path)) as built:
        assert time.monotonic() - began < SESSION_S / 2
        await until(lambda: built.metrics.decisions.total() == 3, "timers set before the stop fire after it", 30)


@pytest.mark.parametrize("disk", ["kept", "lost"])
async def test_killed_worker_comes_back_with_the_same_commands(topics: str, tmp_path: Path, disk: str) -> None:
    await in_thread(publish, topics)
    members = [f"m{i}" for i in range(300)]
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.agents.test_engine_worker_kafka", topics, str(tmp_path / "kept"),
        stdout=asyncio.subprocess.PIPE, env={**os.environ, "PYTHONPATH": "."},
    )  # fmt: skip
    try:
        assert child.stdout is not None
        while await asyncio.wait_for(child.stdout.readline(), 60) not in (b"ready\n", b""):
            pass
        for start in range(0, 300, 50):
            await in_thread(register_and_view, topics, members[start : start + 50])
        while len(await in_thread(read_all, topics, CHANGELOG)) < 100:
            await asyncio.sleep(0.05)
    finally:
        child.send_signal(signal.SIGKILL)
        await child.wait()
    async with running(kafka_worker(topics, tmp_path / disk)) as built:
        await until(lambda: applied(built) >= 600 + PARTITIONS, "all events applied", 60)
        await until(lambda: bool(built.metrics.lag) and not sum(built.metrics.lag.values()), "no lag", 10)
        fired = {d["member_id"] for d in await in_thread(outputs, topics, DECISIONS)}
        deadline = time.monotonic() + 30
        while len(fired) < 300 and time.monotonic() < deadline:
            fired = {d["member_id"] for d in await in_thread(outputs, topics, DECISIONS)}
    by_member: dict[str, set[str]] = {}
    for command in await in_thread(outputs, topics, COMMANDS):
        by_member.setdefault(command["member_id"], set()).add(command["command_id"])
    assert by_member.keys() == set(members)
    assert all(len(ids) == 1 for ids in by_member.values())


def alter(bootstrap: str, topic: str, values: dict[str, str]) -> None:
    entries = [ConfigEntry(name, value, incremental_operation=AlterConfigOpType.SET) for name, value in values.items()]
    resource = ConfigResource(ResourceType.TOPIC, topic, incremental_configs=entries)
    admin = AdminClient({"bootstrap.servers": bootstrap})
    for future in admin.incremental_alter_configs([resource]).values():
        future.result(60)


def set_bound(bootstrap: str, size: int) -> None:
    """What the error tells the operator to do, and before that the opposite."""
    alter(bootstrap, CHANGELOG, {"max.message.bytes": str(size)})


async def test_member_record_too_large_for_the_changelog_is_named_and_goes_on_once_the_topic_takes_it(
    topics: str, tmp_path: Path
) -> None:
    # A profile of 60 KB is within the core's bound; noise in hex leaves compression half of it.
    noise = [("member.updated", "ann", {f"a{n}": os.urandom(1_000).hex()}) for n in range(30)]
    built = kafka_worker(topics, tmp_path)
    await in_thread(set_bound, topics, 10_000)
    await in_thread(send, topics, noise)
    with pytest.raises(StateError, match=f"member {hash_of(b'ann')}: the record is too large for topic {CHANGELOG}"):
        await asyncio.wait_for(run_engine_app(built, asyncio.Event()), 60)
    await in_thread(set_bound, topics, 2 << 20)
    async with running(kafka_worker(topics, tmp_path)) as again:
        await until(lambda: applied(again) == len(noise), "all events applied", 30)
    async with running(kafka_worker(topics, tmp_path / "new disk")) as rebuilt:
        await until(lambda: applied(rebuilt) == len(noise), "read back from the changelog", 30)


def transact(bootstrap: str, events: list[tuple[str, str]], keep: bool) -> None:
    """Write events, which are on the log then, and keep them or take them back."""
    more = {"log_level": 0, "transactional.id": "shop", "partitioner": "murmur2_random"}
    producer = Producer({"bootstrap.servers": bootstrap, **more})
    producer.init_transactions(60)
    producer.begin_transaction()
    for kind, member in events:
        data = {"product_id": "p1", "order_id": f"{member}-{keep}"}
        event = Event(kind, int(time.time() * 1000), event_id=f"{member}-{kind}-{keep}", member_id=member, data=data)
        producer.produce(EVENTS, key=member, value=encode_event(event))
    producer.flush(60)
    (producer.commit_transaction if keep else producer.abort_transaction)(60)


async def test_a_transaction_that_was_taken_back_never_happened(topics: str, tmp_path: Path) -> None:
    """Neither for the engine nor for who reads the log to explain what was sent."""
    view, order = "catalog.product.viewed", "order.created"
    campaign = "campaign: bought\npattern: catalog.product.viewed as v then order.created within 1h\n"
    await in_thread(publish, topics, "bought", campaign + "send: {channel: email, template: bought}\n")
    profile = {"email": "a@example.com", "consent": {"email": True}}
    await in_thread(send, topics, [("member.registered", member, profile) for member in "abcd"])
    await in_thread(transact, topics, [(view, "c"), (view, "d"), (order, "d")], False)
    await in_thread(transact, topics, [(view, "a"), (view, "b")], True)
    await in_thread(transact, topics, [(order, "a")], False)
    await in_thread(transact, topics, [(order, "b"), (order, "c")], True)
    await in_thread(publish, topics, "later", CAMPAIGN.replace("reminder", "later"))  # a plain record ends each log
    log = await in_thread(read_topics, Settings.from_env({"TIDINGS_BROKER": topics}))
    ends = {partition: records[-1].offset for partition, records in log.records.items()}
    assert (log.types[view], log.types[order]) == (2, 2)
    async with running(kafka_worker(topics, tmp_path)) as built:
        await until(lambda: at(built) == ends, "all applied", 60)
    assert {c["member_id"] for c in await in_thread(outputs, topics, COMMANDS)} == {"b"}
    agreement = replay_agrees(await in_thread(read_topics, Settings.from_env({"TIDINGS_BROKER": topics})))
    assert agreement.replay_commands == agreement.live_commands


def at(built: EngineApp) -> dict[int, int]:
    return {partition: task.engine.applied_offset for partition, task in built.worker.tasks.items() if task.idle}


async def test_what_lies_behind_an_open_transaction_waits_for_its_end(topics: str, tmp_path: Path) -> None:
    """Nobody knows yet whether it happened. The worker does not take itself for one that stands still."""
    open_ = TP(EVENTS, 1)
    shop, plain = (
        Producer({"bootstrap.servers": topics, "log_level": 0, **more}) for more in ({"transactional.id": "shop"}, {})
    )
    await in_thread(shop.init_transactions, 60)
    shop.begin_transaction()
    value = encode_event(Event("app.opened", 0, member_id="x"))
    shop.produce(EVENTS, value=value, partition=open_.partition)
    shop.flush(60)
    for partition in range(PARTITIONS):
        plain.produce(EVENTS, value=value, partition=partition)
    plain.flush(60)
    async with running(kafka_worker(topics, tmp_path)) as built:
        consumer, others = built.worker.consumer, [p for p in range(PARTITIONS) if p != open_.partition]
        await until(lambda: [at(built).get(p) for p in others] == [0] * len(others), "the others applied", 60)
        plain.produce(EVENTS, value=value, partition=0)  # one more fetch, which asks for all partitions
        plain.flush(60)
        await until(lambda: at(built).get(0) == 1, "one more fetch", 60)
        assert at(built) == {**dict.fromkeys(others, 0), 0: 1, open_.partition: -1}
        assert consumer.highwater(open_) == 2 and not consumer.unread(open_)
        await in_thread(shop.commit_transaction, 60)
        await until(lambda: at(built).get(open_.partition) == 1, "what waited is applied", 60)


def compacted(bootstrap: str, produced: int) -> None:
    """Have `events` compacted until records are missing, and kept as it is from then on."""
    often = {"segment.ms": "1000", "min.cleanable.dirty.ratio": "0.01", "min.compaction.lag.ms": "0"}
    alter(bootstrap, EVENTS, {**often, "cleanup.policy": "compact"})
    deadline = time.monotonic() + 120
    number = 0
    while len(read_all(bootstrap, EVENTS)) - number >= produced:
        assert time.monotonic() < deadline, "not compacted"
        time.sleep(1.1)
        for partition in range(PARTITIONS):  # what comes after a second begins a new segment, and closes the old one
            tick = Producer({"bootstrap.servers": bootstrap})
            tick.produce(EVENTS, key=b"tick%d" % number, value=encode_event(Event("tick", 0)), partition=partition)
            tick.flush(30)
            number += 1
    alter(bootstrap, EVENTS, {"cleanup.policy": "delete", "segment.ms": "600000"})


async def test_a_log_with_holes_is_applied_to_its_end(topics: str, tmp_path: Path) -> None:
    """Compaction takes records out of batches, and whole batches; offsets stay as they were."""
    views = [("catalog.product.viewed", f"m{n}", {"product_id": "p1"}) for n in range(10)]
    for gone in range(10):  # each member's last record, which stays, is at another place
        await in_thread(send, topics, views[gone:])
    await in_thread(compacted, topics, 55)
    log = await in_thread(read_topics, Settings.from_env({"TIDINGS_BROKER": topics}))
    ends = {partition: records[-1].offset for partition, records in log.records.items()}
    assert any(r.offset + 1 < s.offset for found in log.records.values() for r, s in pairwise(found)), "no hole"
    async with running(kafka_worker(topics, tmp_path)) as built:
        await until(lambda: at(built) == ends, "all applied", 60)
    async with running(kafka_worker(topics, tmp_path)) as again:
        await until(lambda: at(again) == ends, "goes on from its commit", 60)
        await in_thread(publish, topics)
        await until(lambda: all(applied_ > ends[p] for p, applied_ in at(again).items()), "what comes next", 60)


async def main() -> None:
    built = kafka_worker(sys.argv[1], Path(sys.argv[2]))
    await built.app.start()
    print("ready", flush=True)
    await asyncio.sleep(600)


if __name__ == "__main__":
    asyncio.run(main())
