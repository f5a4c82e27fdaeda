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
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import msgspec
import structlog

from agents import failpoints
from agents.delivery_state import FORMAT, DeliveryState, Entry, encode_entry
from agents.providers import DEFAULT_MAIL, Provider, Providers
from agents.send_log import Outbox, Record
from agents.send_receipts import receipt
from agents.topics import EVENTS
from schemas.codec import encode_event
from schemas.commands import CancelMessage, SendMessage
from schemas.ids import h128
from sinks.channels.base import AddressError, ContentError, Link
from sinks.channels.config import EMAIL
from sinks.mime import message_id
from sinks.outcome import Outcome, ProviderDown
from sinks.retry import Backoff
from sinks.sandbox import RenderError

log = structlog.get_logger("agents.send")


class Metrics(Protocol):
    """Where delivery counts. Names are those of docs/operating.md; labels have few values and name no member."""

    def count(self, name: str, by: int = 1, **labels: str) -> None:
        """Add to a counter."""

    def gauge(self, name: str, value: float, **labels: str) -> None:
        """Set a gauge."""

    def observe(self, name: str, value: float) -> None:
        """Add to a histogram; milliseconds."""


class NoMetrics:
    """Counts nothing."""

    def count(self, name: str, by: int = 1, **labels: str) -> None:
        """See Metrics."""

    def gauge(self, name: str, value: float, **labels: str) -> None:
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
    waiting: bool = False  # for its next attempt, or for the record before
    first_ms: int = 0
    attempt: int = 0
    provider: str = ""  # that was asked last
    share: str = ""  # the provider in whose share of the lane it is counted: the one that seemed to take it when read
    task: asyncio.Task[None] | None = None


