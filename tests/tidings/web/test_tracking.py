"""The redirect: leads only where we signed, answers whatever the broker does, tells machines from people as data."""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import msgspec
import pytest
from confluent_kafka import KafkaError, KafkaException
from multidict import CIMultiDict

from schemas.commands import SendMessage
from schemas.events import Event
from schemas.references import reference_of, sign_reference
from schemas.tokens import TokenError
from schemas.tracking import CLICK, FORMAT, OPEN, Track, read_track, sign_track
from schemas.unsubscribe import Leaving, sign
from tests.sinks.test_mime import COMMAND
from tidings.config import Settings
from tidings.web import tracking as module
from tidings.web.prometheus import DeliveryRecorder, render
from tidings.web.routes import Probes, serve
from tidings.web.tracking import GIF, Tracks, install_tracking, machine_sign

SECRET = b"s" * 32
BROWSER = "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0"
PAGE = "https://shop.example/cart?id=7&x=%D1%87#top"


def track(kind: str = CLICK, url: str = PAGE, made_ms: int = 0, command: SendMessage = COMMAND) -> Track:
    return Track(
        FORMAT, kind, reference_of(command), made_ms, "1" if kind == CLICK else "", url if kind == CLICK else ""
    )


def token(**changes: Any) -> str:
    return sign_track(SECRET, track(**changes))


