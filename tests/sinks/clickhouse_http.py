"""A ClickHouse server for tests: chDB behind ClickHouse's HTTP interface, writable, which can go away and come back.

Real SQL, real Native blocks, real deduplication; only the network edge is ours. Compressed inserts are unpacked here.
"""

import asyncio
import tempfile
import threading
from pathlib import Path
from typing import Any

import chdb
import lz4.frame  # type: ignore[import-untyped]
from aiohttp import web


class ClickHouseOverHttp:
    """`start` and `stop` may be called again and again; the port stays, and so do the data."""

    def __init__(self, directory: Path) -> None:
        self._engine: Any = chdb.connect(str(directory.resolve()))
        self.port = 0
        self.inserts = 0
        self.swallow_answers = 0  # so many next inserts are done, and their answer is lost
        self._thread: threading.Thread | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve(ready)), daemon=True)
        self._thread.start()
        assert ready.wait(10)

    def stop(self) -> None:
        if self._thread is not None:
            self._loop.call_soon_threadsafe(self._stopping.set)
            self._thread.join()
            self._thread = None

    def close(self) -> None:
        self.stop()
        self._engine.close()

    def rows(self, query: str) -> list[list[str]]:
        text = self._engine.query(query, "TabSeparated").bytes().decode()
        return [line.split("\t") for line in text.splitlines()]

    async def _serve(self, ready: threading.Event) -> None:
        self._loop, self._stopping = asyncio.get_running_loop(), asyncio.Event()
        app = web.Application(client_max_size=64 * 1024 * 1024)
        app.router.add_route("*", "/{path:.*}", self._answer)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", self.port, reuse_address=True)
        await site.start()
        self.port = runner.addresses[0][1]
        ready.set()
        await self._stopping.wait()
        await runner.cleanup()

    async def _answer(self, request: web.Request) -> web.Response:
        body = await request.read()
        if request.headers.get("Content-Encoding") == "lz4":
            body = lz4.frame.decompress(body)
        asked = dict(request.query)
        text = asked.pop("query", "").encode() + body
        database = asked.pop("database", "")
        settings = {n: v for n, v in asked.items() if n.startswith(("insert_", "async_insert", "max_partitions"))}
        parameters = {n[6:]: v for n, v in asked.items() if n.startswith("param_")}
        try:
            found, answered = self._run(text, database, settings, parameters)
        except RuntimeError as error:
            code = str(error).partition("Code: ")[2].partition(".")[0] or "1002"
            return web.Response(status=500, text=str(error), headers={"X-ClickHouse-Exception-Code": code})
        if self.swallow_answers and text.startswith(b"INSERT"):
            self.swallow_answers -= 1
            if request.transport is not None:
                request.transport.abort()
        headers = {"X-ClickHouse-Summary": "{}", "X-ClickHouse-Timezone": "UTC"}
        return web.Response(body=found, headers=headers | ({"X-ClickHouse-Format": answered} if answered else {}))

    def _run(
        self, text: bytes, database: str, settings: dict[str, str], parameters: dict[str, str]
    ) -> tuple[bytes, str]:
        if database:
            self._engine.query(f"USE {database}")
        head, separator, block = text.partition(b" FORMAT Native\n")
        if head.startswith(b"INSERT INTO") and separator:
            self.inserts += 1
            with tempfile.NamedTemporaryFile(suffix=".native") as file:
                file.write(block)
                file.flush()
                said = ", ".join(f"{name} = '{value}'" for name, value in settings.items())
                self._engine.query(f"{head.decode()} FROM INFILE '{file.name}' SETTINGS {said} FORMAT Native")
            return b"", ""
        query = text.decode().strip()
        answered = query.rsplit("FORMAT ", 1)[1].strip() if "FORMAT " in query else "TabSeparated"
        result = self._engine.query(query, answered, params=parameters).bytes()
        return result, answered if result else ""
