"""`produce`: send files of events to the broker."""

import re
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import click
import msgspec

from agents.topics import EVENTS
from schemas.avro_codec import encode_event_avro
from schemas.codec import decode_event, encode_event
from schemas.errors import DecodeError, OperatorError
from schemas.events import CONTROL_TYPES, TICK, Event
from schemas.instants import instant_ms
from schemas.log import RECORDED_AT_HEADER
from sinks.registry import Registry, RegistryUnreachable
from streams.patterns.durations import DAY_MS, HINT, SECOND_MS, format_duration, parse_duration
from tidings.brokers import attach
from tidings.cli.output import output_option, print_rows
from tidings.cli.progress import Bar
from tidings.config import Settings
from tidings.files import FORMATS, EventFiles
from tidings.producing import Sender

BAD_LINES_SHOWN = 20
_RATE = re.compile(r"([0-9]{1,9})(?:/s)?")
WITHIN_MS_MAX = 24 * DAY_MS  # about the largest that the client takes
_PAUSE_S = 0.005  # the shortest sleep worth asking the system for

Encode = Callable[[Event, bytes], bytes]


def _rate(ctx: click.Context, parameter: click.Parameter, text: str | None) -> int | None:
    if text is None:
        return None
    found = _RATE.fullmatch(text.replace(" ", ""))
    if not found or not int(found[1]):
        raise click.BadParameter(f"must be a number of events per second (got {text!r}); write 500/s")
    return int(found[1])


def _span(ctx: click.Context, parameter: click.Parameter, text: str) -> int:
    try:
        span = parse_duration(text)
    except ValueError as error:
        raise click.BadParameter(f"{error}; {HINT}") from None
    if not SECOND_MS <= span <= WITHIN_MS_MAX:
        raise click.BadParameter(f"must be from 1s to {format_duration(WITHIN_MS_MAX)} (got {text})")
    return span


