"""How many events a second do other engines take on workload W, beside ours, on one real Kafka?"""

import contextlib
import os
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import msgspec
from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from agents.topics import ATTRIBUTIONS, BY_NAME, CHANGELOG, COMMANDS, DEAD_LETTERS, DECISIONS, EVENTS
from benchmarks import calibration
from benchmarks.harness import ROOT, Row, Scale
from benchmarks.peer_homes import HOMES, PEERS, Peer
from benchmarks.replay_speed import LATENESS_MS, PATTERN, WITHIN_MS, expected
from benchmarks.workload import START_MS, W_SPAN_MS, w
from schemas.codec import encode_event
from schemas.errors import StateError
from schemas.events import TICK, Event
from tidings.brokers import LocalBroker
from tidings.config import Settings

NAME = "beside_peers"
QUESTION = "How many events a second do other engines take on workload W, beside ours, on one real Kafka?"
METHOD = (
    "Apache Kafka 4, one node on the same machine, 8 partitions, records' own times (CreateTime); workload W and one "
    "registration per member, then one tick per partition that lets all be due. Each engine is one worker process in a "
    "venv of its own (benchmarks/peers/), reads the topic from its beginning and writes a command per unanswered view; "
    "taken is the time from its start until the last command is in the topic, less the same for a log of a hundredth "
    "(its start-up, measured in the first turn), CPU that of all its processes. In turns, medians. Commands are "
    "compared with the definition's; `differing` counts those that are missing or too many. Ours runs with all "
    "guarantees on: RocksDB, changelog, decisions, and its bound of 8 open views, but with 256 MiB of members for each "
    "partition, not for all of them; its ticks stay in the topic. Plain Faust gets a twentieth "
    "of the log."
)
EVENTS_COUNT, MEMBERS = 1_000_000, 100_000
HEAD_SHARE, SLOW_SHARE = 0.01, 0.05
PARTITIONS = 8
OURS = "Tidings"
OUT = "commands"
QUIET_S = 15.0  # no new command for so long after the first: it has given what it gives
WAIT_S = 900.0
SESSION_S = 30  # a broker that shares two cores may stand for seconds; its half is the producer's patience
END_MS = START_MS + W_SPAN_MS + WITHIN_MS + LATENESS_MS + 60_000
REGISTERED_MS = START_MS - 60_000

_said = msgspec.json.Decoder(dict[str, Any]).decode


@dataclass
class Log:
    """A recorded log in a topic and what must come of it, without and with our bound of open views."""

    topic: str
    records: int
    due: set[tuple[str, str]]
    due_bounded: set[tuple[str, str]]


@dataclass
class Run:
    """One run of one engine: seconds from start to the last command, CPU seconds, memory, what differed."""

    wall_s: float
    cpu_s: float
    peak_mb: float
    differing: int


def fill(bootstrap: str, topic: str, events: Sequence[Event], members: int) -> Log:
    """Write a log into a new topic."""
    # Times months back: nothing may be thrown away for its age. The broker packs our worker's ticks anew, which come as
    # zstd: Flink's SQL connector brings no zstd, and ends at the first one.
    config = {"message.timestamp.type": "CreateTime", "retention.ms": "-1", "compression.type": "lz4"}
    create(bootstrap, [NewTopic(topic, PARTITIONS, 1, config=config)])
    producer = Producer(
        {"bootstrap.servers": bootstrap, "partitioner": "murmur2_random", "compression.type": "lz4", "linger.ms": 50,
         "enable.idempotence": True, "queue.buffering.max.messages": 2_000_000, "log_level": 2}
    )  # fmt: skip
    agreed = {"email": "member@shop.example", "consent": {"email": True}}
    joined = (Event("member.registered", REGISTERED_MS, f"r{n}", f"m{n}", agreed) for n in range(members))
    records = 0
    for event in chain(joined, events):
        producer.produce(topic, encode_event(event), event.member_id, timestamp=event.occurred_at_ms)
        records += 1
        if records % 10_000 == 0:
            producer.poll(0)
    if producer.flush(120):
        raise StateError(f"beside_peers: Kafka did not take {topic}; run it again")
    for partition in range(PARTITIONS):
        tick = Event(TICK, END_MS, f"end-{partition}", None, {})
        # With a key: Quix Streams passes records without one by.
        producer.produce(topic, encode_event(tick), "tick", partition, timestamp=END_MS)
    producer.flush(30)
    bounded, _ = expected(events, end_ms=END_MS)
    unbounded, _ = expected(events, end_ms=END_MS, views_max=None)
    return Log(topic, records, unbounded, bounded)


