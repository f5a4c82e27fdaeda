"""Unsubscribe links over HTTP: what `tidings/unsubscribe.py` answers, with its event on `events` before the answer."""

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
from tidings.unsubscribe import HEADERS, answer, not_written, too_large
from tidings.web.routes import RETRY_AFTER_S, UNSUBSCRIBE

BODY_BYTES_MAX = 4_096  # RFC 8058's body has 26 bytes; it is not read, what comes of it is dropped
WRITE_S = 10.0  # mail providers wait about as long
ALLOWED = "GET, HEAD, POST"

log = structlog.get_logger("tidings.web")

Append = Callable[[Event], Awaitable[object]]


def install_unsubscribe(app: web.Application, secrets: Sequence[bytes], append: Append, metrics: Metrics) -> None:
    """Add the endpoint. Call before the application starts.

    Args:
        app: with the guard of `routes.install`, which lets this route pass.
        secrets: that sign links, the newest first.
        append: returns once the event is on `events` for good.
        metrics: where to count.
    """

    async def unsubscribe(request: web.Request) -> web.Response:
        if (request.content_length or 0) > BODY_BYTES_MAX:
            got = too_large()
        else:
            got = answer(request.method, request.match_info["token"], secrets, time.time_ns() // 1_000_000)
        if got.event is not None:
            try:
                async with asyncio.timeout(WRITE_S):
                    await append(got.event)
            except (TimeoutError, KafkaException) as error:
                # It may still arrive: then the repeat is a duplicate by its event id.
                log.error("unsubscribe not written", error=type(error).__name__)
                got = not_written()
        metrics.count("unsubscribe_requests", status=str(got.status))
        more = {405: {"Allow": ALLOWED}, 503: {"Retry-After": RETRY_AFTER_S}}.get(got.status, {})
        return web.Response(status=got.status, body=got.body.encode(), headers=HEADERS | more)

    app.router.add_route("*", UNSUBSCRIBE, unsubscribe)


@contextlib.asynccontextmanager
async def unsubscribing(
    settings: Settings, secrets: Sequence[bytes], metrics: Metrics
) -> AsyncIterator[Callable[[web.Application], None]]:
    """Open the way to `events`; yields what adds the endpoint to an application."""
    outbox = Outbox(settings.confluent({"log_level": 4}))

    async def append(event: Event) -> None:
        await outbox.send(EVENTS, (event.member_id or "").encode(), encode_event(event))

    try:
        yield lambda app: install_unsubscribe(app, secrets, append, metrics)
    finally:
        await asyncio.to_thread(outbox.close)
