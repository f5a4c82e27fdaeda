"""The world around the demo: a company for Viber and text messages, the shop's public address, the members' browsers.

All of it is real HTTP on loopback. The company takes messages and tells later what came of them, to the address that
each request names; it is slow, late, repeats itself, or says nothing. The public address passes `/c`, `/o` and `/r` on
to the delivery worker, as a proxy would. What each message meets follows from the seed and its id.
"""

import contextlib
import heapq
import http.client
import json
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

HOST = "127.0.0.1"
BROWSER = "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0"
SCANNER = "mail-scanner/2.1 (link preview)"
TIMEOUT_S = 60.0  # what a worker took down although nobody waited any more would be counted on one side alone
BODY_BYTES_MAX = 65_536
DELIVERED, UNDELIVERED = "DELIVRD", "UNDELIV"
REPEATED = 0.2  # of what the company tells
# Of Viber messages: nothing is ever told; the member has no Viber; told when the text message is already on its way.
SILENT, WITHOUT, LATE = 0.35, 0.25, 0.10
SMS_FAILS = 0.04
SOON_S, LATE_S = (0.2, 1.5), (9.5, 11.0)
PROVIDERS = """providers:
  viber: &company
    kind: http
    url: {url}/send/viber
    fields: {{to: "{{to_digits}}", text: "{{text}}", id: "{{id}}", callback: "{{callback}}"}}
    ok: {{status: queued}}
    message_id: id
    told_status: state
    told_id: id
    told: {{DELIVRD: delivered, UNDELIV: undelivered}}
  sms:
    <<: *company
    url: {url}/send/sms
    parts_max: 6
channels: {{viber: viber, sms: sms}}
"""


def fate(seed: int, channel: str, ident: str) -> list[tuple[float, str]]:
    """What the company tells of a message: (seconds after it was taken, state); empty: nothing, ever."""
    rng = random.Random(f"company/{seed}/{ident}")  # noqa: S311 chance of a story
    draw, soon, late = rng.random(), rng.uniform(*SOON_S), rng.uniform(*LATE_S)
    if channel == "sms":
        told = [(soon, UNDELIVERED if draw < SMS_FAILS else DELIVERED)]
    elif draw < SILENT:
        told = []
    elif draw < SILENT + WITHOUT:
        told = [(soon, UNDELIVERED)]
    else:
        told = [(late if draw < SILENT + WITHOUT + LATE else soon, DELIVERED)]
    return told * 2 if rng.random() < REPEATED else told


