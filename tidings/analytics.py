"""Puts the sink role together: settings, database, migrations, the SQL server of chDB, the consumer."""

import contextlib
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import structlog
from tenacity import (
    RetryError,
    Retrying,
    retry_if_not_exception_type,
    sleep_using_event,
    stop_when_event_set,
    wait_exponential_jitter,
)

from agents.records import GROUP, Counters, RecordSink, run_sink
from schemas.errors import OperatorError
from sinks.chdb_server import Reader
from sinks.clickhouse import Target, Warehouse
from sinks.sql_server import SqlServer
from tidings.config import Settings
from tidings.registry import decoder_of

MAX_WAIT_SECONDS = 15.0

log = structlog.get_logger(__name__)


def target_of(settings: Settings) -> Target:
    """Say where analytics live."""
    return Target(
        url=settings.clickhouse,
        path=settings.data_dir / "chdb" if settings.clickhouse == "chdb" else None,
        database=settings.clickhouse_database,
        user=settings.clickhouse_user,
        password=settings.clickhouse_password,
    )


def address_file(settings: Settings) -> Path:
    """Where the owner of chDB leaves the address and password of its SQL server, readable by its user only."""
    return settings.data_dir / "sql.json"


def read_chdb(settings: Settings) -> contextlib.AbstractContextManager[Reader]:
    """Open chDB in this process to read it, when no other process has it open.

    Raises:
        OperatorError: another process has it open, or there is none yet.
    """
    return _reading(target_of(settings))


@contextlib.contextmanager
def _reading(target: Target) -> Iterator[Reader]:
    if not target.directory.exists():
        raise OperatorError(
            f"{target.path}: no analytics here yet (got no such directory);"
            " run 'demo' or 'up', or set TIDINGS_DATA_DIR",
            exit_code=3,
        )
    warehouse = Warehouse(target)
    try:
        warehouse.client()
        reader = Reader(target.directory, target.database)
        try:
            yield reader
        finally:
            reader.close()
    finally:
        warehouse.close()


@contextlib.contextmanager
def open_analytics(settings: Settings, stop: threading.Event) -> Iterator[tuple[Warehouse, SqlServer | None]]:
    """Open and migrate the database; while chDB is embedded, serve SQL on `settings.sql_port`.

    Closes all of it at the end. A server that is away is waited for until `stop` is set; then `OperatorError` ends
    the wait.
    """
    target = target_of(settings)
    warehouse = Warehouse(target)
    try:
        _migrate(warehouse, stop)
        if not target.embedded:
            yield warehouse, None
            return
        reader = Reader(target.directory, target.database)
        try:
            server = SqlServer(
                reader,
                target.database,
                port=settings.sql_port,
                password=settings.sql_password,
                address_file=address_file(settings),
            )
            server.start()
            try:
                yield warehouse, server
            finally:
                server.stop()
        finally:
            reader.close()
    finally:
        warehouse.close()


def run_sink_role(
    settings: Settings,
    stop: threading.Event,
    *,
    on_sink: Callable[[RecordSink], None] | None = None,
    on_server: Callable[[SqlServer | None], None] | None = None,
) -> Counters:
    """Run the role `sink` in this thread until `stop` is set.

    `on_server` gets the SQL server (its port and password) once it listens; None when there is a real one.
    """
    with open_analytics(settings, stop) as (warehouse, server):
        if on_server:
            on_server(server)
        config = settings.confluent_consumer(GROUP)
        return run_sink(config, warehouse, stop, on_sink=on_sink, decode=decoder_of(settings))


def _migrate(warehouse: Warehouse, stop: threading.Event) -> None:
    retrying = Retrying(
        retry=retry_if_not_exception_type(OperatorError),
        wait=wait_exponential_jitter(multiplier=0.2, max=MAX_WAIT_SECONDS),
        stop=stop_when_event_set(stop),
        sleep=sleep_using_event(stop),
        before_sleep=lambda state: log.warning(
            "clickhouse_wait", attempt=state.attempt_number, error=_kind(state.outcome)
        ),
    )
    try:
        for migration in retrying(warehouse.migrate):
            log.info("clickhouse_migrated", file=migration.file)
    except RetryError:
        raise OperatorError(
            "TIDINGS_CLICKHOUSE: stopped before the server answered; start the server first", exit_code=3
        ) from None


def _kind(outcome: object) -> str:
    error = getattr(outcome, "exception", lambda: None)()
    return type(error).__name__
