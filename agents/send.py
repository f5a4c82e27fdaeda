"""The role `delivery`: reads commands, hands messages to providers, writes a receipt for every outcome, then commits.

Thousands of commands are held at a time and end in any order; the committed offset of a partition is that of its first
unfinished command. What was sent is known by command id (`agents/delivery_state.py`), so what is read again is not sent
again. While providers are away nothing more is read than `Limits` allows: commands wait in Kafka. Each lane has a
topic, a consumer, bounds and connections of its own. Consent is not looked at here: the engine did, when it decided.
"""

import asyncio
import contextlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from agents.desks import Desks
from agents.lanes import ALL_LANES
from agents.send_lane import RECONFIGURE_S, Delivery, Limits, Parts
from agents.send_one import Metrics, NoMetrics
from agents.send_page import MailExtras, Message
from schemas.commands import LANES, TRIGGER
from schemas.errors import OperatorError
from sinks.channels.config import ProvidersConfig
from sinks.email import SmtpServer
from sinks.mime import Sender
from sinks.retry import Backoff
from sinks.templates import Templates


async def run_delivery(
    *,
    kafka: Mapping[str, Any],
    smtp_url: str,
    mail_from: str,
    templates_dir: Path,
    state_dir: Path,
    unsubscribe_base_url: str,
    unsubscribe_secret: bytes,
    stop: asyncio.Event,
    smtp_username: str = "",
    smtp_password: str = "",
    unsubscribe_mailto: str | None = None,
    receipts_base_url: str = "",
    extras: MailExtras | None = None,
    config: Callable[[], ProvidersConfig] = ProvidersConfig,
    lanes: Sequence[str] = LANES,
    backoff: Backoff | None = None,
    limits: Limits | None = None,
    metrics: Metrics | None = None,
    ready: asyncio.Event | None = None,
    desks: Desks | None = None,
) -> None:
    """Deliver until `stop` is set.

    Args:
        kafka: librdkafka settings shared by all clients: `bootstrap.servers`, security; may hold `session.timeout.ms`
            and `group.instance.id`.
        smtp_url: see `sinks.email.SmtpServer.parse`.
        smtp_username: login, if the URL has none; empty: no login.
        smtp_password: of the login.
        mail_from: `Shop <news@shop.example>`.
        templates_dir: read again when files change; looked at once a second.
        state_dir: of this process alone; other lanes than `trigger` have theirs beside it.
        unsubscribe_base_url: the link is this, "/", and a token of `schemas.unsubscribe`.
        unsubscribe_secret: at least 16 bytes; the same in all processes, kept across restarts.
        unsubscribe_mailto: an address that takes unsubscriptions; None leaves it out of the header.
        receipts_base_url: where providers tell what came of a message, "/", provider, "/", a token of
            `schemas.references`; empty: they are not asked to.
        extras: what mails get besides; None: nothing.
        config: gives the providers; asked once a second, and the same object means that nothing has changed.
        lanes: which this process serves.
        backoff: between attempts; None: the defaults of `Backoff`.
        limits: of what is held at a time; None: the defaults of `Limits`.
        metrics: where to count; None: nowhere.
        stop: set it to end; calls under way get `QUIET_S` to end.
        ready: set once the first partitions are restored and read.
        desks: what channels that end with us keep, closed by who made it; None: they are made and closed here.

    Raises:
        OperatorError: a setting, a topic or the state directory is not as it must be.
        KafkaException: the broker refuses us for good.
    """
    sender = Sender.parse(mail_from)
    server = SmtpServer.parse(smtp_url, smtp_username, smtp_password, helo=sender.domain)
    if len(unsubscribe_secret) < 16:
        raise OperatorError("unsubscribe secret: must have at least 16 bytes; set a random one and keep it")
    message = Message(
        Templates(templates_dir, RECONFIGURE_S), sender, unsubscribe_base_url, unsubscribe_secret, unsubscribe_mailto,
        receipts_base_url, extras or MailExtras(),
    )  # fmt: skip
    counting = metrics or NoMetrics()
    config()  # a fault in it shows before anything else starts
    async with contextlib.nullcontext(desks) if desks else Desks.beside(state_dir, kafka, counting) as kept:
        parts = Parts(server, message, config, backoff or Backoff(), limits or Limits(), counting, kept)
        await _run_lanes(
            [Delivery(_member(kafka, lane), ALL_LANES[lane], parts, _beside(state_dir, lane)) for lane in lanes],
            stop, ready or asyncio.Event(),
        )  # fmt: skip


def _beside(state_dir: Path, lane: str) -> Path:
    return state_dir if lane == TRIGGER else state_dir.with_name(f"{state_dir.name}-{lane}")


def _member(kafka: Mapping[str, Any], lane: str) -> dict[str, Any]:
    """Give each lane's consumer a name of its own: a name may stand in several groups, but tells nobody apart there."""
    found = dict(kafka)
    if "group.instance.id" in found and lane != TRIGGER:
        found["group.instance.id"] = f"{found['group.instance.id']}-{lane}"
    return found


async def _run_lanes(deliveries: Sequence["Delivery"], stop: asyncio.Event, ready: asyncio.Event) -> None:
    """Run all lanes until `stop`; the end of one is the end of all, for a process without a lane must not look well."""
    ended = asyncio.Event()

    async def run(delivery: Delivery) -> None:
        try:
            await delivery.run(ended)
        finally:
            ended.set()

    async def wait() -> None:
        for delivery in deliveries:
            await delivery.ready.wait()
        ready.set()

    running = [asyncio.create_task(run(delivery)) for delivery in deliveries]
    watching = [asyncio.create_task(stop.wait()), asyncio.create_task(ended.wait()), asyncio.create_task(wait())]
    try:
        await asyncio.wait(watching[:2], return_when=asyncio.FIRST_COMPLETED)
    finally:
        ended.set()
        results = await asyncio.gather(*running, return_exceptions=True)
        for task in watching:
            task.cancel()
        await asyncio.gather(*watching, return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result
