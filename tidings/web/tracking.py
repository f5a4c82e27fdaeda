"""Where tracked links lead, `/c/{token}`, and the pixel, `/o/{token}`: answered at once, written as well as can be.

A member who presses a link wants the page: the answer waits for its event on `events` for `ANSWER_S` at the most, and
while the broker is away not at all. What could not be written yet is held in memory, up to `HELD_MAX`; beyond that, and
what is still held when the process ends, is lost and counted (`tracking_lost`). Only tokens that we signed lead
anywhere.
"""

import asyncio
import base64
import contextlib
import re
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence

import structlog
from aiohttp import web
from confluent_kafka import KafkaException

from agents.send_log import Outbox
from agents.send_one import Metrics
from agents.topics import EVENTS
from schemas.codec import encode_event
from schemas.events import Event
from schemas.tokens import TokenError
from schemas.tracking import CLICK, OPEN, read_track, tracked_event
from tidings.config import Settings
from tidings.web.routes import LINK, PIXEL

ANSWER_S = 0.2
SLOW = 100  # so many held events mean that the broker is away: nobody waits for it then
HELD_MAX = 10_000
RECENT_MAX = 10_000  # of events that need not be written again
END_S = 2.0
SOON_MS = 1_000  # nobody reads a mail so soon after it was handed over
ALLOWED = "GET, HEAD"
GIF = base64.b64decode("R0lGODlhAQABAIAAAAAAAP///yH5BAEAAAAALAAAAAABAAEAAAIBRAA7")  # one transparent point
HEADERS = {"Cache-Control": "no-store", "Referrer-Policy": "no-referrer", "X-Robots-Tag": "noindex"}

# Programs that follow links by themselves and say so: crawlers, previews, scanners, libraries. Cubot makes phones.
_ROBOTS = re.compile(
    r"(?<!cu)bot\b|crawl|spider|slurp|preview|scan|headless|phantom|facebookexternalhit|whatsapp|barracuda|proofpoint|mimecast"
    r"|^(?:curl|wget|python|java|go-http|okhttp|libwww|ruby|axios|node|php|apache-httpclient)",
    re.IGNORECASE,
)
# Whole user agents of mail programs that load pictures before anybody looks: Apple's Mail Privacy Protection, and the
# prefetch of Gmail's apps (bird.com/blog/gmail-prefetching-images). Gmail's image proxy is none: it loads at the
# opening.
_LOADERS = frozenset(
    {
        "Mozilla/5.0",
        "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/42.0.2311.135"
        " Safari/537.36 Edge/12.246 Mozilla/5.0",
    }
)
_PURPOSES = ("sec-purpose", "purpose", "x-purpose", "x-moz")

log = structlog.get_logger("tidings.web")

Append = Callable[[Event], Awaitable[object]]


def machine_sign(method: str, headers: Mapping[str, str], since_ms: int) -> str:
    """Say in one word what tells that no person asked; empty when nothing does. Names of headers in any case."""
    agent = headers.get("User-Agent", "").strip()
    if method == "HEAD":
        return "head"
    if any(word in headers.get(name, "").lower() for name in _PURPOSES for word in ("prefetch", "preview")):
        return "prefetch"
    if not agent:
        return "no_user_agent"
    if _ROBOTS.search(agent[:500]):
        return "robot"
    if agent in _LOADERS:
        return "loader"
    return "too_soon" if since_ms < SOON_MS else ""


class Tracks:
    """Answers clicks and opens.

    Args:
        secrets: that sign tokens, the newest first.
        append: returns once the event is on `events` for good.
        metrics: where to count.
    """

    def __init__(self, secrets: Sequence[bytes], append: Append, metrics: Metrics) -> None:
        self._secrets = secrets
        self._append = append
        self._metrics = metrics
        self._held: set[asyncio.Task[None]] = set()
        self._recent: OrderedDict[str, None] = OrderedDict()

    async def click(self, request: web.Request) -> web.Response:
        """Lead on to the page of a link."""
        return await self._answer(request, CLICK)

    async def open(self, request: web.Request) -> web.Response:
        """Give the pixel."""
        return await self._answer(request, OPEN)

    async def close(self) -> None:
        """Wait a little for what is held, and count the rest as lost."""
        if self._held:
            _, left = await asyncio.wait(self._held, timeout=END_S)
            for task in left:
                task.cancel()
            await asyncio.gather(*left, return_exceptions=True)

    async def _answer(self, request: web.Request, kind: str) -> web.Response:
        response = await self._response(request, kind)
        self._metrics.count("tracking_requests", kind=kind, status=str(response.status))
        return response

    async def _response(self, request: web.Request, kind: str) -> web.Response:
        if request.method not in ("GET", "HEAD"):
            return web.Response(status=405, headers=HEADERS | {"Allow": ALLOWED})
        try:
            track = read_track(self._secrets, request.match_info["token"], kind)
        except TokenError:
            return web.Response(status=404, text="This link is not complete.", headers=HEADERS)
        now_ms = time.time_ns() // 1_000_000
        sign = machine_sign(request.method, request.headers, now_ms - track.made_ms)
        await self._write(tracked_event(track, now_ms, sign))
        if kind == CLICK:
            return web.Response(status=302, headers=HEADERS | {"Location": track.url})
        return web.Response(body=GIF, content_type="image/gif", headers=HEADERS)

    async def _write(self, event: Event) -> None:
        event_id = event.event_id or ""
        if event_id in self._recent:
            return
        if len(self._held) >= HELD_MAX:
            self._metrics.count("tracking_lost")
            return
        self._recent[event_id] = None
        if len(self._recent) > RECENT_MAX:
            self._recent.popitem(last=False)
        task = asyncio.create_task(self._keep(event, event_id))
        self._held.add(task)
        task.add_done_callback(self._held.discard)
        if len(self._held) < SLOW:
            await asyncio.wait({task}, timeout=ANSWER_S)

    async def _keep(self, event: Event, event_id: str) -> None:
        try:
            await self._append(event)
        except KafkaException as error:
            log.error("click not written", error=type(error).__name__)
            self._lost(event_id)
        except asyncio.CancelledError:
            self._lost(event_id)
            raise

    def _lost(self, event_id: str) -> None:
        self._recent.pop(event_id, None)
        self._metrics.count("tracking_lost")


@contextlib.asynccontextmanager
async def tracking(
    settings: Settings, secrets: Sequence[bytes], metrics: Metrics
) -> AsyncIterator[Callable[[web.Application], None]]:
    """Open the way to `events`; yields what adds the endpoints to an application."""
    outbox = Outbox(settings.confluent({"log_level": 4}))

    async def append(event: Event) -> None:
        await outbox.send(EVENTS, (event.member_id or "").encode(), encode_event(event))

    tracks = Tracks(secrets, append, metrics)
    try:
        yield lambda app: install_tracking(app, tracks)
    finally:
        await tracks.close()
        await asyncio.to_thread(outbox.close)


def install_tracking(app: web.Application, tracks: Tracks) -> None:
    """Add the endpoints. Call before the application starts."""
    app.router.add_route("*", LINK, tracks.click)
    app.router.add_route("*", PIXEL, tracks.open)
