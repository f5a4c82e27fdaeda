"""How soon is a worker ready again, with its store and without?"""

import random
import resource
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from agents.topics import BY_NAME, CHANGELOG
from benchmarks.harness import Row, Scale, Work, interleaved, peak_mb, reset_peak
from benchmarks.member_bytes import files_bytes, state_of_w
from benchmarks.replay_speed import PATTERN, plan_of
from benchmarks.soak import memory_mb
from benchmarks.worker_rate import PARTITIONS, SESSION_S, TOPICS, Worker
from benchmarks.workload import START_MS
from schemas.errors import OperatorError, StateError
from streams.engine import PartitionEngine
from tables.rocks import RocksResources, RocksStore
from tidings.brokers import LocalBroker
from tidings.brokers.jars import find_program
from tidings.config import Settings

NAME = "recovery"
QUESTION = "How many members a second does a cold restore bring back, and how soon is a warm worker ready?"
METHOD = (
    "Member records of workload W after 4 h, those of up to 20,000 members used in turn under all keys, in an order of "
    "no sense; every second member twice, as in a changelog not yet compacted. `cold, store alone`: changelog bytes in "
    f"memory into {PARTITIONS} empty stores, in batches of 4,096, until all timer hints are made. `warm, store alone`: "
    "opening these stores and an engine on each, in a process that has them in the system's cache. `through Kafka`: "
    "one worker process on Apache Kafka 4 on the same machine, from its start until it has recovered, less the same "
    "with nothing to recover; left out without Java, below 50,000 members. `standby takeover`: one of two such "
    "workers, each the other's standby, is killed; from then until the other one runs all partitions, the wait for "
    "the session's end included, the collector as the product sets it; the second one begins with a copy of the first "
    "one's data. Through Kafka no timer is due meanwhile. CPU is that of all threads. A restore hardly compacts: that "
    "follows beside the other work of the worker, `then compacting` says at what cost."
)
MEMBERS, DISTINCT = 1_000_000, 20_000
READY_S = 900.0
SHARED_S = 60.0  # for two workers to come to terms
KAFKA_MEMBERS_MIN = 50_000  # fewer are gone in less time than a worker's start-up varies
BATCH = 4_096

Entry = tuple[bytes, bytes]


def changelog(members: int, later_ms: int = 0) -> Iterator[tuple[int, list[Entry]]]:
    """Yield (partition, batch) of a changelog, half of the members twice."""
    values = list(state_of_w(min(members, DISTINCT), later_ms=later_ms).members.values())
    order = list(range(members)) + list(range(0, members, 2))
    random.Random(1).shuffle(order)
    waiting: list[list[Entry]] = [[] for _ in range(PARTITIONS)]
    for number in order:
        batch = waiting[number % PARTITIONS]
        batch.append((b"m%d" % number, values[number % len(values)]))
        if len(batch) == BATCH:
            yield number % PARTITIONS, batch
            waiting[number % PARTITIONS] = []
    for partition, batch in enumerate(waiting):
        if batch:
            yield partition, batch


def stores(place: Path) -> list[RocksStore]:
    """Open the stores of all partitions as one process does."""
    resources = RocksResources()
    return [RocksStore(place / f"members-{partition}.db", resources) for partition in range(PARTITIONS)]


def restore(batches: Sequence[tuple[int, list[Entry]]], place: Path) -> None:
    """Fill empty stores."""
    opened = stores(place)
    offsets = [-1] * PARTITIONS
    for partition, batch in batches:
        offsets[partition] += len(batch)
        opened[partition].apply_changelog(batch, offsets[partition])
    for store in opened:
        while store.index_hints():
            pass
        store.close()


def alone(members: int, scale: Scale) -> list[Row]:
    """Measure the store alone."""
    batches = list(changelog(members))
    sizes = sum(len(key) + len(value) for _, batch in batches for key, value in batch)
    plan = plan_of("browse_abandon", PATTERN)
    place: tempfile.TemporaryDirectory[str] | None = None

    def cold() -> Work:
        nonlocal place
        if place is not None:
            place.cleanup()
        place = tempfile.TemporaryDirectory()
        restore(batches, Path(place.name))
        return Work(members)

    def warm() -> Work:
        if place is None:
            raise StateError("recovery: warm came before cold")
        opened = stores(Path(place.name))
        waiting = 0
        for number, store in enumerate(opened):
            waiting += PartitionEngine(number, store, campaigns=[plan]).next_fire_ms is not None
        if waiting != PARTITIONS and members >= 100 * PARTITIONS:
            raise StateError(f"recovery: timers were lost (got {waiting} partitions with any, not {PARTITIONS})")
        for store in opened:
            store.close()
        return Work(members)

    inner = Scale(scale.factor, scale.runs, lambda share, note: scale.progress(0.5 * share, note))
    rows = interleaved({"cold, store alone": cold, "warm, store alone": warm}, inner, "member")
    if place is None:
        raise StateError("recovery: nothing was measured")
    rows[0].more = {
        "changelog MiB": round(sizes / (1 << 20)),
        "changelog bytes per record": round(sizes / sum(len(batch) for _, batch in batches), 1),
        "files bytes per member": per_member(place.name, members),
    }
    cpu = time.process_time()
    for store in stores(Path(place.name)):
        store.settle()
        store.close()
    rows[0].more["compacted"] = per_member(place.name, members)
    rows[0].more["then compacting, CPU us"] = round((time.process_time() - cpu) / members * 1e6, 1)
    for row in rows:
        row.more["seconds"] = round((row.wall_us or 0) * members / 1e6, 2)
        row.gated = row.steps if row is rows[0] else None  # the warm start is too short to be compared
    place.cleanup()
    return rows