class Log:
    """Stands where `events` is; `stuck`: the broker is away."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.fault: Exception | None = None
        self.stuck = False
        self.metrics = DeliveryRecorder()
        self.tracks = Tracks([b"n" * 32, SECRET], self.append, self.metrics)

    async def append(self, event: Event) -> None:
        if self.fault is not None:
            raise self.fault
        while self.stuck:
            await asyncio.sleep(0.01)
        self.events.append(event)

    def counted(self) -> str:
        return render(self.metrics.families())


@pytest.fixture
def log() -> Log:
    return Log()


@pytest.fixture
async def base(log: Log) -> AsyncIterator[str]:
    probes = Probes("delivery", lambda: None, lambda: [])
    runner = await serve(probes, "t0ken", "127.0.0.1", 0, lambda app: install_tracking(app, log.tracks))
    yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    await runner.cleanup()


async def ask(url: str, method: str = "GET", **headers: str) -> tuple[int, bytes, Any]:
    sent = {"User-Agent": BROWSER} | headers
    async with (
        aiohttp.ClientSession(skip_auto_headers=["User-Agent"]) as session,
        session.request(method, url, headers=sent, allow_redirects=False) as got,
    ):
        return got.status, await got.read(), got.headers


async def test_a_click_leads_on_and_is_an_event_that_names_the_whole_message(base: str, log: Log) -> None:
    status, _, headers = await ask(f"{base}/c/{token()}")
    assert (status, headers["Location"], headers["Cache-Control"]) == (302, PAGE, "no-store")
    (event,) = log.events
    assert (event.type, event.member_id, event.causation_id) == ("engagement.clicked", "m1", COMMAND.command_id)
    wanted = {
        "command_id": COMMAND.command_id, "campaign": "cart", "version": "v1", "instance_id": "i1", "step": "send",
        "channel": "email", "link_id": "1", "url": PAGE, "bot": False,
    }  # fmt: skip
    assert wanted.items() <= event.data.items() and "reason" not in event.data
    assert "127.0.0.1" not in str(event) and "Mozilla" not in str(event)


async def test_a_loaded_pixel_is_an_open(base: str, log: Log) -> None:
    status, body, headers = await ask(f"{base}/o/{token(kind=OPEN)}")
    assert (status, body, headers["Content-Type"]) == (200, GIF, "image/gif")
    (event,) = log.events
    assert (event.type, event.data["machine"]) == ("engagement.opened", False)


async def test_a_link_that_we_did_not_sign_leads_nowhere(base: str, log: Log) -> None:
    body, _, signature = token().partition(".")
    other = sign_track(SECRET, track(url="https://evil.example/")).partition(".")[0]
    forged = [
        f"{other}.{signature}", f"{body}.{signature[:-2]}AA", body, f"{body}.", ".", "x", "https:%2F%2Fevil.example",
        token(kind=OPEN), sign_track(b"x" * 32, track()), sign_reference(SECRET, reference_of(COMMAND)),
        sign(SECRET, Leaving(1, "m1", "email", "marketing", "c" * 32)), "A" * 6_000, "%ff.%ff",
    ]  # fmt: skip
    for one in forged:
        status, _, headers = await ask(f"{base}/c/{one}")
        assert status in (401, 404) and "Location" not in headers, one
    assert (await ask(f"{base}/o/{token()}"))[0] == 404
    assert log.events == []


@pytest.mark.parametrize(
    "url", ["javascript:alert(1)", "//evil.example", "/x", "https://a\r\nX: y", "https://x/ y", ""]
)
def test_even_a_signed_token_leads_to_the_web_only(url: str) -> None:
    with pytest.raises(TokenError):
        read_track([SECRET], token(url=url), CLICK)


async def test_other_methods_do_nothing(base: str, log: Log) -> None:
    status, _, headers = await ask(f"{base}/c/{token()}", "POST")
    assert (status, headers["Allow"], log.events) == (405, "GET, HEAD", [])


async def test_who_clicks_does_not_wait_for_a_broker_that_is_away(
    base: str, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "ANSWER_S", 0.05)
    log.stuck = True
    assert (await ask(f"{base}/c/{token()}"))[0] == 302
    assert log.events == []
    log.stuck = False
    await log.tracks.close()  # and when the broker is back, the click is written
    assert [event.type for event in log.events] == ["engagement.clicked"]


async def test_what_cannot_be_held_or_written_is_counted_and_still_leads_on(
    base: str, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "ANSWER_S", 0.01)
    monkeypatch.setattr(module, "END_S", 0.01)
    monkeypatch.setattr(module, "HELD_MAX", 3)
    log.stuck = True
    for n in range(5):
        command = msgspec.structs.replace(COMMAND, command_id=f"{n:032x}")
        assert (await ask(f"{base}/c/{token(command=command)}"))[0] == 302
    assert "tidings_tracking_lost_total 2" in log.counted()
    await log.tracks.close()
    assert "tidings_tracking_lost_total 5" in log.counted()
    log.stuck, log.fault = False, KafkaException(KafkaError(KafkaError.INVALID_RECORD))
    assert (await ask(f"{base}/c/{token()}"))[0] == 302
    assert "tidings_tracking_lost_total 6" in log.counted()
    log.fault = None
    await ask(f"{base}/c/{token()}")
    assert len(log.events) == 1  # what was lost is not taken for written
    assert 'tidings_tracking_requests_total{kind="click",status="302"} 7' in log.counted()


async def test_a_link_pressed_twice_is_one_click_and_a_scanner_does_not_stand_for_a_person(
    base: str, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time, "time_ns", lambda: 1_700_000_000_000_000_000)
    url = f"{base}/c/{token()}"
    await ask(url, "HEAD")
    for _ in range(3):
        await ask(url)
    assert [(event.data["bot"], event.data.get("reason")) for event in log.events] == [(True, "head"), (False, None)]
    monkeypatch.setattr(time, "time_ns", lambda: 1_700_000_060_000_000_000)
    await ask(url)
    assert len({event.event_id for event in log.events}) == 3


@pytest.mark.parametrize(
    ("method", "headers", "since_ms", "sign"),
    [
        ("GET", {"User-Agent": BROWSER}, 1_000, ""),
        ("GET", {"User-Agent": BROWSER}, 999, "too_soon"),
        ("GET", {"User-Agent": BROWSER}, -5, "too_soon"),
        ("HEAD", {"User-Agent": BROWSER}, 90_000, "head"),
        ("GET", {"User-Agent": BROWSER, "Sec-Purpose": "prefetch;prerender"}, 90_000, "prefetch"),
        ("GET", {"User-Agent": BROWSER, "X-Purpose": "Preview"}, 90_000, "prefetch"),
        ("GET", {}, 90_000, "no_user_agent"),
        ("GET", {"User-Agent": "TelegramBot (like TwitterBot)"}, 90_000, "robot"),
        ("GET", {"User-Agent": "python-requests/2.32"}, 90_000, "robot"),
        ("GET", {"User-Agent": "Mozilla/5.0"}, 90_000, "loader"),
        ("GET", {"User-Agent": "Mozilla/5.0 (via ggpht.com GoogleImageProxy)"}, 90_000, ""),
        ("GET", {"User-Agent": "Mozilla/5.0 (Linux; Android 14; CUBOT X90) Chrome/126.0 Mobile"}, 90_000, ""),
    ],
)  # fmt: skip
def test_what_tells_a_machine(method: str, headers: dict[str, str], since_ms: int, sign: str) -> None:
    assert machine_sign(method, CIMultiDict(headers), since_ms) == sign


async def test_the_redirect_works_while_no_broker_is_there_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "END_S", 0.05)
    nobody = Settings.from_env({"TIDINGS_BROKER": "127.0.0.1:9"})
    metrics = DeliveryRecorder()
    async with module.tracking(nobody, [SECRET], metrics) as install_it:
        runner = await serve(Probes("delivery", lambda: None, lambda: []), "t0ken", "127.0.0.1", 0, install_it)
        status, _, headers = await ask(f"http://127.0.0.1:{runner.addresses[0][1]}/c/{token()}")
        await runner.cleanup()
    assert (status, headers["Location"]) == (302, PAGE)
    assert "tidings_tracking_lost_total 1" in render(metrics.families())
