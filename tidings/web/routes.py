"""The endpoints: who may ask, who answers, and how it is said over HTTP.

Every role serves /health, /ready and /metrics; an engine also /campaigns and /members/{id}. A member is answered by the
worker that owns its partition: another one hands the question on, once, with the asker's token.
"""

import asyncio
import traceback
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import aiohttp
import orjson
import structlog
from aiohttp import web
from yarl import URL

from agents.outbox import partition_of
from agents.topics import CHANGELOG
from agents.wiring import EngineApp
from schemas.errors import OperatorError
from tidings.web.auth import matches
from tidings.web.pages import Trouble, campaigns_page, engine_trouble, error_page, member_page
from tidings.web.prometheus import CONTENT_TYPE, Family, engine_families, process_families, render

OPEN = frozenset({"/health", "/ready"})  # a probe has no token; they say nothing about members
HANDED_ON = "X-Tidings-Handed-On"
HAND_ON_S = 5.0
RETRY_AFTER_S = "1"
STOP_S = 2.0

log = structlog.get_logger("tidings.web")

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(frozen=True)
class Probes:
    """What a role tells about itself.

    `trouble`: why it cannot do its work now, None when it can. `families`: its metrics.
    """

    role: str
    trouble: Callable[[], Trouble | None]
    families: Callable[[], list[Family]]


def install(app: web.Application, probes: Probes, token: str) -> None:
    """Add the guard and the endpoints of every role. Call before the application starts.

    `token` empty: nothing but /health and /ready is answered.
    """
    app.middlewares.append(_guard(token))

    async def health(request: web.Request) -> web.Response:
        return _json({"status": "ok"})

    async def ready(request: web.Request) -> web.Response:
        trouble = probes.trouble()
        return _json({"status": "ready"}) if trouble is None else _unavailable(probes.role, *trouble)

    async def metrics(request: web.Request) -> web.Response:
        told = process_families(probes.role, probes.trouble() is None) + probes.families()
        return web.Response(body=render(told).encode(), headers={"Content-Type": CONTENT_TYPE})

    app.router.add_get("/health", health)
    app.router.add_get("/ready", ready)
    app.router.add_get("/metrics", metrics)


def install_engine(built: EngineApp, partitions: int, token: str) -> None:
    """Add all endpoints to the engine's Faust app, before it starts. `partitions`: of `events`."""
    app: web.Application = built.app.web.web_app  # type: ignore[attr-defined]  # Faust's aiohttp driver
    install(app, Probes("engine", lambda: engine_trouble(built), lambda: engine_families(built)), token)

    async def campaigns(request: web.Request) -> web.Response:
        return _json(campaigns_page(built.worker))

    async def member(request: web.Request) -> web.Response:
        member_id = request.match_info["member_id"]
        partition = partition_of(member_id.encode(), partitions)
        engine = built.worker.engine_of(partition)
        if engine is None:
            return await _ask_owner(built, request, member_id, partition)
        view = engine.member_view(member_id)
        if view is None:
            return _error(
                404, "members", "no record of this member (got its id)", "check the id; ids are case-sensitive"
            )
        return _json(member_page(view, partition, engine.clock_ms))

    app.router.add_get("/campaigns", campaigns)
    app.router.add_get("/members/{member_id:.+}", member)


async def serve(probes: Probes, token: str, host: str, port: int) -> web.AppRunner:
    """Listen with the endpoints of every role; `cleanup()` of what is returned stops it.

    Raises:
        OperatorError: the port is taken.
    """
    app = web.Application()
    install(app, probes, token)
    runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=STOP_S)
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port).start()
    except OSError as error:
        await runner.cleanup()
        raise cannot_listen(host, port, error) from None
    return runner


def cannot_listen(host: str, port: int, error: OSError) -> OperatorError:
    """Say that an address is taken, or not ours."""
    return OperatorError(
        f"TIDINGS_WEB_HOST, TIDINGS_WEB_PORT: cannot listen (got {host}:{port}: {error.strerror or error}); "
        "set --web-port to a free port, or to 0 for any",
        exit_code=3,
    )


# ---------------------------------------------------------------- the owner of a member


