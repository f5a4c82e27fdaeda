"""A small real HTTP server that speaks the documented endpoints of a schema registry."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class FakeRegistry(ThreadingHTTPServer):
    """Schemas by id, ids by subject; `failing` makes every answer that status; `asked` counts requests."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.schemas: list[dict[str, Any]] = []
        self.failing = 0
        self.asked = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    server: FakeRegistry

    def do_GET(self) -> None:
        number = int(self.path.split("?")[0].removeprefix("/schemas/ids/"))
        if number > len(self.server.schemas):
            self._answer(404, {"error_code": 40403, "message": "Schema not found"})
        else:
            self._answer(200, self.server.schemas[number - 1])

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if "/versions" not in self.path:
            self._answer(404, {"error_code": 40403, "message": "Schema not found"})
            return
        if body not in self.server.schemas:
            self.server.schemas.append(body)
        self._answer(200, {"id": self.server.schemas.index(body) + 1})

    def _answer(self, status: int, body: dict[str, Any]) -> None:
        self.server.asked += 1
        if self.server.failing:
            status, body = self.server.failing, {"error_code": self.server.failing * 100 + 1, "message": "no"}
        raw = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/vnd.schemaregistry.v1+json")
        self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)

    def log_message(self, format: str, *args: Any) -> None:
        """Stay silent."""


@contextmanager
def registry_server() -> Iterator[FakeRegistry]:
    """Run one on a free port of loopback."""
    running = FakeRegistry()
    thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield running
    finally:
        running.shutdown()
        running.server_close()
        thread.join()
