"""An SMTP server that takes mail for as little work as it can, in a process of its own: it delivers and checks nothing.

As a program it is that server: it prints its port, and answers each line of its input with what it took, as JSON. It
answers pipelined commands (RFC 2920) in one write, as Postfix does. aiosmtpd needs more processor time for a mail than
our delivery does, so it would be what is measured.
"""

import asyncio
import json
import re
import subprocess
import sys
import threading
import time
from types import TracebackType
from typing import Any

from benchmarks.harness import ROOT
from schemas.errors import StateError

END = b"\r\n.\r\n"
HELLO = b"250-sink\r\n250-PIPELINING\r\n250-8BITMIME\r\n250 SIZE 52428800\r\n"
FINAL = b"250 2.0.0 Ok: taken, not delivered\r\n"
ANSWER_S = 30.0
_RECIPIENT = re.compile(rb"RCPT TO:<([^>@]+)@", re.IGNORECASE)


class Counts:
    """What the server took. `timed`: when (wall clock, ns) DATA came, for recipients that begin with `watch`."""

    def __init__(self, watch: bytes) -> None:
        self.watch = watch
        self.mails = 0
        self.bytes = 0
        self.timed: dict[str, int] = {}


class Session(asyncio.Protocol):
    """One connection."""

    def __init__(self, counts: Counts) -> None:
        self._counts = counts
        self._buffer = bytearray()
        self._in_data = False
        self._recipient = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Greet."""
        self._transport = transport
        self._write(b"220 sink\r\n")

    def data_received(self, data: bytes) -> None:
        """Answer what is whole."""
        self._buffer += data
        replies: list[bytes] = []
        while self._buffer:
            taken = self._content(replies) if self._in_data else self._command(replies)
            if not taken:
                break
        if replies:
            self._write(b"".join(replies))

    def _content(self, replies: list[bytes]) -> bool:
        end = self._buffer.find(END)
        if end < 0:
            return False
        self._counts.mails += 1
        self._counts.bytes += end
        del self._buffer[: end + len(END)]
        self._in_data = False
        replies.append(FINAL)
        return True

    def _command(self, replies: list[bytes]) -> bool:
        end = self._buffer.find(b"\r\n")
        if end < 0:
            return False
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 2]
        verb = line[:4].upper()
        if verb == b"DATA":
            self._in_data = True
            replies.append(b"354 go on\r\n")
            if self._counts.watch and self._recipient.startswith(self._counts.watch):
                self._counts.timed.setdefault(self._recipient.decode(), time.time_ns())
        elif verb in (b"EHLO", b"HELO"):
            replies.append(HELLO)
        elif verb == b"QUIT":
            replies.append(b"221 bye\r\n")
        else:
            if verb == b"RCPT":
                found = _RECIPIENT.match(line)
                self._recipient = found[1] if found else b""
            replies.append(b"250 Ok\r\n")
        return True

    def _write(self, data: bytes) -> None:
        transport = self._transport
        if isinstance(transport, asyncio.Transport):
            transport.write(data)


class Sink:
    """The server as a child process; a context manager.

    Args:
        watch: notes the time of mails to recipients that begin so.
    """

    def __init__(self, watch: str = "") -> None:
        command = [sys.executable, "-m", "benchmarks.smtp_sink", watch]
        self._process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.url = f"smtp://127.0.0.1:{self._line().strip()}"

    def mails(self) -> int:
        """Return how many mails were taken."""
        return int(self._ask()["mails"])

    def cpu_s(self) -> float:
        """Return the processor time the server has used."""
        return float(self._ask()["cpu_s"])

    def timed(self) -> dict[str, int]:
        """Return the times of the mails that are watched, by the local part of their recipient."""
        return dict(self._ask()["timed"])

    def __enter__(self) -> "Sink":
        """Return the running server."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop it."""
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                stream.close()

    def _ask(self) -> dict[str, Any]:
        if self._process.stdin is None:
            raise StateError("smtp sink: it has no input")
        self._process.stdin.write(b"\n")
        self._process.stdin.flush()
        told: dict[str, Any] = json.loads(self._line())
        return told

    def _line(self) -> str:
        watch = threading.Timer(ANSWER_S, self._process.kill)
        watch.start()
        try:
            line = self._process.stdout.readline().decode() if self._process.stdout is not None else ""
        finally:
            watch.cancel()
        if not line:
            raise StateError("smtp sink: it ended or stood still; run it again")
        return line


async def be_sink(watch: bytes) -> None:
    """Serve until standard input ends."""
    counts = Counts(watch)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Session(counts), "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    while await loop.run_in_executor(None, sys.stdin.readline):
        told = {"mails": counts.mails, "bytes": counts.bytes, "cpu_s": time.process_time(), "timed": counts.timed}
        print(json.dumps(told), flush=True)
    server.close()


if __name__ == "__main__":
    asyncio.run(be_sink(sys.argv[1].encode()))
