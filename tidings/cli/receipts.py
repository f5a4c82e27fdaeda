"""`receipts`: what came back by mail about messages that we sent."""

import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import click

from agents.topics import EVENTS
from schemas.codec import encode_event
from schemas.errors import OperatorError
from schemas.references import read_reference
from schemas.tokens import TokenError
from sinks.reports import MAX_BYTES, Report, read_report, told
from tidings.brokers import attach
from tidings.cli.output import output_option, print_rows
from tidings.config import Settings
from tidings.producing import Sender
from tidings.worker import SECRET_FILE, unsubscribe_secret

TOLD_SHOWN = 20
COUNTED = ("mails", "bounced", "complained", "delivered", "nothing_new", "unknown", "no_report")
OLDEST_MS = 30 * 86_400_000  # a report's own date is taken within these bounds; it is not ours to trust


@click.group()
def receipts() -> None:
    """Take receipts that come by mail: bounces and complaints."""


@receipts.command("import")
@click.argument("paths", metavar="FILE|DIR|-...", nargs=-1, required=True)
@click.option("--broker", metavar="local|HOST:PORT,…", help="The broker; default TIDINGS_BROKER.")
@output_option
def import_(paths: tuple[str, ...], broker: str | None, output: str) -> None:
    """Read mails that report bounces (RFC 3464) and complaints (ARF, RFC 5965), and write them to `events`.

    One mail per file, as in a Maildir; a directory is read with all below it; - is one mail on stdin, as a mail server
    pipes it. Nothing is moved or deleted: reading a mail again writes the same event ids, which count once.

    \b
    Examples:
      python -m tidings receipts import /var/mail/bounces/new
      python -m tidings receipts import - < bounce.eml

    Exit codes: 0 read, 1 the broker did not take all, 2 wrong usage, 3 the broker is out of reach.
    """  # noqa: D301 click wants the character itself
    settings = attach(Settings.from_env(broker=broker))
    secret = _secret(settings)
    sender = Sender(settings, EVENTS)
    now_ms = time.time_ns() // 1_000_000
    counts = dict.fromkeys(COUNTED, 0)
    for name, raw in _mails(paths):
        counts["mails"] += 1
        counts[_take(name, read_report(raw), secret, sender, now_ms, counts["unknown"])] += 1
    sender.flush()
    print_rows([{**counts, "events": sender.taken, "failed": sender.failed}], output)
    if sender.failed:
        click.echo(sender.trouble(), err=True)
        sys.exit(1)


def _take(name: str, report: Report | None, secret: bytes, sender: Sender, now_ms: int, unknown: int) -> str:
    """Write what one mail reports; the word it is counted under."""
    if report is None:
        return "no_report"
    try:
        reference = read_reference([secret], report.token)
    except TokenError:
        if unknown < TOLD_SHOWN:
            of = f"Message-ID of command {report.command}" if report.command else "no Message-ID of ours"
            click.echo(f"{name}: reports about a mail without a token that we signed (got {of}); left out", err=True)
        return "unknown"
    at_ms = report.at_ms if report.at_ms is not None and now_ms - OLDEST_MS <= report.at_ms <= now_ms else now_ms
    for event in told(report, reference, at_ms):
        sender.send(encode_event(event), reference.member_id.encode())
    return report.status or "nothing_new"


def _mails(paths: tuple[str, ...]) -> Iterator[tuple[str, bytes]]:
    for given in paths:
        path = Path(given)
        if given == "-":
            yield "stdin", sys.stdin.buffer.read(MAX_BYTES)
        elif path.is_dir():
            for folder, inside, files in os.walk(path):
                inside.sort()
                for file in sorted(files):
                    # A mail may be moved or deleted meanwhile; a socket or a pipe would be waited for without end.
                    one = Path(folder, file)
                    if one.is_file() and not file.startswith("."):
                        yield str(one), _read(one)
        else:
            yield given, _read(path)


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(MAX_BYTES)
    except OSError as error:
        raise OperatorError(f"{path}: not readable ({error.strerror}); name a mail, a directory of them or -") from None


def _secret(settings: Settings) -> bytes:
    # Made here, a secret would fit no mail that was ever sent.
    kept = settings.data_dir / SECRET_FILE
    if not settings.unsubscribe_secret and not kept.is_file():
        raise OperatorError(
            f"TIDINGS_UNSUBSCRIBE_SECRET: needed to know our own mails again (got nothing, and there is no {kept});"
            " set it as on the machines that deliver, or TIDINGS_DATA_DIR to theirs"
        )
    return unsubscribe_secret(settings)
