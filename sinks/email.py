"""Mail over SMTP by aiosmtplib: a bounded pool of kept connections, and one honest answer per mail.

What an answer means, and what the caller does with it:

    sent       the server took the mail (final 250); never send it again
    deferred   not taken, may be tried again: 4xx, or the connection broke before the mail was complete
    unknown    the connection broke after the mail was handed over and before the reply: taken or not, nobody knows
    bounced    5xx for this recipient or this content: never again
    failed     5xx for our own sender address

One recipient per mail, so that a refusal touches nobody else. A server that cannot be reached, greets with an error or
refuses our login says nothing about any mail: that is `ProviderDown`, and costs no attempt.
"""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

import structlog
from aiosmtplib import SMTP, SMTPResponse, SMTPResponseException

from schemas.errors import OperatorError
from sinks.mime import Mail
from sinks.outcome import Outcome, ProviderDown, redact
from sinks.pipelining import LOST, Dialogue, on_the_wire

log = structlog.get_logger("sinks.email")

PORTS = {"smtp": 25, "smtp+starttls": 587, "smtps": 465}
IDLE_S = 20.0  # below the shortest idle limit in wide use (Exchange Online drops after a minute or so)
MAILS_PER_LINK = 1_000  # servers limit it too; a fresh connection also follows a changed DNS answer
DOWN_BASE_S = 0.25
DOWN_CAP_S = 5.0  # a server that is back is noticed within 5 s
GO_ON = 354
_GO_ON = Outcome("", 0, "")


class _Step(NamedTuple):
    """One command before the content: the codes of a good reply, what a permanent refusal is, and its reason."""

    good: tuple[int, ...]
    permanent: str
    reason: str


_STEPS = (
    _Step((250,), "failed", "sender_refused"),  # MAIL
    _Step((250, 251), "bounced", "recipient_refused"),  # RCPT
    _Step((GO_ON,), "bounced", "content_refused"),  # DATA
)


@dataclass(frozen=True, slots=True)
class SmtpServer:
    """Where mail is handed over. `tls`: `none`, `starttls` (or refuse to send), `tls`."""

    host: str
    port: int
    tls: str = "none"
    username: str = ""
    password: str = field(default="", repr=False)
    helo: str = "localhost"

    @classmethod
    def parse(cls, url: str, username: str = "", password: str = "", helo: str = "localhost") -> "SmtpServer":
        """Read `smtp://host:port`, `smtp+starttls://…` or `smtps://…`, with or without `user:password@`.

        Raises:
            OperatorError: no such URL, or a password that would cross a network in the clear.
        """
        remedy = "set smtp://host:port, smtp+starttls://host:port or smtps://host:port"
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError:
            raise OperatorError(f"smtp: not a URL; {remedy}") from None
        if parts.scheme not in PORTS or not parts.hostname:
            raise OperatorError(f"smtp: not a mail server's URL (got scheme {parts.scheme!r}); {remedy}")
        username = unquote(parts.username or "") or username
        password = unquote(parts.password or "") or password
        tls = {"smtp": "none", "smtp+starttls": "starttls", "smtps": "tls"}[parts.scheme]
        if username and tls == "none" and not _is_loopback(parts.hostname):
            raise OperatorError("smtp: the password would be sent in the clear; use smtp+starttls:// or smtps://")
        return cls(parts.hostname, port or PORTS[parts.scheme], tls, username, password, helo)


