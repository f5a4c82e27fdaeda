"""`explain`: for one member, what each campaign saw, what it waits for until when, or why it did nothing."""

import time
from collections.abc import Iterator
from typing import Any

import click
import orjson
from confluent_kafka import TIMESTAMP_LOG_APPEND_TIME, Consumer, KafkaException, Message, TopicPartition

from agents.topics import EVENTS
from schemas.errors import CampaignError, DecodeError, OperatorError, RegistryUnreachable
from schemas.events import Event
from schemas.findings import errors
from schemas.instants import instant_ms
from schemas.log import Record, append_ms_of
from schemas.partitioning import partition_of
from schemas.policy import Policy
from streams.campaigns import load_campaigns
from streams.explain import explain as explain_member
from streams.narrate import narrate
from streams.patterns.plan import Plan
from streams.patterns.spell import nearest
from streams.replay import Line, read_log
from tidings.brokers import attach
from tidings.cli.policies import policy_of
from tidings.cli.progress import Bar
from tidings.config import Settings
from tidings.files import FORMATS, EventFiles, campaign_paths, read_texts
from tidings.registry import Decode, decoder_of

GROUP = "tidings-explain"  # librdkafka wants one; nothing is committed under it
TIMEOUT_S = 15.0  # without any answer from the broker
BATCH = 1_000  # records per poll
_NO_CONTACT = 3  # exit code: something needed is out of reach


@click.command()
@click.argument("campaigns", metavar="[CAMPAIGN_OR_DIR]...", nargs=-1)
@click.option("--member", "member_id", metavar="ID", required=True, help="The member.")
@click.option("--campaign", "name", metavar="ID", help="Only this campaign; default: all.")
@click.option(
    "--events", "-e", "sources", metavar="FILE", multiple=True,
    help="The log, as for replay: NDJSON of our envelope or of Segment, or the REES46 CSV; may be .gz; - is standard"
    " input. Its lines are one partition.",
)  # fmt: skip
@click.option("--live", is_flag=True, help="Read the log from the broker: the member's partition of topic events.")
@click.option("--format", "kind", type=click.Choice(FORMATS), default="auto", show_default=True, help="Of the file.")
@click.option("--at", "at", metavar="TIME", help="As of this moment, RFC 3339: what was read later is left out.")
@click.option("--broker", metavar="local|HOST:PORT,…", help="With --live: the broker to read; default TIDINGS_BROKER.")
@click.option(
    "--partition",
    type=click.IntRange(0),
    help="With --live: the partition to read; default: where the member's id lies.",
)
@click.option(
    "--output", "-o", type=click.Choice(("table", "json")), default="table", show_default=True,
    help="table: words; json: the same for programs.",
)  # fmt: skip
def explain(
    campaigns: tuple[str, ...],
    member_id: str,
    name: str | None,
    sources: tuple[str, ...],
    live: bool,
    kind: str,
    at: str | None,
    broker: str | None,
    partition: int | None,
    output: str,
) -> None:
    """Explain one member: what matched, what is awaited until when, or why nothing happened.

    The log is run through the engine anew, so it tells what the campaigns named here make of it; without any, those
    that the log itself publishes. Also for members whom no campaign ever took in: for each of their events, which
    condition failed with which values.

    \b
    Examples:
      python -m tidings explain campaigns/demo --member m-1 --events log.ndjson
      python -m tidings explain --member m-1 --campaign win-back --live
      python -m tidings explain campaigns --member m-1 -e log.ndjson --at 2026-11-21T12:00:00Z -o json

    Exit codes: 0 done (also for a member who is not in the log), 1 a campaign cannot be run, 2 wrong usage, 3 the
    broker is out of reach.
    """
    if live == bool(sources):
        raise OperatorError(f"explain: say --events FILE or --live (got {'both' if live else 'neither'})")
    plans, policy = _plans(campaigns), policy_of(campaigns)
    at_ms = _moment(at)
    if live:
        told = _from_broker(member_id, name, plans, policy, at_ms, broker, partition)
    else:
        files = EventFiles(sources, kind)
        with Bar("reading", files.size) as bar:
            told = explain_member(_shown(files, bar), plans, member_id, campaign=name, at_ms=at_ms, policy=policy)
    if name is not None and name not in told["known_campaigns"]:
        near = nearest(name, told["known_campaigns"])
        known = f"did you mean '{near}'?" if near else f"there are {', '.join(told['known_campaigns']) or 'none'}"
        raise OperatorError(f"--campaign: no such campaign runs (got {name!r}); {known}")
    if output == "json":
        click.echo(orjson.dumps(told, option=orjson.OPT_INDENT_2))
    else:
        click.echo(narrate(told))


