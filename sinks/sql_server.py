"""ClickHouse's HTTP interface over `sinks.chdb_server.Reader`, on loopback, with a password: enough for usual clients.

    GET  /ping, /replicas_status                       Ok.
    GET  /?query=SELECT…  and  POST / (query in the body, in ?query=, or both joined)
    login: X-ClickHouse-User/-Key, basic, or ?user=&password=
    ?database= or X-ClickHouse-Database, ?default_format= or X-ClickHouse-Format, ?param_NAME=, ?SETTING=

Not here: sessions, external tables, compressed requests, roles. Errors carry ClickHouse's code, text and HTTP status.
"""

import asyncio
import base64
import binascii
import hmac
import os
import secrets
import threading
import zlib
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import structlog
from aiohttp import web

from schemas.errors import OperatorError
from sinks.chdb_server import Answer, QueryError, Reader

USER = "default"
HOST = "127.0.0.1"
MAX_QUERY_BYTES = 1024 * 1024
THREADS = 4  # queries at a time; each may use both cores
WAITING = 32  # beyond the running ones; more are told to come back
START_SECONDS = 30
# Parameters of the transport, not settings of a query. Session ids are accepted and mean nothing: each query stands
# alone.
TRANSPORT = frozenset(
    {
        "query", "user", "password", "database", "default_format", "query_id", "session_id", "session_timeout",
        "session_check",
        "quota_key", "buffer_size", "wait_end_of_query", "client_protocol_version", "role", "enable_http_compression",
        "send_progress_in_http_headers", "http_headers_progress_interval_ms", "http_zlib_compression_level",
        "add_http_cors_header",
        "cancel_http_readonly_queries_on_client_close", "compress", "decompress", "readonly", "stacktrace",
    }
)  # fmt: skip
CONTENT_TYPES = {
    "JSON": "application/json; charset=UTF-8",
    "JSONCompact": "application/json; charset=UTF-8",
    "JSONEachRow": "application/x-ndjson; charset=UTF-8",
    "CSV": "text/csv; charset=UTF-8; header=absent",
    "CSVWithNames": "text/csv; charset=UTF-8; header=present",
    "TabSeparated": "text/tab-separated-values; charset=UTF-8",
    "TSV": "text/tab-separated-values; charset=UTF-8",
    "TabSeparatedWithNames": "text/tab-separated-values; charset=UTF-8",
    "Native": "application/octet-stream",
    "RowBinary": "application/octet-stream",
    "Parquet": "application/octet-stream",
    "Arrow": "application/octet-stream",
}
# As ClickHouse maps them; what is not listed is 500.
STATUSES = {
    192: 403, 193: 403, 497: 403,
    36: 400, 43: 400, 44: 400, 53: 400, 62: 400, 69: 400, 42: 400, 35: 400, 456: 400, 457: 400, 386: 400, 27: 400, 38:
    400, 41: 400, 72: 400,
    46: 404, 47: 404, 50: 404, 60: 404, 63: 404, 73: 404, 81: 404, 115: 404,
    159: 408, 223: 413, 48: 501, 202: 503, 236: 503,
}  # fmt: skip

log = structlog.get_logger(__name__)


class Address(msgspec.Struct):
    """How to reach a running server; written to a file that only its owner can read."""

    host: str
    port: int
    password: str
    database: str
    pid: int


