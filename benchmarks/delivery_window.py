"""How long is the window in which a crash would send a mail twice?

As a program: `python -m benchmarks.delivery_window [MAILS]`. Needs Java and Maven for the broker.
"""

import asyncio
import contextlib
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from confluent_kafka import Producer

from agents.delivery_state import SENT_TOPIC, decode_entry
from agents.send import run_delivery
from agents.send_log import Outbox, Record
from agents.topics import COMMANDS
from benchmarks.harness import quantile
from schemas.codec import encode_command
from schemas.commands import SendMessage
from tidings.brokers.admin import create_topics
from tidings.brokers.local import LocalBroker
from tidings.config import Settings
from tidings.smtp_server import ReceivedMail, SmtpServer

MAILS = 2_000
PACED_S = 0.02  # between two mails of the idle case
WAIT_S = 300.0

_send = Outbox.send_all


def command(number: int) -> SendMessage:
    """Make one command."""
    now = time.time_ns() // 1_000_000
    return SendMessage(
        command_id=f"{number:032x}", member_id=f"m{number}", campaign="c", version="v", instance_id=f"i{number}",
        step="send", channel="email", template="hello", address=f"u{number}@mail.example", decided_at_ms=now,
        caused_at_ms=now, expires_at_ms=now + 3_600_000, anchor="e", data={}, attribution_window_ms=1,
    )  # fmt: skip


class Watch:
    """When the server took each mail, and when the record of that was durable, on one clock."""

    def __init__(self) -> None:
        self.taken: dict[str, float] = {}
        self.durable: dict[str, float] = {}

    def on_mail(self, mail: ReceivedMail) -> None:
        """Note the moment right before the server says 250."""
        self.taken[mail.message_id.partition("@")[0].strip("<")] = time.monotonic()

    async def send(self, outbox: Outbox, *records: Record) -> list[int]:
        """Stand in for `Outbox.send_all`: note the moment at which `sent` is acknowledged by all replicas."""
        offsets = await _send(outbox, *records)
        for record in records:
            if record.topic == SENT_TOPIC and decode_entry(record.value or b"").status == "sent":
                self.durable[(record.key or b"").decode()] = time.monotonic()
        return offsets

    def windows_ms(self) -> list[float]:
        """List the windows, ascending."""
        return sorted(1000 * (self.durable[name] - at) for name, at in self.taken.items() if name in self.durable)


async def deliver(settings: Settings, smtp: SmtpServer, place: Path, first: int, count: int, pace_s: float) -> None:
    """Send `count` mails and wait until all are on record."""
    stop, ready = asyncio.Event(), asyncio.Event()
    templates = place / "templates"
    templates.mkdir(exist_ok=True)
    (templates / "hello.subject.j2").write_text("Hello")
    (templates / "hello.txt.j2").write_text("Hello {{ unsubscribe_url }}")
    role = asyncio.create_task(
        run_delivery(
            kafka=settings.confluent(), smtp_url=smtp.url, mail_from="Shop <news@shop.example>",
            templates_dir=templates, state_dir=place / "state", unsubscribe_base_url="https://shop.example/u",
            unsubscribe_secret=b"s" * 32, stop=stop, ready=ready,
        )
    )  # fmt: skip
    try:
        await asyncio.wait_for(ready.wait(), WAIT_S)
        producer = Producer(settings.confluent({"partitioner": "murmur2_random"}))
        for number in range(first, first + count):
            producer.produce(COMMANDS, encode_command(command(number)), f"m{number}")
            if pace_s:
                producer.poll(0)
                await asyncio.sleep(pace_s)
        await asyncio.to_thread(producer.flush, 30)
        async with asyncio.timeout(WAIT_S):
            while smtp.received < first + count:
                await asyncio.sleep(0.05)
        await asyncio.sleep(1)
    finally:
        stop.set()
        with contextlib.suppress(asyncio.CancelledError):
            await role


def report(name: str, windows: Sequence[float]) -> str:
    """Word one case."""
    p50, p99 = quantile(windows, 0.5), quantile(windows, 0.99)
    return f"{name:34} {len(windows):6,} mails   p50 {p50:6.1f} ms   p99 {p99:6.1f} ms   most {windows[-1]:6.1f} ms"


def main(count: int) -> None:
    """Measure one mail at a time, then a backlog over 8 connections."""
    with tempfile.TemporaryDirectory() as directory:
        place = Path(directory)
        with LocalBroker(place, Settings().cache_dir, heap_mb=256) as broker:
            settings = Settings.from_env({"TIDINGS_BROKER": broker.bootstrap, "TIDINGS_PARTITIONS": "4"})
            create_topics(settings)
            done = 0
            for name, mails, pace_s in (
                ("one at a time", count // 4, PACED_S),
                ("a backlog, 8 connections", count, 0.0),
            ):
                watch = Watch()

                async def send(outbox: Outbox, *records: Record, _watch: Watch = watch) -> list[int]:
                    return await _watch.send(outbox, *records)

                Outbox.send_all = send  # type: ignore[assignment,method-assign]
                smtp = SmtpServer(on_mail=watch.on_mail)
                with smtp:
                    home = place / name.split(",")[0].replace(" ", "-")
                    home.mkdir()
                    smtp.received = done  # counts on over both cases
                    asyncio.run(deliver(settings, smtp, home, done, mails, pace_s))
                done += mails
                print(report(name, watch.windows_ms()), flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else MAILS)
