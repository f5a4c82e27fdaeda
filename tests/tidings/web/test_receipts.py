"""Providers tell what came of a message: signed, repeated, out of order, forged."""

import asyncio
import base64
import hmac
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import urlencode

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from confluent_kafka import KafkaError, KafkaException

from agents.send_one import NoMetrics
from schemas.codec import decode_event, encode_event
from schemas.commands import LANES
from schemas.events import Event
from schemas.references import MAX_TOKEN, read_reference, reference_of, sign_reference
from schemas.tokens import TokenError
from sinks.channels.config import ProvidersConfig
from sinks.channels.kinds import teller_of
from sinks.channels.receipts import HookCall, Told
from tests.sinks.channels.samples import send, spec
from tidings.web.receipts import Receipts
from tidings.web.routes import Probes, install

SECRET, BASE = b"s" * 32, "https://shop.example/r"
TOKEN = sign_reference(SECRET, reference_of(send()))
FORM_SMS: dict[str, Any] = {
    "told_status": "state", "told_id": "id", "told_code": "err", "told": {"DELIVRD": "delivered", "EXPIRED": "expired"},
}  # fmt: skip


class Door:
    """The endpoint behind its guard; `events`: what it wrote; `trouble`: what writing raises."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.trouble: Exception | None = None
        listed = (spec("twilio"), spec("http", **FORM_SMS), spec("webhook"), spec("telegram"))
        config = ProvidersConfig({lane: {"sms": listed} for lane in LANES})
        receipts = Receipts(BASE, [b"n" * 32, SECRET], lambda: config, self.append, NoMetrics())
        self.app = web.Application()
        install(self.app, Probes("delivery", lambda: None, list), "token")
        self.app.router.add_post("/r/{provider}/{token}", receipts.answer)
        self.app.router.add_get("/r/{provider}/{token}", receipts.answer)

    async def append(self, event: Event) -> None:
        if self.trouble is not None:
            raise self.trouble
        self.events.append(decode_event(encode_event(event)))


@pytest.fixture
def door() -> Door:
    return Door()


@pytest.fixture
async def client(door: Door) -> AsyncIterator[TestClient]:
    async with TestClient(TestServer(door.app)) as running:
        yield running


def signed(form: dict[str, str], token: str = "twilio-secret", url: str = f"{BASE}/twilio/{TOKEN}") -> dict[str, Any]:
    text = url + "".join(name + form[name] for name in sorted(form))
    sign = base64.b64encode(hmac.digest(token.encode(), text.encode(), "sha1")).decode()
    return {
        "data": urlencode(form).encode(),
        "headers": {"X-Twilio-Signature": sign, "Content-Type": "application/x-www-form-urlencoded"},
    }


async def test_a_receipt_becomes_an_event_that_names_the_whole_message(door: Door, client: TestClient) -> None:
    form = {"MessageSid": "SM1", "MessageStatus": "undelivered", "ErrorCode": "30005", "To": "+4915112345678"}
    answer = await client.post(f"/r/twilio/{TOKEN}", **signed(form))
    (event,) = door.events
    assert answer.status == 204 and event.type == "delivery.undelivered" and event.member_id == "m1"
    wanted = {
        "command_id": send().command_id,
        "campaign": "cart",
        "channel": "sms",
        "provider": "twilio",
        "code": "30005",
    }
    assert wanted.items() <= event.data.items() and "49151" not in str(event.data)


async def test_a_receipt_told_twice_is_one_event(door: Door, client: TestClient) -> None:
    for _ in range(2):
        await client.post(f"/r/twilio/{TOKEN}", **signed({"MessageSid": "SM1", "MessageStatus": "delivered"}))
    await client.post(f"/r/twilio/{TOKEN}", **signed({"MessageSid": "SM1", "MessageStatus": "read"}))
    assert [event.type for event in door.events] == ["delivery.delivered"] * 2 + ["engagement.read"]
    assert len({event.event_id for event in door.events}) == 2


async def test_what_says_no_more_than_taken_is_no_event(door: Door, client: TestClient) -> None:
    for status in ("accepted", "queued", "sending", "sent", "teleported"):
        answer = await client.post(f"/r/twilio/{TOKEN}", **signed({"MessageSid": "SM1", "MessageStatus": status}))
        assert answer.status == 204
    assert not door.events


async def test_a_call_that_the_provider_did_not_sign_is_refused(door: Door, client: TestClient) -> None:
    form = {"MessageSid": "SM1", "MessageStatus": "delivered"}
    for call in (signed(form, "other"), signed(form, url=f"{BASE}/twilio/x"), {"data": urlencode(form)}):
        assert (await client.post(f"/r/twilio/{TOKEN}", **call)).status == 403
    assert not door.events


@pytest.mark.parametrize("token", ["x", "a.b", f"{TOKEN}x", TOKEN[:-4] + "AAAA", "A" * (MAX_TOKEN + 1), "%00.%00"])
async def test_a_token_that_is_not_ours_is_not_found(door: Door, client: TestClient, token: str) -> None:
    assert (await client.post(f"/r/webhook/{token}", json={"status": "delivered"})).status == 404
    assert not door.events


async def test_a_provider_that_tells_nothing_or_is_not_known_is_not_found(door: Door, client: TestClient) -> None:
    for name in ("telegram", "nobody", "smtp"):
        assert (await client.post(f"/r/{name}/{TOKEN}", json={"status": "delivered"})).status == 404


async def test_a_plain_provider_tells_in_its_own_words(door: Door, client: TestClient) -> None:
    await client.get(f"/r/http/{TOKEN}", params={"state": "DELIVRD", "id": "7", "err": "000"})
    await client.post(f"/r/http/{TOKEN}", json={"state": "EXPIRED", "id": 7})
    await client.post(f"/r/http/{TOKEN}", data={"state": "ENROUTE"})
    assert [event.type for event in door.events] == ["delivery.delivered", "delivery.expired"]
    assert door.events[0].data["provider_message_id"] == "7"


async def test_a_system_of_ones_own_tells_what_came_of_its_webhook(door: Door, client: TestClient) -> None:
    told = {"status": "failed", "code": "x" * 99, "detail": "call +49 151 1234567 back"}
    await client.post(f"/r/webhook/{TOKEN}", json=told)
    await client.post(f"/r/webhook/{TOKEN}", json=["status"])
    await client.post(f"/r/webhook/{TOKEN}", data=b"{", headers={"Content-Type": "application/json"})
    (event,) = door.events
    assert event.type == "delivery.failed" and len(event.data["code"]) == 32 and "(number)" in event.data["detail"]


async def test_a_receipt_that_cannot_be_written_is_asked_for_again(door: Door, client: TestClient) -> None:
    door.trouble = KafkaException(KafkaError(KafkaError._ALL_BROKERS_DOWN))
    answer = await client.post(f"/r/webhook/{TOKEN}", json={"status": "delivered"})
    assert answer.status == 503 and answer.headers["Retry-After"]


async def test_a_receipt_that_comes_in_pieces_is_read_whole(door: Door, client: TestClient) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for piece in (b'{"status": "deli', b'vered", "id": "', b'7"}'):
            yield piece
            await asyncio.sleep(0.05)

    answer = await client.post(f"/r/webhook/{TOKEN}", data=pieces(), headers={"Content-Type": "application/json"})
    assert answer.status == 204 and [event.type for event in door.events] == ["delivery.delivered"]


async def test_a_large_body_is_not_read(door: Door, client: TestClient) -> None:
    assert (await client.post(f"/r/webhook/{TOKEN}", data=b"x" * 70_000)).status == 413


def test_twilios_own_example_of_a_signature_is_taken() -> None:
    # twilio.com/docs/usage/security: the example of its libraries.
    form = {
        "CallSid": "CA1234567890ABCDE", "Digits": "1234", "From": "+14158675309", "To": "+18005551212",
        "Caller": "+14158675309",
    }  # fmt: skip
    headers = {
        "x-twilio-signature": "RSOYDt4T1cUTdK1PDd93/VVr8B8=",
        "content-type": "application/x-www-form-urlencoded",
    }
    url = "https://mycompany.com/myapp.php?foo=1&bar=2"
    teller = teller_of(spec("twilio", auth_token="12345"))
    assert teller is not None and teller.told(HookCall(url, headers, urlencode(form).encode())) == Told("")


def test_a_reference_is_read_back_and_only_with_its_secret() -> None:
    reference = reference_of(send(member_id="Ж" * 50))
    token = sign_reference(SECRET, reference)
    assert read_reference([b"x" * 32, SECRET], token) == reference and len(token) < MAX_TOKEN
    with pytest.raises(TokenError):
        read_reference([b"x" * 32], token)


def test_a_token_of_an_unsubscribe_link_is_none() -> None:
    from schemas.unsubscribe import FORMAT, Leaving, sign

    with pytest.raises(TokenError):
        read_reference([SECRET], sign(SECRET, Leaving(FORMAT, "m1", "sms", "marketing", "c")))
