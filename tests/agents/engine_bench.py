"""Helpers of the engine worker's tests: a broker with our topics, workers in this process, what came out."""

import asyncio
import functools
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
from confluent_kafka import OFFSET_BEGINNING, Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from agents.topics import APP_ID, ATTRIBUTIONS, CHANGELOG, COMMANDS, DEAD_LETTERS, DECISIONS, EVENTS
from agents.topics import TOPICS as SPECS
from agents.wiring import EngineApp, create_engine_app
from schemas.ids import h128
from tables.rocks import RocksResources
from tests.agents.counting_engine import BAD, EVERY, CountingEngine
from tidings.brokers.memory import MemoryBroker

PARTITIONS = 4
TOPICS = dict.fromkeys((EVENTS, COMMANDS, DECISIONS, ATTRIBUTIONS, DEAD_LETTERS, CHANGELOG), PARTITIONS)
SMALL = RocksResources(8 << 20, 8 << 20)


def start_broker() -> MemoryBroker:
    return MemoryBroker(TOPICS)


@contextmanager
def kafka_topics(bootstrap: str) -> Iterator[None]:
    """Fresh topics on a real broker; their permanent names leave no other way to keep tests apart."""
    admin = AdminClient({"bootstrap.servers": bootstrap})
    new = [NewTopic(spec.name, PARTITIONS, 1, config=dict(spec.config)) for spec in SPECS]
    for future in admin.create_topics(new).values():
        future.result(10)
    yield
    for future in admin.delete_topics([spec.name for spec in SPECS]).values():
        future.result(10)
    for future in admin.delete_consumer_groups([APP_ID]).values():
        future.exception(10)  # still in its session: it only remembers offsets of topics that are gone
    time.sleep(0.5)


def worker(bootstrap: str, data_dir: Path, engines: Callable[..., Any] = CountingEngine, **more: Any) -> EngineApp:
    return create_engine_app(
        bootstrap=bootstrap.split(","), data_dir=data_dir, engines=engines, partitions=PARTITIONS, resources=SMALL,
        **{"session_timeout_s": 4.0, **more},
    )  # fmt: skip


def produce(bootstrap: str, events: Iterable[tuple[str, bytes]]) -> None:
    producer = Producer({"bootstrap.servers": bootstrap, "partitioner": "murmur2_random", "linger.ms": 5})
    for key, value in events:
        producer.produce(EVENTS, key=key, value=value)
    if producer.flush(10):
        raise RuntimeError("events were not delivered")


def read_all(bootstrap: str, topic: str) -> list[Any]:
    """Read a topic from its beginning to its present end."""
    consumer = Consumer(
        {"bootstrap.servers": bootstrap, "group.id": "reader", "enable.auto.commit": False, "fetch.wait.max.ms": 10,
         "enable.partition.eof": False},
    )  # fmt: skip
    found: list[Any] = []
    try:
        ends = {}
        for partition in range(PARTITIONS):
            _, end = consumer.get_watermark_offsets(TopicPartition(topic, partition), timeout=5)
            if end:
                ends[partition] = end
        consumer.assign([TopicPartition(topic, p, OFFSET_BEGINNING) for p in ends])
        deadline = time.monotonic() + 30
        while ends and time.monotonic() < deadline:
            for message in consumer.consume(1000, 0.2):
                if message.error():
                    raise RuntimeError(str(message.error()))
                found.append(message)
                partition, offset = message.partition() or 0, message.offset() or 0
                if offset + 1 >= ends.get(partition, 1 << 62):
                    ends.pop(partition, None)
        if ends:
            raise TimeoutError(f"{topic} was not read to its end: {ends}")
    finally:
        consumer.close()
    return found


def committed(bootstrap: str) -> int:
    """How many records the engine's group has committed, over all partitions."""
    reader = Consumer({"bootstrap.servers": bootstrap, "group.id": APP_ID})
    found = reader.committed([TopicPartition(EVENTS, p) for p in range(PARTITIONS)], timeout=10)
    reader.close()
    return sum(max(0, tp.offset) for tp in found)


def command_ids(bootstrap: str) -> list[str]:
    return [msgspec.json.decode(m.value())["command_id"] for m in read_all(bootstrap, COMMANDS)]


async def in_thread(function: Callable[..., Any], *args: Any) -> Any:
    return await asyncio.get_running_loop().run_in_executor(None, functools.partial(function, *args))


async def until(condition: Callable[[], bool], what: str, timeout_s: float = 20.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {timeout_s} s for: {what}")
        await asyncio.sleep(0.02)


def applied(*engines: EngineApp) -> int:
    """How many records the owners have applied, over all partitions, by offset."""
    return sum(task.engine.applied_offset + 1 for app in engines for task in app.worker.tasks.values() if task.idle)


def expected_ids(events: Iterable[tuple[str, bytes]]) -> set[str]:
    """The ids a log must lead to, from the definition of the double."""
    counts: dict[str, int] = {}
    found: set[str] = set()
    for key, value in events:
        if value != BAD:
            counts[key] = counts.get(key, 0) + 1
            if counts[key] % EVERY == 0:
                found.add(h128(key, str(counts[key])))
    return found