class EmailTransport:
    """Hands mails to one server over at most `size` connections.

    Args:
        server: where.
        size: connections at a time.
        timeout_s: for each command and for connecting; the caller's lease must outlast four of them.
        tls_context: for private authorities; None means the system's.
    """

    def __init__(
        self, server: SmtpServer, size: int = 8, timeout_s: float = 10.0, tls_context: ssl.SSLContext | None = None
    ) -> None:
        self._server = server
        self._timeout_s = timeout_s
        self._tls_context = tls_context
        self._slots = asyncio.Semaphore(size)
        self._probe = asyncio.Lock()
        self._idle: list[Link] = []
        self._failures = 0
        self._down_until = 0.0

    @property
    def up(self) -> bool:
        """Whether the last connection succeeded."""
        return self._failures == 0

    def wait_s(self) -> float:
        """Tell how long there is no use in asking; 0 while the last connection succeeded."""
        return max(0.0, self._down_until - asyncio.get_running_loop().time()) if self._failures else 0.0

    def retire(self) -> None:
        """Do nothing: who waits here waits for a connection alone."""

    @contextlib.asynccontextmanager
    async def link(self) -> AsyncIterator["Link"]:
        """Take a connection out of the pool, or make one; it goes back afterwards if it is still good.

        Raises:
            ProviderDown: there is none to be had.
        """
        async with self._slots:
            link = await self._take()
            try:
                yield link
            except BaseException:
                link.drop()
                raise
            if link.reusable:
                self._idle.append(link)
            else:
                link.drop()

    async def connect(self) -> Dialogue:
        """Open a connection, logged in. While the server is down, one caller at a time tries.

        Raises:
            ProviderDown: it could not be opened.
        """
        if not self._failures:
            return await self._connect()
        async with self._probe:
            wait = self._down_until - asyncio.get_running_loop().time()
            if wait > 0:
                raise ProviderDown("down", wait)
            return await self._connect()

    async def close(self) -> None:
        """Say goodbye on all idle connections; those in use are closed by their users."""
        idle, self._idle = self._idle, []
        for link in idle:
            await link.quit()

    async def _take(self) -> "Link":
        now = asyncio.get_running_loop().time()
        while self._idle:
            link = self._idle.pop()  # the last used first: the rest may fall idle and go
            if link.connected and now - link.used_at < IDLE_S:
                link.fresh = False
                return link
            link.drop()
        return Link(self, await self.connect(), self._server.host, self._timeout_s)

    async def _connect(self) -> Dialogue:
        server = self._server
        client = SMTP(
            hostname=server.host,
            port=server.port,
            username=server.username or None,
            password=server.password or None,
            local_hostname=server.helo,  # else the library asks DNS for our name, which can hang
            timeout=self._timeout_s,
            use_tls=server.tls == "tls",
            start_tls=server.tls == "starttls",
            tls_context=self._tls_context,
        )
        try:
            async with asyncio.timeout(2 * self._timeout_s):
                await client.connect()
                await client.ehlo()
            dialogue = Dialogue(client)
        except LOST as error:
            client.close()
            raise self._down(error) from None
        if self._failures:
            log.info("smtp.up", failures=self._failures)
        self._failures = 0
        return dialogue

    def _down(self, error: Exception) -> ProviderDown:
        reason = f"reply_{error.code}" if isinstance(error, SMTPResponseException) else type(error).__name__
        now = asyncio.get_running_loop().time()
        if now >= self._down_until:  # several connections that fail together are one failure
            if not self._failures:
                log.warning("smtp.down", reason=reason, host=self._server.host, port=self._server.port)
            self._failures += 1
            self._down_until = now + min(DOWN_CAP_S, DOWN_BASE_S * 2 ** min(self._failures - 1, 10))
        return ProviderDown(reason, max(0.01, self._down_until - now))