def per_member(place: str, members: int) -> float:
    """Return the bytes of all files per member."""
    return round(files_bytes(Path(place)) / members, 1)


def fill(bootstrap: str, members: int) -> dict[int, int]:
    """Make the topics and write the changelog; the end of each partition."""
    config = dict(BY_NAME[CHANGELOG].config)
    new = [NewTopic(name, PARTITIONS, 1, config=config if name == CHANGELOG else {}) for name in TOPICS]
    admin = AdminClient({"bootstrap.servers": bootstrap})  # kept: its futures die with it
    for future in admin.create_topics(new).values():
        future.result(30)
    producer = Producer(
        {"bootstrap.servers": bootstrap, "compression.type": "lz4", "linger.ms": 50, "enable.idempotence": True,
         "queue.buffering.max.messages": 1_000_000, "log_level": 2}
    )  # fmt: skip
    ends = dict.fromkeys(range(PARTITIONS), 0)
    later_ms = time.time_ns() // 1_000_000 - START_MS  # W lies ahead: no timer is due while we measure
    for partition, batch in changelog(members, later_ms) if members else ():
        for key, value in batch:
            producer.produce(CHANGELOG, value, key, partition)
        ends[partition] += len(batch)
        while len(producer) > 100_000:
            producer.poll(0.1)
    if producer.flush(120):
        raise StateError("recovery: Kafka did not take the changelog; run it again")
    return ends


@contextmanager
def worker(bootstrap: str, place: Path) -> Iterator[tuple[float, float]]:
    """Run a worker; seconds from its start until it had recovered, and its memory by then, MiB."""
    place.mkdir(exist_ok=True)
    began = time.monotonic()
    started = Worker(bootstrap, place, PATTERN, patience_s=READY_S)
    took = time.monotonic() - began
    try:
        yield took, memory_mb(started.process.pid)[1]
    finally:
        started.stop()


def through_kafka(members: int, scale: Scale) -> list[Row]:
    """Measure whole workers, once."""
    with tempfile.TemporaryDirectory() as temporary:
        home = Path(temporary)
        with LocalBroker(home / "none", Settings().cache_dir) as broker:
            fill(broker.bootstrap, 0)
            with worker(broker.bootstrap, home / "w0") as (base, _):
                pass
        with LocalBroker(home / "full", Settings().cache_dir) as broker:
            scale.progress(0.6, "filling the changelog")
            ends = fill(broker.bootstrap, members)
            rows: list[Row] = []
            for case in ("cold, through Kafka", "warm, through Kafka"):
                scale.progress(0.7 if not rows else 0.8, case)
                before = resource.getrusage(resource.RUSAGE_CHILDREN)
                with worker(broker.bootstrap, home / "w1") as (took, peak):
                    pass
                after = resource.getrusage(resource.RUSAGE_CHILDREN)
                row = Row(case=case, unit="member", items=members, runs=1, peak_mb=peak)
                row.wall_us = max(0.0, took - base) / members * 1e6
                row.cpu_us = (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime) / members * 1e6
                row.more = {
                    "records": sum(ends.values()),
                    "seconds": round(took, 2),
                    "of which start-up": round(base, 2),
                }
                rows.append(row)
            scale.progress(0.85, "standby takeover")
            try:
                rows.append(takeover(broker.bootstrap, home, ends, members))
            except StateError as error:  # the minutes before it are not thrown away
                row = Row(case="standby takeover", unit="member", items=members, more={"not measured": str(error)})
                rows.append(row)
            return rows


def takeover(bootstrap: str, home: Path, ends: dict[int, int], members: int) -> Row:
    """Kill one of two workers that are each other's standby; how soon the other one runs all partitions."""
    shutil.copytree(home / "w1", home / "w2")
    first = Worker(bootstrap, home / "w1", PATTERN, 1)
    try:
        second = Worker(bootstrap, home / "w2", PATTERN, 1)
        try:
            second.used({}, ends)
            until = time.monotonic() + SHARED_S
            while not 0 < second.used({})["partitions"] < PARTITIONS or first.process.poll() is not None:
                if time.monotonic() > until:
                    raise StateError("recovery: the two workers do not share the partitions; run it again")
                time.sleep(0.2)
            first.process.kill()
            began = time.monotonic()
            second.used(dict.fromkeys(range(PARTITIONS), 0))
            took = time.monotonic() - began
            row = Row(case="standby takeover", unit="member", items=members, runs=1)
            row.peak_mb = memory_mb(second.process.pid)[1]
        finally:
            second.stop()
    finally:
        first.stop()
    row.more = {"seconds": round(took, 2), "of which at most the session": SESSION_S}
    return row


def has_java() -> bool:
    """Tell whether Kafka can be started here."""
    try:
        find_program("java")
    except OperatorError:
        return False
    return True


def run(scale: Scale) -> list[Row]:
    """Measure."""
    members = scale.of(MEMBERS, 1_000)
    reset_peak()
    rows = alone(members, scale)
    rows[0].peak_mb = peak_mb()
    if members < KAFKA_MEMBERS_MIN or not has_java():
        return rows
    return rows + through_kafka(members, scale)
