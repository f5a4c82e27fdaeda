"""Read-only queries on the chDB of this process, judged before they run, with bounds on time, memory and result.

Each query gets a connection of its own to the one engine of the process (about 2 ms): its settings and its `readonly`
die with it, and it runs beside the sink's inserts, which chDB isolates like a server does.
"""

import os
import re
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import chdb
import msgspec

from sinks.guard import Names, Refusal, judge, judge_text, refused_names

ERROR = re.compile(r"Code: (\d+)\. DB::Exception: (.*)", re.DOTALL)
ERROR_NAME = re.compile(r"\(([A-Z][A-Z0-9_]+)\)\s*$")
INNER_VERSION = re.compile(r" \(version [0-9.]+\)\.?")
TRAILING_FORMAT = re.compile(r"\bFORMAT (\w+)(?: SETTINGS .*)?$")
# Settings a client may send; the first four only downwards. All others are refused: some name files or hosts.
BOUNDED = ("max_execution_time", "max_result_rows", "max_result_bytes", "max_memory_usage")
FREE = re.compile(
    r"^(output_format_(?!schema)\w+|format_csv_\w+|date_time_(in|out)put_format|session_timezone|final|extremes|join_use_nulls|join_algorithm"
    r"|max_rows_to_read|max_bytes_to_read|limit|offset|use_uncompressed_cache|cast_\w+|group_by_use_nulls"
    r"|prefer_column_name_to_alias|log_comment|result_overflow_mode|allow_experimental_analyzer|enable_analyzer)$"
)
# ClickHouse looks at the clock between blocks: what one block may be is bounded too, and goes only downwards.
STEPS = {"max_block_size": 65_409, "max_threads": os.cpu_count() or 1}
FIXED = {"allow_introspection_functions": 0, "function_range_max_elements_in_block": 10_000_000}
READONLY_CODE = 164


