"""Delivery of every channel by one loop: providers by configuration, failover, hot switch, lanes apart."""

import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web

from agents.delivery_state import SENT_TOPIC, decode_entry
from agents.send_lane import Limits
from agents.topics import SENT_OF
from schemas.commands import LANES
from schemas.references import read_reference
from sinks.channels.config import ProvidersConfig
from sinks.channels.kinds import ProviderSpec
from tests.agents.delivery_lab import Lab, send_command, sms, until
from tests.sinks.channels.samples import spec
from tests.sinks.channels.vendors import Vendors


@pytest.fixture
async def vendors() -> AsyncIterator[Vendors]:
    running = await Vendors().start()
    yield running
    await running.stop()


def config(**channels: list[ProviderSpec]) -> ProvidersConfig:
    return ProvidersConfig({lane: {name: tuple(specs) for name, specs in channels.items()} for lane in LANES})


def named(given: ProviderSpec, name: str, **bounds: Any) -> ProviderSpec:
    return ProviderSpec(name, given.kind, given.settings, type(given.bounds)(**bounds) if bounds else given.bounds)


async def test_every_channel_goes_its_own_way_and_leaves_the_same_receipts(lab: Lab, vendors: Vendors) -> None:
    (lab.templates / "push.subject.j2").write_text("News")
    (lab.templates / "push.txt.j2").write_text("{{ data.product }} is back")
    known = config(
        sms=[spec("twilio", vendors)],
        bot=[spec("telegram", vendors)],
        push=[spec("fcm", vendors), spec("webpush", vendors)],
        webhook=[spec("webhook", vendors)],
    )
    lab.write(
        sms(1),
        send_command(2, channel="bot", template="sms", address="42"),
        send_command(3, channel="push", template="push", address="t" * 100),
        send_command(4, channel="push", template="push", address=vendors.subscription()),
        send_command(5, channel="webhook", template="crm", address="m5"),
        send_command(6),
        send_command(7, channel="bot", template="sms", address="13"),
        send_command(8, channel="push", template="push", address="?"),
        send_command(9, channel="viber", template="sms", address="+491511"),
    )
    async with lab.running(config=lambda: known, receipts_base_url="https://shop.example/r"):
        await until(lambda: lab.lag() == 0)
    assert lab.statuses() == {f"m{n}": ["sent"] for n in range(1, 7)} | {
        "m7": ["bounced"],
        "m8": ["failed"],
        "m9": ["failed"],
    }
    found = {event.member_id: event.data for event in lab.receipts()}
    assert {n: found[f"m{n}"]["provider"] for n in range(1, 7)} == {
        1: "twilio", 2: "telegram", 3: "fcm", 4: "webpush", 5: "webhook", 6: "smtp",
    }  # fmt: skip
    assert found["m1"]["provider_message_id"].startswith("SM") and found["m7"]["kind"] == "hard"
    assert (found["m8"]["reason"], found["m9"]["reason"]) == ("invalid_address", "no_such_channel")
    callback = vendors.said("twilio")[0]["StatusCallback"].removeprefix("https://shop.example/r/twilio/")
    assert read_reference([b"s" * 32], callback).command_id == f"{1:032x}"
    assert vendors.said("twilio")[0]["Body"] == "Hi P1" and vendors.refused == ["blocked"]


async def test_while_a_provider_is_down_the_next_one_takes_all_and_none_goes_twice(lab: Lab, vendors: Vendors) -> None:
    vendors.fault = lambda request: web.Response(status=503) if "/Accounts/" in request.path else None
    known = config(sms=[spec("twilio", vendors), spec("http", vendors)])
    lab.write(*(sms(n) for n in range(30)))
    async with lab.running(config=lambda: known):
        await until(lambda: lab.lag() == 0)
    refs = [said["fields"]["ref"] for said in vendors.said("form")]
    assert sorted(refs) == sorted(f"{n:032x}" for n in range(30)) and not vendors.said("twilio")
    assert {status[-1] for status in lab.statuses().values()} == {"sent"}


async def test_a_switch_of_provider_while_messages_flow_loses_and_doubles_none(lab: Lab, vendors: Vendors) -> None:
    held = {"now": config(sms=[named(spec("twilio", vendors), "old", connections=1, per_second=40)])}
    lab.write(*(sms(n) for n in range(100)))
    async with lab.running(config=lambda: held["now"]):
        await until(lambda: len(vendors.said("twilio")) >= 10)
        held["now"] = config(sms=[named(spec("http", vendors), "new")])
        await until(lambda: lab.lag() == 0)
    assert {member: told for member, told in lab.statuses().items() if told != ["sent"]} == {}
    old, new = len(vendors.said("twilio")), len(vendors.said("form"))
    assert old + new == 100 and 10 <= old < 100
    assert {event.data["provider"] for event in lab.receipts()} == {"old", "new"}


async def test_a_provider_that_stands_still_holds_up_its_own_channel_alone(lab: Lab, vendors: Vendors) -> None:
    vendors.fault = lambda request: web.Response(status=429, headers={"Retry-After": "60"})
    known = config(sms=[spec("twilio", vendors)])
    lab.write(*(sms(n) for n in range(300)), *(send_command(n) for n in range(300, 320)))
    async with lab.running(config=lambda: known):
        await until(lambda: lab.smtp.received == 20)
    assert not vendors.taken


async def test_a_transactional_message_does_not_wait_behind_a_bulk_of_others(lab: Lab) -> None:
    lab.write(*(send_command(n, lane="bulk") for n in range(1_500)))
    async with lab.running(Limits(connections=2)):
        await until(lambda: lab.smtp.received >= 20)
        began, before = time.monotonic(), lab.smtp.received
        lab.write(send_command(9_999, category="transactional"))
        await until(lambda: any(mail.recipient == "u9999@mail.example" for mail in lab.smtp.mails))
        took, received = time.monotonic() - began, lab.smtp.received
        assert took < 1 and before < received < 1_500  # the bulk was still on its way
    (step,) = [decode_entry(m.value()) for m in lab.read(SENT_OF["transactional"])][-1:]
    assert step.status == "sent" and not lab.read(SENT_TOPIC)


async def test_after_an_unknown_outcome_the_same_provider_is_asked_again(lab: Lab, vendors: Vendors) -> None:
    calls: list[str] = []

    def fault(request: web.Request) -> web.Response | None:
        calls.append(request.path)
        return web.Response(status=504) if len(calls) == 1 else None

    vendors.fault = fault
    known = config(webhook=[spec("webhook", vendors), spec("http", vendors)])
    lab.write(send_command(1, channel="webhook", template="crm", address="m1"))
    async with lab.running(config=lambda: known):
        await until(lambda: lab.lag() == 0)
    assert calls == ["/hook", "/hook"] and lab.statuses() == {"m1": ["deferred", "sent"]}
