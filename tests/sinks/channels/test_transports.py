"""Real calls to servers that check what the vendors document: taken, refused, slow, away, back."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web

from sinks.channels.base import Adapter, HttpRequest, Transport
from sinks.channels.http import Http1Client, HttpTransport
from sinks.channels.kinds import open_provider
from sinks.outcome import Outcome, ProviderDown
from tests.sinks.channels.apns_server import ApnsServer
from tests.sinks.channels.samples import APNS_TOKEN, CONTENT, FCM_TOKEN, dispatch, spec
from tests.sinks.channels.vendors import Vendors


@pytest.fixture
async def vendors() -> AsyncIterator[Vendors]:
    running = await Vendors().start()
    yield running
    await running.stop()


async def hand_over(opened: tuple[Adapter, Transport], **changes: Any) -> Outcome:
    adapter, transport = opened
    async with transport.link() as link:
        return await link.send(adapter.request(dispatch(**changes)))


@pytest.mark.parametrize("kind", ["twilio", "telegram", "fcm", "webpush", "webhook", "http", "whatsapp"])
async def test_a_message_is_taken_by_a_server_that_checks_it(vendors: Vendors, kind: str) -> None:
    opened = open_provider(spec(kind, vendors))
    address = {"telegram": "42", "fcm": FCM_TOKEN, "webpush": vendors.subscription()}.get(kind, "+4915112345678")
    outcome = await hand_over(opened, address=address)
    await opened[1].close()
    assert (outcome.status, vendors.refused) == ("sent", [])
    (said,) = vendors.said("form" if kind == "http" else kind)
    assert CONTENT.text in str(said)
    if kind != "webhook":
        assert outcome.provider_message_id


async def test_a_refusal_of_the_address_is_told_apart_from_trouble_of_the_provider(vendors: Vendors) -> None:
    for kind, address in {"twilio": "+4910000000", "telegram": "13", "fcm": "gone" * 20}.items():
        opened = open_provider(spec(kind, vendors))
        outcome = await hand_over(opened, address=address)
        await opened[1].close()
        assert (outcome.status, outcome.healthy, opened[1].wait_s()) == ("bounced", True, 0)


async def test_one_access_token_serves_all_calls_until_it_is_near_its_end(vendors: Vendors) -> None:
    opened = open_provider(spec("fcm", vendors))
    await asyncio.gather(*(hand_over(opened, address=FCM_TOKEN) for _ in range(20)))
    await opened[1].close()
    assert vendors.tokens == 1 and len(vendors.said("fcm")) == 20


async def test_a_token_endpoint_that_refuses_is_the_provider_being_down(vendors: Vendors) -> None:
    vendors.fault = lambda request: web.json_response({}, status=400) if request.path == "/token" else None
    opened = open_provider(spec("fcm", vendors))
    with pytest.raises(ProviderDown, match="token_refused"):
        await hand_over(opened, address=FCM_TOKEN)
    await opened[1].close()


async def test_apns_is_spoken_over_one_connection_of_http2() -> None:
    server = await ApnsServer().start()
    opened = open_provider(spec("apns", url=server.url))
    outcomes = await asyncio.gather(*(hand_over(opened, address=APNS_TOKEN) for _ in range(8)))
    gone = await hand_over(opened, address="dead" * 16)
    server.fault = (403, "ExpiredProviderToken")
    refused = await hand_over(opened, address=APNS_TOKEN)
    await opened[1].close()
    await server.stop()
    assert {one.status for one in outcomes} == {"sent"} and server.connections == 1 and len(server.tokens) == 1
    device, headers, payload = server.taken[0]
    assert device == APNS_TOKEN and payload["aps"]["alert"] == {"title": CONTENT.title, "body": CONTENT.text}
    assert outcomes[0].provider_message_id == headers["apns-id"]
    assert (gone.status, refused.reason) == ("bounced", "credentials_refused")


def transport_to(url: str, **more: Any) -> HttpTransport:
    def read(reply: Any) -> Outcome:
        healthy = reply.status < 500
        return Outcome("sent" if healthy else "deferred", reply.status, "x", healthy=healthy)

    return HttpTransport("p", read, Http1Client(8, more.pop("timeout_s", 5)), **more)


async def call(transport: HttpTransport, url: str) -> Outcome:
    async with transport.link() as link:
        return await link.send(HttpRequest("POST", url))


async def test_nobody_listening_means_not_sent_and_opens_the_circuit() -> None:
    transport = transport_to("x")
    for _ in range(transport.circuit.threshold):
        with pytest.raises(ProviderDown):
            await call(transport, "http://127.0.0.1:9/x")
    assert transport.wait_s() > 0
    await transport.close()


async def test_an_answer_that_does_not_come_is_an_unknown_outcome(vendors: Vendors) -> None:
    calls = asyncio.Event()

    async def hang(request: web.Request) -> web.Response:
        calls.set()
        await asyncio.sleep(30)
        return web.Response()

    app = web.Application()
    app.router.add_post("/x", hang)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = site._server.sockets[0].getsockname()[1]  # type: ignore[union-attr]
    transport = transport_to("x", timeout_s=0.3)
    outcome = await call(transport, f"http://127.0.0.1:{port}/x")
    await transport.close()
    await runner.cleanup()
    assert calls.is_set() and (outcome.status, outcome.healthy) == ("unknown", False)


async def test_failures_in_a_row_stop_the_calls_and_a_trial_finds_it_back(vendors: Vendors) -> None:
    seen: list[int] = []

    def fault(request: web.Request) -> web.Response:
        seen.append(1)
        return web.Response(status=500)

    vendors.fault = fault
    transport = transport_to("x")
    transport.circuit.base_s = 0.05
    for _ in range(transport.circuit.threshold):
        assert (await call(transport, f"{vendors.url}/form")).status == "deferred"
    with pytest.raises(ProviderDown):
        await call(transport, f"{vendors.url}/form")
    assert len(seen) == transport.circuit.threshold
    vendors.fault = None
    await asyncio.sleep(transport.wait_s() + 0.01)
    assert (await call(transport, f"{vendors.url}/form")).status == "sent"
    assert transport.wait_s() == 0
    await transport.close()


async def test_no_more_calls_are_under_way_than_allowed(vendors: Vendors) -> None:
    now, most = 0, 0
    transport = transport_to("x", connections=2)

    async def one() -> None:
        nonlocal now, most
        async with transport.link() as link:
            now += 1
            most = max(most, now)
            await link.send(HttpRequest("POST", f"{vendors.url}/form", {}, b"a=1"))
            now -= 1

    await asyncio.gather(*(one() for _ in range(10)))
    await transport.close()
    assert most == 2 and len(vendors.taken) == 10


async def test_calls_are_spread_over_the_second(vendors: Vendors) -> None:
    transport = transport_to("x", per_second=100)
    began = asyncio.get_running_loop().time()
    await asyncio.gather(*(call(transport, f"{vendors.url}/form") for _ in range(10)))
    await transport.close()
    assert asyncio.get_running_loop().time() - began >= 0.085  # the first at once, the tenth 90 ms later


async def test_a_redirect_is_not_followed(vendors: Vendors) -> None:
    vendors.fault = lambda request: web.Response(status=302, headers={"Location": f"{vendors.url}/hook"})
    opened = open_provider(spec("webhook", vendors))
    outcome = await hand_over(opened)
    await opened[1].close()
    assert (outcome.status, outcome.reason) == ("failed", "redirected") and not vendors.taken