class Link:
    """One connection, for one user at a time."""

    def __init__(self, transport: EmailTransport, dialogue: Dialogue, host: str, timeout_s: float) -> None:
        self._transport = transport
        self._dialogue = dialogue
        self._timeout_s = timeout_s
        self._mails = 0
        self.host = host
        self.fresh = True
        self.reusable = True
        self.used_at = asyncio.get_running_loop().time()

    @property
    def connected(self) -> bool:
        """Whether the connection stands, as far as we know."""
        return self._dialogue.client.is_connected

    async def send(self, mail: Mail) -> Outcome:
        """Hand over one mail; never raises for what the server does.

        Raises:
            ProviderDown: a kept connection had been closed by the server, and a new one could not be opened.
        """
        outcome = await self._envelope(mail)
        if outcome is None and not self.fresh:
            # A server may close an idle connection at any time; nothing was handed over yet, so start on a new one.
            self.drop()
            self._dialogue = await self._transport.connect()
            self.fresh, self._mails = True, 0
            outcome = await self._envelope(mail)
        if outcome is None:
            # A new connection broke at this very mail: let it wait its turn, lest it hold up all others.
            self.reusable = False
            return Outcome("deferred", 0, "connection_lost")
        if outcome.status == "":
            outcome = await self._content(mail)
        self.used_at = asyncio.get_running_loop().time()
        self._mails += 1
        if self._mails >= MAILS_PER_LINK or outcome.code == 421 or not self.connected:
            self.reusable = False
        elif self.reusable and outcome.status != "sent":
            await self._reset()
        return outcome

    def drop(self) -> None:
        """Close the connection without a word."""
        self.reusable = False
        self._dialogue.client.close()

    async def quit(self) -> None:
        """Close the connection politely."""
        with contextlib.suppress(*LOST):
            await self._dialogue.client.quit(timeout=1.0)
        self._dialogue.client.close()

    async def _envelope(self, mail: Mail) -> Outcome | None:
        """Say what comes before the content: at once where the server takes that (RFC 2920), else one by one.

        None: the connection broke. An empty status: the server waits for the content.
        """
        # Not by the library's `mail` and `rcpt`, which parse addresses that were checked when the mail was built.
        if not (mail.sender.isprintable() and mail.recipient.isprintable()):
            raise ValueError("address: holds a control character; build mails by sinks.mime.build")
        sender, recipient = mail.sender.encode("ascii"), mail.recipient.encode("ascii")
        lines = (b"MAIL FROM:<%b>\r\n" % sender, b"RCPT TO:<%b>\r\n" % recipient, b"DATA\r\n")
        until = self._until()
        if self._dialogue.client.supports_extension("pipelining"):
            return await self._group(b"".join(lines), _STEPS, until)
        for line, step in zip(lines, _STEPS, strict=True):
            outcome = await self._group(line, (step,), until)
            if outcome is not _GO_ON:
                return outcome
        return _GO_ON

    async def _group(self, lines: bytes, steps: Sequence[_Step], until: float) -> Outcome | None:
        """Write a group of commands; the first refusal counts."""
        replies = await self._dialogue.exchange(lines, len(steps), until)
        whole = len(replies) == len(steps)
        if not whole:
            self.reusable = False
        for reply, step in zip(replies, steps, strict=False):
            if reply.code in step.good:
                continue
            if whole and reply is not replies[-1] and replies[-1].code == GO_ON:
                # It waits for a content for nobody: an empty one, which it must not pass on (RFC 2920 §3.1).
                self.reusable = bool(await self._dialogue.exchange(b".\r\n", 1, until))
            return _refused(reply, step.permanent, step.reason)
        return _GO_ON if whole else None

    async def _content(self, mail: Mail) -> Outcome:
        replies = await self._dialogue.exchange(on_the_wire(mail.content), 1, self._until())
        if not replies:
            self.reusable = False
            return Outcome("unknown", 0, "reply_lost")
        reply = replies[0]
        if reply.code != 250:
            return _refused(reply, "bounced", "content_refused")
        return Outcome("sent", reply.code, "accepted", redact(reply.message))

    def _until(self) -> float:
        return asyncio.get_running_loop().time() + 2 * self._timeout_s

    async def _reset(self) -> None:
        try:
            await self._dialogue.client.rset()
        except LOST:
            self.reusable = False


def _refused(reply: SMTPResponse, permanent: str, reason: str) -> Outcome:
    status = permanent if 500 <= reply.code < 600 else "deferred"
    return Outcome(status, reply.code, reason, redact(reply.message))


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False
