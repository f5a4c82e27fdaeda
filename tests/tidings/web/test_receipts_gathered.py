"""A provider that tells of all messages at one address: signed as a whole, each receipt with our own key."""

import hmac
import json
from collections.abc import AsyncIterator
from io import BytesIO
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from confluent_kafka import KafkaError, KafkaException

from agents.send_one import NoMetrics
from schemas.commands import LANES
from schemas.events import Event
from schemas.references import reference_of, sign_reference
from sinks.channels.config import ProvidersConfig
from tests.sinks.channels.samples import send, spec
from tests.sinks.channels.test_whatsapp import hook, status
from tidings.web.receipts import MANY_BYTES_MAX, Receipts
from tidings.web.routes import GATHERED, RECEIPTS, Probes, install

SECRET = b"s" * 32
TOKEN = sign_reference(SECRET, reference_of(send(channel="whatsapp")))


class Door:
    """The endpoint behind its guard; `events`: what it wrote; `trouble`: what writing raises."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.trouble: Exception | None = None
        config = ProvidersConfig({lane: {"whatsapp": (spec("whatsapp"), spec("twilio"))} for lane in LANES})
        receipts = Receipts("https://shop.example/r", [SECRET], lambda: config, self.append, NoMetrics())
        self.app = web.Application()
        install(self.app, Probes("delivery", lambda: None, list), "token")
        self.app.router.add_post(RECEIPTS, receipts.answer)
        self.app.router.add_post(GATHERED, receipts.gather)
        self.app.router.add_get(GATHERED, receipts.gather)

    async def append(self, event: Event) -> None:
        if self.trouble is not None:
            raise self.trouble
        self.events.append(event)


@pytest.fixture
def door() -> Door:
    return Door()


@pytest.fixture
async def client(door: Door) -> AsyncIterator[TestClient]:
    async with TestClient(TestServer(door.app)) as running:
        yield running


def signed(body: Any, secret: str = "wa-secret") -> dict[str, Any]:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    sign = "sha256=" + hmac.digest(secret.encode(), raw, "sha256").hex()
    return {"data": raw, "headers": {"X-Hub-Signature-256": sign, "Content-Type": "application/json"}}


async def test_each_receipt_of_a_call_is_an_event_of_its_message(door: Door, client: TestClient) -> None:
    body = hook(status("sent", TOKEN), status("delivered", TOKEN), status("read", TOKEN), status("read", "forged"))
    assert (await client.post("/r/whatsapp", **signed(body))).status == 200
    assert [event.type for event in door.events] == ["delivery.delivered", "engagement.read"]
    assert {event.data["command_id"] for event in door.events} == {send().command_id}
    assert {event.data["provider"] for event in door.events} == {"whatsapp"}


async def test_a_call_told_again_is_the_same_events(door: Door, client: TestClient) -> None:
    for _ in range(2):
        await client.post("/r/whatsapp", **signed(hook(status("delivered", TOKEN))))
    assert len(door.events) == 2 and len({event.event_id for event in door.events}) == 1


async def test_a_call_without_its_signature_is_refused_whole(door: Door, client: TestClient) -> None:
    body = hook(status("delivered", TOKEN))
    assert (await client.post("/r/whatsapp", **signed(body, "other"))).status == 403
    assert (await client.post("/r/whatsapp", json=body)).status == 403
    assert (await client.get("/r/whatsapp", params={"hub.mode": "subscribe", "hub.challenge": "1"})).status == 403
    assert not door.events


async def test_the_question_of_the_provider_is_answered(client: TestClient) -> None:
    query = {"hub.mode": "subscribe", "hub.verify_token": "wa-verify", "hub.challenge": "42"}
    answer = await client.get("/r/whatsapp", params=query)
    assert (answer.status, await answer.text()) == (200, "42")


async def test_what_cannot_be_written_is_asked_for_again(door: Door, client: TestClient) -> None:
    door.trouble = KafkaException(KafkaError(KafkaError._ALL_BROKERS_DOWN))
    answer = await client.post("/r/whatsapp", **signed(hook(status("delivered", TOKEN))))
    assert answer.status == 503 and answer.headers["Retry-After"]


async def test_who_tells_elsewhere_or_nothing_is_not_found_here(client: TestClient) -> None:
    for name in ("twilio", "nobody"):
        assert (await client.post(f"/r/{name}", **signed(hook()))).status == 404
    assert (await client.post(f"/r/whatsapp/{TOKEN}", **signed(hook()))).status == 404


async def test_a_call_that_is_larger_than_any_is_not_taken(client: TestClient) -> None:
    large = signed(b" " * (MANY_BYTES_MAX + 1))
    assert (await client.post("/r/whatsapp", **large | {"data": BytesIO(large["data"])})).status == 413
