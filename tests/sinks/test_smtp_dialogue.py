"""One SMTP connection: commands ahead where the server allows it, and never an answer taken for another one's."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from sinks.smtp_dialogue import Dialogue, Lost, stuffed

Answer = Callable[[bytes], bytes | None]
"""A line as it came, or a content with its dot -> what is said; None: hang up."""


class Server:
    """Answers what it is told to; keeps what came, one entry per packet read, and each line."""

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        self.packets: list[bytes] = []
        self.lines: list[bytes] = []
        self.contents: list[bytes] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        buffer = b""
        in_content = False
        try:
            while packet := await reader.read(65_536):
                self.packets.append(packet)
                buffer += packet
                while True:
                    end = (buffer if not in_content else b"\r\n" + buffer).find(b"\r\n.\r\n" if in_content else b"\r\n")
                    if end < 0:
                        break
                    if in_content:
                        whole, buffer = buffer[:end], buffer[end + 3 :]
                        self.contents.append(whole)
                        said = self.answer(b"CONTENT")
                    else:
                        line, buffer = buffer[:end], buffer[end + 2 :]
                        self.lines.append(line)
                        said = self.answer(line)
                    if said is None:
                        return
                    in_content = not in_content and said.startswith(b"354")
                    writer.write(said + b"\r\n")
        finally:
            writer.close()


def yes(line: bytes) -> bytes:
    return b"354 go on" if line == b"DATA" else b"250 ok"


@asynccontextmanager
async def talking(answer: Answer, pipelining: bool = True) -> AsyncIterator[tuple[Dialogue, Server]]:
    server = Server(answer)
    listener = await asyncio.start_server(server.serve, "127.0.0.1", 0)
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_connection(asyncio.Protocol, *listener.sockets[0].getsockname())
    dialogue = Dialogue(transport, pipelining, 20)
    try:
        yield dialogue, server
    finally:
        dialogue.drop()
        listener.close()
        await listener.wait_closed()


async def mail(dialogue: Dialogue, content: bytes = b"Subject: x\r\n\r\nhello\r\n") -> list[int]:
    replies = await dialogue.begin("a@shop.example", "b@mail.example")
    codes = [reply.code for reply in replies]
    return [*codes, (await dialogue.content(content)).code] if codes[-1] == 354 else codes


async def test_commands_go_ahead_where_the_server_allows_it() -> None:
    async with talking(yes) as (dialogue, server):
        assert await mail(dialogue) == [250, 250, 354, 250]
        assert server.packets[0] == b"MAIL FROM:<a@shop.example>\r\nRCPT TO:<b@mail.example>\r\nDATA\r\n"


async def test_without_pipelining_each_command_waits_for_its_answer() -> None:
    async with talking(lambda line: b"550 no" if line.startswith(b"RCPT") else yes(line), False) as (dialogue, server):
        assert await mail(dialogue) == [250, 550]
        assert server.lines == [b"MAIL FROM:<a@shop.example>", b"RCPT TO:<b@mail.example>"]


@pytest.mark.parametrize("data", [b"354 go on", b"503 no recipients"])
async def test_after_a_refused_recipient_the_next_mail_is_whole(data: bytes) -> None:
    refused: list[bytes] = []

    def answer(line: bytes) -> bytes:
        if line.startswith(b"RCPT") and not refused:
            refused.append(line)
            return b"550 5.1.1 unknown"
        return data if line == b"DATA" and len(refused) == 1 and not server.contents else yes(line)

    async with talking(answer) as (dialogue, server):
        assert await mail(dialogue) == [250, 550]
        await dialogue.reset()
        if data.startswith(b"503"):
            server.contents.append(b"")  # there was none to be ended
        assert await mail(dialogue, b"second\r\n") == [250, 250, 354, 250]
        assert server.contents == [b"", b"second\r\n"]


async def test_a_server_that_says_why_it_hangs_up_is_heard() -> None:
    said = iter([b"421 too many mails", None])
    async with talking(lambda line: next(said)) as (dialogue, _):
        assert await mail(dialogue) == [421]
        assert not dialogue.connected


async def test_a_connection_that_breaks_before_the_content_hands_over_nothing() -> None:
    async with talking(lambda line: None) as (dialogue, server):
        with pytest.raises(Lost):
            await dialogue.begin("a@shop.example", "b@mail.example")
        assert server.contents == []


async def test_what_nobody_asked_for_is_no_answer_to_the_next_command() -> None:
    async with talking(lambda line: yes(line) + (b"\r\n250 once more" if line == b"CONTENT" else b"")) as (dialogue, _):
        with pytest.raises(Lost):
            await mail(dialogue)
            await dialogue.begin("a@shop.example", "b@mail.example")


async def test_who_stops_waiting_leaves_no_answer_behind() -> None:
    async with talking(lambda line: b"") as (dialogue, _):
        waiting = asyncio.create_task(dialogue.begin("a@shop.example", "b@mail.example"))
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert not dialogue.connected


@pytest.mark.parametrize("told", [b"hello", b"2 5", b"250x", b"x" * 40_000])
async def test_what_is_no_reply_ends_the_connection(told: bytes) -> None:
    async with talking(lambda line: told) as (dialogue, _):
        with pytest.raises(Lost):
            await dialogue.begin("a@shop.example", "b@mail.example")


async def test_a_reply_of_many_lines_is_one_reply() -> None:
    def answer(line: bytes) -> bytes:
        return b"550-no\r\n550-such\r\n550 mailbox" if line.startswith(b"RCPT") else yes(line)

    async with talking(answer, False) as (dialogue, _):
        replies = await dialogue.begin("a@shop.example", "b@mail.example")
        assert [reply.text for reply in replies] == ["ok", "no\nsuch\nmailbox"]


@pytest.mark.parametrize("address", ["a@b.example>\r\nRCPT TO:<x@y.example", "a\r\nDATA", "a@b<c>"])
async def test_an_address_that_would_be_more_than_one_is_refused(address: str) -> None:
    async with talking(yes) as (dialogue, server):
        with pytest.raises(ValueError, match="bracket"):
            await dialogue.begin("a@shop.example", address)
        assert server.packets == []


@pytest.mark.parametrize(
    ("content", "wire"),
    [
        (b"a\r\n.\r\nb\r\n", b"a\r\n..\r\nb\r\n.\r\n"),
        (b".a\r\n..b", b"..a\r\n...b\r\n.\r\n"),
        (b"a\n.\nb\r.\r\n", b"a\r\n..\r\nb\r\n..\r\n.\r\n"),  # no bare end of line may hide an end of content
        (b"", b"\r\n.\r\n"),
    ],
)
def test_no_content_can_end_itself(content: bytes, wire: bytes) -> None:
    assert stuffed(content) == wire
    assert wire.count(b"\r\n.\r\n") == 1
