"""One command from `commands` to its end: rendered, handed to the provider, recorded, reported.

Order of writes for one attempt, and what a crash after each line does:

    1  `sending` in SENT_TOPIC      read again, found uncertain: sent again with the same Message-ID and bytes
    2  the provider takes the mail  as 1, and this is the only place where a mail can arrive twice: the provider has it,
                                    and nothing of ours that lasts says so. Counted as `delivery_uncertain`.
    3  the result in SENT_TOPIC and the receipt on `events`, both acknowledged
                                    result without receipt: read again, the same receipt is written; receipt without
                                    result: as 2
    4  the offset of `commands`     read again, skipped

The window of 2 also opens when the connection breaks between the mail's last byte and the server's reply. A connection
takes its next mail only after line 3, so a crash leaves at most one mail per connection in the window.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Protocol

import structlog

from agents import failpoints
from agents.delivery_state import FORMAT, SENT_TOPIC, DeliveryState, Entry, encode_entry
from agents.send_log import Outbox
from agents.send_receipts import receipt
from agents.topics import EVENTS
from schemas.codec import encode_event
from schemas.commands import CancelMessage, SendMessage
from schemas.ids import h128
from schemas.unsubscribe import FORMAT as TOKEN_FORMAT
from schemas.unsubscribe import Leaving, unsubscribe_url
from sinks.email import EmailTransport, Link, Outcome, ProviderDown
from sinks.mime import AddressError, Mail, Sender, build, message_id
from sinks.retry import Backoff
from sinks.sandbox import RenderError
from sinks.templates import Templates

log = structlog.get_logger("agents.send")


class Metrics(Protocol):
    """Where delivery counts. Names are those of docs/operating.md; labels have few values and name no member."""

    def count(self, name: str, by: int = 1, **labels: str) -> None:
        """Add to a counter."""

    def gauge(self, name: str, value: float) -> None:
        """Set a gauge."""

    def observe(self, name: str, value: float) -> None:
        """Add to a histogram; milliseconds."""


class NoMetrics:
    """Counts nothing."""

    def count(self, name: str, by: int = 1, **labels: str) -> None:
        """See Metrics."""

    def gauge(self, name: str, value: float) -> None:
        """See Metrics."""

    def observe(self, name: str, value: float) -> None:
        """See Metrics."""


@dataclass(eq=False, slots=True)
class Job:
    """One record of `commands` that is not done yet."""

    partition: int
    offset: int
    command: SendMessage
    size: int
    cancelled: asyncio.Event = field(default_factory=asyncio.Event)
    cancel_reason: str = ""
    busy: bool = False  # between the record before the provider call and the one after it
    waiting: bool = False  # for its next attempt
    first_ms: int = 0
    attempt: int = 0
    task: asyncio.Task[None] | None = None


@dataclass(frozen=True, slots=True)
class Message:
    """What all mails of this process share."""

    templates: Templates
    sender: Sender
    unsubscribe_base_url: str
    unsubscribe_secret: bytes
    unsubscribe_mailto: str | None = None

    def mail(self, command: SendMessage) -> Mail:
        """Render a command's mail.

        Raises:
            RenderError, AddressError, ValueError: it cannot be.
        """
        leaving = Leaving(TOKEN_FORMAT, command.member_id, command.channel, command.category, command.command_id)
        url = unsubscribe_url(self.unsubscribe_base_url, self.unsubscribe_secret, leaving)
        message = {
            "command_id": command.command_id,
            "instance_id": command.instance_id,
            "step": command.step,
            "channel": command.channel,
            "category": command.category,
            "template": command.template,
            "version": command.version,
            "decided_at_ms": command.decided_at_ms,
            "expires_at_ms": command.expires_at_ms,
        }
        values = {
            "data": command.data,
            "member": command.member,
            "campaign": command.campaign,
            "message": message,
            "unsubscribe_url": url,
        }
        rendered = self.templates.render(command.template, values)
        return build(command, rendered, self.sender, url, self.unsubscribe_mailto)


class Courier:
    """Takes commands to their end, any number at a time.

    Args:
        lease: awaited right before each provider call; returns once it is certain that the partition is still ours.
        call_s: how long one provider call may take in all; below the time that `lease` guarantees.
        clock_ms: the wall clock.
    """

    def __init__(
        self,
        message: Message,
        transport: EmailTransport,
        state: DeliveryState,
        outbox: Outbox,
        *,
        backoff: Backoff,
        lease: Callable[[], Awaitable[None]],
        call_s: float,
        clock_ms: Callable[[], int],
        metrics: Metrics,
    ) -> None:
        self._message = message
        self._transport = transport
        self._state = state
        self._outbox = outbox
        self._backoff = backoff
        self._lease = lease
        self._call_s = call_s
        self._clock_ms = clock_ms
        self._metrics = metrics

    async def deliver(self, job: Job) -> None:
        """Send a command's mail, unless it was sent, called back or is too old; returns when all of it is on record."""
        known = self._state.get(job.partition, job.command.command_id)
        job.first_ms = known.first_ms if known else self._clock_ms()
        if known is not None:
            job.attempt = known.attempt
            if known.final:
                await self._repeated(job, known)
                return
            if known.status == "sending":
                # The process ended between line 1 and line 3 of the head of this module.
                log.warning("delivery.uncertain", command_id=job.command.command_id, attempt=known.attempt)
                self._metrics.count("delivery_uncertain")
        mail = await self._mail(job)
        if mail is None:
            return
        if known is not None and known.status == "deferred":
            await self._wait(job, known.next_ms - self._clock_ms())
        while not await self._attempt(job, mail):
            pass

    async def cancel(self, partition: int, offset: int, command: CancelMessage) -> None:
        """Record that a command not yet seen must not be sent. One that has been sent stays as it is."""
        known = self._state.get(partition, command.command_id)
        if known is not None and known.final:
            self._metrics.count("delivery_cancel_late")
            return
        now = self._clock_ms()
        attempt, first = (known.attempt, known.first_ms) if known else (0, now)
        entry = Entry(FORMAT, "cancelled", attempt, now, offset, first, reason=command.reason)
        await self._record(partition, command.command_id, entry)

    async def _repeated(self, job: Job, known: Entry) -> None:
        # The same record again: a crash came before its offset was committed, maybe before its receipt was written.
        # Another record: the engine wrote the command twice, and the first one takes care of the receipt.
        # Cancelled by a record of its own: nobody could write the receipt without the command.
        if known.offset == job.offset or known.status == "cancelled":
            await self._report(job, known)
        self._metrics.count("delivery_repeated")

    async def _mail(self, job: Job) -> Mail | None:
        if job.command.channel != "email":
            await self._finish(job, "failed", "no_such_channel")
            return None
        try:
            return self._message.mail(job.command)
        except RenderError as error:
            log.warning("delivery.template-error", template=job.command.template, campaign=job.command.campaign)
            await self._finish(job, "failed", "template_error", detail=str(error)[:200])
        except AddressError:
            await self._finish(job, "failed", "invalid_address")
        except ValueError:
            await self._finish(job, "failed", "invalid_header")
        return None

    async def _attempt(self, job: Job, mail: Mail) -> bool:
        """Try once; whether the command has come to its end."""
        if await self._over(job):
            return True
        try:
            async with self._transport.link() as link:
                if job.cancelled.is_set() or self._clock_ms() >= job.command.expires_at_ms:
                    return False  # while it waited for a connection; the next round says so
                job.busy = True
                job.attempt += 1
                await self._step(job, "sending")
                await self._lease()
                if failpoints.hit is not None:
                    failpoints.hit(failpoints.SENDING)
                outcome = await self._call(link, mail)
                if failpoints.hit is not None:
                    failpoints.hit(failpoints.ANSWERED)
                if outcome.status == "sent":
                    # Inside: the connection takes no other mail before this one is on record, so that a crash leaves
                    # at most one mail per connection uncertain.
                    await self._finish(job, outcome.status, outcome.reason, outcome.code, outcome.detail)
                    if failpoints.hit is not None:
                        failpoints.hit(failpoints.RECORDED)
        except ProviderDown as down:
            job.busy = False
            self._metrics.gauge("delivery_provider_up", 0)
            # Spread, so that hundreds of waiting commands do not ask at the same instant.
            spread = int(h128(job.command.command_id)[:4], 16) / 65_536
            await self._wait(job, int(1000 * down.wait_s * (1 + spread)) + 1)
            return False
        self._metrics.gauge("delivery_provider_up", 1)
        if outcome.status == "sent":
            return True
        if outcome.status in ("deferred", "unknown"):
            return await self._defer(job, outcome)
        await self._finish(job, outcome.status, outcome.reason, outcome.code, outcome.detail)
        return True

    async def _call(self, link: Link, mail: Mail) -> Outcome:
        try:
            async with asyncio.timeout(self._call_s):
                return await link.send(mail)
        except TimeoutError:
            link.drop()
            return Outcome("unknown", 0, "reply_lost")

    async def _over(self, job: Job) -> bool:
        if job.cancelled.is_set():
            await self._finish(job, "cancelled", job.cancel_reason)
        elif self._clock_ms() >= job.command.expires_at_ms:
            await self._finish(job, "expired", "too_old")
        else:
            return False
        return True

    async def _defer(self, job: Job, outcome: Outcome) -> bool:
        if outcome.status == "unknown":
            log.warning("delivery.reply-lost", command_id=job.command.command_id, attempt=job.attempt)
            self._metrics.count("delivery_uncertain")
        if self._backoff.exhausted(job.attempt):
            reason = "outcome_unknown" if outcome.status == "unknown" else "attempts_exhausted"
            await self._finish(job, "failed", reason, outcome.code, outcome.detail)
            return True
        delay = self._backoff.delay_ms(job.attempt, job.command.command_id)
        next_ms = self._clock_ms() + delay
        if next_ms >= job.command.expires_at_ms:
            await self._finish(job, "expired", outcome.reason, outcome.code, outcome.detail)
            return True
        entry = self._entry(job, "deferred", outcome.reason, outcome.code, outcome.detail)
        entry.next_ms = next_ms
        await asyncio.gather(self._record(job.partition, job.command.command_id, entry), self._report(job, entry))
        job.busy = False
        await self._wait(job, delay)
        return False

    async def _finish(self, job: Job, status: str, reason: str, code: int = 0, detail: str = "") -> None:
        job.busy = True
        entry = self._entry(job, status, reason, code, detail)
        await asyncio.gather(self._record(job.partition, job.command.command_id, entry), self._report(job, entry))
        job.busy = False
        if status == "sent":
            self._metrics.observe("delivery_delay_ms", entry.at_ms - job.command.caused_at_ms)

    async def _wait(self, job: Job, delay_ms: int) -> None:
        """Wait until the time has come or the command is called back."""
        job.waiting = True
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(job.cancelled.wait(), max(0.0, delay_ms / 1000))
        job.waiting = False

    def _entry(self, job: Job, status: str, reason: str = "", code: int = 0, detail: str = "") -> Entry:
        now = self._clock_ms()
        return Entry(
            FORMAT, status, job.attempt, now, job.offset, job.first_ms, code=code, reason=reason, detail=detail
        )

    async def _step(self, job: Job, status: str) -> None:
        await self._record(job.partition, job.command.command_id, self._entry(job, status))

    async def _record(self, partition: int, command_id: str, entry: Entry) -> None:
        offset = await self._outbox.send(SENT_TOPIC, command_id.encode(), encode_entry(entry), partition)
        self._state.put(partition, command_id, entry, offset)

    async def _report(self, job: Job, entry: Entry) -> None:
        ident = message_id(job.command.command_id, self._message.sender.domain)
        event = receipt(job.command, entry, ident)
        await self._outbox.send(EVENTS, job.command.member_id.encode(), encode_event(event))
        self._metrics.count("delivery_outcomes", status=entry.status, reason=entry.reason)
