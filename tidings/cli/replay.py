"""`replay`: run campaigns over a recorded log, without a broker. Its NDJSON of firings is a fixed interface."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import click
import msgspec
import orjson

from schemas.errors import CampaignError, OperatorError
from schemas.events import Event, Record
from schemas.findings import errors
from schemas.policy import Policy
from streams.campaigns import load_campaigns
from streams.epoch import Epoch
from streams.patterns.plan import Plan
from streams.replay import read_log
from streams.replay import replay as run_log
from tidings.cli.output import FORMATS as OUTPUTS
from tidings.cli.output import print_rows
from tidings.cli.policies import policy_of
from tidings.cli.progress import Bar
from tidings.collector import quiet_gc
from tidings.files import FORMATS, EventFiles, campaign_paths, read_texts

SHOWN = ("firings", "commands", "member-commands", "decisions", "attributions", "dead-letters")
BAD_LINES_SHOWN = 20
_encode = msgspec.json.Encoder().encode


@click.command()
@click.argument("campaigns", metavar="[CAMPAIGN_OR_DIR]...", nargs=-1)
@click.option(
    "--events", "-e", "sources", metavar="FILE", multiple=True, required=True,
    help="The log: NDJSON of our envelope or of Segment, or the REES46 CSV; may be .gz; - is standard input."
    " Given several times, the files are one log in that order.",
)  # fmt: skip
@click.option("--format", "kind", type=click.Choice(FORMATS), default="auto", show_default=True, help="Of the events.")
@click.option("--show", type=click.Choice(SHOWN), default="firings", show_default=True, help="What to print.")
@click.option(
    "--from-log", is_flag=True, help="Run the campaigns that the log itself publishes (control records); name none."
)
@click.option(
    "--partition-field", metavar="NAME",
    help="A field of each line, a number, that names its partition: each one is a log of its own, with 'offset' as"
    " offset where the line has it. Without this option all lines are one log.",
)  # fmt: skip
@click.option("--output", "-o", type=click.Choice(OUTPUTS), default="table", show_default=True, help="How to print.")
def replay(
    campaigns: tuple[str, ...],
    sources: tuple[str, ...],
    kind: str,
    show: str,
    from_log: bool,
    partition_field: str | None,
    output: str,
) -> None:
    """Run campaigns over a recorded log: the same engine, without a broker, the same ids.

    A directory means every *.yaml below it, but for *.cases.yaml; policies.yaml holds as it would when published, a
    budget whole in each partition. The lines of the log are the records of one
    partition: `appended_at`, or else `occurred_at`, moves the clock. What is pending at its end stays pending; a record
    of type tick, without a member, only moves the clock.

    \b
    Examples:
      python -m tidings replay campaigns/demo --events log.ndjson --output ndjson
      python -m tidings replay win-back.yaml --events shop.csv.gz --show decisions
      zcat log.gz | python -m tidings replay campaigns -e - -o ndjson
      python -m tidings replay --from-log --partition-field partition -e topic.ndjson -o ndjson

    Exit codes: 0 done, 1 a campaign cannot be run, 2 wrong usage. Lines that are no events are counted and named on
    stderr and change nothing else.
    """  # noqa: D301 click wants the character itself
    plans = _plans(campaigns, from_log)
    policy = policy_of(campaigns)
    files = EventFiles(sources, kind)
    faults = Faults(files)
    with Bar("replaying", files.size) as bar, quiet_gc():
        if partition_field is None:
            epochs: Iterable[Epoch] = _one_log(files, plans, policy, bar, faults)
        else:
            epochs = _partitions(files, plans, policy, partition_field, bar, faults)
        _print(_rows(epochs, show), output)
    faults.report(show)


def _plans(campaigns: tuple[str, ...], from_log: bool) -> list[Plan] | None:
    if from_log == bool(campaigns):
        given = "both" if from_log else "neither"
        raise OperatorError(f"replay: name campaigns or say --from-log (got {given}); for example campaigns/demo")
    if from_log:
        return None
    paths = campaign_paths(campaigns)
    if not paths:
        place = ", ".join(campaigns)
        raise OperatorError(f"{place}: no campaigns here (got no *.yaml); name a directory that has some")
    loaded, findings = load_campaigns(read_texts(paths), lenient=True)
    if errors(findings):
        raise CampaignError(findings)
    for finding in findings:
        click.echo(f"{finding.severity}: {finding}", err=True)
    return [Plan(campaign) for campaign in loaded]


class Faults:
    """Lines that are no events, to be named once the run is over."""

    def __init__(self, files: EventFiles) -> None:
        self.files = files
        self.count = 0
        self.named: list[str] = []

    def take(self, epoch: Epoch, offset_to_line: Callable[[int], int] | None = None) -> None:
        """Note the dead letters of an epoch."""
        for letter in epoch.dead_letters:
            self.count += 1
            if len(self.named) < BAD_LINES_SHOWN:
                line = letter.offset if offset_to_line is None else offset_to_line(letter.offset)
                self.named.append(f"{self.files.place(line)}: {letter.reason}: {letter.message}")

    def report(self, show: str) -> None:
        """Name the first of them on stderr, and how many there were."""
        refused = self.files.refused()
        count = self.count + len(refused)
        if not count or show == "dead-letters":
            return
        named = (refused + self.named)[:BAD_LINES_SHOWN]
        for text in named:
            click.echo(text, err=True)
        more = f", the first {len(named)} above" if count > len(named) else ""
        click.echo(f"{count:,} of {self.files.count:,} lines could not be used{more}", err=True)


def _one_log(
    files: EventFiles, plans: list[Plan] | None, policy: Policy | None, bar: Bar, faults: Faults
) -> Iterator[Epoch]:
    for epoch in run_log(read_log(files.lines()), plans, policy=policy):
        bar.at(files.position(), f"{epoch.last_offset + 1:,} events")
        faults.take(epoch)
        yield epoch


def _partitions(
    files: EventFiles, plans: list[Plan] | None, policy: Policy | None, name: str, bar: Bar, faults: Faults
) -> Iterator[Epoch]:
    """Replay each partition's lines as a log of its own, one partition after the other."""
    logs: dict[int, list[tuple[int, int, bytes]]] = {}
    for number, line in enumerate(files.lines()):
        if line.strip():
            partition, offset = _place(line, name, files.place(number))
            log = logs.setdefault(partition, [])
            after = log[-1][0] if log else -1
            offset = after + 1 if offset is None else offset
            if offset <= after:
                place = files.place(number)
                raise OperatorError(f"{place}: offsets must rise (got {offset} after {after}); sort the lines")
            log.append((offset, number, line))
    for partition in sorted(logs):
        log = logs.pop(partition)
        line_of = {offset: number for offset, number, _ in log}
        for epoch in run_log(_renumbered(log), plans, partition=partition, policy=policy):
            bar.at(files.position(), f"partition {partition}")
            faults.take(epoch, line_of.__getitem__)
            yield epoch


