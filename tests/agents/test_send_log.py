"""Delivery's two hands on Kafka: its outbox and its reader of commands."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition

from agents import send_log
from agents.delivery_state import SENT_TOPIC
from agents.send_log import CommandReader, Outbox
from tidings.brokers.memory import MemoryBroker

TOPIC = "commands"
LIMIT_S = 60.0  # for a state that comes at once on a quiet machine


async def test_settled_waits_for_a_record_whose_sender_was_called_off() -> None:
    """A revoke calls senders off; the restore that follows must find what they wrote."""
    broker = MemoryBroker({SENT_TOPIC: 1})
    kafka = {"bootstrap.servers": broker.bootstrap, "log_level": 0}
    outbox = Outbox(kafka)
    reader = Consumer({**kafka, "group.id": "reader"})
    try:
        sender = asyncio.create_task(outbox.send(SENT_TOPIC, b"id", b"sent", 0))
        await asyncio.sleep(0)
        sender.cancel()
        with pytest.raises(asyncio.CancelledError):
            await sender
        await asyncio.wait_for(outbox.settled(), 20)
        assert reader.get_watermark_offsets(TopicPartition(SENT_TOPIC, 0), timeout=5)[1] == 1
    finally:
        reader.close()
        await asyncio.to_thread(outbox.close)
        broker.stop()


async def test_an_outbox_that_had_nothing_to_wait_for_takes_up_answers_again() -> None:
    broker = MemoryBroker({SENT_TOPIC: 1})
    outbox = Outbox({"bootstrap.servers": broker.bootstrap, "log_level": 0})
    try:
        for offset in range(3):
            assert await asyncio.wait_for(outbox.send(SENT_TOPIC, b"id", b"sent", 0), LIMIT_S) == offset
            await asyncio.sleep(20 * send_log.POLL_S)  # it has looked, and found that nothing is to come
    finally:
        await asyncio.to_thread(outbox.close)
        broker.stop()


class Threads:
    """Stands before a consumer and notes which threads call it, and how it is told to go about partitions."""

    def __init__(self) -> None:
        self.calls: dict[str, set[int]] = {}
        self.told: list[tuple[str, list[int]]] = []  # what was said of partitions, in order

    def __call__(self, config: dict[str, Any]) -> Any:
        calls, told, real = self.calls, self.told, Consumer(config)

        class Noting:
            def __getattr__(self, name: str) -> Any:
                def call(*args: Any, **more: Any) -> Any:
                    calls.setdefault(name, set()).add(threading.get_ident())
                    if name in ("pause", "resume", "seek"):
                        told.append((name, [p.partition for p in (args[0] if name != "seek" else args)]))
                    return getattr(real, name)(*args, **more)

                return call

        return Noting()


class Member:
    """A reader of the group whose loop reads until the end; `revoking` is called while partitions are given up."""

    def __init__(self, broker: MemoryBroker) -> None:
        self.wait_s = 0.05
        self.assigned = 0
        self.revoking: Callable[[], None] = lambda: None
        self.found: list[Any] = []
        more = {"session.timeout.ms": 2_000, "heartbeat.interval.ms": 300, "fetch.wait.max.ms": 20, "log_level": 0}
        kafka = {"bootstrap.servers": broker.bootstrap, **more}
        self.reader = CommandReader(kafka, "g", TOPIC, self._assigned, self._revoked)
        self._reading = asyncio.create_task(self._read())

    async def close(self) -> None:
        self._reading.cancel()
        await asyncio.gather(self._reading, return_exceptions=True)
        await self.reader.close()

    def _assigned(self, numbers: list[int]) -> None:
        self.assigned += 1

    async def _revoked(self, numbers: list[int]) -> dict[int, int]:
        self.revoking()
        return dict.fromkeys(numbers, 0)

    async def _read(self) -> None:
        while True:
            self.found += await self.reader.read(10, self.wait_s)


def write(broker: MemoryBroker, partition: int, *values: bytes) -> None:
    producer = Producer({"bootstrap.servers": broker.bootstrap, "log_level": 0})
    for value in values:
        producer.produce(TOPIC, value, partition=partition)
    assert producer.flush(10) == 0


@asynccontextmanager
async def group() -> AsyncIterator[tuple[MemoryBroker, Member]]:
    """A broker with a topic of two partitions, and a member that owns both."""
    broker = MemoryBroker({TOPIC: 2})
    member = Member(broker)
    try:
        await until(lambda: member.assigned == 1)
        yield broker, member
    finally:
        await member.close()
        broker.stop()


async def until(holds: Callable[[], object]) -> None:
    async with asyncio.timeout(LIMIT_S):
        while not holds():
            await asyncio.sleep(0.01)


async def test_the_client_is_called_in_one_thread_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """A call from the loop waits for `consume`, and that waits for the loop in a rebalance: both for ever."""
    threads = Threads()
    monkeypatch.setattr(send_log, "Consumer", threads)
    async with group() as (broker, member):
        reader = member.reader
        assert await reader.start_offset(0) == 0
        reader.commit({0: 0, 1: 0})
        await until(lambda: reader.committed == {0: 0, 1: 0})
        write(broker, 0, b"x")
        await until(lambda: reader._ahead)
        await reader.begin(0, 0)
        await until(lambda: member.found)
        await reader.hold(True)
    subscribed = threads.calls.pop("subscribe")  # at the beginning, before anybody consumes
    assert subscribed == {threading.get_ident()}
    assert {"poll", "commit", "committed", "resume", "pause", "seek", "close"} <= threads.calls.keys()
    assert len(set.union(*threads.calls.values())) == 1


async def test_a_partition_that_gave_nothing_yet_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """librdkafka would drop its own start of it as outdated, one time in some hundred, and never read it."""
    noting = Threads()
    monkeypatch.setattr(send_log, "Consumer", noting)
    async with group() as (broker, member):
        await member.reader.begin(0, 0)
        await member.reader.hold(True)
        await member.reader.begin(1, 0)
        await member.reader.hold(False)
        other = Member(broker)
        await until(lambda: len(member.reader.owned) == len(other.reader.owned) == 1)
        await other.close()
        await until(lambda: member.reader.owned == {0, 1})
        assert noting.told == []
        write(broker, 0, b"0")
        await until(lambda: member.reader._ahead == {0})
        assert noting.told == [("pause", [0])]
        await member.reader.begin(0, 0)
        await until(lambda: member.found)
        assert noting.told == [("pause", [0]), ("seek", [0]), ("resume", [0])]
    assert noting.told[3:] == [("resume", [0])]  # as it is given up


async def test_what_is_held_gives_nothing_until_it_is_let_go() -> None:
    async with group() as (broker, member):
        for partition in (0, 1):
            await member.reader.begin(partition, 0)
        write(broker, 0, b"0")
        await until(lambda: len(member.found) == 1)
        await member.reader.hold(True)
        write(broker, 0, *[b"more"] * 100)
        write(broker, 1, *[b"first"] * 100)
        await until(lambda: len(member.found) > 1)  # of the partition that nobody could stop before it spoke
        held = len(member.found)
        assert held <= 11 and {message.partition() for message in member.found[1:]} == {1}
        for _ in range(10):
            await member.reader.start_offset(0)  # after a read
        assert len(member.found) == held
        await member.reader.hold(False)
        await until(lambda: len(member.found) == 201)
        assert [message.offset() for message in member.found if message.partition() == 1] == list(range(100))


async def test_a_commit_asked_for_while_partitions_are_given_up_holds_nobody_up() -> None:
    async with group() as (broker, member):
        member.revoking = lambda: member.reader.commit({0: 0, 1: 0})
        other = Member(broker)
        try:
            await until(lambda: len(member.reader.owned) == len(other.reader.owned) == 1)
        finally:
            await other.close()


async def test_a_partition_is_not_read_on_by_a_word_from_before_a_rebalance() -> None:
    """It is another ownership, even if it is ours again: what others sent meanwhile has not been read back."""
    async with group() as (broker, member):
        late: list[asyncio.Task[None]] = []
        member.wait_s = 3.0  # long enough for both halves of a rebalance: the word comes after them
        begin = member.reader.begin
        member.revoking = lambda: late.extend(asyncio.create_task(begin(p, 0)) for p in (0, 1))
        other = Member(broker)
        await until(lambda: len(member.reader.owned) == len(other.reader.owned) == 1)
        await other.close()
        await until(lambda: member.reader.owned == {0, 1})
        await asyncio.gather(*late)
        member.wait_s = 0.5
        for partition in (0, 1):
            write(broker, partition, b"x")
        await until(lambda: member.reader._ahead == {0, 1})
        assert member.found == []
        for partition in (0, 1):
            await member.reader.begin(partition, 0)
        await until(lambda: len(member.found) == 2)


async def test_an_answer_that_never_comes_does_not_keep_the_lease_from_being_renewed() -> None:
    async with group() as (_, member):
        reader = member.reader
        reader._asked = {"lost": time.monotonic()}
        before = time.monotonic()
        await asyncio.sleep(0.3)  # an eighth of the session, and more
        reader.commit({0: 0, 1: 0})
        await until(lambda: reader.confirmed_at > before)


async def test_a_late_answer_counts_from_when_its_own_request_was_made() -> None:
    async with group() as (_, member):
        reader = member.reader
        reader._asked = {"old": 100.0, "new": 200.0}
        place = TopicPartition(TOPIC, 0, 7, metadata="old")
        reader._on_commit(None, [place])
        assert reader.confirmed_at == 100.0 and reader.committed == {0: 7}
        reader._on_commit(None, [place])  # nobody asked for it: from before a rebalance
        assert reader.confirmed_at == 100.0


async def test_a_partition_is_begun_at_its_offset_whatever_was_read_before() -> None:
    async with group() as (broker, member):
        write(broker, 0, b"0", b"1", b"2")
        await until(lambda: member.reader._ahead)
        await member.reader.begin(0, 1)
        await until(lambda: len(member.found) == 2)
        assert [message.value() for message in member.found] == [b"1", b"2"]
