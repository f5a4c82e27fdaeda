"""`members`: what the engine knows of one member, asked of the worker that owns it."""

from typing import Any

import click
import orjson

from schemas.errors import OperatorError
from tidings.cli.output import output_option, print_rows
from tidings.config import Settings
from tidings.web.ask import ask_member


@click.group()
def members() -> None:
    """Look at single members.

    \b
    Examples:
      python -m tidings members show m-1001
      python -m tidings members show m-1001 --output json
    """


@members.command()
@click.argument("member_id")
@click.option("--url", metavar="URL", help="Of any engine worker; by default one of this data directory is found.")
@output_option
def show(member_id: str, url: str | None, output: str) -> None:
    """Show MEMBER_ID: profile, live instances with due times, recent decisions, touches.

    What is shown is personal data. Any engine worker can be asked: it hands the question on to the one that owns the
    member. The token is that of TIDINGS_WEB_TOKEN, else the one kept in TIDINGS_DATA_DIR.

    \b
    Examples:
      python -m tidings members show m-1001
      python -m tidings members show m-1001 --output json | jq .instances
      python -m tidings members show m-1001 --url http://127.0.0.1:6067

    Exit codes: 0 shown, 1 not known, 2 wrong token or setting, 3 no worker answers.
    """
    found = ask_member(Settings.from_env(), member_id, url)
    if found is None:
        raise OperatorError(f"members: no record of this member (got {member_id!r}); check the id", exit_code=1)
    if output == "table":
        _print_tables(found)
    else:
        click.echo(orjson.dumps(found, option=orjson.OPT_INDENT_2 if output == "json" else None))


def _print_tables(found: dict[str, Any]) -> None:
    click.echo(f"member {found['member_id']}, partition {found['partition']}, clock {found['clock']}")
    click.echo("\nprofile")
    print_rows([{"attribute": name, "value": _text(value)} for name, value in found["profile"].items()], "table")
    columns = ("campaign", "version", "correlation", "anchor", "step", "due", "until", "fires_at")
    _section("live instances", found["instances"], *columns)
    if found["dates"]:
        _section("dates", found["dates"], "campaign", "date", "due")
    _section("recent decisions", found["decisions"], "at", "campaign", "outcome", "reason", "instance_id")
    _section("touches", found["touches"], "at", "campaign", "command_id")


def _section(title: str, rows: list[dict[str, Any]], *columns: str) -> None:
    click.echo(f"\n{title}")
    print_rows([{name: _text(row[name]) for name in columns} for row in rows], "table", columns)


def _text(value: Any) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else orjson.dumps(value).decode()
