"""`demo`: the whole job once, end to end, on this machine."""

import signal
import sys
from pathlib import Path
from types import FrameType

import click
from rich.console import Console

from tidings.config import Settings

PIPE_WIDTH = 160


@click.command()
@click.option(
    "--events", type=click.IntRange(100, 1_000_000), default=20_000, show_default=True,
    help="Of the shop, at 1,250 a second.",
)  # fmt: skip
@click.option("--seed", type=int, default=1, show_default=True, help="Another seed, another story.")
@click.option("--broker", metavar="memory|local|HOST:PORT,…", help="Wins over TIDINGS_BROKER.")
@click.option(
    "--campaigns", type=click.Path(exists=True, path_type=Path), default=Path("campaigns/demo"), show_default=True,
    help="Campaigns to run: a file or a directory.",
)  # fmt: skip
def demo(events: int, seed: int, broker: str | None, campaigns: Path) -> None:
    """Run the whole job once: events in, decisions, e-mail, Viber and SMS out, attribution in ClickHouse.

    Takes under a minute. Starts a broker, an SMTP server that delivers nothing, a company for Viber and text messages
    that tells later what came of them, engine, delivery and sink; plays a shop's day, and members who open, click,
    order, unsubscribe and complain by the links of their mails; then checks that a replay of the recorded log, what was
    received and ClickHouse all agree. Its data is below TIDINGS_DATA_DIR in demo/ until the next run.

    \b
    Examples:
      python -m tidings demo
      python -m tidings demo --events 50000 --seed 7
      python -m tidings demo --broker local

    Exit codes: 0 all agrees, 1 something differs or failed, 2 wrong usage, 3 something needed is out of reach,
    130 interrupted.
    """
    from tidings.demo.run import run_demo

    signal.signal(signal.SIGTERM, _interrupt)
    settings = Settings.from_env(broker=broker)
    out = Console()
    if not out.is_terminal:
        out = Console(width=PIPE_WIDTH)
    try:
        agrees = run_demo(settings, events, seed, campaigns, out, Console(stderr=True))
    except KeyboardInterrupt:
        click.echo("demo: interrupted; everything it started is stopped", err=True)
        sys.exit(130)
    if not agrees:
        sys.exit(1)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt
