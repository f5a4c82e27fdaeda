"""`dead-letters`: list, show, replay and discard records that could not be used."""

import base64
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

import click
from rich.console import Console
from rich.progress import Progress

from schemas.codec import dead_letter_headers
from schemas.errors import OperatorError
from schemas.instants import instant_text
from sinks.dead_letters import OPEN, STATES, UNDECIDED, DeadLetters, StoredLetter, select
from tidings.cli.output import output_option, print_rows
from tidings.config import PREFIX, Settings

_COLUMNS = ("id", "state", "topic", "partition", "offset", "reason", "bytes", "failed_at", "message")
_broker_option = click.option("--broker", help="host:port,… of the broker; default: TIDINGS_BROKER.")
_reason_option = click.option("--reason", help="Only letters refused for this reason, such as not-json.")
_topic_option = click.option("--topic", help="Only letters that came from this topic.")


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def dead_letters() -> None:
    """List, show and replay what could not be used.

    A record that cannot be decoded is kept byte for byte, with its place and the reason. Fix the cause, then replay it.

    \b
    Examples:
      python -m tidings dead-letters list
      python -m tidings dead-letters list --reason not-json --output ndjson
      python -m tidings dead-letters show 0/17
      python -m tidings dead-letters replay 0/17 0/18
      python -m tidings dead-letters replay --all --reason unknown-schema
      python -m tidings dead-letters discard 0/17
    """


@dead_letters.command("list")
@_broker_option
@_reason_option
@_topic_option
@click.option(
    "--state", type=click.Choice([*STATES, "all"]), default=OPEN, show_default=True, help="Only those in this state."
)
@output_option
def list_letters(broker: str | None, reason: str | None, topic: str | None, state: str, output: str) -> None:
    """List letters, oldest first.

    \b
    Examples:
      python -m tidings dead-letters list
      python -m tidings dead-letters list --state all --output json
    """
    states = frozenset(STATES if state == "all" else [state])
    chosen = select(_open(broker).read(), reason=reason, topic=topic, states=states)
    print_rows((_row(stored) for stored in chosen), output, _COLUMNS)


@dead_letters.command()
@click.argument("letter_id", metavar="ID")
@_broker_option
@click.option("--raw", is_flag=True, help="Write the original bytes to stdout and nothing else.")
@output_option
def show(letter_id: str, broker: str | None, raw: bool, output: str) -> None:
    """Show one letter: its headers and its bytes, which may hold personal data.

    \b
    Examples:
      python -m tidings dead-letters show 0/17
      python -m tidings dead-letters show 0/17 --raw > record.bin
    """
    (stored,) = select(_open(broker).read(), [letter_id])
    value = stored.letter.value
    if raw:
        sys.stdout.buffer.write(value or b"")
        sys.stdout.buffer.flush()
        return
    headers = {name: text.decode("utf-8", "replace") for name, text in dead_letter_headers(stored.letter)}
    if output != "table":
        both = {"key": _encoded(stored.letter.key), "value": _encoded(value), "text": _text(value)}
        print_rows([{"id": stored.id, "state": stored.state, "headers": headers} | both], output)
        return
    for name, shown in {"id": stored.id, "state": stored.state, **headers, "key": _text(stored.letter.key)}.items():
        click.echo(f"{name + ':':<14} {shown}")
    click.echo(f"{'value:':<14} {_size(stored)} bytes")
    click.echo("(no value: a tombstone)" if value is None else _text(value))


@dead_letters.command()
@click.argument("ids", metavar="[ID]...", nargs=-1)
@click.option("--all", "everything", is_flag=True, help="All open letters that the filters let through.")
@_broker_option
@_reason_option
@_topic_option
@output_option
def replay(
    ids: tuple[str, ...], everything: bool, broker: str | None, reason: str | None, topic: str | None, output: str
) -> None:
    """Send letters back to the topic they came from: same bytes, same key, same partition.

    Each goes back once: it is marked, and a letter that is marked is passed over.

    \b
    Examples:
      python -m tidings dead-letters replay 0/17
      python -m tidings dead-letters replay --all --topic events
    """
    store = _open(broker)
    chosen = _chosen(store, ids, everything, reason, topic)
    sent = _with_progress("replaying", chosen, store.replay)
    print_rows([{"chosen": len(chosen), "sent": sent}], output)


@dead_letters.command()
@click.argument("ids", metavar="[ID]...", nargs=-1)
@click.option("--all", "everything", is_flag=True, help="All open letters that the filters let through.")
@_broker_option
@_reason_option
@_topic_option
@output_option
def discard(
    ids: tuple[str, ...], everything: bool, broker: str | None, reason: str | None, topic: str | None, output: str
) -> None:
    """Set letters aside: they are no longer listed as open. Their bytes stay until the topic's retention ends.

    \b
    Examples:
      python -m tidings dead-letters discard 0/17
      python -m tidings dead-letters discard --all --reason empty
    """
    store = _open(broker)
    chosen = _chosen(store, ids, everything, reason, topic)
    print_rows([{"chosen": len(chosen), "discarded": _with_progress("discarding", chosen, store.discard)}], output)


def _open(broker: str | None) -> DeadLetters:
    env = {**os.environ, f"{PREFIX}BROKER": broker} if broker else None
    return DeadLetters(Settings.from_env(env).confluent())


def _chosen(
    store: DeadLetters, ids: Sequence[str], everything: bool, reason: str | None, topic: str | None
) -> list[StoredLetter]:
    if bool(ids) == everything:
        raise OperatorError("dead-letters: name letters by id or say --all (got neither, or both); 'list' gives ids")
    return select(store.read(), ids, reason=reason, topic=topic, states=UNDECIDED)


def _with_progress(
    verb: str, chosen: list[StoredLetter], work: Callable[[list[StoredLetter], Callable[[int], None]], int]
) -> int:
    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(verb, total=len(chosen))
        return work(chosen, lambda step: progress.advance(task, step))


def _row(stored: StoredLetter) -> dict[str, Any]:
    letter = stored.letter
    shown = (stored.id, stored.state, letter.topic, letter.partition, letter.offset, letter.reason, _size(stored))
    return dict(zip(_COLUMNS, (*shown, instant_text(letter.failed_at_ms), letter.message), strict=True))


def _size(stored: StoredLetter) -> int:
    return len(stored.letter.value or b"")


def _encoded(raw: bytes | None) -> str | None:
    return None if raw is None else base64.b64encode(raw).decode()


def _text(raw: bytes | None) -> str:
    """Spell bytes for a terminal: as text where they are printable UTF-8, else escaped like a Python literal."""
    if raw is None:
        return ""
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        return repr(raw)
    return text if all(c.isprintable() or c in "\n\t" for c in text) else repr(raw)
