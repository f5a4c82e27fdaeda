"""Unsubscribe links and the preference centre over HTTP: events are on `events` before the answer.

What is answered say `tidings/unsubscribe.py` and `tidings/preferences.py`.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

import structlog
from aiohttp import web
from confluent_kafka import KafkaException

from agents.send_log import Outbox
from agents.send_one import Metrics
from agents.topics import EVENTS
from schemas.codec import encode_event
from schemas.events import Event
from tidings.config import Settings
from tidings.preferences import choices
from tidings.unsubscribe import HEADERS, answer, not_written, too_large
from tidings.web.routes import CHOICES, RETRY_AFTER_S, UNSUBSCRIBE

BODY_BYTES_MAX = 4_096  # RFC 8058's body has 26 bytes; it is not read, what comes of it is dropped
WRITE_S = 10.0  # mail providers wait about as long
ALLOWED = "GET, HEAD, POST"

log = structlog.get_logger("tidings.web")

Append = Callable[[Event], Awaitable[object]]
Channels = Callable[[], Sequence[str]]


def email_alone() -> Sequence[str]:
    """List the channels of a deployment without a providers' file."""
    return ("email",)


def install_unsubscribe(
    app: web.Application,
    secrets: Sequence[bytes],
    append: Append,
    metrics: Metrics,
    channels: Channels = email_alone,
) -> None:
    """Add the endpoints. Call before the application starts.

    Args:
        app: with the guard of `routes.install`, which lets this route pass.
        secrets: that sign links, the newest first.
        append: returns once the event is on `events` for good.
        metrics: where to count.
        channels: lists those that the preference centre shows.
    """

    async def written(*events: Event) -> bool:
        try:
            async with asyncio.timeout(WRITE_S):
                for event in events:  # in their order: the later one counts
                    await append(event)
        except (TimeoutError, KafkaException) as error:
            # It may still arrive: then the repeat is a duplicate by its event id.
            log.error("unsubscribe not written", error=type(error).__name__)
            return False
        return True

    def page(status: int, body: str) -> web.Response:
        metrics.count("unsubscribe_requests", status=str(status))
        more = {405: {"Allow": ALLOWED}, 503: {"Retry-After": RETRY_AFTER_S}}.get(status, {})
        return web.Response(status=status, body=body.encode(), headers=HEADERS | more)

    async def unsubscribe(request: web.Request) -> web.Response:
        if (request.content_length or 0) > BODY_BYTES_MAX:
            got = too_large()
        else:
            got = answer(request.method, request.match_info["token"], secrets, time.time_ns() // 1_000_000)
        if got.event is not None and not await written(got.event):
            got = not_written()
        return page(got.status, got.body)

    async def prefer(request: web.Request) -> web.Response:
        if (request.content_length or 0) > BODY_BYTES_MAX:
            return page(413, too_large().body)
        body = await request.read() if request.method == "POST" else b""
        if len(body) > BODY_BYTES_MAX:
            return page(413, too_large().body)
        now_ms = time.time_ns() // 1_000_000
        got = choices(request.method, request.match_info["token"], secrets, channels(), body, now_ms)
        if got.events and not await written(*got.events):
            return page(503, not_written().body)
        return page(got.status, got.body)

    app.router.add_route("*", UNSUBSCRIBE, unsubscribe)
    app.router.add_route("*", CHOICES, prefer)


@contextlib.asynccontextmanager
async def unsubscribing(
    settings: Settings, secrets: Sequence[bytes], metrics: Metrics, channels: Channels = email_alone
) -> AsyncIterator[Callable[[web.Application], None]]:
    """Open the way to `events`; yields what adds the endpoint to an application."""
    outbox = Outbox(settings.confluent({"log_level": 4}))

    async def append(event: Event) -> None:
        await outbox.send(EVENTS, (event.member_id or "").encode(), encode_event(event))

    try:
        yield lambda app: install_unsubscribe(app, secrets, append, metrics, channels)
    finally:
        await asyncio.to_thread(outbox.close)
