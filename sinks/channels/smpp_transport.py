"""SMPP to one provider: a session that is kept bound, a window of messages without answer, receipts handed on.

A session is bound as soon as the provider is opened, for receipts come even when nothing is sent.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Protocol

import smpp34
import structlog

from schemas.references import Reference
from sinks.channels.bounded import Bounded
from sinks.channels.receipts import Told
from sinks.channels.smpp import SmppRequest, SmppSettings, read_receipt, receipt_key, status_outcome
from sinks.channels.smpp_session import ENQUIRE, OK, BindRefused, Session, SessionLost
from sinks.outcome import Outcome, ProviderDown

RETRY_BASE_S, RETRY_CAP_S = 0.25, 15.0
_CREDENTIALS = frozenset({0x0D, 0x0E, 0x0F})  # bind failed, invalid password, invalid system id

log = structlog.get_logger("sinks.channels")


class SmsDesk(Protocol):
    """Where message ids are noted and receipts are handed in."""

    def note(self, provider: str, ident: str, reference: Reference, last: bool) -> None:
        """Keep what a message id stands for; `last`: the part whose delivery is the message's."""

    async def tell(self, provider: str, told: Told) -> bool:
        """Write a receipt to the log; False when it cannot be now."""


class SmppTransport(Bounded):
    """Carries messages to one provider.

    Args:
        name: of the provider.
        settings: see there.
        window: messages without answer at a time.
        per_second: messages a second at most; 0: no bound.
        timeout_s: for connecting and for each answer.
    """

    def __init__(
        self, name: str, settings: SmppSettings, *, window: int = 8, per_second: float = 0.0, timeout_s: float = 10.0
    ) -> None:
        super().__init__(name, window, per_second)
        self._settings = settings
        self._timeout_s = timeout_s
        self._desk: SmsDesk | None = None
        self._session: Session | None = None
        self._keeping: asyncio.Task[None] | None = None
        self._moved = asyncio.Event()  # a session was bound, or could not be
        self._refused = ""  # why the last bind failed; empty while bound or never tried
        self._next_try = 0.0

    def attach(self, desk: SmsDesk) -> None:
        """Name the desk, and bind from now on. Call inside a running loop, once."""
        self._desk = desk
        self._keeping = asyncio.create_task(self._keep_bound())

    def wait_s(self) -> float:
        """See `Transport`."""
        waits = super().wait_s()
        if self._session is None and self._refused:
            waits = max(waits, 0.05, self._next_try - asyncio.get_running_loop().time())
        return waits

    @contextlib.asynccontextmanager
    async def link(self) -> AsyncIterator["SmppLink"]:
        """See `Transport`."""
        async with self.place():
            if self._session is None:  # the first bind is under way
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._moved.wait(), self._timeout_s)
            if self._session is None:
                raise ProviderDown(self._refused or "not_bound", max(0.05, self.wait_s()))
            yield SmppLink(self, self._session)

    async def close(self) -> None:
        """See `Transport`."""
        if self._keeping is not None:
            self._keeping.cancel()
            await asyncio.gather(self._keeping, return_exceptions=True)
        if self._session is not None:
            await self._session.unbind()
            self._session = None

    async def hand_over(self, session: Session, request: SmppRequest) -> Outcome:
        """Submit all parts of a message; the id of the last one names it.

        Raises:
            ProviderDown: nothing of it left.
        """
        self.circuit.begin()
        try:
            return self.judge(await self._submit(session, request))
        except BaseException:
            self.circuit.gone()
            raise

    async def _submit(self, session: Session, request: SmppRequest) -> Outcome:
        ident = ""
        for at, pdu in enumerate(request.parts, 1):
            if at == 1 and session.ended.is_set():
                raise self.down("not_bound")
            try:
                status, ident = await session.submit(pdu)
            except (SessionLost, TimeoutError) as error:
                reason = "reply_lost" if isinstance(error, SessionLost) else "no_answer"
                return Outcome("unknown", 0, reason, healthy=False)
            if status != OK:
                # Of several parts some may have been taken: they are sent again, with the same reference number.
                return status_outcome(status)
            if self._desk is not None and ident and self._settings.receipts:
                key = receipt_key(ident, self._settings.receipt_ids, answered=True)
                self._desk.note(self._name, key, request.reference, at == len(request.parts))
        return Outcome("sent", 0, "accepted", "", ident)

    async def _receive(self, pdu: smpp34.DeliverSm) -> bool:
        told = read_receipt(pdu, self._settings.receipt_ids)
        if told is None:
            log.info("smpp.not-a-receipt", provider=self._name)  # a message of a member: nobody here takes it
            return True
        return not told.axis or self._desk is None or await self._desk.tell(self._name, told)

    async def _keep_bound(self) -> None:
        failures = 0
        while True:
            try:
                session = await Session.bind(self._settings, self._receive, self._timeout_s)
            except (BindRefused, SessionLost, OSError, TimeoutError) as error:
                failures += 1
                self._note_failure(error, failures)
                await asyncio.sleep(self._next_try - asyncio.get_running_loop().time())
                continue
            if failures:
                log.info("provider.up", provider=self._name, failures=failures)
            self._refused, self._session = "", session
            self._moved.set()
            bound_at = asyncio.get_running_loop().time()
            try:
                await self._watch(session)
            finally:
                if session.ended.is_set():
                    self._session = None
            # Who lets us in only to send us away again is not asked without a pause.
            steady = asyncio.get_running_loop().time() - bound_at >= RETRY_CAP_S
            failures = 0 if steady else failures + 1
            self._refused = "session_lost"
            self._next_try = asyncio.get_running_loop().time() + (_pause_s(failures) if failures > 1 else 0)
            log.warning("smpp.session-lost", provider=self._name)
            await asyncio.sleep(self._next_try - asyncio.get_running_loop().time())

    def _note_failure(self, error: Exception, failures: int) -> None:
        refused = isinstance(error, BindRefused)
        known = isinstance(error, BindRefused) and error.status in _CREDENTIALS
        self._refused = "credentials_refused" if known else str(error) if refused else type(error).__name__
        self._next_try = asyncio.get_running_loop().time() + _pause_s(failures)
        self._moved.set()
        if failures == 1:
            log.warning("provider.down", provider=self._name, reason=self._refused)

    async def _watch(self, session: Session) -> None:
        """Return when the session has ended; a provider that is silent is asked whether it is there."""
        loop = asyncio.get_running_loop()
        while not session.ended.is_set():
            quiet = self._settings.enquire_s - (loop.time() - session.heard_at)
            if quiet > 0:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(session.ended.wait(), quiet)
                continue
            try:
                await session.request(ENQUIRE)
            except (SessionLost, TimeoutError):
                session.drop()


def _pause_s(failures: int) -> float:
    return min(RETRY_CAP_S, RETRY_BASE_S * 2.0 ** min(failures - 1, 10))


class SmppLink:
    """One place in the window."""

    def __init__(self, transport: SmppTransport, session: Session) -> None:
        self._transport = transport
        self._session = session

    async def send(self, request: SmppRequest) -> Outcome:
        """See `Link`."""
        return await self._transport.hand_over(self._session, request)

    def drop(self) -> None:
        """See `Link`: an answer that comes too late finds nobody waiting."""
