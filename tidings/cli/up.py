"""`up`: everything on this machine, until Ctrl-C."""

import signal
import threading
from pathlib import Path

import click

from tidings.config import Settings


@click.command()
@click.option(
    "--broker", envvar="TIDINGS_BROKER", default="local", show_default=True, metavar="local|memory|HOST:PORT,…",
    help="local keeps everything on disk and needs Java 17 and Maven; memory keeps nothing.",
)  # fmt: skip
@click.option(
    "--campaigns", type=click.Path(exists=True, path_type=Path), default=Path("campaigns/demo"), show_default=True,
    help="A file or a directory; what changes is published again.",
)  # fmt: skip
@click.option(
    "--smtp",
    envvar="TIDINGS_SMTP",
    metavar="URL",
    help="Where mail goes. Default: a server of our own that keeps it as files.",
)
def up(broker: str, campaigns: Path, smtp: str | None) -> None:
    """Keep broker, engine, delivery, analytics and mail running on this machine until Ctrl-C.

    All data is below TIDINGS_DATA_DIR; started again it goes on where it was stopped. A process that dies is started
    again, and said so.

    \b
    Examples:
      python -m tidings up
      python -m tidings up --campaigns campaigns/examples
      python -m tidings up --broker memory
      TIDINGS_SMTP=smtp://127.0.0.1:1025 python -m tidings up --broker broker-1:9092

    Exit codes: 0 stopped by a signal, 2 wrong usage, or it already runs, 3 something needed is out of reach.
    """
    from tidings.up import run_up

    settings = Settings.from_env(broker=broker, smtp=smtp)
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    run_up(settings, campaigns, smtp, stop, lambda text: click.echo(text))