@click.command()
@click.argument("files", metavar="FILE...", nargs=-1, required=True)
@click.option("--format", "kind", type=click.Choice(FORMATS), default="auto", show_default=True, help="Of the files.")
@click.option(
    "--rate", metavar="N/s", callback=_rate, help="Send at most so many a second; default: as fast as it goes."
)
@click.option(
    "--now", is_flag=True,
    help="Shift all times by one span, so that the latest event of the files happened just now; the spans between them"
    " stay. Without it, events older than 7 days move no campaign.",
)  # fmt: skip
@click.option(
    "--paced", is_flag=True,
    help="Shift all times so that the first event happens now, and send each when its time comes: as it was recorded.",
)  # fmt: skip
@click.option(
    "--as-recorded", is_flag=True,
    help="Send a recorded log with the append times it was recorded with (appended_at, else the event's time, made"
    " monotone): it decides what `replay` decides of it. Ends with a tick on every partition, which fires what waits."
    " All of it goes in one transaction, and must be sent --within a time.",
)  # fmt: skip
@click.option(
    "--within", callback=_span, metavar="SPAN", default="15m", show_default=True,
    help="With --as-recorded: the longest that sending may take, at most the brokers' transaction.max.timeout.ms, which"
    " is 15m unless they say otherwise. Nothing counts if it takes longer. Meanwhile workers read nothing new, also if"
    " this command is killed.",
)  # fmt: skip
@click.option("--raw", is_flag=True, help="Send lines that are no events too, as they are: a test of the dead letters.")
@click.option("--topic", default=EVENTS, show_default=True, help="Where to.")
@click.option("--broker", metavar="local|HOST:PORT,…", help="The broker; default TIDINGS_BROKER.")
@output_option
def produce(
    files: tuple[str, ...], kind: str, rate: int | None, now: bool, paced: bool, as_recorded: bool, within: int,
    raw: bool, topic: str, broker: str | None, output: str,
) -> None:  # fmt: skip
    """Send files of events to the broker: NDJSON of our envelope or of Segment, or the REES46 CSV; .gz too, - is stdin.

    Events go to their member's partition, in the order of the file. A line that is no event is named on stderr and left
    out. Control records and ticks are left out too: campaigns are published with 'campaigns publish'.

    \b
    Examples:
      python -m tidings produce events.ndjson --broker local
      python -m tidings produce shop.csv.gz --now --rate 500/s
      python -m tidings produce day.ndjson --paced
      python -m tidings produce rees46-2019-10.csv --as-recorded

    Exit codes: 0 sent, 1 the broker did not take all, 2 wrong usage, 3 the broker is out of reach.
    """  # noqa: D301 click wants the character itself
    if now and paced:
        raise click.UsageError("--now and --paced both say when the events happen; choose one")
    if as_recorded and (now or paced):
        raise click.UsageError("--as-recorded keeps the times that --now and --paced shift; choose one")
    settings = attach(Settings.from_env(broker=broker))
    origin = _origin(files, kind, paced) if now or paced else None
    wall_ms = int(time.time() * 1000)
    shift = 0 if origin is None else wall_ms - origin
    sender = Sender(settings, topic, atomic_ms=within if as_recorded else 0)
    source = EventFiles(files, kind)
    began = time.monotonic()
    skipped, trouble = Skipped(), ""
    with Bar("producing", source.size) as bar:
        pace = Pace(rate, wall_ms if paced else None, sender)
        recording = Recording(sender) if as_recorded else None
        for event, value in _events(source, shift, raw, skipped, _encoder(settings), as_recorded):
            pace.wait(event)
            key = event.member_id.encode() if event is not None and event.member_id else None
            if recording is not None:
                recording.send(event, value, key)
                if sender.broken:
                    break
            else:
                sender.send(value, key)
            if sender.sent % 1_000 == 0:
                bar.at(source.position(), f"{sender.sent:,} events")
        if recording is not None:
            sender.commit()
            trouble = "" if sender.failed else end_recording(settings, topic, wall_ms)
        else:
            sender.flush()
    seconds = time.monotonic() - began
    skipped.report(source)
    row = {
        "sent": sender.taken, "skipped": skipped.count + len(source.refused()), "failed": sender.failed,
        "seconds": round(seconds, 2), "per_second": round(sender.taken / seconds) if seconds else 0,
    }  # fmt: skip
    print_rows([row], output)
    trouble = sender.trouble() or trouble
    if trouble:
        click.echo(trouble, err=True)
        sys.exit(1)


class Recording:
    """Sends a recorded log so that its own append times count (schemas.log.append_ms_of).

    In one transaction, for the time of a recording must not be torn apart: what its first records lead to, such as
    receipts of delivery, would else come with the time of today between it and the rest.
    """

    def __init__(self, sender: Sender) -> None:
        self._sender = sender
        self._latest = 0

    def send(self, event: Event | None, value: bytes, key: bytes | None) -> None:
        """Send one record; a tick goes to every partition, for the file is one log and the topic has several."""
        appended = _appended(value)
        if appended is None:
            appended = max(self._latest, event.occurred_at_ms if event is not None else 0)
        self._latest = max(self._latest, appended)
        header = {RECORDED_AT_HEADER: str(appended).encode()}
        if event is not None and event.type == TICK:
            for partition in range(self._sender.partitions):
                self._sender.send(value, None, partition=partition, headers=header)
        else:
            self._sender.send(value, key, headers=header)


def end_recording(settings: Settings, topic: str, wall_ms: int) -> str:
    """Say on every partition that the recording is over: from here on the clock is the broker's again.

    Returns what went wrong, "" if nothing did.
    """
    sender = Sender(settings, topic)
    tick = encode_event(Event(type=TICK, occurred_at_ms=wall_ms))
    for partition in range(sender.partitions):
        sender.send(tick, None, partition=partition)
    sender.flush()
    if not sender.failed:
        return ""
    return (
        f"{sender.trouble()}: the file is sent, but for the tick at its end; what waits there fires with the next event"
    )


class _Appended(msgspec.Struct, gc=False):
    appended_at: str | int | float | None = None


_decode_appended = msgspec.json.Decoder(_Appended).decode


def _appended(value: bytes) -> int | None:
    try:
        found = _decode_appended(value).appended_at
        return None if found is None else instant_ms(found)
    except (msgspec.MsgspecError, ValueError):
        return None