def create(bootstrap: str, topics: list[NewTopic]) -> None:
    """Create topics; one that is still being deleted is waited for."""
    admin = AdminClient({"bootstrap.servers": bootstrap, "log_level": 2})
    left = {topic.topic: topic for topic in topics}
    until = time.monotonic() + 60
    while left:
        for name, future in admin.create_topics(list(left.values())).items():
            with contextlib.suppress(KafkaException):
                future.result(30)
                del left[name]
        if left and time.monotonic() > until:
            raise StateError(f"beside_peers: topics could not be made (got {sorted(left)} left); run it again")
        time.sleep(0.2)


def clear(bootstrap: str, keep: set[str]) -> None:
    """Delete every topic but the logs, and every group: each run starts from nothing."""
    admin = AdminClient({"bootstrap.servers": bootstrap, "log_level": 2})
    names = [name for name in admin.list_topics(timeout=10).topics if name not in keep and not name.startswith("__")]
    for future in admin.delete_topics(names).values() if names else ():
        future.result(30)
    until = time.monotonic() + 4 * SESSION_S
    while groups := [group.group_id for group in admin.list_consumer_groups().result(10).valid or []]:
        for future in admin.delete_consumer_groups(groups).values():
            # Its last member was killed and stays for its session: who joined before would wait for it.
            with contextlib.suppress(KafkaException):
                future.result(30)
        if time.monotonic() > until:
            raise StateError(f"beside_peers: groups could not be deleted (got {sorted(groups)} left); run it again")
        time.sleep(0.5)


