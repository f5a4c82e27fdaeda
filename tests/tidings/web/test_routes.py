import io
import logging
from collections.abc import AsyncIterator, Iterator
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from schemas.errors import OperatorError
from tidings import logs
from tidings.web.pages import Trouble
from tidings.web.prometheus import gauge
from tidings.web.routes import Probes, install, serve

TOKEN = "t0ken"
BEARER = {"Authorization": f"Bearer {TOKEN}"}


class Role:
    """A role in front of whose endpoints the tests stand."""

    def __init__(self) -> None:
        self.trouble: Trouble | None = None
        self.probes = Probes("sink", lambda: self.trouble, lambda: [gauge("tidings_x", "X.", 1)])


@pytest.fixture
def role() -> Role:
    return Role()


@pytest.fixture
async def base(role: Role) -> AsyncIterator[str]:
    runner = await serve(role.probes, TOKEN, "127.0.0.1", 0)
    yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    await runner.cleanup()


async def ask(url: str, method: str = "GET", headers: dict[str, str] | None = None) -> tuple[int, str, Any]:
    async with aiohttp.ClientSession() as session, session.request(method, url, headers=headers) as got:
        return got.status, await got.text(), got.headers


async def test_health_needs_no_token_and_says_nothing_else(base: str) -> None:
    status, body, headers = await ask(f"{base}/health")
    assert (status, body) == (200, '{"status":"ok"}')
    assert headers["Cache-Control"] == "no-store"
    assert headers["Server"] == "tidings"


async def test_ready_answers_503_with_the_reason_until_the_trouble_is_over(base: str, role: Role) -> None:
    role.trouble = ("the database is not open yet", "wait")
    status, body, headers = await ask(f"{base}/ready")
    assert status == 503
    assert body == '{"error":{"place":"sink","message":"the database is not open yet","remedy":"wait"}}'
    assert headers["Retry-After"] == "1"
    role.trouble = None
    assert (await ask(f"{base}/ready"))[:2] == (200, '{"status":"ready"}')


@pytest.mark.parametrize("path", ["/metrics", "/members/m1", "/campaigns", "/", "/nothing", "/health/", "//health"])
@pytest.mark.parametrize("headers", [{}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic dDA6"}])
async def test_without_the_token_every_other_path_answers_401_and_nothing_else(
    base: str, path: str, headers: dict[str, str]
) -> None:
    status, body, got = await ask(base + path, headers=headers)
    assert (status, body) == (401, "")
    assert got["WWW-Authenticate"] == 'Bearer realm="tidings"'


async def test_with_the_token_metrics_are_text_for_prometheus(base: str) -> None:
    status, body, headers = await ask(f"{base}/metrics", headers=BEARER)
    assert status == 200
    assert headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert "\ntidings_x 1\n" in body
    assert "\ntidings_ready 1\n" in body


async def test_unknown_paths_and_methods_are_errors_in_the_one_shape(base: str) -> None:
    for method, path, expected in (("GET", "/table", 404), ("POST", "/metrics", 405)):
        status, body, headers = await ask(base + path, method, BEARER)
        assert status == expected
        assert body.startswith('{"error":{"place":"web","message":"')
        assert ("Allow" in headers) == (expected == 405)


async def test_without_a_configured_token_all_but_the_probes_is_refused_with_the_remedy(role: Role) -> None:
    runner = await serve(role.probes, "", "127.0.0.1", 0)
    base = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        assert (await ask(f"{base}/health"))[0] == 200
        assert (await ask(f"{base}/ready"))[0] == 200
        for headers in ({}, {"Authorization": "Bearer "}):
            status, body, _ = await ask(f"{base}/metrics", headers=headers)
            assert status == 403
            assert '"remedy":"set TIDINGS_WEB_TOKEN' in body
    finally:
        await runner.cleanup()


@pytest.fixture
def written() -> Iterator[io.StringIO]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    stream = io.StringIO()
    logs.set_up("info", stream)
    yield stream
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.captureWarnings(False)


async def test_a_failing_page_tells_neither_the_asker_nor_the_log_what_it_was_about(
    role: Role, written: io.StringIO
) -> None:
    app = web.Application()
    install(app, role.probes, TOKEN)

    async def fails(request: web.Request) -> web.Response:
        raise ValueError(f"no luck with {request.match_info['member_id']}")

    app.router.add_get("/members/{member_id}", fails)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        status, body, _ = await ask(f"http://127.0.0.1:{runner.addresses[0][1]}/members/ann-41", headers=BEARER)
    finally:
        await runner.cleanup()
    assert status == 500
    assert "ann-41" not in body
    assert "web request failed" in written.getvalue()
    assert "ann-41" not in written.getvalue()


async def test_a_taken_port_is_an_operators_error(base: str, role: Role) -> None:
    with pytest.raises(OperatorError, match="set --web-port to a free port") as caught:
        await serve(role.probes, TOKEN, "127.0.0.1", int(base.rpartition(":")[2]))
    assert caught.value.exit_code == 3
