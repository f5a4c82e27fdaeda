"""How many e-mails a second does one core deliver?

As a program (`python -m benchmarks.delivery_rate JSON`) it is the delivery process: it says `ready`, and answers each
line, a number of outcomes, with what was used until as many were on record since the line before.
"""

import asyncio
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from confluent_kafka import Consumer, Producer, TopicPartition
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from agents.topics import COMMANDS_OF, DEAD_LETTERS, EVENTS, SENT_OF
from benchmarks.harness import ROOT, Case, Row, Scale, Work, interleaved, peak_mb
from benchmarks.smtp_sink import Sink
from schemas.codec import encode_command
from schemas.commands import LANES, SendMessage, lane_of
from schemas.errors import StateError
from tidings.brokers.memory import FETCH_WAIT_MS, MemoryBroker
from tidings.collector import quiet_gc
from tidings.loop import quick_loop

NAME = "delivery_rate"
QUESTION = "How many e-mails a second does one core deliver?"
MAILS = 6_000
METHOD = (
    "One delivery process with the loop, the collector and the metrics that `worker delivery` has; commands on the "
    "in-memory broker, which runs in the measuring process with 4 partitions; a server that takes mail for next to no "
    "work, in a process of its own, and offers PIPELINING as Postfix and Exim do. Each command becomes a mail of "
    "`cart_reminder` (text and HTML, 3 KB), handed over by SMTP on 8 connections; `sending` and `sent` are on the "
    "topic of what was sent and the receipt is on `events`, all acknowledged, before the clock is stopped. CPU is that "
    "of the delivery process alone, threads of librdkafka and RocksDB included. Mails taken and receipts written are "
    "counted: each command has one of both."
)
PARTITIONS = 4
TOPICS = dict.fromkeys((*COMMANDS_OF.values(), *SENT_OF.values(), EVENTS, DEAD_LETTERS), PARTITIONS)
TEMPLATE = "cart_reminder"
WAIT_S = 300.0
SECRET = b"s" * 32
SESSION_MS = 30_000  # a provider call may take 0.45 of it: on a busy machine a mail cut off at 1 s is sent twice


def command(number: int, prefix: str = "u", **changes: Any) -> SendMessage:
    """Make one command, decided now."""
    now = time.time_ns() // 1_000_000
    values: dict[str, Any] = {
        "command_id": f"{prefix}{number:031x}", "member_id": f"{prefix}{number}", "campaign": "cart", "version": "v",
        "instance_id": f"i{prefix}{number}", "step": "send", "channel": "email", "template": TEMPLATE,
        "address": f"{prefix}{number}@mail.example", "decided_at_ms": now, "caused_at_ms": now,
        "expires_at_ms": now + 3_600_000, "anchor": "e", "attribution_window_ms": 86_400_000,
        "data": {"name": f"Green tea no. {number}", "price": 12.5, "currency": "EUR", "quantity": 2,
                 "url": f"https://shop.example/cart/{number}"},
        "member": {"first_name": "Mary"},
    }  # fmt: skip
    return SendMessage(**(values | changes))


# ---------------------------------------------------------------- the delivery process


