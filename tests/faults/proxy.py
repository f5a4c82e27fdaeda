"""A TCP proxy before the broker, which can be cut like a network cable, one per worker."""

import asyncio
import contextlib
import socket
import threading
from typing import Any

OPEN = "open"
HANG = "hang"  # nothing gets through, and nobody is told: a cable is out
MUTE = "mute"  # requests arrive and are obeyed, answers are lost
REFUSE = "refuse"  # connections are closed, new ones refused: a firewall's doing
CUTS = (HANG, MUTE, REFUSE)


class Proxies:
    """Listeners on ports of their own, each passing on to one port; all in one thread."""

    def __init__(self) -> None:
        self._modes: dict[int, str] = {}
        self._connections: dict[int, set[asyncio.StreamWriter]] = {}
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxies", daemon=True)
        self._thread.start()

    def add(self, target: int) -> int:
        """Listen on a free port; gives it."""
        listener = socket.create_server(("127.0.0.1", 0))
        port = int(listener.getsockname()[1])
        self._modes[port], self._connections[port] = OPEN, set()
        asyncio.run_coroutine_threadsafe(self._serve(listener, port, target), self._loop).result(10)
        return port

    def set(self, port: int, mode: str) -> None:
        """Cut, or join again. What was torn does not come back: its connections end."""
        self._loop.call_soon_threadsafe(self._set, port, mode)

    def close(self) -> None:
        for port in self._modes:
            self.set(port, REFUSE)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)

    def _set(self, port: int, mode: str) -> None:
        self._modes[port] = mode
        if mode in (REFUSE, OPEN):
            for writer in list(self._connections[port]):
                writer.transport.abort()

    async def _serve(self, listener: socket.socket, port: int, target: int) -> None:
        async def accepted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await self._pass_on(port, target, reader, writer)

        await asyncio.start_server(accepted, sock=listener)

    async def _pass_on(
        self, port: int, target: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        own = self._connections[port]
        own.add(writer)
        there: Any = None
        try:
            if self._modes[port] == REFUSE:
                return
            while self._modes[port] == HANG:
                await asyncio.sleep(0.05)
                if writer.transport.is_closing():
                    return
            answers, there = await asyncio.open_connection("127.0.0.1", target)
            own.add(there)
            await asyncio.gather(self._pump(port, reader, there, HANG), self._pump(port, answers, writer, HANG, MUTE))
        except OSError:
            pass
        finally:
            for end in (writer, there):
                if end is not None:
                    own.discard(end)
                    end.transport.abort()

    async def _pump(self, port: int, source: asyncio.StreamReader, sink: asyncio.StreamWriter, *lost: str) -> None:
        with contextlib.suppress(OSError):
            while data := await source.read(65_536):
                if self._modes[port] in lost:
                    continue  # the stream has a hole now; `_set` ends the connection before anything else passes
                sink.write(data)
                await sink.drain()
        sink.transport.abort()