class SqlServer:
    """Serves one reader in a thread with an event loop of its own.

    Args:
        port: 0 takes a free one; see `port` after `start`.
        password: empty makes one; see `password`.
        address_file: where to write `Address` for the command line (mode 600); removed by `stop`.
    """

    def __init__(
        self, reader: Reader, database: str, *, port: int = 0, password: str = "", address_file: Path | None = None
    ) -> None:
        self.password = password or secrets.token_urlsafe(18)
        self.port = port
        self._reader = reader
        self._database = database
        self._address_file = address_file
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="sql")
        self._busy = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopping: asyncio.Event | None = None
        self._ready = threading.Event()
        self._error: OSError | None = None
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), name="sql-server", daemon=True)

    def start(self) -> None:
        """Listen on loopback.

        Raises:
            OperatorError: the port is taken.
        """
        self._thread.start()
        self._ready.wait(START_SECONDS)
        if self._error is not None:
            raise OperatorError(
                f"TIDINGS_SQL_PORT: cannot listen on {HOST} (got {self.port}: {self._error.strerror});"
                " set another port, or 0 for a free one",
                exit_code=3,
            )
        if self._address_file is not None:
            _write_private(
                self._address_file,
                msgspec.json.encode(Address(HOST, self.port, self.password, self._database, os.getpid())),
            )
        log.info("sql_server_started", host=HOST, port=self.port)

    def stop(self) -> None:
        """Stop listening and wait for queries that run (their own time limit bounds the wait)."""
        if self._loop is not None and self._stopping is not None and self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stopping.set)
            self._thread.join()
        self._pool.shutdown(wait=True, cancel_futures=True)
        if self._address_file is not None:
            self._address_file.unlink(missing_ok=True)

    async def _serve(self) -> None:
        self._loop, self._stopping = asyncio.get_running_loop(), asyncio.Event()
        app = web.Application(client_max_size=MAX_QUERY_BYTES)
        app.router.add_get("/ping", _ok)
        app.router.add_get("/replicas_status", _ok)
        app.router.add_route("*", "/", self._answer)
        runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=5.0)
        await runner.setup()
        try:
            site = web.TCPSite(runner, HOST, self.port)
            try:
                await site.start()
            except OSError as error:
                self._error = error
                return
            self.port = runner.addresses[0][1]
            self._ready.set()
            await self._stopping.wait()
        finally:
            self._ready.set()
            await runner.cleanup()

    async def _answer(self, request: web.Request) -> web.Response:
        query_id = request.query.get("query_id") or secrets.token_hex(16)
        if request.method == "GET" and "query" not in request.query and not request.can_read_body:
            return web.Response(text="Ok.\n")
        headers = {"Server": "tidings"}
        try:
            self._log_in(request)
        except QueryError as error:
            headers["X-ClickHouse-Exception-Code"] = str(error.code)
            headers["WWW-Authenticate"] = 'Basic realm="ClickHouse server HTTP API"'
            return web.Response(status=401, text=error.text(""), headers=headers)
        headers["X-ClickHouse-Query-Id"] = query_id if query_id.isascii() and query_id.isprintable() else ""
        headers["X-ClickHouse-Server-Display-Name"] = "tidings"
        headers["X-ClickHouse-Timezone"] = self._reader.timezone
        try:
            answer = await self._run(request, await _query_text(request))
        except QueryError as error:
            status = STATUSES.get(error.code, 500)
            headers["X-ClickHouse-Exception-Code"] = str(error.code)
            return web.Response(status=status, text=error.text(self._reader.version), headers=headers)
        headers["X-ClickHouse-Format"] = answer.format
        headers["X-ClickHouse-Summary"] = _summary(answer)
        headers["Content-Type"] = CONTENT_TYPES.get(answer.format, "text/plain; charset=UTF-8")
        return web.Response(body=answer.body, headers=headers)

    async def _run(self, request: web.Request, query: str) -> Answer:
        if not query.strip():
            raise QueryError(62, "SYNTAX_ERROR", "Syntax error: Empty query")
        if self._busy >= THREADS + WAITING:
            raise QueryError(202, "TOO_MANY_SIMULTANEOUS_QUERIES", "Too many simultaneous queries")
        asked = request.query
        if asked.get("compress", "0") not in ("0", "") or asked.get("decompress", "0") not in ("0", ""):
            raise QueryError(48, "NOT_IMPLEMENTED", "compress and decompress are not supported here")
        self._busy += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(
                self._pool,
                lambda: self._reader.run(
                    query,
                    database=asked.get("database") or request.headers.get("X-ClickHouse-Database") or "",
                    default_format=asked.get("default_format")
                    or request.headers.get("X-ClickHouse-Format")
                    or "TabSeparated",
                    parameters={name[6:]: value for name, value in asked.items() if name.startswith("param_")},
                    settings={n: v for n, v in asked.items() if n not in TRANSPORT and not n.startswith("param_")},
                ),
            )
        finally:
            self._busy -= 1

    def _log_in(self, request: web.Request) -> None:
        user, password = _credentials(request.headers, request.query)
        if password is None:
            raise QueryError(194, "REQUIRED_PASSWORD", "Authentication failed: a password is required")
        same = hmac.compare_digest(password.encode("utf-8", "replace"), self.password.encode())
        if user != USER or not same:
            raise QueryError(
                516,
                "AUTHENTICATION_FAILED",
                f"{USER}: Authentication failed: password is incorrect, or there is no such user",
            )