async def be_delivery(told: Mapping[str, Any]) -> None:
    """Deliver until standard input ends."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what libraries print must not stand between our answers
    from agents.send import run_delivery
    from agents.send_page import MailExtras
    from sinks.dkim import DkimSigner
    from tidings.web.prometheus import DeliveryRecorder

    reached = asyncio.Event()
    loop = asyncio.get_running_loop()

    class Recorder(DeliveryRecorder):
        done, wanted = 0, 1 << 60

        def count(self, name: str, by: int = 1, **labels: str) -> None:
            super().count(name, by, **labels)
            if name == "delivery_outcomes":
                self.done += by
                if self.done >= self.wanted:
                    reached.set()

    signer = DkimSigner("shop.example", "s1", told["dkim"].encode()) if told["dkim"] else None
    metrics, stop, ready = Recorder(), asyncio.Event(), asyncio.Event()

    async def deliver() -> None:
        with quiet_gc():
            await run_delivery(
                kafka=told["kafka"], smtp_url=told["smtp_url"], mail_from="Shop <news@shop.example>",
                templates_dir=ROOT / "campaigns" / "templates", state_dir=Path(told["place"]) / "state",
                unsubscribe_base_url="https://shop.example/u", unsubscribe_secret=SECRET, stop=stop, ready=ready,
                lanes=told["lanes"], extras=MailExtras(signer, told["tracking"]), metrics=metrics,
            )  # fmt: skip

    role = asyncio.create_task(deliver())
    waiter = asyncio.create_task(ready.wait())
    await asyncio.wait({role, waiter}, return_when=asyncio.FIRST_COMPLETED)
    if role.done():
        await role
    wall, cpu, before = time.perf_counter(), time.process_time(), 0
    print("ready", file=answers)
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        metrics.wanted = before + int(line)
        reached.clear()
        if metrics.done < metrics.wanted:
            waiter = asyncio.create_task(reached.wait())
            await asyncio.wait({role, waiter}, return_when=asyncio.FIRST_COMPLETED)
            if role.done():
                await role
        before = metrics.wanted
        used = {"wall_s": time.perf_counter() - wall, "cpu_s": time.process_time() - cpu, "peak_mb": peak_mb()}
        print(json.dumps(used), file=answers)
        wall, cpu = time.perf_counter(), time.process_time()
    stop.set()
    await role


class DeliveryProcess:
    """The delivery process as a child."""

    def __init__(
        self, broker: MemoryBroker, sink: Sink, place: Path, lanes: tuple[str, ...] = LANES, dkim: str = "",
        tracking: str = "",
    ) -> None:  # fmt: skip
        kafka = {"bootstrap.servers": broker.bootstrap, "session.timeout.ms": SESSION_MS,
                 "fetch.wait.max.ms": FETCH_WAIT_MS, "log_level": 2}  # fmt: skip
        told = {"kafka": kafka, "smtp_url": sink.url, "place": str(place), "lanes": lanes, "dkim": dkim,
                "tracking": tracking}  # fmt: skip
        self._place = place
        self._log = (place / "delivery.log").open("wb")
        program = [sys.executable, "-m", "benchmarks.program", "delivery_rate", json.dumps(told)]
        self.process = subprocess.Popen(
            program, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log
        )
        self._line()

    def used(self, outcomes: int) -> dict[str, float]:
        """Wait for so many outcomes since the last call; what was used since then, or since it was ready."""
        if self.process.stdin is None:
            raise StateError("delivery_rate: the process has no input")
        self.process.stdin.write(b"%d\n" % outcomes)
        self.process.stdin.flush()
        found: dict[str, float] = json.loads(self._line())
        return found

    def stop(self) -> None:
        """End it, in good order if it can."""
        if self.process.stdin is not None:
            self.process.stdin.close()
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        if self.process.stdout is not None:
            self.process.stdout.close()
        self._log.close()

    def _line(self) -> str:
        watch = threading.Timer(WAIT_S, self.process.kill)
        watch.start()
        try:
            line = self.process.stdout.readline().decode() if self.process.stdout is not None else ""
        finally:
            watch.cancel()
        if not line:
            tail = (self._place / "delivery.log").read_text(errors="replace").splitlines()[-3:]
            raise StateError(f"delivery_rate: the process ended or stood still (it said: {' | '.join(tail)})")
        return line


@contextmanager
def delivering(broker: MemoryBroker, sink: Sink, **more: Any) -> Iterator[DeliveryProcess]:
    """Run a delivery process with a directory that is deleted afterwards."""
    with tempfile.TemporaryDirectory() as place:
        process = DeliveryProcess(broker, sink, Path(place), **more)
        try:
            yield process
        finally:
            process.stop()


# ---------------------------------------------------------------- the question


def producer_on(broker: MemoryBroker, linger_ms: int = 20) -> Producer:
    """Make what writes commands."""
    return Producer(
        {"bootstrap.servers": broker.bootstrap, "partitioner": "murmur2_random", "linger.ms": linger_ms,
         "compression.type": "lz4", "queue.buffering.max.messages": 1_000_000, "log_level": 2}
    )  # fmt: skip


def receipts(broker: MemoryBroker) -> int:
    """Count the records on `events`: their ends, for what is read back is what the broker still keeps."""
    consumer = Consumer({"bootstrap.servers": broker.bootstrap, "group.id": "count", "log_level": 2})
    try:
        places = [TopicPartition(EVENTS, partition) for partition in range(PARTITIONS)]
        return sum(consumer.get_watermark_offsets(place, timeout=10)[1] for place in places)
    finally:
        consumer.close()


def rate(count: int, dkim: str = "", tracking: str = "") -> Work:
    """Deliver so many mails.

    Raises:
        StateError: mails or receipts are missing, or there are too many.
    """
    with (
        Sink() as sink,
        MemoryBroker(TOPICS) as broker,
        delivering(broker, sink, lanes=("trigger",), dkim=dkim, tracking=tracking) as process,
    ):
        producer = producer_on(broker)
        process.used(0)
        for number in range(count):
            one = command(number)
            producer.produce(COMMANDS_OF[lane_of(one)], encode_command(one), one.member_id)
        producer.flush(60)
        used = process.used(count)
        taken, written = sink.mails(), receipts(broker)
        if taken != count or written != count:
            raise StateError(f"delivery_rate: of {count} mails {taken} arrived, with {written} receipts; run it again")
    return Work(count, used["wall_s"], used["cpu_s"], used["peak_mb"])


def dkim_key() -> str:
    """Make a key of 2048 bits, as the documents ask for."""
    key = rsa.generate_private_key(public_exponent=65_537, key_size=2_048)
    form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    return key.private_bytes(*form).decode()


def run(scale: Scale) -> list[Row]:
    """Measure."""
    count, key = scale.of(MAILS), dkim_key()
    tracking = "https://go.shop.example"
    cases: dict[str, Case] = {
        "text and HTML": lambda: rate(count),
        "signed (DKIM, RSA 2048)": lambda: rate(count, key),
        "signed, links and opens tracked": lambda: rate(count, key, tracking),
    }
    return interleaved(cases, scale, "mail")


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=quick_loop()) as runner:
        runner.run(be_delivery(json.loads(sys.argv[1])))
