"""How many events a second does one engine worker take, and how soon is a command out?

As a program (`python -m benchmarks.worker_rate BOOTSTRAP DIRECTORY PATTERN STANDBYS [SESSION_S]`) it is that worker: it
says `ready`, and answers each line `{"partition": end offset, …}` with what was used until all of that was durable, a
line `{"held": {…}}` once its stores, those of standbys too, have the changelog up to there, and ends when its input
does.
"""

import asyncio
import functools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any

import msgspec
from confluent_kafka import OFFSET_BEGINNING, Consumer, Producer, TopicPartition

from agents.topics import ATTRIBUTIONS, CHANGELOG, COMMANDS, DEAD_LETTERS, DECISIONS, EVENTS
from benchmarks.harness import ROOT, Row, Scale, Work, interleaved, peak_mb, quantile
from benchmarks.replay_speed import PATTERN, expected, plan_of
from benchmarks.workload import START_MS, registrations, w
from schemas.codec import encode_event
from schemas.errors import StateError
from schemas.events import Event
from tidings.brokers.memory import FETCH_WAIT_MS, MemoryBroker
from tidings.collector import quiet_gc
from tidings.logs import set_up
from tidings.loop import quick_loop

NAME = "worker_rate"
QUESTION = "How many events a second does one engine worker take, and how soon after its append is a command visible?"
LINGER_MS = 5  # of the producer, as a busy shop sets it
METHOD = (
    "One worker process (Faust, RocksDB, changelog, decisions, commands; the collector quiet as in the product) on the "
    "in-memory broker, which runs in the measuring process, 8 partitions. `backlog`: workload W with one registration "
    "per member, all appended before the worker starts; from its recovery until every event is durable; CPU and memory "
    "of the worker alone; decisions and commands are read while they come, and compared with those of the definition. "
    f"`live`: 'cart.item.added' sends at once; one run; from `produce` (linger {LINGER_MS} ms) to the command in a "
    f"consumer. This broker answers an empty fetch only after {FETCH_WAIT_MS} ms and gives one producer's batch per "
    "fetch and partition: limits of its own, not Kafka's, which `live` measures as well."
)
EVENTS_COUNT, MEMBERS = 150_000, 15_000  # the broker keeps 5 MiB per partition, compressed
PARTITIONS = 8
TOPICS = dict.fromkeys((EVENTS, COMMANDS, DECISIONS, ATTRIBUTIONS, DEAD_LETTERS, CHANGELOG), PARTITIONS)
SESSION_S = 10.0
WAIT_S = 120.0
LIVE_RATES = (1_000, 5_000)
LIVE_SECONDS, LIVE_MEMBERS = 20, 2_000
SEND = "send: {channel: email, template: browse_reminder}\n"
POSITIVE = "cart.item.added"
REGISTERED_MS = START_MS - 60_000

_said = msgspec.json.Decoder(dict[str, Any]).decode


# ---------------------------------------------------------------- the worker


async def be_worker(bootstrap: str, place: Path, pattern: str, standbys: int, session_s: float = SESSION_S) -> None:
    """Run the engine worker until standard input ends, the collector quiet as the product's roles have it."""
    with quiet_gc():
        await _be_worker(bootstrap, place, pattern, standbys, session_s)