class Outside:
    """A context manager: its server listens on a free port of loopback from the beginning.

    `taken`: by channel, ids of messages that the company took; `told`: (id, state) that were answered with 2xx.
    """

    def __init__(self, seed: int) -> None:
        self.taken: dict[str, set[str]] = {"viber": set(), "sms": set()}
        self.told: set[tuple[str, str]] = set()
        self.counts: Counter[str] = Counter()
        self._seed = seed
        self._delivery: Callable[[], str | None] = lambda: None
        self._lock = threading.Condition()
        self._coming: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = 0
        self._open = 0
        self._ended = False
        self._pool = ThreadPoolExecutor(8, "outside")
        self._server = _Server((HOST, 0), _handler(self))
        self.url = f"http://{HOST}:{self._server.server_port}"

    def __enter__(self) -> "Outside":
        threading.Thread(target=self._server.serve_forever, args=(0.1,), daemon=True).start()
        threading.Thread(target=self._run, daemon=True).start()
        return self

    def __exit__(self, *exc: object) -> None:
        with self._lock:
            self._ended = True
            self._lock.notify()
        self._server.shutdown()
        self._server.server_close()
        self._pool.shutdown(cancel_futures=True)

    def leads_to(self, delivery: Callable[[], str | None]) -> None:
        """Say where the delivery worker answers; asked at each request, for it may start again elsewhere."""
        self._delivery = delivery

    def write_providers(self, path: Path) -> None:
        """Write the providers' file that names the company."""
        path.write_text(PROVIDERS.format(url=self.url), encoding="utf-8")

    def idle(self) -> bool:
        """Tell whether nothing is to come any more."""
        with self._lock:
            return not self._open

    def later(self, seconds: float, act: Callable[[], None]) -> None:
        """Do something in a while, in a thread of the pool; what fails is counted under `failed`."""
        with self._lock:
            self._numbers += 1
            self._open += 1
            heapq.heappush(self._coming, (time.monotonic() + seconds, self._numbers, act))
            self._lock.notify()

    def ask(
        self, method: str, url: str, body: bytes = b"", headers: Mapping[str, str] | None = None
    ) -> tuple[int, Mapping[str, str], bytes]:
        """Make one request; redirects are not followed."""
        found = urlsplit(url)
        connection = http.client.HTTPConnection(found.hostname or HOST, found.port, timeout=TIMEOUT_S)
        try:
            target = found.path + (f"?{found.query}" if found.query else "")
            connection.request(method, target, body or None, dict(headers or {}))
            answer = connection.getresponse()
            return answer.status, {name: value for name, value in answer.getheaders()}, answer.read()
        finally:
            connection.close()

    # ------------------------------------------------------------ what its server does

    def take(self, channel: str, message: Mapping[str, Any]) -> dict[str, Any]:
        """Take a message, and tell later what came of it. A message sent again has the id it had."""
        ident, callback = str(message.get("id")), str(message.get("callback") or "")
        with self._lock:
            known = ident in self.taken[channel]
            self.taken[channel].add(ident)
        if callback and not known:
            for seconds, state in fate(self._seed, channel, ident):
                self.later(seconds, lambda state=state: self._tell(callback, ident, state))  # type: ignore[misc]
        return {"status": "queued", "id": ident}

    def pass_on(
        self, method: str, path: str, body: bytes, headers: Mapping[str, str]
    ) -> tuple[int, Mapping[str, str], bytes]:
        """Ask the delivery worker, as a proxy in front of it does."""
        base = self._delivery()
        if base is None:
            return 503, {}, b""
        kept = {name: value for name, value in headers.items() if name.lower() in ("user-agent", "content-type")}
        return self.ask(method, base + path, body, kept)

    def _tell(self, callback: str, ident: str, state: str) -> None:
        body = json.dumps({"state": state, "id": ident}).encode()
        for _ in range(3):
            status, _, _ = self.ask("POST", callback, body, {"Content-Type": "application/json"})
            if 200 <= status < 300:
                with self._lock:
                    self.told.add((ident, state))
                return
        raise OSError(f"callback: {status}")

    # ------------------------------------------------------------ its clock

    def _run(self) -> None:
        while True:
            with self._lock:
                while not self._ended and (not self._coming or self._coming[0][0] > time.monotonic()):
                    self._lock.wait(self._coming[0][0] - time.monotonic() if self._coming else None)
                if self._ended:
                    return
                _, _, act = heapq.heappop(self._coming)
            self._pool.submit(self._do, act)

    def _do(self, act: Callable[[], None]) -> None:
        try:
            act()
        except (OSError, http.client.HTTPException):
            with self._lock:
                self.counts["failed"] += 1
        finally:
            with self._lock:
                self._open -= 1


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128  # the library's 5 refuses calls that come at once


def _handler(outside: Outside) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._answer()

        def do_POST(self) -> None:
            self._answer()

        def _answer(self) -> None:
            size = int(self.headers.get("Content-Length") or 0)
            body = self.rfile.read(min(size, BODY_BYTES_MAX))
            status, headers, answer = 404, dict[str, str](), b""
            with contextlib.suppress(OSError, http.client.HTTPException, ValueError, KeyError):
                if self.path.startswith("/send/"):
                    taken = outside.take(self.path.removeprefix("/send/"), json.loads(body))
                    status, headers, answer = 200, {"Content-Type": "application/json"}, json.dumps(taken).encode()
                elif self.path.startswith(("/c/", "/o/", "/r/")):
                    passed = outside.pass_on(self.command, self.path, body, dict(self.headers.items()))
                    status, answer = passed[0], passed[2]
                    headers = {name: value for name, value in passed[1].items() if name in ("Location", "Content-Type")}
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(answer))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing: requests hold tokens."""

    return Handler