class Skipped:
    """Lines that are left out, to be named at the end."""

    def __init__(self) -> None:
        self.count = 0
        self.named: list[tuple[int, str]] = []

    def add(self, index: int, reason: str) -> None:
        """Note one."""
        self.count += 1
        if len(self.named) < BAD_LINES_SHOWN:
            self.named.append((index, reason))

    def report(self, source: EventFiles) -> None:
        """Name the first of them on stderr, and how many there were."""
        refused = source.refused()
        named = (refused + [f"{source.place(index)}: {reason}" for index, reason in self.named])[:BAD_LINES_SHOWN]
        for text in named:
            click.echo(text, err=True)
        count = self.count + len(refused)
        if count:
            more = f", the first {len(named)} above" if count > len(named) else ""
            click.echo(f"{count:,} of {source.count:,} lines were left out{more}", err=True)


class Pace:
    """Holds events back: to a rate, or to the times they bear."""

    def __init__(self, rate: int | None, start_ms: int | None, sender: Sender) -> None:
        self._rate = rate
        self._start_ms = start_ms
        self._sender = sender
        self._began = time.monotonic()
        self._count = 0

    def wait(self, event: Event | None) -> None:
        """Wait until the event's turn, serving the producer meanwhile."""
        due = self._began
        if self._rate is not None:
            due = self._began + self._count / self._rate
        if self._start_ms is not None and event is not None:
            due = max(due, self._began + (event.occurred_at_ms - self._start_ms) / 1000)
        self._count += 1
        left = due - time.monotonic()
        while left > _PAUSE_S:
            self._sender.poll(min(left, 0.5))
            left = due - time.monotonic()


def _events(
    source: EventFiles, shift: int, raw: bool, skipped: Skipped, encode: Encode | None, ticks: bool
) -> Iterator[tuple[Event | None, bytes]]:
    """Yield each event with the bytes to send; lines as they came where nothing about them changes."""
    for index, line in enumerate(source.lines()):
        value = line.strip()
        if not value:
            continue
        try:
            event = decode_event(value)
        except DecodeError as error:
            if raw:
                yield None, value
            else:
                skipped.add(index, f"{error.reason}: {error.message}")
            continue
        if (event.type == TICK and not ticks) or event.type in CONTROL_TYPES:
            skipped.add(index, f"a record of type {event.type} is not for producers; publish campaigns instead")
            continue
        if shift:
            event = _shifted(event, shift)
            value = encode_event(event)
        yield event, encode(event, value) if encode is not None and not ticks else value


def _encoder(settings: Settings) -> Encode | None:
    """With a schema registry events are Avro; else JSON, as they are."""
    if not settings.schema_registry:
        return None
    try:
        schema_id = Registry(settings.schema_registry).register("event")
    except RegistryUnreachable as error:
        raise OperatorError(str(error), exit_code=3) from None
    return lambda event, value: encode_event_avro(event, schema_id)


def _origin(files: tuple[str, ...], kind: str, paced: bool) -> int | None:
    """Read the files once to find when their first (paced) or latest event happened; None if they hold none."""
    if "-" in files:
        raise OperatorError("produce: --now and --paced read the files twice (got -); save standard input to a file")
    source = EventFiles(files, kind)
    times: list[int] = []
    with Bar("reading times", source.size) as bar:
        for index, line in enumerate(source.lines()):
            if index % 10_000 == 0:
                bar.at(source.position())
            try:
                event = decode_event(line.strip())
            except DecodeError:
                continue
            if event.type == TICK or event.type in CONTROL_TYPES:
                continue
            chosen = event.occurred_at_ms if not times else (min if paced else max)(times[0], event.occurred_at_ms)
            times = [chosen]
    return times[0] if times else None


def _shifted(event: Event, shift: int) -> Event:
    changes: dict[str, Any] = {"occurred_at_ms": event.occurred_at_ms + shift}
    for name in ("sent_at_ms", "received_at_ms"):
        value = getattr(event, name)
        if value is not None:
            changes[name] = max(0, value + shift)
    return msgspec.structs.replace(event, **changes)