def read_address(path: Path) -> Address | None:
    """Read what a running server wrote; None when there is none."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Address)
    except (OSError, msgspec.DecodeError):
        return None


async def _ok(request: web.Request) -> web.Response:
    return web.Response(text="Ok.\n")


def _credentials(headers: Mapping[str, str], query: Mapping[str, str]) -> tuple[str, str | None]:
    if "X-ClickHouse-User" in headers or "X-ClickHouse-Key" in headers:
        return headers.get("X-ClickHouse-User", USER), headers.get("X-ClickHouse-Key", "")
    scheme, _, encoded = headers.get("Authorization", "").partition(" ")
    if scheme.lower() == "basic":
        try:
            user, _, password = base64.b64decode(encoded, validate=True).decode().partition(":")
        except (binascii.Error, UnicodeDecodeError):
            return "", ""
        return user, password
    return query.get("user", USER), query.get("password")


async def _query_text(request: web.Request) -> str:
    if request.content_type.startswith("multipart/"):
        raise QueryError(48, "NOT_IMPLEMENTED", "External tables and forms are not supported here")
    try:
        body = await request.read()
    except web.HTTPRequestEntityTooLarge:
        raise QueryError(223, "QUERY_IS_TOO_LARGE", f"A query may have {MAX_QUERY_BYTES} bytes") from None
    encoding = request.headers.get("Content-Encoding", "identity")
    if encoding not in ("identity", "", "gzip", "deflate"):
        raise QueryError(48, "NOT_IMPLEMENTED", "Content-Encoding of a request: gzip or none")
    if body[:2] == b"\x1f\x8b":  # aiohttp unpacks bodies that say so; this one did not
        body = _unpacked(body)
    try:
        text = body.decode()
    except UnicodeDecodeError:
        raise QueryError(62, "SYNTAX_ERROR", "Syntax error: the query is not UTF-8") from None
    return "\n".join(part for part in (request.query.get("query", ""), text) if part)


def _unpacked(body: bytes) -> bytes:
    unpacking = zlib.decompressobj(zlib.MAX_WBITS | 16)
    try:
        found = unpacking.decompress(body, MAX_QUERY_BYTES)
    except zlib.error:
        raise QueryError(62, "SYNTAX_ERROR", "Syntax error: the query is no gzip") from None
    if not unpacking.eof:
        raise QueryError(223, "QUERY_IS_TOO_LARGE", f"A query may have {MAX_QUERY_BYTES} bytes, and all of them")
    return found


def _summary(answer: Answer) -> str:
    facts = {
        "read_rows": answer.read_rows, "read_bytes": answer.read_bytes, "written_rows": 0, "written_bytes": 0,
        "total_rows_to_read": answer.read_rows, "result_rows": answer.result_rows, "result_bytes": len(answer.body),
        "elapsed_ns": answer.elapsed_ns,
    }  # fmt: skip
    return msgspec.json.encode({name: str(value) for name, value in facts.items()}).decode()


def _write_private(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f"{path.name}.{os.getpid()}")
    handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(handle, "wb") as file:
        file.write(content)
    draft.replace(path)