class Courier:
    """Takes commands to their end, any number at a time.

    Args:
        providers: of this lane.
        state: what is known of each command.
        outbox: to Kafka.
        sent_topic: where each step is recorded.
        mail_domain: ends every Message-ID.
        lease: awaited right before each provider call; returns once it is certain that the partition is still ours.
        call_s: how long one provider call may take in all; below the time that `lease` guarantees.
        clock_ms: the wall clock.
    """

    def __init__(
        self,
        providers: Providers,
        state: DeliveryState,
        outbox: Outbox,
        *,
        sent_topic: str,
        mail_domain: str,
        backoff: Backoff,
        lease: Callable[[], Awaitable[None]],
        call_s: float,
        clock_ms: Callable[[], int],
        metrics: Metrics,
    ) -> None:
        self._providers = providers
        self._state = state
        self._sent_topic = sent_topic
        self._mail_domain = mail_domain
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
            job.attempt, job.provider = known.attempt, known.provider
            if known.final:
                await self._repeated(job, known)
                return
            if known.status == "sending":
                # The process ended between line 1 and line 3 of the head of this module.
                log.warning(
                    "delivery.uncertain",
                    command_id=job.command.command_id, partition=job.partition, attempt=known.attempt,
                )  # fmt: skip
                self._metrics.count("delivery_uncertain")
            elif known.status == "deferred":
                await self._wait(job, known.next_ms - self._clock_ms())
        while not await self._attempt(job):
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
        await self._write(partition, command.command_id, entry)

    async def _repeated(self, job: Job, known: Entry) -> None:
        # The same record again: a crash came before its offset was committed, maybe before its receipt was written.
        # Another record: the engine wrote the command twice, and the first one takes care of the receipt.
        # Cancelled by a record of its own: nobody could write the receipt without the command.
        if (known.offset == job.offset or known.status == "cancelled") and not known.told:
            await self._report(job, known)
        self._metrics.count("delivery_repeated")

    async def _attempt(self, job: Job) -> bool:
        """Try once; whether the command has come to its end."""
        if await self._over(job):
            return True
        command = job.command
        # After an unknown outcome the same provider is asked again, if it can be: it may know the command's id.
        provider = self._providers.pick(command.channel, command.address, job.provider)
        if provider is None:
            known = self._providers.has(command.channel)
            await self._finish(job, Outcome("failed", 0, "invalid_address" if known else "no_such_channel"))
            return True
        begun = False
        try:
            async with provider.link() as link:
                if job.cancelled.is_set() or provider.retired or self._clock_ms() >= command.expires_at_ms:
                    return False  # while it waited for a place; the next round says so
                request = await self._prepared(job, provider)
                if request is None:
                    return True
                job.busy = begun = True
                job.attempt += 1
                job.provider = provider.name
                await self._record(job, self._entry(job, "sending"))
                await self._lease()
                if failpoints.hit is not None:
                    failpoints.hit(failpoints.SENDING)
                outcome = await self._call(link, request)
                if failpoints.hit is not None:
                    failpoints.hit(failpoints.ANSWERED)
                if outcome.status == "sent":
                    # Inside: the place takes no other message before this one is on record, so that a crash leaves at
                    # most one message per place uncertain.
                    await self._finish(job, outcome)
                    if failpoints.hit is not None:
                        failpoints.hit(failpoints.RECORDED)
        except ProviderDown as down:
            # The message did not leave: that costs no attempt.
            job.attempt -= begun
            job.busy = False
            await self._wait_for(job, provider, down)
            return False
        if outcome.status == "sent":
            return True
        if outcome.status in ("deferred", "unknown"):
            return await self._defer(job, provider, outcome)
        await self._finish(job, outcome)
        return True

    async def _prepared(self, job: Job, provider: Provider) -> Any:
        """Make the request; None when it cannot be made, and that is on record."""
        command = job.command
        try:
            return provider.prepare(command, self._clock_ms())
        except RenderError as error:
            log.warning("delivery.template-error", template=command.template, campaign=command.campaign)
            await self._finish(job, Outcome("failed", 0, "template_error", str(error)[:200]))
        except AddressError:
            await self._finish(job, Outcome("failed", 0, "invalid_address"))
        except ContentError as error:
            await self._finish(job, Outcome("failed", 0, str(error)))
        except ValueError:
            await self._finish(job, Outcome("failed", 0, "invalid_header"))
        return None

    async def _wait_for(self, job: Job, provider: Provider, down: ProviderDown) -> None:
        if self._providers.other(job.command.channel, job.command.address, provider):
            return  # ask that one at once
        # Spread, so that hundreds of waiting commands do not ask at the same instant.
        spread = int(h128(job.command.command_id)[:4], 16) / 65_536
        await self._wait(job, int(1000 * down.wait_s * (1 + spread)) + 1)

    async def _call(self, link: Link, request: Any) -> Outcome:
        try:
            async with asyncio.timeout(self._call_s):
                return await link.send(request)
        except TimeoutError:
            link.drop()
            return Outcome("unknown", 0, "reply_lost")

    async def _over(self, job: Job) -> bool:
        if job.cancelled.is_set():
            await self._finish(job, Outcome("cancelled", 0, job.cancel_reason))
        elif self._clock_ms() >= job.command.expires_at_ms:
            await self._finish(job, Outcome("expired", 0, "too_old"))
        else:
            return False
        return True

    async def _defer(self, job: Job, provider: Provider, outcome: Outcome) -> bool:
        command = job.command
        if outcome.status == "unknown":
            log.warning("delivery.reply-lost", command_id=command.command_id, attempt=job.attempt)
            self._metrics.count("delivery_uncertain")
        if self._backoff.exhausted(job.attempt):
            reason = "outcome_unknown" if outcome.status == "unknown" else "attempts_exhausted"
            await self._finish(job, replace(outcome, status="failed", reason=reason))
            return True
        delay = max(self._backoff.delay_ms(job.attempt, command.command_id), outcome.retry_after_ms)
        if outcome.status == "deferred" and not outcome.healthy:
            # The provider's trouble, and certainly not taken: another one is asked at once.
            job.provider = ""
            delay = 0 if self._providers.other(command.channel, command.address, provider) else delay
        next_ms = self._clock_ms() + delay
        if next_ms >= command.expires_at_ms:
            await self._finish(job, replace(outcome, status="expired"))
            return True
        entry = self._entry(job, "deferred", outcome)
        entry.provider, entry.next_ms = provider.name, next_ms
        await self._conclude(job, entry)
        job.busy = False
        await self._wait(job, delay)
        return False

    async def _finish(self, job: Job, outcome: Outcome) -> None:
        entry = self._entry(job, outcome.status, outcome)
        await self._conclude(job, entry)
        job.busy = False
        if outcome.status == "sent":
            self._metrics.observe("delivery_delay_ms", entry.at_ms - job.command.caused_at_ms)

    async def _wait(self, job: Job, delay_ms: int) -> None:
        """Wait until the time has come or the command is called back."""
        job.waiting = True
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(job.cancelled.wait(), max(0.0, delay_ms / 1000))
        job.waiting = False

    def _entry(self, job: Job, status: str, outcome: Outcome | None = None) -> Entry:
        said = outcome or Outcome(status, 0, "")
        return Entry(
            FORMAT, status, job.attempt, self._clock_ms(), job.offset, job.first_ms,
            code=said.code, reason=said.reason, detail=said.detail,
            provider=job.provider, provider_message_id=said.provider_message_id,
        )  # fmt: skip

    async def _record(self, job: Job, entry: Entry) -> None:
        await self._write(job.partition, job.command.command_id, entry)

    async def _write(self, partition: int, command_id: str, entry: Entry) -> None:
        offset = (await self._outbox.send_all(self._step(partition, command_id, entry)))[0]
        self._state.put(partition, command_id, entry, offset)

    async def _conclude(self, job: Job, entry: Entry) -> None:
        """Record a step and report it, at the same time."""
        command_id = job.command.command_id
        step = self._step(job.partition, command_id, entry)
        offset, _ = await self._outbox.send_all(step, self._receipt(job.command, entry))
        self._state.put(job.partition, command_id, msgspec.structs.replace(entry, told=True), offset)
        self._reported(job.command, entry)

    async def _report(self, job: Job, entry: Entry) -> None:
        await self._outbox.send_all(self._receipt(job.command, entry))
        self._reported(job.command, entry)

    def _step(self, partition: int, command_id: str, entry: Entry) -> Record:
        return Record(self._sent_topic, command_id.encode(), encode_entry(entry), partition)

    def _receipt(self, command: SendMessage, entry: Entry) -> Record:
        ident = entry.provider_message_id
        if not ident and command.channel == EMAIL:
            ident = message_id(command.command_id, self._mail_domain)
        provider = entry.provider or (DEFAULT_MAIL if command.channel == EMAIL else "")
        event = receipt(command, entry, provider, ident)
        return Record(EVENTS, command.member_id.encode(), encode_event(event))

    def _reported(self, command: SendMessage, entry: Entry) -> None:
        self._metrics.count("delivery_outcomes", status=entry.status, reason=entry.reason, channel=command.channel)
