"""Several SMTP commands in one write, and their replies in order (RFC 2920), on a connection that aiosmtplib opened.

aiosmtplib asks, waits and asks again, and throws away what comes unasked, as the second reply of a group seems to do.
Its parser, its buffer and its signals of a lost connection are used as they are; greeting, TLS, login, RSET and QUIT
stay its own.
"""

import asyncio

from aiosmtplib import SMTP, SMTPException, SMTPResponse
from aiosmtplib.errors import SMTPServerDisconnected
from aiosmtplib.protocol import MAX_RESPONSE_LENGTH, SMTPProtocol, normalize_message_line_endings

LOST = (SMTPException, OSError, TimeoutError, EOFError)


class Dialogue(SMTPProtocol):
    """aiosmtplib's protocol with one method more. For one user at a time."""

    def __init__(self, client: SMTP) -> None:
        """Take the place of an open client's protocol. The client can be used as before, between two exchanges.

        Raises:
            SMTPServerDisconnected: the connection is gone.
        """
        super().__init__(connection_lost_callback=lambda _: client.close() if client.protocol is self else None)
        self.client = client
        self._replies: list[SMTPResponse] = []
        self._awaited = 0
        self._all_there: asyncio.Future[None] | None = None
        if client.transport is None or client.transport.is_closing():
            raise SMTPServerDisconnected("Connection lost")
        self.connection_made(client.transport)
        self._response_pending = False  # the greeting was read
        client.transport.set_protocol(self)
        client.protocol = self

    async def exchange(self, data: bytes, replies: int, until: float) -> list[SMTPResponse]:
        """Write bytes and return the replies to them, in order.

        Fewer than asked for: after these the connection broke, or the server made no sense or said nothing until the
        loop's time was `until`. Then the connection must not be used any more.
        """
        self._buffer.clear()  # nothing was asked
        self._replies, self._awaited, self._all_there = [], replies, self._loop.create_future()
        limit = self._loop.call_at(until, self._end, TimeoutError())
        try:
            self.write(data)
            await self._all_there
        except LOST:
            pass
        finally:
            limit.cancel()
            self._all_there = None
        return self._replies

    def data_received(self, data: bytes) -> None:
        """Take what the server says."""
        if self._all_there is None:  # it answers one of aiosmtplib's own commands
            super().data_received(data)
            return
        self._buffer += data
        try:
            while len(self._replies) < self._awaited and (reply := self._read_response_from_buffer()) is not None:
                self._replies.append(reply)
        except SMTPException as error:
            self._end(error)
            return
        if len(self._replies) == self._awaited:
            self._end(None)
        elif len(self._buffer) > MAX_RESPONSE_LENGTH:
            self._end(SMTPServerDisconnected("Response too long"))

    def eof_received(self) -> bool:
        """Hear that the server says no more."""
        self._end(SMTPServerDisconnected("Unexpected EOF received"))
        return super().eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        """Hear that the connection broke."""
        self._end(SMTPServerDisconnected("Connection lost"))
        super().connection_lost(exc)

    def _end(self, error: Exception | None) -> None:
        waiter = self._all_there
        if waiter is None or waiter.done():
            return
        if error is None:
            waiter.set_result(None)
        else:
            waiter.set_exception(error)


def on_the_wire(content: bytes) -> bytes:
    """Write a mail's content as DATA takes it: CRLF ends lines, a dot before one is doubled, a lone dot ends it."""
    ends = content.count(b"\r\n")
    if content.count(b"\n") != ends or content.count(b"\r") != ends or not content.endswith(b"\r\n"):
        content = normalize_message_line_endings(content)  # by patterns, which take as long as the handing over
    if content.startswith(b"."):
        content = b"." + content
    return content.replace(b"\r\n.", b"\r\n..") + b".\r\n"
