"""SMS by SMPP through the whole of delivery: receipts find their message over any session, after a restart, twice."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from agents import desk
from agents.replica import Replica
from agents.sms_desk import keep_latest
from agents.topics import SMS_IDS, SMS_IDS_KEPT_MS
from schemas.commands import LANES
from sinks.channels.config import ProvidersConfig
from tests.agents.delivery_lab import Lab, sms, until
from tests.sinks.channels.samples import spec
from tests.sinks.channels.smsc import Smsc, receipt_text


@pytest.fixture
async def smsc() -> AsyncIterator[Smsc]:
    running = await Smsc().start()
    yield running
    await running.stop()


def config(smsc: Smsc) -> ProvidersConfig:
    return ProvidersConfig({lane: {"sms": (spec("smpp", url=smsc.url),)} for lane in LANES})


async def told(smsc: Smsc, text: str) -> None:
    """Tell until it is taken, as an SMSC does."""
    async with asyncio.timeout(60):
        while not smsc.sessions or await smsc.deliver(text) != 0:
            await asyncio.sleep(0.05)


def delivered(lab: Lab) -> dict[str, tuple[str, str, str]]:
    return {
        str(event.member_id): (event.type, event.data["command_id"], event.data["campaign"])
        for event in lab.receipts()
        if event.source == "tidings-receipts"
    }


async def test_a_receipt_finds_its_message_over_any_session_and_after_a_restart(lab: Lab, smsc: Smsc) -> None:
    known = config(smsc)
    lab.write(sms(1), sms(2, category="transactional"), sms(3, lane="bulk"))
    async with lab.running(config=lambda: known):
        await until(lambda: lab.lag() == 0)
        assert len(smsc.binds) == 3  # a session for each lane
        await told(smsc, receipt_text("ID1", "DELIVRD"))
    assert len(delivered(lab)) == 1
    async with lab.running(config=lambda: known):
        for ident, stat in (("ID2", "UNDELIV"), ("ID3", "DELIVRD"), ("ID1", "DELIVRD")):
            await told(smsc, receipt_text(ident, stat))
    found = delivered(lab)
    assert {member: one[1:] for member, one in found.items()} == {f"m{n}": (f"{n:032x}", "cart") for n in (1, 2, 3)}
    assert sorted(one[0] for one in found.values()) == [
        "delivery.delivered", "delivery.delivered", "delivery.undelivered",
    ]  # fmt: skip
    ids = [event.event_id for event in lab.receipts() if event.type == "delivery.delivered"]
    assert len(ids) == 3 and len(set(ids)) == 2  # told twice, counted once


async def test_the_ids_are_known_again_when_the_local_store_is_lost(lab: Lab, smsc: Smsc) -> None:
    known = config(smsc)
    lab.write(sms(1))
    async with lab.running(config=lambda: known):
        await until(lambda: lab.lag() == 0)
    lab.root.joinpath("state-sms-ids").rename(lab.root / "lost")
    async with lab.running(config=lambda: known):
        await told(smsc, receipt_text("ID1", "EXPIRED"))
    assert delivered(lab) == {"m1": ("delivery.expired", f"{1:032x}", "cart")}


async def test_a_receipt_of_a_message_that_is_not_ours_is_taken_and_tells_nothing(lab: Lab, smsc: Smsc) -> None:
    known = config(smsc)
    async with lab.running(config=lambda: known):
        await told(smsc, receipt_text("stranger", "DELIVRD"))
    assert delivered(lab) == {}


async def test_the_delivery_of_a_part_is_not_that_of_the_message(lab: Lab, smsc: Smsc) -> None:
    known = config(smsc)
    (lab.templates / "sms.txt.j2").write_text("x" * 200)
    lab.write(sms(1))
    async with lab.running(config=lambda: known):
        await until(lambda: lab.lag() == 0)
        await told(smsc, receipt_text("ID1", "DELIVRD"))
        assert delivered(lab) == {}
        await told(smsc, receipt_text("ID2", "DELIVRD"))
    assert delivered(lab)["m1"][0] == "delivery.delivered"


async def test_throttled_messages_are_all_sent_in_the_end(lab: Lab, smsc: Smsc) -> None:
    taken: list[str] = []

    def answer(pdu: Any) -> tuple[int, str]:
        taken.append(pdu.destination_addr)
        return (0x58, "") if len(taken) in (3, 5) else (0, f"n{len(taken)}")

    smsc.answer = answer
    known = config(smsc)
    lab.write(*(sms(n) for n in range(20)))
    async with lab.running(config=lambda: known):
        await until(lambda: lab.lag() == 0)
    assert {status[-1] for status in lab.statuses().values()} == {"sent"}
    assert len(smsc.taken) == 20 == len({pdu.destination_addr for pdu in smsc.taken})


async def test_a_replica_drops_what_the_topic_no_longer_keeps(lab: Lab) -> None:
    now = {"ms": 1}
    lab.producer.produce(SMS_IDS, b"v", b"old", timestamp=1_000)
    lab.producer.produce(SMS_IDS, b"v", b"new", timestamp=SMS_IDS_KEPT_MS + 2_000)
    assert lab.producer.flush(10) == 0
    kafka = {**lab.kafka, "group.id": "x"}
    path = lab.root / "replica"
    replica = Replica(path, kafka, SMS_IDS, keep_latest, SMS_IDS_KEPT_MS, lambda: now["ms"])
    async with replica.open():
        await until(replica.ready.is_set)
        assert {key for key, _ in replica.scan(b"")} == {b"old", b"new"}
    now["ms"] = SMS_IDS_KEPT_MS + 3_000
    again = Replica(path, kafka, SMS_IDS, keep_latest, SMS_IDS_KEPT_MS, lambda: now["ms"])
    async with again.open():
        await until(lambda: [key for key, _ in again.scan(b"")] == [b"new"])
        assert again.get(b"new") == b"v"


async def test_a_provider_of_two_channels_is_opened_once_in_each_lane(lab: Lab, smsc: Smsc) -> None:
    both = {"sms": (spec("smpp", url=smsc.url),), "viber": (spec("smpp", url=smsc.url),)}
    known = ProvidersConfig({lane: both for lane in LANES})
    lab.write(sms(1), sms(2, channel="viber"))
    async with lab.running(config=lambda: known):
        await until(lambda: lab.lag() == 0 and len(smsc.binds) >= 3)
    assert len(smsc.taken) == 2 and len(smsc.binds) == 3 == smsc.left


async def test_a_desk_whose_reading_fails_opens_again_and_misses_nothing(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(desk, "AGAIN_S", 0.05)
    failures = [ValueError("first"), ValueError("second")]

    def fold(before: bytes | None, value: bytes, at_ms: int) -> bytes | None:
        if failures:
            raise failures.pop()
        return value

    made = desk.Desk(lab.kafka, lab.root / "desk", SMS_IDS, fold, SMS_IDS_KEPT_MS, lambda: 1)
    made.begin()
    try:
        await made.append(b"k", b"v")
        await until(lambda: made.replica is not None and made.replica.get(b"k") == b"v")
        assert not failures
    finally:
        await made.close()