@contextmanager
def started(command: list[str], place: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run a program with its children in a session of its own; ends all of them."""
    with (place / "out.log").open("wb") as log:
        process = subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.PIPE, stdout=log, stderr=log, start_new_session=True
        )
        try:
            yield process
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.communicate()


def used(session: int) -> tuple[float, float]:
    """Add up CPU seconds and peak memory (MiB) of the processes of a session."""
    cpu, peak = 0.0, 0.0
    for place in Path("/proc").iterdir():
        if not place.name.isdigit():
            continue
        with contextlib.suppress(OSError, IndexError):
            fields = (place / "stat").read_text().rpartition(")")[2].split()
            if int(fields[3]) != session:
                continue
            cpu += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
            status = (place / "status").read_text()
            peak += int(status.partition("VmHWM:")[2].split()[0]) / 1024
    return cpu, peak


def measure(bootstrap: str, log: Log, peer: Peer | None, keep: set[str]) -> Run:
    """Run one engine over one log from nothing.

    Raises:
        StateError: it ended by itself, or gave no command in time.
    """
    clear(bootstrap, keep)
    names = (COMMANDS, DECISIONS, ATTRIBUTIONS, DEAD_LETTERS, CHANGELOG) if peer is None else (OUT,)
    compact = {CHANGELOG: dict(BY_NAME[CHANGELOG].config)}
    create(bootstrap, [NewTopic(name, PARTITIONS, 1, config=compact.get(name, {})) for name in names])
    due = log.due_bounded if peer is None else log.due
    with tempfile.TemporaryDirectory() as temporary:
        place = Path(temporary)
        if peer is None:
            command = [sys.executable, "-m", "benchmarks.program", "worker_rate", bootstrap, str(place), PATTERN]
            command += ["0", str(SESSION_S)]
        else:
            command = peer.command(bootstrap, log.topic, OUT, place)
        began = time.monotonic()
        with started(command, place) as process:
            name, topic = (OURS, COMMANDS) if peer is None else (peer.name, OUT)
            found, last = watch(bootstrap, topic, len(due), process, place, name)
            cpu, peak = used(process.pid)
    return Run(last - began, cpu, peak, len(due ^ found))


def watch(
    bootstrap: str, topic: str, count: int, process: subprocess.Popen[bytes], place: Path, name: str
) -> tuple[set[tuple[str, str]], float]:
    """Read commands until there are `count`, or no more come; when the last one was seen."""
    consumer = Consumer(
        {"bootstrap.servers": bootstrap, "group.id": "watch", "enable.auto.commit": False, "log_level": 2}
    )
    consumer.assign([TopicPartition(topic, partition, OFFSET_BEGINNING) for partition in range(PARTITIONS)])
    found: set[tuple[str, str]] = set()
    until = time.monotonic() + WAIT_S
    last = time.monotonic()
    try:
        while len(found) < count and time.monotonic() < until and not (found and time.monotonic() > last + QUIET_S):
            if process.poll() is not None:
                raise failed(name, "it ended by itself", place / "out.log")
            messages = consumer.consume(10_000, 0.1)
            for message in messages:
                if message.error() is None:
                    said = _said(message.value() or b"{}")
                    found.add((said["member_id"], said["anchor"]))
            if messages:
                last = time.monotonic()
    finally:
        consumer.close()
    if not found:
        raise failed(name, f"no command came in {WAIT_S:.0f} s", place / "out.log")
    return found, last


def failed(name: str, what: str, said: Path) -> StateError:
    """Keep what an engine said, and name the root cause, which stands far above its last lines."""
    HOMES.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(said, kept := HOMES / f"{re.sub(r'[^a-z]+', '-', name.lower()).strip('-')}.log")
    lines = kept.read_text(errors="replace").strip().splitlines()
    cause = next((line for line in reversed(lines) if line.startswith("Caused by")), "".join(lines[-1:]))
    return StateError(f"{name}: {what} (it said: {cause[:300]}); its whole log is {kept.name} in .cache/peers")


def row(name: str, full: Log, head: Log, runs: list[tuple[Run, Run, float]], ours: Sequence[float]) -> Row:
    """Sum up one engine's runs; `ours`: our CPU seconds per event, per round."""
    items = full.records - head.records
    walls = [(long.wall_s - short.wall_s) / items * 1e6 for long, short, _ in runs]
    cpus = [(long.cpu_s - short.cpu_s) / items * 1e6 for long, short, _ in runs]
    ratios = [cpu / mine for cpu, mine in zip(cpus, ours, strict=True)]
    found = Row(case=name, unit="event", items=full.records, runs=len(runs))
    found.cpu_us, found.cpu_us_low, found.cpu_us_high = statistics.median(cpus), min(cpus), max(cpus)
    found.wall_us = statistics.median(walls)
    found.steps = statistics.median(cpu / step for cpu, (_, _, step) in zip(cpus, runs, strict=True))
    if name != OURS:
        found.ratio, found.ratio_low, found.ratio_high = statistics.median(ratios), min(ratios), max(ratios)
    found.peak_mb = max(long.peak_mb for long, _, _ in runs)
    found.more = {
        "start-up s": round(statistics.median(short.wall_s for _, short, _ in runs), 1),
        "commands": len(full.due_bounded if name == OURS else full.due),
        "differing": max(long.differing for long, _, _ in runs),
    }
    return found


def run(scale: Scale) -> list[Row]:
    """Measure; peers that fail, or whose programs are not on PATH, are left out and named."""
    peers = [peer for peer in PEERS if not peer.missing()]
    for peer in peers:
        scale.progress(0.0, f"installing {peer.name}")
        peer.prepare()
    with tempfile.TemporaryDirectory() as temporary, contextlib.ExitStack() as stack:
        cache = Settings().cache_dir
        # Two brokers, because ours reads a topic of one name: the whole log, and its first hundredth.
        whole, short = (stack.enter_context(LocalBroker(Path(temporary) / name, cache)) for name in ("whole", "short"))
        events = list(w(5, scale.of(EVENTS_COUNT, 2_000), members := scale.of(MEMBERS)))
        few = max(1, round(members * SLOW_SHARE))
        scale.progress(0.02, "filling topics")
        full = fill(whole.bootstrap, EVENTS, events, members)
        head = fill(short.bootstrap, EVENTS, list(w(6, round(len(events) * HEAD_SHARE), few)), few)
        slow = fill(whole.bootstrap, "events-slow", list(w(7, round(len(events) * SLOW_SHARE), few)), few)
        del events
        taken: dict[str, list[tuple[Run, Run, float]]] = {}
        starts: dict[str, Run] = {}
        cases: list[Peer | None] = [None, *peers]
        broken: dict[str, str] = {}
        for turn in range(scale.runs):
            for number, engine in enumerate(list(cases)):
                name = OURS if engine is None else engine.name
                scale.progress(0.05 + 0.95 * (turn + number / len(cases)) / scale.runs, name)
                log = slow if engine is not None and engine.slow else full
                try:
                    if not turn:
                        starts[name] = measure(short.bootstrap, head, engine, {EVENTS})
                    small = starts[name]
                    step = calibration.step_us()
                    big = measure(whole.bootstrap, log, engine, {EVENTS, slow.topic})
                except StateError as error:
                    if engine is None:
                        raise
                    cases.remove(engine)  # the others' turns go on; the table names it
                    taken.pop(name, None)
                    broken[name] = str(error)
                    continue
                taken.setdefault(name, []).append((big, small, (step + calibration.step_us()) / 2))
        items = full.records - head.records
        ours = [(big.cpu_s - small.cpu_s) / items * 1e6 for big, small, _ in taken[OURS]]
        slow_peers = {peer.name for peer in peers if peer.slow}
        rows = [row(name, slow if name in slow_peers else full, head, runs, ours) for name, runs in taken.items()]
    rows += [Row(case=name, unit="event", more={"failed": why}) for name, why in broken.items()]
    for left_out in (peer for peer in PEERS if peer.missing()):
        missing = ", ".join(left_out.missing())
        rows.append(Row(case=left_out.name, unit="event", more={"left out, not on PATH": missing}))
    return rows