class QueryError(Exception):
    """A query that failed or was refused: ClickHouse's code, its name, and the text without the code."""

    def __init__(self, code: int, name: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.name = name
        self.message = message

    def text(self, version: str) -> str:
        """Word it as ClickHouse does over HTTP; without its version for those who are not logged in."""
        said = f" (version {version} (chDB))" if version else ""
        return f"Code: {self.code}. DB::Exception: {self.message} ({self.name}){said}\n"


class Bounds(msgspec.Struct, frozen=True):
    """What one query may take. A result is built in memory before it is sent, so its bound counts twice."""

    seconds: int = 60
    result_rows: int = 5_000_000
    result_bytes: int = 256 * 1024 * 1024
    memory_bytes: int = 2 * 1024 * 1024 * 1024

    def settings(self) -> dict[str, int]:
        """Spell the bounds as ClickHouse settings."""
        return dict(zip(BOUNDED, (self.seconds, self.result_rows, self.result_bytes, self.memory_bytes), strict=True))


class Answer(msgspec.Struct):
    """A result: its bytes in `format`, and what was read to make it."""

    body: bytes
    format: str
    read_rows: int
    read_bytes: int
    elapsed_ns: int
    result_rows: int


class Reader:
    """Runs queries of many threads. Opens the directory in this process; the sink's own connection may be open as well.

    Args:
        directory: chDB's directory, resolved; its lock is the caller's business (`sinks.clickhouse.DirectoryLock`).
        database: the one database that may be read, beside parts of `system`. It must exist.
    """

    def __init__(self, directory: Path, database: str, bounds: Bounds | None = None) -> None:
        self._path = str(directory)
        self._database = database
        self._bounds = bounds or Bounds()
        self._lock = threading.Lock()
        self._keep: Any = _connect(self._path)
        self._names = self._load_names()
        formats = self._rows("SELECT lower(name) FROM system.formats WHERE is_output")
        self._formats = frozenset(name for (name,) in formats)
        version, self.timezone = self._rows("SELECT version(), timezone()")[0]
        self.version = version

    def close(self) -> None:
        """Close the connection that keeps the engine open. Queries that run are finished by their own bounds."""
        with self._lock:
            if self._keep is not None:
                self._keep.close()
                self._keep = None

    def run(
        self,
        query: str,
        *,
        database: str = "",
        default_format: str = "TabSeparated",
        parameters: Mapping[str, str] | None = None,
        settings: Mapping[str, str] | None = None,
    ) -> Answer:
        """Judge and run one query.

        Args:
            query: one statement; a trailing semicolon and a FORMAT clause are welcome.
            default_format: of the answer, when the query names none.
            database: ours, `default` or empty (both mean ours).
            parameters: values of `{name:Type}`, escaped as over HTTP (tabs and line breaks as in TabSeparated).
            settings: of the query; see `BOUNDED` and `FREE`.

        Raises:
            QueryError: refused, or failed in ClickHouse.
        """
        if database not in ("", "default", self._database):
            raise QueryError(
                497, "ACCESS_DENIED", f"Not enough privileges: this server answers on database {self._database} only"
            )
        preamble = self._settings(settings or {})
        handle = self._open()
        try:
            handle.query(f"USE {self._database}")
            handle.query(f"SET {preamble}")
            handle.query("SET readonly = 1")
            canonical = _said(handle, f"SELECT formatQuerySingleLine({_quoted(query)})")
            self._permit(handle, canonical, dict(parameters or {}))
            explicit = TRAILING_FORMAT.search(canonical)
            chosen = explicit[1] if explicit else default_format
            if chosen.lower() not in self._formats:  # chDB has more, which are objects of Python
                raise QueryError(73, "UNKNOWN_FORMAT", "Unknown format")
            # What runs is the spelling that was judged, not the text that came.
            result = handle.query(canonical, chosen, params=dict(parameters or {}))
            body = result.bytes() or b""
            if len(body) > self._bounds.result_bytes:  # ClickHouse does not count what comes in one block
                raise QueryError(396, "TOO_MANY_ROWS_OR_BYTES", "Limit for result exceeded")
            return Answer(
                body=body,
                format=chosen,
                read_rows=int(result.storage_rows_read()),
                read_bytes=int(result.storage_bytes_read()),
                elapsed_ns=int(result.elapsed() * 1e9),
                result_rows=int(result.rows_read()),
            )
        except RuntimeError as error:
            raise _query_error(error) from None
        finally:
            handle.close()

    def _permit(self, handle: Any, canonical: str, parameters: dict[str, str]) -> None:
        refusal: Refusal | None = judge_text(canonical)
        if refusal is None:
            # EXPLAIN of an EXPLAIN is no SQL except for the outermost; EXPLAIN AST runs nothing.
            tree = (
                handle.query(f"EXPLAIN AST {canonical}", "TabSeparatedRaw", params=parameters)
                .bytes()
                .decode("utf-8", "replace")
            )
            refusal = judge(tree, self._names)
        if refusal is not None:
            raise QueryError(refusal.code, refusal.name, refusal.message)

    def _settings(self, wanted: Mapping[str, str]) -> str:
        values: dict[str, Any] = {**self._bounds.settings(), **STEPS, **FIXED}
        for name, value in wanted.items():
            if name in BOUNDED or name in STEPS:
                number = int(value) if value.isdigit() and len(value) < 18 else 0
                values[name] = min(number, values[name]) if number else values[name]
            elif FREE.match(name):
                values[name] = value
            else:
                raise QueryError(READONLY_CODE, "READONLY", f"Cannot modify '{name[:64]}' setting in readonly mode.")
        return ", ".join(f"{name} = {_quoted(str(value))}" for name, value in values.items())

    def _open(self) -> Any:
        with self._lock:
            if self._keep is None:
                raise QueryError(236, "ABORTED", "The server is shutting down")
            return _connect(self._path)

    def _load_names(self) -> Names:
        functions = [
            (name, categories) for name, categories in self._rows("SELECT name, categories FROM system.functions")
        ]
        tables = [name for (name,) in self._rows("SELECT name FROM system.table_functions")]
        databases = frozenset(name for (name,) in self._rows("SELECT name FROM system.databases"))
        known = self._rows("SELECT database, name FROM system.tables")
        own = frozenset(name for database, name in known if database == self._database)
        return Names(self._database, databases, refused_names(functions, tables), own)

    def _rows(self, query: str) -> list[tuple[str, ...]]:
        text = self._keep.query(query, "TabSeparatedRaw").bytes().decode()
        return [tuple(line.split("\t")) for line in text.splitlines()]


def _connect(path: str) -> Any:
    return chdb.connect(path)  # type: ignore[no-untyped-call] # chDB's Python side is not typed throughout


def _said(handle: Any, query: str) -> str:
    text: str = handle.query(query, "TabSeparatedRaw").bytes().decode("utf-8", "replace")
    return text.rstrip("\n")


def _quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def _query_error(error: Exception) -> QueryError:
    text = str(error)
    match = ERROR.search(text)
    if match is None:
        return QueryError(1002, "UNKNOWN_EXCEPTION", "The query failed")
    message = INNER_VERSION.sub("", match[2]).strip()
    name = ERROR_NAME.search(message)
    message = ERROR_NAME.sub("", message).strip()
    # The syntax check is a query of ours around the user's text; its own scope is noise.
    message = re.sub(r"[:.]? ?In scope SELECT formatQuerySingleLine\(.*$", "", message, flags=re.DOTALL)
    return QueryError(int(match[1]), name[1] if name else "UNKNOWN_EXCEPTION", message)
