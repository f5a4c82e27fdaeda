"""The list of commands. Each is imported only when called, so that `--help` answers at once."""

import importlib
import sys

import click

from schemas.errors import CampaignError, OperatorError
from tidings.layout import require_own_packages

COMMANDS: dict[str, tuple[str, str, str]] = {
    # name: (module, attribute, one line)
    "demo": ("tidings.cli.demo", "demo", "Run the whole job once, end to end, and print what came of it."),
    "up": ("tidings.cli.up", "up", "Keep everything running on this machine: broker, workers, SQL, SMTP."),
    "worker": ("tidings.cli.worker", "worker", "Run one role of the product against a broker."),
    "check": ("tidings.cli.check", "check", "Check campaigns and run their cases."),
    "replay": ("tidings.cli.replay", "replay", "Run campaigns over a recorded log, without a broker."),
    "explain": ("tidings.cli.explain", "explain", "Say why a member got a message, waits for one, or got none."),
    "simulate": ("tidings.cli.simulate", "simulate", "Prove the engine on made-up brokers, disks and clocks."),
    "produce": ("tidings.cli.produce", "produce", "Send a file of events to the broker."),
    "sql": ("tidings.cli.sql", "sql", "Ask ClickHouse."),
    "providers": ("tidings.cli.providers", "providers", "Check who carries which channel."),
    "receipts": ("tidings.cli.receipts", "receipts", "Take bounces and complaints that came by mail."),
    "topics": ("tidings.cli.topics", "topics", "Create, show and check topics."),
    "clickhouse": ("tidings.cli.clickhouse", "clickhouse", "Migrate and inspect the analytics database."),
    "campaigns": ("tidings.cli.campaigns", "campaigns", "List, publish and withdraw campaigns."),
    "dead-letters": ("tidings.cli.dead_letters", "dead_letters", "List, show and replay what could not be used."),
    "tables": ("tidings.cli.tables", "tables", "Delete local copies of member records, to be rebuilt."),
    "members": ("tidings.cli.members", "members", "Show one member: profile, live instances, decisions."),
}


class Lazy(click.Group):
    """A group whose commands are imported on first use."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Name the commands in the order of use."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import one command."""
        entry = COMMANDS.get(cmd_name)
        if entry is None:
            return None
        command: click.Command = getattr(importlib.import_module(entry[0]), entry[1])
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, entry[2]) for name, entry in COMMANDS.items()])


@click.group(cls=Lazy, context_settings={"help_option_names": ["-h", "--help"]})
def cli() -> None:
    """Tidings: who gets which message, decided in milliseconds, accounted for.

    \b
    Examples:
      python -m tidings demo
      python -m tidings check campaigns/
      python -m tidings replay campaigns/demo --events log.ndjson --output ndjson
      python -m tidings sql "SELECT count() FROM events"

    Exit codes: 0 done, 1 findings or differences, 2 wrong usage or setting, 3 something needed is out of reach.
    """


def run() -> None:
    """Run the command line; an error for the operator is one line, not a traceback."""
    try:
        require_own_packages()
        cli(prog_name="python -m tidings")
    except CampaignError as error:
        click.echo(str(error), err=True)
        sys.exit(1)
    except OperatorError as error:
        click.echo(str(error), err=True)
        sys.exit(error.exit_code)