async def _be_worker(bootstrap: str, place: Path, pattern: str, standbys: int, session_s: float) -> None:
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what libraries print must not stand between our answers
    set_up("warning")  # structlog's own spelling of a failure shows every local variable: an epoch's, for minutes
    from agents.wiring import create_engine_app, run_engine_app
    from streams.engine import PartitionEngine

    engines = functools.partial(PartitionEngine, campaigns=[plan_of("measured", pattern, SEND)])
    built = create_engine_app(
        bootstrap=[bootstrap], data_dir=place, engines=engines, partitions=PARTITIONS, session_timeout_s=session_s,
        standby_replicas=standbys,
    )  # fmt: skip
    ended = asyncio.Event()
    running = asyncio.create_task(run_engine_app(built, ended))
    while not built.worker.recovered and not running.done():
        await asyncio.sleep(0.005)
    wall, cpu, epochs = time.perf_counter(), time.process_time(), 0
    print("ready", file=answers)
    loop = asyncio.get_running_loop()
    while not running.done():
        line = await loop.run_in_executor(None, sys.stdin.readline)
        if not line:
            break
        asked = json.loads(line)
        held = asked.pop("held", {})
        while not running.done() and any(
            (store := built.stores.get(int(partition))) is None or (store.changelog_offset() or 0) < end - 1
            for partition, end in held.items()
        ):
            await asyncio.sleep(0.05)
        ends = {int(partition): end for partition, end in asked.items()}
        while not running.done() and any(
            partition not in built.worker.tasks
            or built.worker.tasks[partition].engine.applied_offset < end - 1
            or not built.worker.tasks[partition].idle
            for partition, end in ends.items()
        ):
            await asyncio.sleep(0.005)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        used = {"wall_s": wall, "cpu_s": cpu, "peak_mb": peak_mb(), "epochs": built.metrics.epochs - epochs,
                "partitions": len(built.worker.tasks)}  # fmt: skip
        print(json.dumps(used), file=answers)
        wall, cpu, epochs = time.perf_counter(), time.process_time(), built.metrics.epochs
    ended.set()
    await running


class Worker:
    """The worker as a child process."""

    def __init__(
        self, bootstrap: str, place: Path, pattern: str, standbys: int = 0, patience_s: float = WAIT_S
    ) -> None:
        self._patience_s = patience_s
        command = [sys.executable, "-m", "benchmarks.program", "worker_rate"]
        command += [bootstrap, str(place), pattern, str(standbys)]
        self._log = (place / "worker.log").open("wb")
        self._place = place
        self.process = subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log
        )
        self._line()

    def used(self, ends: dict[int, int], held: dict[int, int] | None = None) -> dict[str, float]:
        """Wait until all before these offsets is durable; what was used since the last call, or since recovery.

        `held`: wait for the stores to have the changelog up to these offsets.
        """
        if self.process.stdin is None:
            raise StateError("worker_rate: the worker has no input")
        self.process.stdin.write(json.dumps({**ends, **({"held": held} if held else {})}).encode() + b"\n")
        self.process.stdin.flush()
        found: dict[str, float] = json.loads(self._line())
        return found

    def stop(self) -> None:
        """End it, in good order if it can."""
        if self.process.stdin is not None:
            self.process.stdin.close()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        if self.process.stdout is not None:
            self.process.stdout.close()
        self._log.close()

    def _line(self) -> str:
        watch = threading.Timer(self._patience_s, self.process.kill)
        watch.start()
        try:
            line = self.process.stdout.readline().decode() if self.process.stdout is not None else ""
        finally:
            watch.cancel()
        if not line:
            tail = (self._place / "worker.log").read_text(errors="replace").splitlines()[-3:]
            raise StateError(f"worker_rate: the worker ended or stood still (it said: {' | '.join(tail)})")
        return line


@contextmanager
def worker_on(broker: MemoryBroker, pattern: str) -> Iterator[Worker]:
    """Run a worker on a broker, with a data directory that is deleted afterwards."""
    with tempfile.TemporaryDirectory() as place:
        worker = Worker(broker.bootstrap, Path(place), pattern)
        try:
            yield worker
        finally:
            worker.stop()


# ---------------------------------------------------------------- its surroundings


class Appender:
    """Appends events; knows the end of each partition."""

    def __init__(self, broker: MemoryBroker, **config: Any) -> None:
        self.ends = dict.fromkeys(range(PARTITIONS), 0)
        self._producer = Producer(
            {"bootstrap.servers": broker.bootstrap, "partitioner": "murmur2_random", "compression.type": "lz4",
             "enable.idempotence": True, "log_level": 2, "queue.buffering.max.messages": 1_000_000, **config}
        )  # fmt: skip

    def append(self, event: Event) -> None:
        """Append one event; its time is the record's."""
        self._producer.produce(
            EVENTS, encode_event(event), event.member_id, timestamp=event.occurred_at_ms, on_delivery=self._count
        )

    def poll(self) -> None:
        """Take delivery reports."""
        self._producer.poll(0)

    def flush(self) -> None:
        """Wait until all is appended.

        Raises:
            StateError: the broker did not take it.
        """
        if self._producer.flush(30):
            raise StateError("worker_rate: the broker did not take the events; run it again")

    def _count(self, error: Any, message: Any) -> None:
        if error is None:
            partition = message.partition()
            self.ends[partition] = max(self.ends[partition], message.offset() + 1)


