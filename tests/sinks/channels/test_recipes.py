"""The examples of docs/channels.md for providers of kind `http`, as they stand, against servers that check them."""

import base64
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import msgspec
import pytest
import yaml
from aiohttp import web

from sinks.channels.form import FormSettings
from sinks.channels.kinds import open_provider, read_spec
from sinks.channels.receipts import HookCall, Told
from sinks.outcome import Outcome
from sinks.templates import Content
from tests.sinks.channels.samples import ID, dispatch

PAGE = Path(__file__).parents[3] / "docs" / "channels.md"
CALLBACK = "https://shop.example/r/p/tok"


class Server:
    """Checks what Vonage documents for viber_service messages, and Twilio for calls."""

    def __init__(self) -> None:
        self.said: list[dict[str, Any]] = []
        self.url = ""

    async def viber(self, request: web.Request) -> web.Response:
        said = await request.json()
        needed = {"message_type", "channel", "to", "from", "text", "viber_service"}
        allowed = needed | {"client_ref", "webhook_url", "webhook_version"}
        if request.headers["Authorization"] != basic("1a2b3c"):
            return web.json_response({"title": "Unauthorized", "detail": "credentials"}, status=401)
        if not needed <= set(said) <= allowed or not said["to"].isdigit() or len(said.get("client_ref", "")) > 100:
            return web.json_response({"title": "Unprocessable Entity"}, status=422)
        self.said.append(said)
        return web.json_response({"message_uuid": "aaaaaaaa-bbbb"}, status=202)

    async def calls(self, request: web.Request) -> web.Response:
        said = {str(name): str(value) for name, value in (await request.post()).items()}
        if request.headers["Authorization"] != basic("AC0123456789"):
            return web.json_response({"code": 20003, "message": "Authenticate", "status": 401}, status=401)
        if not {"To", "From", "Twiml"} <= set(said) <= {"To", "From", "Twiml", "StatusCallback"}:
            return web.json_response({"code": 21205, "message": "Url parameter is required", "status": 400}, status=400)
        if said["To"].endswith("000"):
            return web.json_response({"code": 21211, "message": "Invalid 'To'", "status": 400}, status=400)
        self.said.append(said)
        return web.json_response({"sid": "CA1", "status": "queued"}, status=201)


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    made, app = Server(), web.Application()
    app.router.add_post("/v1/messages", made.viber)
    app.router.add_post("/2010-04-01/Accounts/AC0123456789/Calls.json", made.calls)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    made.url = f"http://127.0.0.1:{site._server.sockets[0].getsockname()[1]}"  # type: ignore[union-attr]
    yield made
    await runner.cleanup()


def basic(user: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:s3cret".encode()).decode()


def recipe(name: str, base: str) -> Any:
    """Read a provider out of the page, with its host turned to `base`."""
    (block,) = re.findall(r"^```providers\n(.*?)^```$", PAGE.read_text("utf-8"), re.DOTALL | re.MULTILINE)
    raw = yaml.safe_load(block)["providers"][name]
    raw = {key: "s3cret" if isinstance(value, dict) and set(value) == {"env"} else value for key, value in raw.items()}
    raw["url"] = re.sub(r"https://[^/]+", base, raw["url"])
    return open_provider(read_spec(name, raw.pop("kind"), raw))


async def sent(opened: Any, text: str, address: str = "+4915112345678") -> Outcome:
    adapter, transport = opened
    async with transport.link() as link:
        outcome: Outcome = await link.send(adapter.request(dispatch(Content(text), address=address)))
    await transport.close()
    return outcome


def told(opened: Any, call: HookCall) -> Told:
    adapter = opened[0]
    assert isinstance(adapter.settings, FormSettings)
    found: Told = adapter.told(call)
    return found


async def test_viber_as_vonage_wants_it(server: Server) -> None:
    opened = recipe("viber-main", server.url)
    outcome = await sent(opened, "Hi Ann")
    assert (outcome.status, outcome.provider_message_id) == ("sent", "aaaaaaaa-bbbb")
    (said,) = server.said
    assert (said["to"], said["text"], said["client_ref"]) == ("4915112345678", "Hi Ann", ID)
    assert said["webhook_url"] == CALLBACK
    for status, ours in {
        "submitted": "",
        "delivered": "delivered",
        "read": "read",
        "undeliverable": "undelivered",
    }.items():
        body = {
            "message_uuid": "aaaaaaaa-bbbb",
            "status": status,
            "error": {"title": "1320"},
            "channel": "viber_service",
        }
        call = HookCall(CALLBACK, {"content-type": "application/json"}, msgspec.json.encode(body))
        assert told(opened, call) == Told(ours, "aaaaaaaa-bbbb", "1320")


async def test_a_voice_robot_says_the_text_whatever_is_in_it(server: Server) -> None:
    opened = recipe("robot", server.url)
    text = 'Tom & Ann\'s <best> "offer"'
    outcome = await sent(opened, text)
    assert (outcome.status, outcome.provider_message_id) == ("sent", "CA1")
    (said,) = server.said
    (say,) = ElementTree.fromstring(said["Twiml"])
    assert (say.tag, say.text, say.get("language")) == ("Say", text, "de-DE")
    assert (said["To"], said["StatusCallback"]) == ("+4915112345678", CALLBACK)
    for status, ours in {"ringing": "", "completed": "delivered", "no-answer": "undelivered"}.items():
        form = urlencode({"CallSid": "CA1", "CallStatus": status}).encode()
        assert told(opened, HookCall(CALLBACK, {}, form)) == Told(ours, "CA1")


async def test_a_number_that_the_robot_cannot_call_is_bounced(server: Server) -> None:
    outcome = await sent(recipe("robot", server.url), "hi", "+4915112345000")
    assert (outcome.status, outcome.reason) == ("bounced", "recipient_refused") and not server.said
