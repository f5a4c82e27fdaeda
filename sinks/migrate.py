"""Numbered SQL files, applied once each, in order, on chDB and on a server alike.

A file that was applied is history: `schema_migrations` keeps its checksum and a changed one is refused. ClickHouse has
no transactional DDL: a crash inside a file leaves part of it done, so each statement must bear repetition (IF NOT
EXISTS, OR REPLACE), and the file is recorded after its last statement.
"""

import hashlib
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import msgspec

from schemas.errors import OperatorError

DIRECTORY = Path(__file__).parent / "sql"
FILE_NAME = re.compile(r"^(\d{4})_([a-z0-9_]+)\.sql$")
TABLE = """CREATE TABLE IF NOT EXISTS schema_migrations
(number UInt32, name String, checksum String, applied_at DateTime64(3, 'UTC') DEFAULT now64(3))
ENGINE = ReplacingMergeTree(applied_at) ORDER BY number"""
# A quoted text, a quoted name, a comment, or a semicolon that ends a statement.
TOKEN = re.compile(r"'(?:\\.|''|[^'\\])*'|`(?:\\.|[^`\\])*`|\"(?:\\.|[^\"\\])*\"|--[^\n]*|/\*.*?\*/|(;)", re.DOTALL)


class Commands(Protocol):
    """What a migration needs of a clickhouse-connect client."""

    def command(self, cmd: str, parameters: dict[str, Any] | None = None) -> Any:
        """Run one statement."""

    def query(self, query: str) -> Any:
        """Run one query; the answer has `result_rows`."""


class Migration(msgspec.Struct, frozen=True):
    """One file. `checksum`: SHA-256 of its text with Unix line ends."""

    number: int
    name: str
    checksum: str
    statements: tuple[str, ...]

    @property
    def file(self) -> str:
        """The file's name, as an operator sees it."""
        return f"{self.number:04d}_{self.name}.sql"


class State(msgspec.Struct, frozen=True):
    """A migration as files and database see it.

    `state`: `applied`, `pending`, `changed` or `unknown` (a newer build's).
    """

    number: int
    name: str
    state: str


def split(text: str) -> list[str]:
    """Split SQL at semicolons that stand outside quotes and comments; empty statements fall out."""
    parts, start = [], 0
    for match in TOKEN.finditer(text):
        if match[1]:
            parts.append(text[start : match.start()])
            start = match.end()
    parts.append(text[start:])
    return [
        part.strip() for part in parts if TOKEN.sub(lambda m: "" if m[0][:2] in ("--", "/*") else m[0], part).strip()
    ]


def load(directory: Path = DIRECTORY) -> list[Migration]:
    """Read the files, in order.

    Raises:
        OperatorError: a name that does not fit, or numbers that are not 1, 2, 3 …
    """
    found = []
    for path in sorted(directory.glob("*.sql")):
        match = FILE_NAME.match(path.name)
        if match is None:
            raise OperatorError(f"{path.name}: not a migration's name; name it NNNN_what_it_does.sql")
        text = path.read_text(encoding="utf-8").replace("\r\n", "\n")
        found.append(Migration(int(match[1]), match[2], hashlib.sha256(text.encode()).hexdigest(), tuple(split(text))))
    for expected, migration in enumerate(found, start=1):
        if migration.number != expected:
            raise OperatorError(
                f"{migration.file}: numbers must follow each other (expected {expected:04d}); rename the file"
            )
    return found


def status(client: Commands, migrations: list[Migration] | None = None) -> list[State]:
    """Compare the files with what the client's database has seen. Changes nothing."""
    migrations = load() if migrations is None else migrations
    applied = _applied(client)
    states = [State(m.number, m.name, _state(m, applied)) for m in migrations]
    known = {m.number for m in migrations}
    states += [State(number, name, "unknown") for number, (name, _) in sorted(applied.items()) if number not in known]
    return states


def migrate(
    client: Commands, migrations: list[Migration] | None = None, on_applied: Callable[[Migration], None] | None = None
) -> list[Migration]:
    """Apply what is pending to the client's database and return it. Two processes may do so at once.

    Raises:
        OperatorError: an applied file was changed, or the database is ahead of this build.
    """
    migrations = load() if migrations is None else migrations
    client.command(TABLE)
    states = status(client, migrations)
    for state in states:
        place = f"sinks/sql/{state.number:04d}_{state.name}.sql"
        if state.state == "changed":
            raise OperatorError(
                f"{place}: it was applied and has changed since; restore its text and put the change into a new file"
                f" {len(migrations) + 1:04d}_….sql"
            )
        if state.state == "unknown":
            raise OperatorError(f"{place}: the database knows it, this build does not; run the newer build")
    pending = [m for m, s in zip(migrations, states, strict=False) if s.state == "pending"]
    for migration in pending:
        for statement in migration.statements:
            client.command(statement)
        # A crash before this line repeats the file at the next start, which its statements bear.
        client.command(
            "INSERT INTO schema_migrations (number, name, checksum)"
            " SELECT {number:UInt32}, {name:String}, {checksum:String}",
            parameters={"number": migration.number, "name": migration.name, "checksum": migration.checksum},
        )
        if on_applied:
            on_applied(migration)
    return pending


def _applied(client: Commands) -> dict[int, tuple[str, str]]:
    if not int(client.command("EXISTS TABLE schema_migrations")):
        return {}
    rows = client.query("SELECT number, name, checksum FROM schema_migrations FINAL ORDER BY number").result_rows
    return {int(number): (name, checksum) for number, name, checksum in rows}


def _state(migration: Migration, applied: dict[int, tuple[str, str]]) -> str:
    known = applied.get(migration.number)
    if known is None:
        return "pending"
    return "applied" if known == (migration.name, migration.checksum) else "changed"