def owner_of(built: EngineApp, partition: int) -> str | None:
    """Find the address of the worker that has a partition, as the group's last assignment says; None while unknown."""
    for url, topics in built.app.router.tables_metadata().items():
        if partition in topics.get(CHANGELOG, ()):
            return url.rstrip("/")
    return None


async def _ask_owner(built: EngineApp, request: web.Request, member_id: str, partition: int) -> web.Response:
    owner = owner_of(built, partition)
    place = f"members, partition {partition}"
    if owner is None or owner == str(built.app.conf.canonical_url).rstrip("/"):
        return _unavailable(place, "no worker has this partition ready", "ask again; see /ready of the workers")
    if HANDED_ON in request.headers:  # two workers that each believe in the other: a rebalance is under way
        return _unavailable(place, "this partition is moving between workers", "ask again")
    headers = {HANDED_ON: "1", "Authorization": request.headers.get("Authorization", "")}
    try:
        timeout = aiohttp.ClientTimeout(total=HAND_ON_S)
        async with aiohttp.ClientSession(timeout=timeout) as session:
            url = URL(f"{owner}/members/{quote(member_id, safe='')}", encoded=True)
            async with session.get(url, headers=headers, allow_redirects=False) as got:
                body = await got.read()
                if got.status in (200, 404, 503):
                    retry = {"Retry-After": RETRY_AFTER_S} if got.status == 503 else {}
                    return web.Response(status=got.status, body=body, content_type="application/json", headers=retry)
    except (aiohttp.ClientError, TimeoutError, ValueError) as error:
        log.warning("owner does not answer", partition=partition, owner=owner, error=type(error).__name__)
        return _unavailable(place, f"its worker does not answer (got {type(error).__name__})", f"check {owner}/ready")
    return _unavailable(
        place, f"its worker refuses us (got status {got.status})", "give all workers the same TIDINGS_WEB_TOKEN"
    )


# ---------------------------------------------------------------- the guard


def _guard(token: str) -> Any:
    @web.middleware
    async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
        response = _refusal(token, request) or await _answer(request, handler)
        response.headers.setdefault("Cache-Control", "no-store")
        response.headers.setdefault("X-Content-Type-Options", "nosniff")
        return response

    return guard


def _refusal(token: str, request: web.Request) -> web.Response | None:
    if request.path in OPEN or matches(token, request.headers.get("Authorization")):
        return None
    if not token:
        return _error(
            403, "TIDINGS_WEB_TOKEN", "this worker has no token, so it answers nobody (got none)",
            "set TIDINGS_WEB_TOKEN on all workers, and send it as 'Authorization: Bearer …'",
        )  # fmt: skip
    return web.Response(status=401, headers={"WWW-Authenticate": 'Bearer realm="tidings"'})


async def _answer(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except web.HTTPException as error:
        allowed = {"Allow": error.headers["Allow"]} if "Allow" in error.headers else {}
        remedy = "GET /health, /ready, /metrics, /campaigns or /members/{id}"
        return _error(error.status, "web", f"{error.reason.lower()} (got {request.method})", remedy, allowed)
    except asyncio.CancelledError:
        raise
    except Exception as error:
        # Neither the path nor the error's text: both can hold what belongs to a member.
        place = request.match_info.route.resource
        frames = "".join(traceback.format_tb(error.__traceback__))
        log.error("web request failed", route=place and place.canonical, error=type(error).__name__, frames=frames)
        return _error(500, "web", f"unexpected (got {type(error).__name__})", "see this worker's log")


def _unavailable(place: str, message: str, remedy: str) -> web.Response:
    return _error(503, place, message, remedy, {"Retry-After": RETRY_AFTER_S})


def _error(status: int, place: str, message: str, remedy: str, headers: dict[str, str] | None = None) -> web.Response:
    return _json(error_page(place, message, remedy), status, headers)


def _json(value: Any, status: int = 200, headers: dict[str, str] | None = None) -> web.Response:
    body = orjson.dumps(value, default=str, option=orjson.OPT_NON_STR_KEYS)
    return web.Response(status=status, body=body, content_type="application/json", headers=headers)
