"""A real SMTP server (aiosmtpd) on loopback, for the demo and for tests: it takes and counts mail, and delivers none.

It can be told to misbehave: refuse, defer, hang up before the reply, go away and come back on the same port.
"""

import asyncio
import email
import email.policy
import re
import socket
import threading
from collections import Counter, OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from email.message import EmailMessage
from typing import Any

from aiosmtpd.smtp import SMTP, Envelope, Session

from schemas.errors import OperatorError

BANNER = "Tidings demo SMTP server (takes mail, delivers none)"
_MESSAGE_ID = re.compile(rb"^Message-ID:\s*<([^>\r\n]+)>", re.IGNORECASE | re.MULTILINE)

TAKE = "250 2.0.0 Ok: taken, not delivered"
DROP_BEFORE = "drop-before"  # close without taking the mail
DROP_AFTER = "drop-after"  # take the mail, then close without a reply


@dataclass(frozen=True, slots=True)
class ReceivedMail:
    """One mail as it came over the wire."""

    sender: str
    recipient: str
    message_id: str
    content: bytes

    def parsed(self) -> EmailMessage:
        """Parse the content by the standard library."""
        return email.message_from_bytes(self.content, policy=email.policy.default)


Rule = Callable[[str, str], str | None]
"""(recipient, message id) -> SMTP reply for the content, DROP_BEFORE, DROP_AFTER, or None to take the mail."""


class SmtpServer:
    """A server in a thread of its own; use as a context manager, or `start` and `stop` (both may be repeated).

    Args:
        port: on 127.0.0.1; 0 lets the system choose, and later starts keep what it chose.
        keep: how many mails to keep at the most, oldest dropped first; all are counted.
        count_ids: of how many Message-IDs to keep the number of times they came (the newest are kept).
        on_mail: called with each mail before it is answered, in the server's thread; must be quick.
        pipelining: whether it says that it takes several commands at once (RFC 2920). aiosmtpd does, but says nothing.
    """

    def __init__(
        self,
        port: int = 0,
        keep: int = 10_000,
        count_ids: int = 1_000_000,
        on_mail: Callable[[ReceivedMail], None] | None = None,
        pipelining: bool = True,
    ) -> None:
        self.port = port
        self.on_mail = on_mail
        self.received = 0
        self.rcpt_replies: dict[str, str] = {}
        self.rule: Rule | None = None
        self.outcomes: Counter[str] = Counter()
        self._offers = ["250-PIPELINING"] if pipelining else []
        self._keep = keep
        self._count_ids = count_ids
        self._mails: OrderedDict[int, ReceivedMail] = OrderedDict()
        self._times: OrderedDict[str, int] = OrderedDict()
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self.transports: set[Any] = set()
        self._server: asyncio.Server | None = None

    @property
    def url(self) -> str:
        """The server's URL for our own settings."""
        return f"smtp://127.0.0.1:{self.port}"

    @property
    def mails(self) -> list[ReceivedMail]:
        """The mails kept, oldest first."""
        with self._lock:
            return list(self._mails.values())

    @property
    def repeated(self) -> dict[str, int]:
        """Message-IDs that were taken more than once, with the number of times."""
        with self._lock:
            return {ident: times for ident, times in self._times.items() if times > 1}

    def start(self) -> "SmtpServer":
        """Listen.

        Raises:
            OperatorError: the port is taken.
        """
        if self._thread is not None:
            return self
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("127.0.0.1", self.port))
        except OSError as error:
            listener.close()
            got = f"got port {self.port}: {error.strerror}"
            raise OperatorError(f"smtp server: cannot listen on 127.0.0.1 ({got}); choose another port or 0") from None
        self.port = listener.getsockname()[1]
        ready = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(listener, ready), name="smtp-server", daemon=True)
        self._thread.start()
        ready.wait()
        return self

    def stop(self) -> None:
        """Stop listening and cut all connections, as a crash would; counts and mails stay."""
        loop, thread = self._loop, self._thread
        if loop is None or thread is None:
            return
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        self._loop = self._thread = None

    def __enter__(self) -> "SmtpServer":
        return self.start()

    def __exit__(self, *exc: object) -> None:
        self.stop()

    # ------------------------------------------------------------ aiosmtpd's handler

    async def handle_EHLO(  # noqa: N802  aiosmtpd's name
        self, server: SMTP, session: Session, envelope: Envelope, hostname: str, responses: list[str]
    ) -> list[str]:
        """Say what we offer; the last line ends the reply."""
        session.host_name = hostname
        return [*responses[:-1], *self._offers, responses[-1]]

    async def handle_RCPT(  # noqa: N802  aiosmtpd's name
        self, server: SMTP, session: Session, envelope: Envelope, address: str, rcpt_options: list[str]
    ) -> str:
        """Answer RCPT TO: as told in `rcpt_replies` by address, else yes."""
        reply = self.rcpt_replies.get(address)
        if reply is not None:
            self.outcomes[reply[:3]] += 1
            return reply
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:  # noqa: N802
        """Take a mail, or do as `rule` says."""
        content = envelope.original_content or b""
        found = _MESSAGE_ID.search(content)
        ident = found[1].decode("ascii", "replace") if found else ""
        recipient = str(envelope.rcpt_tos[0])
        told = self.rule(recipient, ident) if self.rule else None
        self.outcomes[told or "250"] += 1
        if told is None or told == DROP_AFTER:
            mail = ReceivedMail(str(envelope.mail_from), recipient, ident, content)
            if self.on_mail is not None:
                self.on_mail(mail)
            self._record(mail)
        if told in (DROP_BEFORE, DROP_AFTER):
            transport: Any = server.transport
            transport.abort()
            return "421 gone"  # never reaches the wire
        return told or TAKE

    def _record(self, mail: ReceivedMail) -> None:
        with self._lock:
            self.received += 1
            self._mails[self.received] = mail
            if len(self._mails) > self._keep:
                self._mails.popitem(last=False)
            self._times[mail.message_id] = self._times.pop(mail.message_id, 0) + 1
            if len(self._times) > self._count_ids:
                self._times.popitem(last=False)

    def _run(self, listener: socket.socket, ready: threading.Event) -> None:
        loop = asyncio.new_event_loop()
        self._loop = loop
        asyncio.set_event_loop(loop)
        self._server = loop.run_until_complete(
            loop.create_server(lambda: _Session(self, loop), sock=listener, backlog=256)
        )
        ready.set()
        try:
            loop.run_forever()
        finally:
            self._server.close()
            for transport in list(self.transports):
                transport.abort()
            pending = asyncio.all_tasks(loop)
            for task in pending:
                task.cancel()
            loop.run_until_complete(asyncio.gather(*pending, return_exceptions=True))
            loop.run_until_complete(asyncio.sleep(0))
            loop.close()


class _Session(SMTP):
    """aiosmtpd's protocol, which tells the server of its connections so that `stop` can cut them."""

    def __init__(self, owner: SmtpServer, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(owner, hostname="localhost", ident=BANNER, enable_SMTPUTF8=True, loop=loop)
        self._owner = owner

    def connection_made(self, transport: Any) -> None:
        self._owner.transports.add(transport)
        super().connection_made(transport)

    def connection_lost(self, error: Exception | None) -> None:
        self._owner.transports.discard(self.transport)
        super().connection_lost(error)
