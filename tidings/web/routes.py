"""The guard in front of every endpoint, the endpoints that every role has, and how answers are said over HTTP.

What an engine has besides, /campaigns and /members/{id}: `engine.py`.
"""

import asyncio
import traceback
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import orjson
import structlog
from aiohttp import web

from schemas.errors import OperatorError
from tidings.web.auth import matches
from tidings.web.pages import Trouble, error_page
from tidings.web.prometheus import CONTENT_TYPE, Family, process_families, render

# A probe has no token, and learns nothing about members.
OPEN = frozenset({"/health", "/ready"})
UNSUBSCRIBE = "/u/{token}"  # open as well: RFC 8058 wants no login, the address itself is the key
RECEIPTS = "/r/{provider}/{token}"  # likewise: a provider has no token but the one in its address
GATHERED = "/r/{provider}"  # likewise: each receipt has a key of its own, and the call is signed
LINK, PIXEL = "/c/{token}", "/o/{token}"  # likewise: tracked links and the pixel of a mail
CHOICES = UNSUBSCRIBE + "/choices"  # the preference centre, by the same key
OTP, OTP_VERIFY = "/otp", "/otp/verify"  # behind the token, as all that is not named here
INBOX_LIST = "/inbox/{token}"  # likewise: a pass for one member
INBOX_STREAM, INBOX_ITEM = INBOX_LIST + "/events", INBOX_LIST + "/{id}/{what}"
INBOX_PASS = "/inbox-pass/{member}"  # noqa: S105 - where the shop's server gets such a pass, with the workers' token
CALL_LIST, CALL_CLAIM, CALL_OUTCOME = "/calls", "/calls/claim", "/calls/{id}/outcome"  # held to an operator's seat
CALL_SEAT = "/call-seat/{operator}"
KEYED = frozenset(
    {UNSUBSCRIBE, CHOICES, RECEIPTS, LINK, PIXEL, INBOX_LIST, INBOX_STREAM, INBOX_ITEM, CALL_LIST, CALL_CLAIM,
     CALL_OUTCOME, GATHERED}
)  # fmt: skip
RETRY_AFTER_S = "1"
STOP_S = 2.0

log = structlog.get_logger("tidings.web")

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(frozen=True)
class Probes:
    """What a role tells about itself.

    `trouble`: why it cannot do its work now, None when it can. `families`: its metrics. `progress`: how far the trouble
    is from its end, where that can be told.
    """

    role: str
    trouble: Callable[[], Trouble | None]
    families: Callable[[], list[Family]]
    progress: Callable[[], dict[str, Any] | None] = lambda: None


def install(app: web.Application, probes: Probes, token: str) -> None:
    """Add the guard and the endpoints of every role. Call before the application starts.

    `token` empty: nothing but /health, /ready and addresses that are keys themselves is answered.
    """
    app.middlewares.append(_guard(token))

    async def health(request: web.Request) -> web.Response:
        return json_answer({"status": "ok"})

    async def ready(request: web.Request) -> web.Response:
        trouble = probes.trouble()
        if trouble is None:
            return json_answer({"status": "ready"})
        return unavailable(probes.role, *trouble, progress=probes.progress())

    async def metrics(request: web.Request) -> web.Response:
        told = process_families(probes.role, probes.trouble() is None) + probes.families()
        return web.Response(body=render(told).encode(), headers={"Content-Type": CONTENT_TYPE})

    app.router.add_get("/health", health)
    app.router.add_get("/ready", ready)
    app.router.add_get("/metrics", metrics)


async def serve(
    probes: Probes, token: str, host: str, port: int, extend: Callable[[web.Application], object] | None = None
) -> web.AppRunner:
    """Listen with the endpoints of every role; `cleanup()` of what is returned stops it.

    `extend` adds what one role has besides.

    Raises:
        OperatorError: the port is taken.
    """
    app = web.Application()
    install(app, probes, token)
    if extend is not None:
        extend(app)
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


# ---------------------------------------------------------------- the guard


def _guard(token: str) -> Any:
    @web.middleware
    async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
        response = _refusal(token, request) or await _answer(request, handler)
        response.headers["Server"] = "tidings"  # not which versions
        response.headers.setdefault("Cache-Control", "no-store")
        response.headers.setdefault("X-Content-Type-Options", "nosniff")
        return response

    return guard


def _refusal(token: str, request: web.Request) -> web.Response | None:
    resource = request.match_info.route.resource
    open_to_all = request.path in OPEN or (resource is not None and resource.canonical in KEYED)
    if open_to_all or matches(token, request.headers.get("Authorization")):
        return None
    if not token:
        return error_answer(
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
        return error_answer(error.status, "web", f"{error.reason.lower()} (got {request.method})", remedy, allowed)
    except asyncio.CancelledError:
        raise
    except Exception as error:
        # Neither the path nor the error's text: both can hold what belongs to a member.
        place = request.match_info.route.resource
        frames = "".join(traceback.format_tb(error.__traceback__))
        log.error("web request failed", route=place and place.canonical, error=type(error).__name__, frames=frames)
        return error_answer(500, "web", f"unexpected (got {type(error).__name__})", "see this worker's log")


async def body_of(request: web.Request, most: int) -> bytes | None:
    """Read a whole body, in however many pieces it comes; None: it has more than `most` bytes."""
    if (request.content_length or 0) > most:
        return None
    body = bytearray()
    while more := await request.content.read(most + 1 - len(body)):
        body += more
        if len(body) > most:
            return None
    return bytes(body)


def whole(text: str, otherwise: int) -> int:
    """Read a whole number out of a request; anything else, or one of more than 15 digits: `otherwise`."""
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 15 else otherwise


def unavailable(place: str, message: str, remedy: str, progress: dict[str, Any] | None = None) -> web.Response:
    """Say that it cannot be answered now, and that asking again makes sense."""
    page = error_page(place, message, remedy)
    if progress is not None:
        page = {**page, "progress": progress}
    return json_answer(page, 503, {"Retry-After": RETRY_AFTER_S})


def error_answer(
    status: int, place: str, message: str, remedy: str, headers: dict[str, str] | None = None
) -> web.Response:
    """Say an error in the one shape."""
    return json_answer(error_page(place, message, remedy), status, headers)


def json_answer(value: Any, status: int = 200, headers: dict[str, str] | None = None) -> web.Response:
    """Say a value as JSON."""
    body = orjson.dumps(value, default=str, option=orjson.OPT_NON_STR_KEYS)
    return web.Response(status=status, body=body, content_type="application/json", headers=headers)
