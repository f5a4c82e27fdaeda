"""How soon after its append is a positive match's command visible, and how late does an absence fire?

As a program (`python -m benchmarks.latency BOOTSTRAP RATE SECONDS MEMBERS`) it is the producer: workload W at a rate.
"""

import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
from confluent_kafka import OFFSET_END, Consumer, Producer, TopicPartition

from agents.topics import COMMANDS, EVENTS
from benchmarks.harness import ROOT, Row, Scale, quantile
from benchmarks.worker_rate import PARTITIONS, POSITIVE, Worker
from benchmarks.workload import w
from schemas.codec import encode_event
from schemas.errors import StateError
from schemas.events import Event
from tidings.brokers import LocalBroker, admin
from tidings.config import Settings

NAME = "latency"
QUESTION = "How soon after its append is a positive match's command visible, and how late does an absence fire?"
METHOD = (
    "One worker process (RocksDB, changelog, decisions: all guarantees on) and Apache Kafka 4, one node, 8 partitions, "
    "on the same machine, with a producer process (linger 2 ms) and a consumer: four programs on its cores. From the "
    "broker's append time of the event (LogAppendTime, whole ms) until the consumer has the command. `positive`: "
    "'cart.item.added' sends at once, 15 % of the events; each rate runs 20 s before it counts, at any "
    "scale: a fresh JVM takes twice the CPU, and on two cores everybody waits for it. `absence`: "
    "'viewed then no order for 2s' on partitions where nothing else happens; delay beyond due + L (L = 5 s), which a "
    "tick must end. The rate that was reached is said."
)
RATES = {1_000: 30.0, 10_000: 20.0, 50_000: 15.0}  # seconds of each: a p99.9 wants some thousand commands
MEMBERS = 2_000
ABSENCE = "catalog.product.viewed then no order.created for 2s"
ABSENT_MS, LATENESS_MS = 2_000, 5_000
ABSENCES = 200
STEP_S = 0.001
WARM_S = 20.0
QUIET_S = 4.0

_said = msgspec.json.Decoder(dict[str, Any]).decode


# ---------------------------------------------------------------- the producer


def produce(bootstrap: str, rate: int, seconds: float, members: int) -> None:
    """Append workload W at a rate; print how many events and in how many seconds."""
    producer = Producer(
        {"bootstrap.servers": bootstrap, "partitioner": "murmur2_random", "linger.ms": 2, "compression.type": "lz4",
         "queue.buffering.max.messages": 2_000_000, "log_level": 2}
    )  # fmt: skip
    now_ms = time.time_ns() // 1_000_000
    ready: list[tuple[bytes, str | None]] = []
    for number, event in enumerate(w(6, int(rate * seconds), members)):
        event.occurred_at_ms = now_ms + int(number / rate * 1000)
        ready.append((encode_event(event), event.member_id))
    producer.list_topics(timeout=10)
    began, sent = time.perf_counter(), 0
    while sent < len(ready):
        due = min(len(ready), int((time.perf_counter() - began) * rate))
        for value, member in ready[sent:due]:
            producer.produce(EVENTS, value, member)
        sent = due
        producer.poll(0)
        time.sleep(STEP_S)
    took = time.perf_counter() - began
    if producer.flush(30):
        raise StateError("latency: Kafka did not take the events; run it again")
    print(msgspec.json.encode({"sent": sent, "seconds": took}).decode())


# ---------------------------------------------------------------- the consumer


@dataclass
class Seen:
    """A command: when its cause was appended, when it was decided to be due, and when it was here, wall ms."""

    caused_ms: int
    anchor: str
    at_ms: float


class Watcher:
    """Reads commands as they come, from the topic's end on."""

    def __init__(self, bootstrap: str) -> None:
        self._consumer = Consumer(
            {"bootstrap.servers": bootstrap, "group.id": "latency", "enable.auto.commit": False, "log_level": 2,
             "fetch.wait.max.ms": 100}
        )  # fmt: skip
        self._consumer.assign([TopicPartition(COMMANDS, number, OFFSET_END) for number in range(PARTITIONS)])
        self._consumer.poll(1.0)

    def until(self, done: Any, longest_s: float) -> list[Seen]:
        """Read until `done()` and nothing came for a while."""
        seen: list[Seen] = []
        last = time.monotonic()
        until = last + longest_s
        while time.monotonic() < until and not (done() and time.monotonic() > last + QUIET_S):
            messages = self._consumer.consume(1_000, 0.005)
            now = time.time_ns() / 1e6
            for message in messages:
                if message.error() is None:
                    said = _said(message.value() or b"{}")
                    seen.append(Seen(said["caused_at_ms"], said["anchor"], now))
            if messages:
                last = time.monotonic()
        return seen

    def close(self) -> None:
        """Leave."""
        self._consumer.close()