def _moment(text: str | None) -> int | None:
    try:
        return None if text is None else instant_ms(text)
    except ValueError as error:
        raise OperatorError(f"--at: {error} (got {text!r}); write e.g. 2026-11-21T12:00:00Z") from None


def _plans(campaigns: tuple[str, ...]) -> list[Plan] | None:
    if not campaigns:
        return None
    paths = campaign_paths(campaigns)
    if not paths:
        raise OperatorError(
            f"{', '.join(campaigns)}: no campaigns here (got no *.yaml); name a directory that has some"
        )
    loaded, findings = load_campaigns(read_texts(paths), lenient=True)
    if errors(findings):
        raise CampaignError(findings)
    return [Plan(campaign) for campaign in loaded]


def _shown(files: EventFiles, bar: Bar) -> Iterator[Line]:
    for record, event in read_log(files.lines()):
        if not record.offset % BATCH:
            bar.at(files.position(), f"{record.offset:,} events")
        yield record, event


# ---------------------------------------------------------------- the broker


def _from_broker(
    member_id: str,
    name: str | None,
    plans: list[Plan] | None,
    policy: Policy | None,
    at_ms: int | None,
    broker: str | None,
    partition: int | None,
) -> dict[str, Any]:
    settings = attach(Settings.from_env(broker=broker))
    config = settings.confluent_consumer(GROUP, log_level=0)
    consumer = Consumer({**config, "error_cb": lambda error: None})
    try:
        found = consumer.list_topics(EVENTS, timeout=TIMEOUT_S).topics[EVENTS]
        if found.error is not None or not found.partitions:
            raise OperatorError(
                f"topic {EVENTS}: not to be read (got {found.error or 'no partitions'});"
                " create it with 'python -m tidings topics create'",
                exit_code=_NO_CONTACT,
            )
        number = partition_of(member_id.encode(), len(found.partitions)) if partition is None else partition
        if number not in found.partitions:
            raise OperatorError(f"--partition: {EVENTS} has {len(found.partitions)} of them, from 0 (got {number})")
        log = _log(consumer, number, member_id, decoder_of(settings))
        return explain_member(
            log, plans, member_id, campaign=name, at_ms=at_ms, partition=number, topic=EVENTS, policy=policy
        )
    except KafkaException as error:
        raise _unreachable(settings.bootstrap, error.args[0].str()) from None
    except RegistryUnreachable as error:
        raise OperatorError(str(error), exit_code=_NO_CONTACT) from None
    finally:
        consumer.close()


def _log(consumer: Consumer, partition: int, member_id: str, decode: Decode) -> Iterator[Line]:
    """Yield what lies in the partition now; only the member's own records and those without a key are decoded."""
    low, high = consumer.get_watermark_offsets(TopicPartition(EVENTS, partition), timeout=TIMEOUT_S)
    consumer.assign([TopicPartition(EVENTS, partition, low)])
    own, latest, at, quiet_since = member_id.encode(), 0, low, time.monotonic()
    with Bar(f"reading {EVENTS}/{partition}", high - low) as bar:
        while at < high:
            batch = consumer.consume(BATCH, timeout=0.2)
            if batch:
                quiet_since = time.monotonic()
            elif time.monotonic() - quiet_since > TIMEOUT_S:
                raise _unreachable(f"{EVENTS}/{partition}", f"no record for {TIMEOUT_S:.0f} s")
            for message in batch:
                error = message.error()
                if error is not None:
                    raise _unreachable(f"{EVENTS}/{partition}", error.str())
                record = _record(message, latest)
                latest = max(latest, record.append_ms)
                if record.offset < high:
                    yield record, _event(record, own, decode)
            # The position also passes what is no message: the marks of transactions.
            at = max(at, consumer.position([TopicPartition(EVENTS, partition)])[0].offset)
            bar.at(at - low, f"{at - low:,} records")


def _record(message: Message, latest: int) -> Record:
    """Read the append time as the engine does: the broker's clock, or a producer's made monotone."""
    kind, at_ms = message.timestamp()
    append_ms, recorded = append_ms_of(at_ms, message.headers())
    if kind != TIMESTAMP_LOG_APPEND_TIME and not recorded:
        append_ms = max(latest, append_ms)
    return Record(message.offset() or 0, append_ms, message.key(), message.value())


def _event(record: Record, own: bytes, decode: Decode) -> Event | None:
    if record.key is not None and record.key != own:
        return None
    try:
        return decode(record.value)
    except DecodeError:
        return None


def _unreachable(place: str, cause: str) -> OperatorError:
    return OperatorError(
        f"{place}: the broker gives no answer (got {cause}); check TIDINGS_BROKER and that it runs",
        exit_code=_NO_CONTACT,
    )
