"""A small delivery of its own: in-memory broker, SMTP server, templates, and the driver to look at what came of it."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

from confluent_kafka import Consumer, Producer, TopicPartition

from agents.lanes import ALL_LANES
from agents.send import run_delivery
from agents.send_lane import Limits
from agents.topics import CALLS, COMMANDS, COMMANDS_OF, DEAD_LETTERS, EVENTS, INBOX, SENT_OF, SMS_IDS
from schemas.codec import decode_event, encode_command
from schemas.commands import CancelMessage, Command, SendMessage, lane_of
from schemas.events import Event
from sinks.retry import Backoff
from tidings.brokers.memory import MemoryBroker
from tidings.smtp_server import SmtpServer

PARTITIONS = 2
TOPICS = (*COMMANDS_OF.values(), *SENT_OF.values(), EVENTS, DEAD_LETTERS, SMS_IDS, INBOX, CALLS)
FAST = Backoff(base_ms=100, cap_ms=400, attempts=4)


def send_command(n: int, **changes: object) -> SendMessage:
    now = time.time_ns() // 1_000_000
    values: dict = {
        "command_id": f"{n:032x}",
        "member_id": f"m{n}",
        "campaign": "cart",
        "version": "v1",
        "instance_id": f"i{n}",
        "step": "send",
        "channel": "email",
        "template": "hello",
        "address": f"u{n}@mail.example",
        "decided_at_ms": now,
        "caused_at_ms": now,
        "expires_at_ms": now + 60_000,
        "anchor": f"e{n}",
        "data": {"product": f"P{n}"},
        "attribution_window_ms": 5_000,
    }
    return SendMessage(**(values | changes))


def sms(n: int, **changes: object) -> SendMessage:
    return send_command(n, **({"channel": "sms", "template": "sms", "address": f"+49151{n + 1:08d}"} | changes))


def cancel_command(n: int) -> CancelMessage:
    return CancelMessage(f"{n:032x}", f"m{n}", "cart", f"i{n}", "late_event", 1, 1)


class Lab:
    """One broker and one SMTP server; `running` is one life of the delivery process."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.broker = MemoryBroker(dict.fromkeys(TOPICS, PARTITIONS))
        self.smtp = SmtpServer().start()
        # The memory broker answers an empty fetch after the whole wait; a member that comes back waits for its session.
        self.kafka = {
            "bootstrap.servers": self.broker.bootstrap,
            "session.timeout.ms": 2_000,
            "heartbeat.interval.ms": 300,
            "fetch.wait.max.ms": 20,
            "log_level": 0,
        }
        plain = {"bootstrap.servers": self.broker.bootstrap, "log_level": 0}
        self.producer = Producer({**plain, "partitioner": "murmur2_random"})
        self.consumer = Consumer({**plain, "group.id": "lab", "enable.auto.commit": False, "fetch.wait.max.ms": 20})
        # Kept open: who waits for `lag` asks again and again, in the loop in which delivery runs.
        self._groups: dict[str, Consumer] = {}
        self.templates = root / "templates"
        self.templates.mkdir()
        (self.templates / "sms.txt.j2").write_text("Hi {{ data.product }}")
        (self.templates / "hello.subject.j2").write_text("About {{ data.product }}")
        (self.templates / "hello.txt.j2").write_text(
            "Hi {{ member.name|default('you') }}: {{ data.product }} {{ unsubscribe_url }}\n"
        )

    def write(self, *commands: Command | bytes) -> None:
        for command in commands:
            raw = command if isinstance(command, bytes) else encode_command(command)
            key = b"m" if isinstance(command, bytes) else command.member_id.encode()
            topic = COMMANDS if isinstance(command, bytes) else COMMANDS_OF[lane_of(command)]
            self.producer.produce(topic, raw, key)
        assert self.producer.flush(5) == 0

    @contextlib.asynccontextmanager
    async def running(
        self, limits: Limits | None = None, backoff: Backoff = FAST, **more: Any
    ) -> AsyncIterator[asyncio.Task]:
        stop, ready = asyncio.Event(), asyncio.Event()
        task = asyncio.create_task(
            run_delivery(
                kafka=self.kafka,
                smtp_url=self.smtp.url,
                mail_from="Shop <news@shop.example>",
                templates_dir=self.templates,
                state_dir=self.root / "state",
                unsubscribe_base_url="https://shop.example/u",
                unsubscribe_secret=b"s" * 32,
                stop=stop,
                backoff=backoff,
                limits=limits,
                ready=ready,
                **more,
            )
        )
        waiter = asyncio.create_task(ready.wait())
        await asyncio.wait({task, waiter}, timeout=30, return_when=asyncio.FIRST_COMPLETED)
        waiter.cancel()
        if task.done():
            await task
        assert ready.is_set()
        try:
            yield task
        finally:
            stop.set()
            await task

    def read(self, topic: str) -> list:
        places = [TopicPartition(topic, p, 0) for p in range(PARTITIONS)]
        want = sum(self.consumer.get_watermark_offsets(place, timeout=5)[1] for place in places)
        self.consumer.assign(places)
        found: list = []
        deadline = time.monotonic() + 10
        while len(found) < want and time.monotonic() < deadline:
            found += [message for message in self.consumer.consume(1_000, 0.1) if not message.error()]
        return found

    def receipts(self) -> list[Event]:
        return [decode_event(message.value()) for message in self.read(EVENTS)]

    def statuses(self) -> dict[str, list[str]]:
        """Statuses by member, each event id once, in order."""
        seen: set[str | None] = set()
        found: dict[str, list[str]] = {}
        for event in self.receipts():
            if event.event_id not in seen:
                seen.add(event.event_id)
                found.setdefault(str(event.member_id), []).append(event.data["status"])
        return found

    def lag(self) -> int:
        """Commands behind the committed offsets, in all lanes."""
        return sum(self._lag(lane.commands, lane.group) for lane in ALL_LANES.values())

    def _lag(self, topic: str, name: str) -> int:
        places = [TopicPartition(topic, p) for p in range(PARTITIONS)]
        group = self._groups.get(name)
        if group is None:
            group = Consumer({"bootstrap.servers": self.broker.bootstrap, "group.id": name, "log_level": 0})
            self._groups[name] = group
        committed = group.committed(places, timeout=5)
        ends = [group.get_watermark_offsets(place, timeout=5)[1] for place in places]
        return sum(end - max(0, place.offset) for place, end in zip(committed, ends, strict=True))

    def close(self) -> None:
        for consumer in (self.consumer, *self._groups.values()):
            consumer.close()
        self.smtp.stop()
        self.broker.stop()


async def until(condition: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "not in time"
        await asyncio.sleep(0.02)


def recipients(smtp: SmtpServer) -> Sequence[str]:
    return sorted(mail.recipient for mail in smtp.mails)