# ---------------------------------------------------------------- the questions


def register(settings: Settings, members: int) -> dict[int, int]:
    """Register members who agree to e-mail; the end of each partition."""
    producer = Producer({**settings.confluent(), "partitioner": "murmur2_random", "log_level": 2})
    ends = dict.fromkeys(range(PARTITIONS), 0)

    def count(error: Any, message: Any) -> None:
        if error is None:
            ends[message.partition()] = max(ends[message.partition()], message.offset() + 1)

    now_ms = time.time_ns() // 1_000_000
    data = {"email": "member@shop.example", "consent": {"email": True}}
    for number in range(members):
        event = Event("member.registered", now_ms, f"r{now_ms}-{number}", f"m{number}", data)
        producer.produce(EVENTS, encode_event(event), event.member_id, on_delivery=count)
    producer.flush(30)
    return ends


@contextmanager
def stage(pattern: str, members: int) -> Iterator[tuple[Settings, Watcher]]:
    """Kafka, topics, registered members, a worker that has taken them, a watcher."""
    with tempfile.TemporaryDirectory() as temporary:
        place = Path(temporary)
        with LocalBroker(place, Settings().cache_dir) as broker:
            settings = Settings.from_env({"TIDINGS_BROKER": broker.bootstrap, "TIDINGS_PARTITIONS": str(PARTITIONS)})
            admin.create_topics(settings)
            ends = register(settings, members)
            home = place / "worker"
            home.mkdir()
            worker = Worker(broker.bootstrap, home, pattern)
            try:
                worker.used(ends)
                watcher = Watcher(broker.bootstrap)
                yield settings, watcher
                watcher.close()
            finally:
                worker.stop()


def positive(rate: int, seconds: float, members: int, warm_s: float = WARM_S) -> Row:
    """Append at a rate and watch; what comes in the first `warm_s` does not count."""
    lasts = str(warm_s + seconds)
    with stage(POSITIVE, members) as (settings, watcher):
        words = [sys.executable, "-m", "benchmarks.latency", settings.bootstrap, str(rate), lasts, str(members)]
        with subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE) as process:
            began_ms = time.time_ns() / 1e6
            seen = watcher.until(lambda: process.poll() is not None, 10 * (warm_s + seconds) + 60)
            said = _said((process.stdout.read() if process.stdout else b"") or b"{}")
    if not seen or not said:
        raise StateError(f"latency: no commands at {rate}/s (got {len(seen)}); run it again")
    first = min((one.caused_ms for one in seen), default=began_ms)
    counted = [one for one in seen if one.caused_ms >= first + warm_s * 1000]
    row = _row(f"positive, {rate:,}/s", [one.at_ms - one.caused_ms for one in counted])
    row.more["reached per s"] = round(said["sent"] / said["seconds"])
    return row


def absence(count: int) -> Row:
    """Let members look once, then wait in silence."""
    with stage(ABSENCE, count) as (settings, watcher):
        producer = Producer({**settings.confluent(), "partitioner": "murmur2_random", "log_level": 2})
        looked: dict[str, int] = {}
        for number in range(count):
            now_ms = time.time_ns() // 1_000_000
            event = Event("catalog.product.viewed", now_ms, f"look{number}", f"m{number}", {"product_id": "p1"})
            looked[f"look{number}"] = now_ms
            producer.produce(EVENTS, encode_event(event), event.member_id)
        producer.flush(30)
        seen: list[Seen] = []
        until = time.monotonic() + 60
        while len(seen) < count and time.monotonic() < until:
            seen += watcher.until(lambda: True, 10)
    if len(seen) != count:
        raise StateError(f"latency: other absences than looks (got {len(seen)}, not {count})")
    return _row("absence, idle", [one.at_ms - (looked[one.anchor] + ABSENT_MS + LATENESS_MS) for one in seen])


def _row(case: str, delays: list[float]) -> Row:
    delays.sort()
    row = Row(case=case, unit="command", items=len(delays), runs=1)
    row.more = {f"p{share * 100:g} ms": round(quantile(delays, share), 1) for share in (0.5, 0.99, 0.999)}
    row.more |= {"mean ms": round(statistics.fmean(delays), 1), "most ms": round(delays[-1], 1)}
    return row


def run(scale: Scale) -> list[Row]:
    """Measure."""
    rows: list[Row] = []
    for number, (rate, seconds) in enumerate(RATES.items()):
        scale.progress(number / (len(RATES) + 1), f"positive, {rate:,}/s")
        rows.append(positive(rate, max(3.0, seconds * min(1.0, scale.factor)), scale.of(MEMBERS)))
    scale.progress(len(RATES) / (len(RATES) + 1), "absence")
    rows.append(absence(scale.of(ABSENCES, 20)))
    return rows


if __name__ == "__main__":
    produce(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4]))
