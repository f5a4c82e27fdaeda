"""`clickhouse`: bring the analytics database up to this build, and say where it stands."""

import click
from rich.console import Console

from schemas.errors import OperatorError
from sinks.clickhouse import Warehouse
from sinks.migrate import load
from sinks.migrate import migrate as apply
from sinks.migrate import status as compare
from tidings.analytics import target_of
from tidings.cli.output import output_option, print_rows
from tidings.config import Settings


def _open() -> Warehouse:
    target = target_of(Settings.from_env())
    warehouse = Warehouse(target)
    try:
        warehouse.client()
    except (
        Exception
    ) as error:  # the driver's errors share no public root; all of them mean that the server is out of reach
        warehouse.close()
        raise OperatorError(
            f"TIDINGS_CLICKHOUSE: no connection to the database (got {target.url}: {type(error).__name__});"
            " check the address, TIDINGS_CLICKHOUSE_USER and TIDINGS_CLICKHOUSE_PASSWORD",
            exit_code=3,
        ) from None
    return warehouse


@click.group()
def clickhouse() -> None:
    """Migrate and inspect the analytics database.

    \b
    Examples:
      python -m tidings clickhouse migrate
      python -m tidings clickhouse status --output json
      TIDINGS_CLICKHOUSE=https://ch.example:8443 python -m tidings clickhouse migrate
    """


@clickhouse.command()
def migrate() -> None:
    """Apply the migrations that are pending. Workers do so as well when they start.

    \b
    Examples:
      python -m tidings clickhouse migrate
    """
    console = Console(stderr=True, highlight=False)
    warehouse = _open()
    try:
        total = len(load())
        with console.status("migrating …"):
            done = apply(
                warehouse.client(),
                on_applied=lambda m: console.print(f"{m.number}/{total} {m.file}: {len(m.statements)} statements"),
            )
    finally:
        warehouse.close()
    click.echo(f"database {warehouse.target.database}: {len(done)} applied, {total - len(done)} were there")


@clickhouse.command()
@output_option
def status(output: str) -> None:
    """Show each migration: applied, pending, changed or unknown. Exit code 1 unless all are applied.

    \b
    Examples:
      python -m tidings clickhouse status
      python -m tidings clickhouse status --output ndjson
    """
    warehouse = _open()
    try:
        states = compare(warehouse.client())
    finally:
        warehouse.close()
    print_rows([{"number": s.number, "name": s.name, "state": s.state} for s in states], output)
    if any(s.state != "applied" for s in states):
        raise click.exceptions.Exit(1)