def _renumbered(log: list[tuple[int, int, bytes]]) -> Iterator[tuple[Record, Event | None]]:
    for (offset, _, _), (record, event) in zip(log, read_log(line for _, _, line in log), strict=True):
        record.offset = offset
        yield record, event


def _place(line: bytes, name: str, place: str) -> tuple[int, int | None]:
    try:
        found = orjson.loads(line)
        partition, offset = found.get(name), found.get("offset")
    except (orjson.JSONDecodeError, AttributeError):
        return 0, None  # no event either: the engine says so
    for value, field in ((partition, name), (offset, "offset")):
        whole = isinstance(value, int) and not isinstance(value, bool) and value >= 0
        if not whole and not (value is None and field == "offset"):
            remedy = "dump the log with it, or leave out --partition-field"
            raise OperatorError(f"{place}: '{field}' must be a whole number; {remedy}")
    return partition, offset


def _rows(epochs: Iterable[Epoch], show: str) -> Iterator[list[Any]]:
    """Yield what is to be shown, a list per epoch; a command is shown once, as sinks take it once."""
    sent: set[str] = set()
    for epoch in epochs:
        if show not in ("commands", "member-commands"):
            yield getattr(epoch, show.replace("-", "_"))
            continue
        rows = []
        for command in getattr(epoch, show.replace("-", "_")):
            mark = f"{type(command).__name__}/{command.command_id}"
            if mark not in sent:
                sent.add(mark)
                rows.append(command)
        yield rows


def _print(batches: Iterator[list[Any]], output: str) -> None:
    if output != "ndjson":
        print_rows([msgspec.to_builtins(row) for batch in batches for row in batch], output)
        return
    stdout = click.get_binary_stream("stdout")
    for batch in batches:
        if batch:
            stdout.write(b"".join([_encode(row) + b"\n" for row in batch]))
    stdout.flush()
