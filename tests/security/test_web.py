"""Every web endpoint of every role without the token: 401 and nothing else. Routes are read from the applications."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from yarl import URL

from agents.send_one import NoMetrics
from agents.wiring import create_engine_app
from streams.engine import PartitionEngine
from tables.rocks import RocksResources
from tidings.web.engine import install_engine
from tidings.web.routes import CHOICES, LINK, OPEN, PIXEL, UNSUBSCRIBE, Probes, install
from tidings.web.tracking import Tracks, install_tracking
from tidings.web.unsubscribe import install_unsubscribe

TOKEN = "the-t0ken"
KEYS = {UNSUBSCRIBE, CHOICES, LINK, PIXEL}  # open, and the address itself is the key
ENDPOINTS = {"/health", "/ready", "/metrics", "/campaigns", "/members/{member_id}", *KEYS}
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND")
# A caller who has not the token: nothing, near misses, other schemes, and places where a token does not belong.
WRONG: dict[str, dict[str, str]] = {
    "none": {},
    "empty": {"Authorization": "Bearer "},
    "prefix": {"Authorization": f"Bearer {TOKEN[:-1]}"},
    "longer": {"Authorization": f"Bearer {TOKEN}x"},
    "upper": {"Authorization": f"Bearer {TOKEN.upper()}"},
    "basic": {"Authorization": "Basic OnRoZS10MGtlbg=="},
    "bare": {"Authorization": TOKEN},
    "two": {"Authorization": f"Bearer {TOKEN}, Bearer {TOKEN}"},
    "cookie": {"Cookie": f"token={TOKEN}", "X-Api-Key": TOKEN},
    "proxy": {"X-Forwarded-For": "127.0.0.1", "X-Original-URL": "/health", "X-Tidings-Handed-On": "1"},
    "override": {"X-HTTP-Method-Override": "GET", "X-Rewrite-URL": "/ready"},
}


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[web.Application]:
    built = create_engine_app(
        bootstrap=["127.0.0.1:9"], data_dir=tmp_path, engines=PartitionEngine, partitions=1,
        resources=RocksResources(1 << 20, 1 << 20), web_enabled=True,
    )  # fmt: skip
    install_engine(built, 1, TOKEN)
    yield built.app.web.web_app  # type: ignore[attr-defined]
    built.stores.close_all()


def delivery() -> web.Application:
    async def nowhere(_event: Any) -> None:
        raise RuntimeError("written without a valid link")

    app = web.Application()
    install(app, Probes("delivery", lambda: None, list), TOKEN)
    install_unsubscribe(app, [b"s" * 32], nowhere, NoMetrics())
    install_tracking(app, Tracks([b"s" * 32], nowhere, NoMetrics()))
    return app


def routes(app: web.Application) -> set[str]:
    return {resource.canonical for resource in app.router.resources()}


@asynccontextmanager
async def served(app: web.Application) -> AsyncIterator[str]:
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    await runner.cleanup()


async def assert_closed(base: str, path: str, headers: dict[str, str], methods: tuple[str, ...] = METHODS) -> None:
    async with aiohttp.ClientSession() as session:
        for method in methods:
            url = URL(base + path, encoded=True)
            async with session.request(method, url, headers=headers, allow_redirects=False) as got:
                body = await got.read()
                assert (got.status, body) == (401, b""), f"{method} {path}"
                named = {name.lower() for name in got.headers}
                assert named <= {
                    "www-authenticate", "server", "cache-control", "x-content-type-options", "content-length",
                    "content-type", "date",
                }  # fmt: skip
                assert got.headers["Server"] == "tidings"


def test_the_endpoints_are_those_that_this_test_knows(engine: web.Application) -> None:
    """A new route must be named here, and be closed unless it is among the three open ones."""
    assert routes(engine) | routes(delivery()) == ENDPOINTS
    assert {"/health", "/ready"} == OPEN


@pytest.mark.parametrize("role", ["engine", "delivery"])
@pytest.mark.parametrize("wrong", WRONG)
async def test_without_the_token_a_closed_route_says_nothing(engine: web.Application, role: str, wrong: str) -> None:
    app = engine if role == "engine" else delivery()
    closed = routes(app) - OPEN - KEYS
    async with served(app) as base:
        for path in sorted(closed):
            await assert_closed(base, path.replace("{member_id}", "m-1"), WRONG[wrong])


@pytest.mark.parametrize(
    "path",
    [
        "/", "/nope", "/metrics/", "//metrics", "/health/../metrics", "/health/%2e%2e/metrics", "/ready%2f..%2fmetrics",
        "/metrics?token=the-t0ken", "/health%00/metrics", "/members/..%2f..%2fhealth", "/members/%2e%2e/health",
        "/Health", "/health/", "/router/members/m", "/stats", "/tables/members", "/graph", "/u", "/u/", "/u/a/b",
    ],
)  # fmt: skip
async def test_no_spelling_of_a_path_leads_around_the_token(engine: web.Application, path: str) -> None:
    async with served(engine) as base:
        await assert_closed(base, path, {}, ("GET", "POST"))


async def test_an_open_route_says_the_same_to_everybody_and_nothing_of_members(engine: web.Application) -> None:
    async with served(engine) as base, aiohttp.ClientSession() as session:
        for path in sorted(OPEN):
            answers = []
            for headers in ({}, {"Authorization": f"Bearer {TOKEN}"}):
                async with session.get(base + path, headers=headers) as got:
                    answers.append((got.status, await got.text()))
            assert answers[0] == answers[1]
            assert "member_id" not in answers[0][1]


@pytest.mark.parametrize("link", ["x", "a.b", "A" * 5_000, "%00", "..%2f..%2fmetrics", "{member_id}"])
@pytest.mark.parametrize("method", METHODS)
async def test_a_link_that_we_did_not_sign_writes_nothing(link: str, method: str) -> None:
    async with served(delivery()) as base, aiohttp.ClientSession() as session:
        for key in KEYS:
            url = URL(base + key.replace("{token}", link), encoded=True)
            data = b"email=no" if method == "POST" else None
            async with session.request(method, url, data=data, allow_redirects=False) as got:
                assert got.status in (401, 404, 405), key
                assert TOKEN not in await got.text() and "Location" not in got.headers
