"""ClickHouse through clickhouse-connect: chDB inside this process, or a server over HTTP(S). Same SQL, same code.

An insert names a token. ClickHouse drops a block whose token it has seen among its table's last blocks
(`non_replicated_deduplication_window`), so an insert whose answer was lost can be repeated without a second look.
"""

import fcntl
import logging
import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import clickhouse_connect
from clickhouse_connect.driver.client import Client

from schemas.errors import OperatorError
from sinks.migrate import Migration, migrate
from sinks.rows import TABLES

# The driver logs each refused connection to standard error when nobody listens; our callers log and retry.
logging.getLogger("clickhouse_connect").addHandler(logging.NullHandler())

CHDB = "chdb"
DATABASE_NAME = re.compile(r"^[A-Za-z_][A-Za-z0-9_]{0,63}$")
CONNECT_SECONDS = 10
ANSWER_SECONDS = 60  # an insert of 50,000 rows takes a second; far below the consumer's max.poll.interval (5 min)


@dataclass(frozen=True)
class Target:
    """Where analytics live: `url` is `chdb` (then `path` is its directory) or http(s)://host:port."""

    url: str = CHDB
    path: Path | None = None
    database: str = "tidings"
    user: str = "default"
    password: str = field(default="", repr=False)

    def __post_init__(self) -> None:
        """Refuse what could not be quoted or opened.

        Raises:
            OperatorError: a database name that is no plain word, chDB without a directory.
        """
        if not DATABASE_NAME.match(self.database):
            raise OperatorError(
                f"TIDINGS_CLICKHOUSE_DATABASE: must be letters, digits and _ (got '{self.database}'); set tidings"
            )
        if self.embedded and self.path is None:
            raise OperatorError("TIDINGS_DATA_DIR: chDB needs a directory (got none); set it")

    @property
    def embedded(self) -> bool:
        """True for chDB."""
        return self.url == CHDB

    @property
    def directory(self) -> Path:
        """The directory of chDB, resolved: chDB compares paths as text."""
        if self.path is None:
            raise OperatorError(f"TIDINGS_CLICKHOUSE: '{self.url}' is a server and has no directory here; set chdb")
        return self.path.resolve()


class DirectoryLock:
    """One process per chDB directory, told before chDB itself fails without a reason."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.path = directory.parent / f"{directory.name}.lock"
        self._file: int | None = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            owner = os.pread(self._file, 32, 0).decode("ascii", "replace").strip() or "unknown"
            self.release()
            raise OperatorError(
                f"{directory}: chDB allows one process and another one has it open (got pid {owner});"
                " ask that one with 'sql', stop it, or set TIDINGS_DATA_DIR to another directory",
                exit_code=3,
            ) from None
        os.ftruncate(self._file, 0)
        os.pwrite(self._file, str(os.getpid()).encode(), 0)

    def release(self) -> None:
        """Let go. The file stays: deleting it would let two processes lock two files of one name."""
        if self._file is not None:
            os.close(self._file)
            self._file = None


class Warehouse:
    """One connection to the analytics database. Not for concurrent use: one thread inserts."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self._lock = DirectoryLock(target.directory) if target.embedded else None
        self._client: Client | None = None
        self._types: dict[str, list[Any]] = {}

    def client(self) -> Client:
        """Return the connection, opened on first use; the database is created if it is missing.

        Raises:
            Exception: whatever clickhouse-connect raises while the server is out of reach; a later call tries again.
        """
        if self._client is None:
            first = self._connect(None)
            try:
                first.command(f"CREATE DATABASE IF NOT EXISTS {self.target.database}")
                self._client = self._connect(self.target.database)
            finally:
                first.close()
        return self._client

    def _connect(self, database: str | None) -> Client:
        target = self.target
        if target.embedded:
            return clickhouse_connect.get_client(
                interface="chdb", path=str(target.directory), database=database or "__default__"
            )
        parts = urlsplit(target.url)
        return clickhouse_connect.get_client(
            interface=parts.scheme,
            host=parts.hostname or "",
            port=parts.port or (8443 if parts.scheme == "https" else 8123),
            username=target.user,
            password=target.password,
            database=database or "__default__",
            connect_timeout=CONNECT_SECONDS,
            send_receive_timeout=ANSWER_SECONDS,
            autogenerate_session_id=False,  # a session would refuse a repeat while the first attempt still runs
            query_retries=0,  # the sink retries, and knows when it must stop
        )

    def migrate(self) -> list[Migration]:
        """Bring the tables up to this build. See `sinks.migrate.migrate` for errors."""
        return migrate(self.client())

    def insert(self, table: str, columns: list[list[Any]], token: str) -> None:
        """Insert one block, column by column in the order of `TABLES[table]`; a repeat with the same token is dropped.

        Raises:
            Exception: whatever clickhouse-connect raises. The block may be in or not: repeat with the same token.
        """
        client = self.client()
        types = self._types.get(table)
        if types is None:
            described = client.create_insert_context(table, TABLES[table])
            types = self._types[table] = list(described.column_types)
        client.insert(
            table,
            columns,
            column_names=TABLES[table],
            column_types=types,
            column_oriented=True,
            settings={
                "insert_deduplicate": 1,
                "insert_deduplication_token": token,
                # a server's default may be 1: acknowledged blocks would be merged, and their tokens with them
                "async_insert": 0,
                # garbage timestamps over many months must not stop the sink for ever
                "max_partitions_per_insert_block": 0,
            },
        )

    def forget(self) -> None:
        """Drop the connection after an error, so that the next call opens a fresh one."""
        self._types.clear()
        if self._client is not None and not self.target.embedded:
            self._client.close()
            self._client = None

    def close(self) -> None:
        """Close the connection and give the directory back."""
        if self._client is not None:
            self._client.close()
            self._client = None
        if self._lock is not None:
            self._lock.release()
