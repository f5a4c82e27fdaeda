"""Where providers tell what came of a message: `/r/{provider}/{token}`, the event on `events` before the answer.

The address itself is a key, made for one message (`schemas/references.py`); a provider that signs its calls is held to
its signature besides. Nothing is looked up.
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
from schemas.references import read_reference
from schemas.tokens import TokenError
from sinks.channels.config import ProvidersConfig
from sinks.channels.kinds import ProviderSpec, gatherer_of, teller_of
from sinks.channels.receipts import Gatherer, HookCall, Teller, Told, Unsigned, receipt_event
from tidings.config import Settings
from tidings.web.routes import GATHERED, RECEIPTS, RETRY_AFTER_S, body_of

BODY_BYTES_MAX = 65_536
MANY_BYTES_MAX = 4 << 20  # Meta's calls have up to 3 MB
WRITE_S = 10.0

log = structlog.get_logger("tidings.web")

Append = Callable[[Event], Awaitable[object]]


class Receipts:
    """Answers the calls of providers.

    Args:
        base_url: what providers were told: `{base_url}/{provider}/{token}`.
        secrets: that sign tokens, the newest first.
        config: gives the providers.
        append: returns once the event is on `events` for good.
        metrics: where to count.
    """

    def __init__(
        self,
        base_url: str,
        secrets: Sequence[bytes],
        config: Callable[[], ProvidersConfig],
        append: Append,
        metrics: Metrics,
    ) -> None:
        self._base_url = base_url
        self._secrets = secrets
        self._config = config
        self._append = append
        self._metrics = metrics
        self._known: ProvidersConfig | None = None
        self._tellers: dict[str, Teller] = {}
        self._gatherers: dict[str, Gatherer] = {}

    async def answer(self, request: web.Request) -> web.Response:
        """Take one call. 204: taken, or of no interest; 404: not our token; 403: not the provider's signature."""
        status = await self._status(request)
        self._metrics.count("receipt_requests", status=str(status))
        return web.Response(status=status, headers={"Retry-After": RETRY_AFTER_S} if status == 503 else {})

    async def _status(self, request: web.Request) -> int:
        provider, token = request.match_info["provider"], request.match_info["token"]
        self._renew()
        teller = self._tellers.get(provider)
        try:
            reference = read_reference(self._secrets, token)
        except TokenError:
            return 404
        if teller is None:
            return 404
        body = await body_of(request, BODY_BYTES_MAX)
        if body is None:
            return 413
        headers = {name.lower(): value for name, value in request.headers.items()}
        try:
            told = teller.told(HookCall(f"{self._base_url}/{provider}/{token}", headers, body, dict(request.query)))
        except Unsigned:
            log.warning("receipt not signed", provider=provider)
            return 403
        if not told.axis:
            return 204
        return await self._write(receipt_event(reference, told, provider, time.time_ns() // 1_000_000))

    async def _write(self, event: Event) -> int:
        try:
            async with asyncio.timeout(WRITE_S):
                await self._append(event)
        except (TimeoutError, KafkaException) as error:
            # It may still arrive: then the provider's repeat is a duplicate by its event id.
            log.error("receipt not written", error=type(error).__name__)
            return 503
        self._metrics.count("receipts_told", type=event.type)
        return 204

    async def gather(self, request: web.Request) -> web.Response:
        """Take one call that tells of many messages, or a provider's question by GET.

        200: each of them is on the log, or of no interest, or not ours; 403: not the provider's signature.
        """
        status, text = await self._gathered(request)
        self._metrics.count("receipt_requests", status=str(status))
        return web.Response(status=status, text=text, headers={"Retry-After": RETRY_AFTER_S} if status == 503 else {})

    async def _gathered(self, request: web.Request) -> tuple[int, str]:
        provider = request.match_info["provider"]
        self._renew()
        gatherer = self._gatherers.get(provider)
        if gatherer is None:
            return 404, ""
        body = await body_of(request, MANY_BYTES_MAX)
        if body is None:
            return 413, ""
        headers = {name.lower(): value for name, value in request.headers.items()}
        call = HookCall(f"{self._base_url}/{provider}", headers, body, dict(request.query))
        try:
            if request.method != "POST":
                return 200, gatherer.challenge(call)
            told = list(gatherer.gathered(call))
        except Unsigned:
            log.warning("receipt not signed", provider=provider)
            return 403, ""
        now_ms = time.time_ns() // 1_000_000
        events = [event for token, one in told if (event := self._event(provider, token, one, now_ms)) is not None]
        statuses = await asyncio.gather(*(self._write(event) for event in events))
        return (503, "") if 503 in statuses else (200, "")

    def _event(self, provider: str, token: str, told: Told, now_ms: int) -> Event | None:
        try:
            return receipt_event(read_reference(self._secrets, token), told, provider, now_ms) if told.axis else None
        except TokenError:
            return None

    def _renew(self) -> None:
        config = self._config()
        if config is not self._known:
            specs: dict[str, ProviderSpec] = {
                spec.name: spec for routes in config.lanes.values() for listed in routes.values() for spec in listed
            }
            tellers = {name: teller_of(spec) for name, spec in specs.items()}
            gatherers = {name: gatherer_of(spec) for name, spec in specs.items()}
            self._tellers = {name: one for name, one in tellers.items() if one is not None}
            self._gatherers = {name: one for name, one in gatherers.items() if one is not None}
            self._known = config


@contextlib.asynccontextmanager
async def receiving(
    settings: Settings, secrets: Sequence[bytes], config: Callable[[], ProvidersConfig], metrics: Metrics
) -> AsyncIterator[Callable[[web.Application], None]]:
    """Open the way to `events`; yields what adds the endpoint to an application."""
    outbox = Outbox(settings.confluent({"log_level": 4}))

    async def append(event: Event) -> None:
        await outbox.send(EVENTS, (event.member_id or "").encode(), encode_event(event))

    receipts = Receipts(settings.receipts_base_url, secrets, config, append, metrics)

    def install(app: web.Application) -> None:
        app.router.add_post(RECEIPTS, receipts.answer)
        app.router.add_get(RECEIPTS, receipts.answer)
        app.router.add_post(GATHERED, receipts.gather)
        app.router.add_get(GATHERED, receipts.gather)

    try:
        yield install
    finally:
        await asyncio.to_thread(outbox.close)
