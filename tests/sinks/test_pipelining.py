"""Commands that leave together (RFC 2920): each refusal and each break among their replies, byte for byte."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

import pytest

from sinks.email import EmailTransport, SmtpServer
from sinks.mime import Mail
from sinks.outcome import Outcome
from sinks.pipelining import on_the_wire
from tidings.loop import quick_loop

GONE = "gone"  # in place of a reply: the server closes
SILENT = "silent"  # it waits for ever
OK = ("250 ok", "250 ok", "354 go on")
ENVELOPE = [b"MAIL FROM:<a@b.example>", b"RCPT TO:<u@mail.example>", b"DATA"]
CONTENT = [b"Subject: one", b"", b"..dot", b"."]
MAIL = Mail("a@b.example", "u@mail.example", "1@b.example", b"Subject: one\r\n\r\n.dot\r\n")


class Script:
    """A server that answers an envelope only once it has heard all of it, and first says what it is told to.

    Args:
        replies: to the first connection's MAIL, RCPT, DATA and content; where they end, all is well.
        step: how many bytes of the replies it sends at a time.
    """

    def __init__(self, replies: Sequence[str], step: int = 1_000) -> None:
        self.heard: list[list[bytes]] = []  # lines by connection, from MAIL on
        self._replies = list(replies)
        self._step = step

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        told, heard = (self._replies if not self.heard else []), list[bytes]()
        self.heard.append(heard)
        try:
            writer.write(b"220 here\r\n")
            await reader.readline()
            writer.write(b"250-here\r\n250-PIPELINING\r\n250 SIZE 1000000\r\n")
            while line := (await reader.readline()).strip():
                heard.append(line)
                if line == b"QUIT":
                    break
                if line == b"RSET":
                    writer.write(b"250 reset\r\n")
                    continue
                heard += [(await reader.readline()).strip() for _ in ENVELOPE[1:]]
                replies = [told.pop(0) if told else good for good in OK]
                await self._say(writer, replies)
                if replies[2].startswith("354"):
                    while heard[-1] != b".":
                        heard.append((await reader.readuntil(b"\r\n"))[:-2])
                    await self._say(writer, [told.pop(0) if told else "250 taken"])
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    async def _say(self, writer: asyncio.StreamWriter, replies: Sequence[str]) -> None:
        said = [one for one in replies if one not in (GONE, SILENT)]
        text = "".join(f"{one}\r\n" for one in said).encode()
        for start in range(0, len(text), self._step):
            writer.write(text[start : start + self._step])
            await writer.drain()
            await asyncio.sleep(0)
        if SILENT in replies:
            await asyncio.sleep(3_600)
        if len(said) < len(replies):
            raise ConnectionError


@asynccontextmanager
async def to(script: Script, timeout_s: float = 30.0) -> AsyncIterator[EmailTransport]:
    server = await asyncio.start_server(script.serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    transport = EmailTransport(SmtpServer.parse(f"smtp://127.0.0.1:{port}"), 1, timeout_s)
    try:
        yield transport
    finally:
        await transport.close()
        server.close()


async def send(transport: EmailTransport, mail: Mail = MAIL) -> Outcome:
    async with transport.link() as link:
        return await link.send(mail)


@pytest.mark.parametrize("step", [1, 7, 1_000])
@pytest.mark.parametrize("loop", [asyncio.new_event_loop, quick_loop()], ids=["asyncio", "uvloop"])
def test_an_envelope_leaves_whole_and_its_replies_come_in_any_pieces(
    loop: Callable[[], asyncio.AbstractEventLoop], step: int
) -> None:
    script = Script(
        ["250-ok\r\n250 really", "251 will forward", "354-go\r\n354 on", "250-2.0.0 taken\r\n250 as 4711"], step
    )

    async def two() -> list[Outcome]:
        async with to(script) as transport:
            return [await send(transport), await send(transport)]

    with asyncio.Runner(loop_factory=loop) as runner:
        first, second = runner.run(two())
    assert (first.status, first.code, first.detail) == ("sent", 250, "2.0.0 taken as 4711")
    assert second.status == "sent"
    assert script.heard == [[*ENVELOPE, *CONTENT, *ENVELOPE, *CONTENT, b"QUIT"]]


REFUSALS = [
    # replies to MAIL, RCPT and DATA; outcome; whether the server waits for a content
    (("550 no", "503 no", "503 no"), ("failed", 550, "sender_refused"), False),
    (("451 later", "503 no", "503 no"), ("deferred", 451, "sender_refused"), False),
    (("550 no", "550 no", "354 go on"), ("failed", 550, "sender_refused"), True),
    (("250 ok", "550 no", "503 no"), ("bounced", 550, "recipient_refused"), False),
    (("250 ok", "550 no", "354 go on"), ("bounced", 550, "recipient_refused"), True),
    (("250 ok", "451 later", "354 go on"), ("deferred", 451, "recipient_refused"), True),
    (("250 ok", "250 ok", "554 no"), ("bounced", 554, "content_refused"), False),
    (("250 ok", "250 ok", "452 full"), ("deferred", 452, "content_refused"), False),
]


@pytest.mark.parametrize(("replies", "outcome", "waits"), REFUSALS)
@pytest.mark.parametrize("end", ["554 no valid recipients", "250 nothing taken"])
async def test_a_refusal_sends_no_content_and_keeps_the_connection(
    replies: tuple[str, ...], outcome: tuple[str, int, str], waits: bool, end: str
) -> None:
    script = Script([*replies, end] if waits else replies)
    async with to(script) as transport:
        first, second = await send(transport), await send(transport)
    assert (first.status, first.code, first.reason) == outcome and second.status == "sent"
    ended = [b"."] if waits else []
    assert script.heard == [[*ENVELOPE, *ended, b"RSET", *ENVELOPE, *CONTENT, b"QUIT"]]


@pytest.mark.parametrize(
    ("replies", "outcome"),
    [
        (("421 closing", GONE), ("deferred", 421, "sender_refused")),
        (("250 ok", "421 closing", GONE), ("deferred", 421, "recipient_refused")),
        (("250 ok", "250 ok", "421 closing", GONE), ("deferred", 421, "content_refused")),
        (("421 closing", "421 closing", "421 closing"), ("deferred", 421, "sender_refused")),
        (("250 ok", "550 no", GONE), ("bounced", 550, "recipient_refused")),
        (("250 ok", "550 no", "354 go on", GONE), ("bounced", 550, "recipient_refused")),
        ((GONE,), ("deferred", 0, "connection_lost")),
        (("250 ok", GONE), ("deferred", 0, "connection_lost")),
        (("250 ok", "250 ok", GONE), ("deferred", 0, "connection_lost")),  # no byte of the content has left
        (("250 ok", "what?", GONE), ("deferred", 0, "connection_lost")),
        (("250 ok", "250 ok", "x" * 40_000), ("deferred", 0, "connection_lost")),
        ((*OK, GONE), ("unknown", 0, "reply_lost")),
        ((*OK, "what?"), ("unknown", 0, "reply_lost")),
        ((*OK, "421 closing"), ("deferred", 421, "content_refused")),
    ],
)
async def test_a_connection_that_ends_is_judged_by_what_was_said_and_never_used_again(
    replies: tuple[str, ...], outcome: tuple[str, int, str]
) -> None:
    script = Script([*replies, *(GONE for _ in range(4 - len(replies)))])
    async with to(script) as transport:
        first, second = await send(transport), await send(transport)
    assert (first.status, first.code, first.reason) == outcome and second.status == "sent"
    assert script.heard[1] == [*ENVELOPE, *CONTENT, b"QUIT"]
    assert (script.heard[0][3:] == CONTENT) == (replies[:3] == OK)


@pytest.mark.parametrize(
    ("replies", "outcome"),
    [
        (("250 ok", "250 ok", SILENT), ("deferred", "connection_lost")),
        (("250 ok", "550 no", SILENT), ("bounced", "recipient_refused")),
        ((*OK, SILENT), ("unknown", "reply_lost")),
    ],
)
async def test_a_server_that_falls_silent_within_a_group_is_waited_for_in_bounds(
    replies: tuple[str, ...], outcome: tuple[str, str]
) -> None:
    script = Script(replies)
    async with to(script, timeout_s=1) as transport:
        first = await send(transport)
    assert (first.status, first.reason) == outcome


async def test_a_kept_connection_that_breaks_before_the_content_costs_nothing() -> None:
    script = Script([*OK, "250 taken", "250 ok", "250 ok", GONE])
    async with to(script) as transport:
        assert [(await send(transport)).status for _ in range(2)] == ["sent", "sent"]
    assert script.heard[0][-3:] == ENVELOPE and script.heard[1] == [*ENVELOPE, *CONTENT]


async def test_what_a_server_says_unasked_is_no_reply_to_the_next_mail() -> None:
    script = Script([*OK, "250 taken\r\n250 and more\r\n550 no"])
    async with to(script) as transport:
        assert [(await send(transport)).status for _ in range(2)] == ["sent", "sent"]


async def test_an_address_with_a_line_end_never_becomes_a_command() -> None:
    script = Script([])
    async with to(script) as transport:
        with pytest.raises(ValueError, match="control character"):
            await send(transport, Mail("a@b.example", "u@mail.example>\r\nRSET", "1@b.example", b""))
    assert script.heard == [[]]


@pytest.mark.parametrize(
    ("content", "wire"),
    [
        (b"", b"\r\n.\r\n"),
        (b"a\r\n", b"a\r\n.\r\n"),
        (b"a", b"a\r\n.\r\n"),
        (b".\r\n..\r\n.\r\n", b"..\r\n...\r\n..\r\n.\r\n"),
        (b"a\n.\nb\r\r\n", b"a\r\n..\r\nb\r\n\r\n.\r\n"),
        (b"a\n.\r\nb", b"a\r\n..\r\nb\r\n.\r\n"),
        (b"a\r.\r", b"a\r\n..\r\n.\r\n"),
    ],
)
def test_nothing_in_a_content_can_end_it(content: bytes, wire: bytes) -> None:
    assert on_the_wire(content) == wire
