"""The mails of one SMTP connection (RFC 5321), their commands sent ahead where the server allows it (RFC 2920).

aiosmtplib connects, does TLS and logs in, and then hands its transport over to this. It has no PIPELINING, and a mail
by it takes four exchanges and three times the processor time; here a mail is two exchanges. That is all there is here:
MAIL, RCPT, DATA, RSET, QUIT.
"""

import asyncio
import re
from collections import deque
from dataclasses import dataclass

REPLY_BYTES_MAX = 32_768  # of a reply with all its lines
_BARE_END = re.compile(rb"(?<!\r)\n|\r(?!\n)")
_UNSAFE = re.compile(rb"[\x00-\x1f\x7f<>]")


class Lost(Exception):
    """The connection broke, or what came was no reply."""


@dataclass(frozen=True, slots=True)
class Reply:
    """What the server said: a code, and its words, lines parted by a line feed."""

    code: int
    text: str

    @property
    def good(self) -> bool:
        """Whether it is a yes: by the first digit, as RFC 5321 §4.2.1 asks."""
        return 200 <= self.code < 300


class Dialogue(asyncio.Protocol):
    """One connection, for one mail at a time.

    Args:
        transport: connected and logged in; nothing is under way on it.
        pipelining: whether the server takes commands ahead.
        timeout_s: for each reply.
    """

    def __init__(self, transport: asyncio.Transport, pipelining: bool, timeout_s: float) -> None:
        self._transport = transport
        self._pipelining = pipelining
        self._timeout_s = timeout_s
        self._buffer = bytearray()
        self._replies: deque[Reply] = deque()
        self._awaited = 0
        self._waiter: asyncio.Future[None] | None = None
        self._lost = False
        transport.set_protocol(self)

    @property
    def connected(self) -> bool:
        """Whether the connection stands, as far as we know."""
        return not self._lost and not self._transport.is_closing()

    async def begin(self, sender: str, recipient: str) -> list[Reply]:
        """Name sender and recipient and ask for the content; return the replies up to the first refusal, or all three.

        Raises:
            Lost: nothing was handed over.
            ValueError: an address that would be more than one.
        """
        commands = [b"MAIL FROM:<%b>\r\n" % _inner(sender), b"RCPT TO:<%b>\r\n" % _inner(recipient), b"DATA\r\n"]
        replies: list[Reply] = []
        if self._pipelining:
            replies = await self._ask(b"".join(commands), 3)
            refused = next((place for place, reply in enumerate(replies[:2]) if not reply.good), None)
            if refused is None:
                return replies
            if replies[-1].code == 354:
                await self._ask(b".\r\n", 1)  # it waits for a content all the same: an empty one, to nobody
            return replies[: refused + 1]
        for command in commands:
            replies += await self._ask(command, 1)
            if not replies[-1].good:
                break
        return replies

    async def content(self, content: bytes) -> Reply:
        """Hand over the content, once `begin` was told 354.

        Raises:
            Lost: whether it was taken, nobody knows.
        """
        return (await self._ask(stuffed(content), 1))[0]

    async def reset(self) -> None:
        """Forget the mail that was begun.

        Raises:
            Lost: the connection broke.
        """
        await self._ask(b"RSET\r\n", 1)

    async def quit(self, timeout_s: float) -> None:
        """Say goodbye and close the connection; never raises for what the server does."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._ask(b"QUIT\r\n", 1)
        except (Lost, TimeoutError):
            pass
        self._transport.close()

    def drop(self) -> None:
        """Close the connection without a word."""
        self._lost = True
        self._transport.abort()

    # ------------------------------------------------------------ asyncio's protocol

    def data_received(self, data: bytes) -> None:
        """Take what came; what nobody asked for spoils the connection, for it could pass for the next answer."""
        self._buffer += data
        while (reply := self._next_reply()) is not None:
            self._replies.append(reply)
        if self._lost or len(self._replies) > self._awaited or len(self._buffer) > REPLY_BYTES_MAX:
            self._fail()
        elif self._waiter is not None and len(self._replies) >= self._awaited and not self._waiter.done():
            self._waiter.set_result(None)

    def connection_lost(self, error: Exception | None) -> None:
        """Tell who waits."""
        self._fail()

    def _fail(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_exception(Lost())
        self.drop()

    def _next_reply(self) -> Reply | None:
        """Take one whole reply out of the buffer."""
        lines: list[str] = []
        start = 0
        while (end := self._buffer.find(b"\n", start)) >= 0:
            line = bytes(self._buffer[start:end])
            start = end + 1
            if not line[:3].isdigit() or line[3:4] not in (b" ", b"-", b"\r", b""):
                self._lost = True
                return None
            lines.append(line[4:].strip().decode("utf-8", "replace"))
            if line[3:4] != b"-":
                del self._buffer[:start]
                return Reply(int(line[:3]), "\n".join(lines))
        return None

    async def _ask(self, data: bytes, replies: int) -> list[Reply]:
        if not self.connected:
            raise Lost
        self._awaited = replies
        self._waiter = waiter = asyncio.get_running_loop().create_future()
        self._transport.write(data)
        try:
            async with asyncio.timeout(self._timeout_s):
                await waiter
        except Lost:
            if not self._replies or self._replies[-1].code < 400:
                raise
            # It said why it hangs up (421), and left the rest unanswered.
        except BaseException as error:
            # Also when we are cancelled: the answers that are still to come belong to no one.
            self.drop()
            if isinstance(error, TimeoutError):
                raise Lost from None
            raise
        finally:
            self._waiter, self._awaited = None, 0
        found = list(self._replies)
        self._replies.clear()
        return found


def stuffed(content: bytes) -> bytes:
    """Write a content as it goes over the wire: CRLF line ends alone, dots at lines' starts doubled, the end's dot."""
    if content.count(b"\n") != content.count(b"\r\n") or content.count(b"\r") != content.count(b"\n"):
        content = _BARE_END.sub(b"\r\n", content)  # a bare one may hide an end of content from one server of two
    if not content.endswith(b"\r\n"):
        content += b"\r\n"
    content = content.replace(b"\r\n.", b"\r\n..")
    return (b"." if content.startswith(b".") else b"") + content + b".\r\n"


def _inner(address: str) -> bytes:
    raw = address.encode("ascii")
    if _UNSAFE.search(raw):
        raise ValueError("address: holds a bracket or a control character")
    return raw
