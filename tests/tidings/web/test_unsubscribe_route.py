"""Unsubscribe links over HTTP: open to all, written before answered, bounded."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
from confluent_kafka import KafkaError, KafkaException
from yarl import URL

from schemas.events import Event
from schemas.unsubscribe import Leaving, sign
from tidings.web import unsubscribe as module
from tidings.web.prometheus import DeliveryRecorder, render
from tidings.web.routes import Probes, serve
from tidings.web.unsubscribe import BODY_BYTES_MAX, install_unsubscribe

SECRET = b"s" * 32
TOKEN = sign(SECRET, Leaving(1, "m1", "email", "marketing", "c" * 32))
ONE_CLICK = b"List-Unsubscribe=One-Click"


class Log:
    """Stands where `events` is."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.fault: Exception | None = None
        self.metrics = DeliveryRecorder()

    async def append(self, event: Event) -> None:
        if self.fault is not None:
            raise self.fault
        self.events.append(event)


@pytest.fixture
def log() -> Log:
    return Log()


@pytest.fixture
async def base(log: Log) -> AsyncIterator[str]:
    probes = Probes("delivery", lambda: None, lambda: [])
    runner = await serve(
        probes, "t0ken", "127.0.0.1", 0, lambda app: install_unsubscribe(app, [SECRET], log.append, log.metrics)
    )
    yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    await runner.cleanup()


async def ask(url: str, method: str = "GET", body: bytes | None = None) -> tuple[int, str, Any]:
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    async with aiohttp.ClientSession() as session, session.request(method, url, data=body, headers=headers) as got:
        return got.status, await got.text(), got.headers


async def test_looking_at_a_link_shows_a_button_and_changes_nothing(base: str, log: Log) -> None:
    status, body, headers = await ask(f"{base}/u/{TOKEN}")
    assert (status, log.events) == (200, [])
    assert '<form method="post"><button>Unsubscribe</button></form>' in body
    assert headers["Content-Type"] == "text/html; charset=utf-8"
    assert headers["Referrer-Policy"] == "no-referrer"
    assert (await ask(f"{base}/u/{TOKEN}", "HEAD"))[:2] == (200, "")
    assert log.events == []


@pytest.mark.parametrize("body", [ONE_CLICK, b""])
async def test_one_click_and_the_button_take_consent_back_without_login(base: str, log: Log, body: bytes) -> None:
    status, said, _ = await ask(f"{base}/u/{TOKEN}", "POST", body)
    assert status == 200
    assert "m1" not in said
    (event,) = log.events
    assert (event.type, event.member_id, event.data["channel"]) == ("consent.revoked", "m1", "email")
    assert 'tidings_unsubscribe_requests_total{status="200"} 1' in render(log.metrics.families())


@pytest.mark.parametrize("fault", [KafkaException(KafkaError(KafkaError.INVALID_RECORD)), TimeoutError()])
async def test_what_could_not_be_written_is_not_confirmed(base: str, log: Log, fault: Exception) -> None:
    log.fault = fault
    status, body, headers = await ask(f"{base}/u/{TOKEN}", "POST", ONE_CLICK)
    assert status == 503
    assert "You will get no more" not in body
    assert headers["Retry-After"] == "1"


async def test_a_broker_that_is_away_is_waited_for_and_then_not_confirmed(
    base: str, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def never(event: Event) -> None:
        await asyncio.sleep(60)

    monkeypatch.setattr(module, "WRITE_S", 0.1)
    runner = await serve(
        Probes("delivery", lambda: None, lambda: []), "", "127.0.0.1", 0,
        lambda app: install_unsubscribe(app, [SECRET], never, log.metrics),
    )  # fmt: skip
    try:
        url = f"http://127.0.0.1:{runner.addresses[0][1]}/u/{TOKEN}"
        assert (await ask(url, "POST", ONE_CLICK))[0] == 503
        assert (await ask(url))[0] == 200  # a worker without a bearer token still serves links
    finally:
        await runner.cleanup()


async def test_a_made_up_link_a_large_body_and_other_methods_do_nothing(base: str, log: Log) -> None:
    changed = ("A" if TOKEN[0] != "A" else "B") + TOKEN[1:]
    for token in (changed, TOKEN[:-4], "x", "%00", "%2e%2e"):
        assert (await ask(f"{base}/u/{token}", "POST", ONE_CLICK))[0] in (401, 404)
    assert (await ask(f"{base}/u/{TOKEN}", "POST", b"x" * (BODY_BYTES_MAX + 1)))[0] == 413
    status, _, headers = await ask(f"{base}/u/{TOKEN}", "DELETE")
    assert (status, headers["Allow"]) == (405, "GET, HEAD, POST")
    assert log.events == []


@pytest.mark.parametrize("path", ["/u", "/u/", f"/u/{TOKEN}/metrics", "/u/../metrics", "/metrics"])
async def test_only_links_themselves_are_open(base: str, path: str) -> None:
    async with aiohttp.ClientSession() as session, session.get(URL(base + path, encoded=True)) as got:
        assert got.status == 401


async def test_choices_are_written_before_they_are_confirmed(base: str, log: Log) -> None:
    url = f"{base}/u/{TOKEN}/choices"
    status, body, headers = await ask(url)
    assert (status, log.events) == (200, []) and 'name="email"' in body and "no-referrer" in headers["Referrer-Policy"]
    status, body, _ = await ask(url, "POST", b"email=yes")
    assert status == 200 and "Your choices are kept" in body
    assert [(event.type, event.data["channel"]) for event in log.events] == [("consent.granted", "email")]
    log.fault = KafkaException(KafkaError(KafkaError.INVALID_RECORD))
    status, body, headers = await ask(url, "POST", b"email=no")
    assert (status, headers["Retry-After"]) == (503, "1") and "are kept" not in body


async def test_choices_of_a_made_up_link_or_a_large_body_do_nothing(base: str, log: Log) -> None:
    assert (await ask(f"{base}/u/{TOKEN[:-4]}/choices", "POST", b"email=yes"))[0] == 404
    assert (await ask(f"{base}/u/{TOKEN}/choices", "POST", b"email=yes&" + b"x" * BODY_BYTES_MAX))[0] == 413
    assert log.events == []