def reader(broker: MemoryBroker, topic: str) -> Consumer:
    """Read a topic from its beginning, without a group."""
    consumer = Consumer(
        {"bootstrap.servers": broker.bootstrap, "group.id": "reader", "enable.auto.commit": False,
         "fetch.wait.max.ms": FETCH_WAIT_MS, "auto.offset.reset": "error", "log_level": 2}
    )  # fmt: skip
    consumer.assign([TopicPartition(topic, partition, OFFSET_BEGINNING) for partition in range(PARTITIONS)])
    return consumer


class Kept(threading.Thread):
    """Reads (member, anchor) of each decision or command while they come: the broker keeps the newest 5 MiB alone."""

    def __init__(self, broker: MemoryBroker, topic: str) -> None:
        super().__init__(daemon=True)
        self._topic, self._consumer = topic, reader(broker, topic)
        self._found: list[tuple[str, str]] = []
        self._failed = ""
        self._ended = threading.Event()

    def run(self) -> None:
        """Read until ended."""
        while not self._ended.is_set() and not self._failed:
            for message in self._consumer.consume(2_000, 0.1):
                if message.error():
                    self._failed = str(message.error())
                    break
                said = _said(message.value() or b"")
                if said.get("outcome") != "evicted":
                    self._found.append((said["member_id"], said["anchor"]))

    def all_of(self, count: int) -> set[tuple[str, str]]:
        """Wait until there are `count`, and half a second beyond; then end.

        Raises:
            StateError: fewer within the time, more, or a record could not be read.
        """
        until = time.monotonic() + WAIT_S
        while len(self._found) < count and time.monotonic() < until and not self._failed:
            time.sleep(0.05)
        time.sleep(0.5)
        self.end()
        if self._failed:
            raise StateError(f"worker_rate: '{self._topic}' could not be read (got {self._failed})")
        if len(self._found) != count:
            raise StateError(
                f"worker_rate: '{self._topic}' holds other records than wanted (got {len(self._found)}, not {count})"
            )
        return set(self._found)

    def end(self) -> None:
        """Read no more. May be called twice."""
        self._ended.set()
        if self.is_alive():
            self.join()
            self._consumer.close()


def reachable(events: Iterable[Event]) -> set[str]:
    """Name the members who agreed to e-mail and have an address."""
    return {e.member_id for e in events if e.member_id and e.data["consent"]["email"] and "email" in e.data}


# ---------------------------------------------------------------- the questions


def backlog(joined: Sequence[Event], events: Sequence[Event], due: set[tuple[str, str]], epochs: list[float]) -> Work:
    """Append all, start a worker, wait until it is through, check what it said. Notes the number of epochs."""
    with MemoryBroker(TOPICS) as broker:
        appender = Appender(broker, **{"linger.ms": 20})
        for number, event in enumerate(chain(joined, events)):
            appender.append(event)
            if number % 1_000 == 0:
                appender.poll()
        appender.flush()
        decisions, commands = Kept(broker, DECISIONS), Kept(broker, COMMANDS)
        decisions.start()
        commands.start()
        with worker_on(broker, PATTERN) as worker:
            try:
                used = worker.used(appender.ends)
                epochs.append(used["epochs"])
                # What is pending falls due at the first tick, long after the log's own times.
                if decisions.all_of(len(due)) != due:
                    raise StateError("worker_rate: other matches than by the definition; compare with replay")
                able = reachable(joined)
                wanted = {(member, anchor) for member, anchor in due if member in able}
                if commands.all_of(len(wanted)) != wanted:
                    raise StateError("worker_rate: other commands than by the definition; compare with replay")
            finally:
                decisions.end()
                commands.end()
    return Work(len(joined) + len(events), used["wall_s"], used["cpu_s"], used["peak_mb"])


