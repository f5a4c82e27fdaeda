"""A replica's own bounds: what is over goes as fast as it comes; what fails does not end a desk for good."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Consumer, KafkaError, KafkaException

from agents import calls_desk, desk, replica, sms_desk
from agents.calls_desk import CallsDesk
from agents.desk import Desk
from agents.sms_desk import SmsReceipts, keep_latest
from agents.topics import CALLS, SMS_IDS
from schemas.calls import CallTask
from schemas.references import reference_of
from tests.agents.delivery_lab import send_command, until
from tidings.brokers.memory import MemoryBroker
from tidings.web.prometheus import DeliveryRecorder, render


@pytest.fixture
def kafka() -> Iterator[dict[str, Any]]:
    with MemoryBroker({SMS_IDS: 1, CALLS: 1}) as broker:
        yield {"bootstrap.servers": broker.bootstrap, "fetch.wait.max.ms": 20, "log_level": 0}


async def test_what_is_over_is_dropped_though_it_is_more_than_one_round_takes(
    kafka: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replica, "PURGED_AT_ONCE", 3)
    now = [0]
    made = Desk(kafka, tmp_path / "ids", SMS_IDS, keep_latest, 1_000, lambda: now[0])
    made.begin()
    try:
        for n in range(20):
            await made.append(b"k%d" % n, b"v")
        await until(lambda: made.replica is not None and made.replica.get(b"k19") == b"v")
        assert made.replica is not None
        now[0] = 9_000_000_000_000
        await until(lambda: made.replica is not None and not list(made.replica.scan(b"k")))
    finally:
        await made.close()


async def test_a_desk_that_cannot_be_opened_for_whatever_reason_is_tried_again(
    kafka: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(desk, "AGAIN_S", 0.05)
    failures = [RuntimeError("first")]

    def failing(config: dict[str, Any]) -> Any:
        if failures:
            raise failures.pop()
        return Consumer(config)

    monkeypatch.setattr(replica, "Consumer", failing)
    made = Desk(kafka, tmp_path / "ids", SMS_IDS, keep_latest, 1_000, lambda: 1)
    made.begin()
    try:
        await until(lambda: made.replica is not None)
        assert not failures
    finally:
        await made.close()


async def test_calls_go_on_to_expire_after_the_broker_refused_a_record(
    kafka: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calls_desk, "EXPIRE_S", 0.01)
    rounds: list[int] = []
    made = CallsDesk(kafka, tmp_path / "calls", lambda: 1)

    async def open_tasks() -> list[Any]:
        rounds.append(1)
        raise KafkaException(KafkaError(KafkaError.TOPIC_AUTHORIZATION_FAILED))

    monkeypatch.setattr(made, "open_tasks", open_tasks)
    made.begin()
    try:
        await until(lambda: len(rounds) >= 3)
    finally:
        await made.close()


async def test_ids_that_cannot_be_written_are_held_to_a_bound_and_counted(
    kafka: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sms_desk, "NOTED_MAX", 5)
    metrics = DeliveryRecorder()
    made = SmsReceipts(kafka, tmp_path / "ids", lambda: 1, metrics)
    gate = asyncio.Event()

    async def append(key: bytes, value: bytes) -> None:
        await gate.wait()

    monkeypatch.setattr(made, "append", append)
    try:
        for n in range(8):
            made.note("smsc", str(n), reference_of(send_command(n)), last=True)
        assert "tidings_sms_ids_lost_total 3" in render(metrics.families())
    finally:
        await made.close()


async def test_open_calls_are_known_without_reading_each_of_them_again(
    kafka: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    far = 9_000_000_000_000
    made = CallsDesk(kafka, tmp_path / "calls", lambda: 1)
    made.begin()
    try:
        for n in range(5):
            task = CallTask(1, reference_of(send_command(n)), "", "+4915112345678", "Offer", n, far, 2, 1_000)
            await made.keep("centre", task)
        await until(lambda: made.replica is not None and len(list(made.replica.scan(b""))) == 5)
        assert len(await made.open_tasks()) == 5
        assert made.replica is not None
        get, asked = made.replica.get, list[bytes]()

        def noted(key: bytes) -> bytes | None:
            asked.append(key)
            return get(key)

        monkeypatch.setattr(made.replica, "get", noted)
        states = await made.open_tasks()
        assert [one.due_ms for one in states] == [0, 1, 2, 3, 4] and asked == []
        assert {(one.task.phone, one.task.text) for one in states} == {("", "")}
        await made.append(f"{2:032x}".encode(), b"")
        async with asyncio.timeout(60):
            while len(await made.open_tasks()) != 4:
                await asyncio.sleep(0.01)
    finally:
        await made.close()
