"""How commands print rows: a table for people, JSON or NDJSON for programs."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import click
import orjson
from rich.console import Console
from rich.table import Table

FORMATS = ("table", "json", "ndjson")
PIPE_WIDTH = 10_000

output_option = click.option(
    "--output", "-o", type=click.Choice(FORMATS), default="table", show_default=True, help="How to print the result."
)


def print_rows(rows: Iterable[Mapping[str, Any]], output: str, columns: Sequence[str] | None = None) -> None:
    """Print rows; `columns` sets order and choice for the table, by default those of the first row."""
    if output == "ndjson":
        for row in rows:
            click.echo(orjson.dumps(row, default=str))
        return
    listed = list(rows)
    if output == "json":
        click.echo(orjson.dumps(listed, default=str, option=orjson.OPT_INDENT_2))
        return
    names = list(columns or (listed[0] if listed else ()))
    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in names:
        numeric = bool(listed) and all(isinstance(row.get(name), int | float) for row in listed)
        table.add_column(name, justify="right" if numeric else "left", overflow="fold")
    for row in listed:
        table.add_row(*("" if row.get(name) is None else str(row.get(name)) for name in names))
    # A pipe has no width: rows stay whole there, so that grep and awk find them.
    console = Console(width=None if Console().is_terminal else PIPE_WIDTH)
    console.print(table if listed else "nothing to show", highlight=False)