class Watcher(threading.Thread):
    """Notes when each command becomes visible to a consumer."""

    def __init__(self, broker: MemoryBroker) -> None:
        super().__init__(daemon=True)
        self.seen: dict[str, float] = {}
        self.ended = threading.Event()
        self._consumer = reader(broker, COMMANDS)

    def run(self) -> None:
        """Poll until ended."""
        while not self.ended.is_set():
            message = self._consumer.poll(0.05)
            now = time.perf_counter()
            if message is not None and not message.error():
                self.seen[_said(message.value() or b"")["anchor"]] = now
        self._consumer.close()


def live(rate: int, seconds: float, joined: Sequence[Event]) -> Row:
    """Append events at a steady rate and watch for their commands."""
    wanted = reachable(joined)
    with MemoryBroker(TOPICS) as broker:
        appender = Appender(broker, **{"linger.ms": LINGER_MS})
        for event in joined:
            appender.append(event)
        appender.flush()
        with worker_on(broker, POSITIVE) as worker:
            worker.used(appender.ends)
            watcher = Watcher(broker)
            watcher.start()
            time.sleep(0.5)
            sent = _pace(appender, rate, seconds, wanted)
            used = worker.used(appender.ends)
            until = time.monotonic() + 10
            while len(watcher.seen) < len(sent) and time.monotonic() < until:
                time.sleep(0.02)
            watcher.ended.set()
            watcher.join()
    if watcher.seen.keys() != sent.keys():
        raise StateError(f"worker_rate: other commands than carts (got {len(watcher.seen)}, not {len(sent)})")
    delays = sorted((watcher.seen[anchor] - began) * 1000 for anchor, began in sent.items())
    count = int(rate * seconds)
    row = Row(case=f"live, {rate:,}/s", unit="event", items=count, runs=1, peak_mb=used["peak_mb"])
    row.cpu_us = used["cpu_s"] / count * 1e6  # of this rate: idle polling included
    row.more = {"commands": len(delays), "epochs": used["epochs"]}
    row.more |= {f"p{share * 100:g} ms": round(quantile(delays, share), 1) for share in (0.5, 0.99, 0.999)}
    return row


def _pace(appender: Appender, rate: int, seconds: float, wanted: set[str]) -> dict[str, float]:
    """Append workload W at a rate, in steps of a millisecond; when each event that must lead to a command left."""
    sent: dict[str, float] = {}
    count = int(rate * seconds)
    started, now_ms = time.perf_counter(), time.time_ns() // 1_000_000
    for number, event in enumerate(w(6, count, LIVE_MEMBERS)):
        at = number / rate
        while (ahead := at - (time.perf_counter() - started)) > 0:
            appender.poll()
            if ahead > 0.001:
                time.sleep(0.001)
        event.occurred_at_ms = now_ms + int(at * 1000)
        if event.type == POSITIVE and event.member_id in wanted and event.event_id is not None:
            sent[event.event_id] = time.perf_counter()
        appender.append(event)
    appender.flush()
    return sent


def run(scale: Scale) -> list[Row]:
    """Measure."""
    members = scale.of(MEMBERS)
    events = list(w(5, scale.of(EVENTS_COUNT), members))
    joined = list(registrations(5, members, REGISTERED_MS))
    due, _ = expected(events, end_ms=1 << 60)
    share = 0.7

    def note(done: float, text: str) -> None:
        scale.progress(done * share, text)

    inner = Scale(scale.factor, scale.runs, note)
    epochs: list[float] = []
    rows = interleaved({"backlog": lambda: backlog(joined, events, due, epochs)}, inner, "event")
    rows[0].more = {"matches": len(due), "epochs": statistics.median(epochs)}
    for number, rate in enumerate(LIVE_RATES):
        scale.progress(share + (1 - share) * number / len(LIVE_RATES), f"live, {rate:,}/s")
        seconds = max(2.0, LIVE_SECONDS * min(1.0, scale.factor))
        rows.append(live(rate, seconds, list(registrations(6, LIVE_MEMBERS, REGISTERED_MS))))
    return rows


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=quick_loop()) as runner:
        place, session = Path(sys.argv[2]), map(float, sys.argv[5:])
        runner.run(be_worker(sys.argv[1], place, sys.argv[3], int(sys.argv[4]), *session))
