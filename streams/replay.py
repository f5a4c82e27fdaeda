"""A pure, broker-free run of the engine over a recorded log of one partition."""

from collections.abc import Iterable, Iterator

import msgspec

from schemas.codec import decode_event
from schemas.errors import DecodeError
from schemas.events import Event, Record
from schemas.instants import instant_ms
from streams.engine import PartitionEngine
from streams.epoch import Epoch
from streams.patterns.plan import Plan
from tables.store import MemoryStore

BATCH = 4_096


class _Times(msgspec.Struct, gc=False):
    appended_at: str | int | float | None = None


_decode_times = msgspec.json.Decoder(_Times).decode

Line = tuple[Record, Event | None]


def read_log(lines: Iterable[bytes]) -> Iterator[Line]:
    """Read NDJSON lines as the log of one partition, offset = zero-based line (SEMANTICS 68).

    `appended_at` is the append time; without it `occurred_at` is, made monotone. A line that is no event comes without
    one, at the append time of the line before, for the engine to refuse. Blank lines count as lines and are left out.
    """
    latest = 0
    for offset, line in enumerate(lines):
        value = line.strip()
        if not value:
            continue
        event: Event | None = None
        append_ms = latest
        try:
            event = decode_event(value)
            appended = _decode_times(value).appended_at if b'"appended_at"' in value else None
            append_ms = instant_ms(appended) if appended is not None else max(latest, event.occurred_at_ms)
        except (DecodeError, msgspec.MsgspecError, ValueError):
            event = None
        if append_ms > latest:
            latest = append_ms
        yield Record(offset, append_ms, None, value), event


def replay(
    log: Iterable[Line],
    plans: Iterable[Plan] | None,
    *,
    partition: int = 0,
    topic: str = "events",
    batch: int = BATCH,
    decisions: bool = True,
) -> Iterator[Epoch]:
    """Run plans over a log, an epoch per batch. `plans` None: those the log itself publishes.

    `decisions` False leaves all outputs out but the firings, which costs a third less.

    What is pending at the end of the log stays pending: the log alone decides (SEMANTICS 5). The batch size never
    changes a result. Nothing is written anywhere; members stay in memory, one decoded record each.
    """
    fixed = None if plans is None else list(plans)
    engine = PartitionEngine(partition, MemoryStore(), topic=topic, campaigns=fixed, durable=False, decisions=decisions)
    fired: set[str] = set()
    records: list[Record] = []
    events: list[Event | None] = []
    for record, event in log:
        records.append(record)
        events.append(event)
        if len(records) >= batch:
            yield _once(engine.run(records, events), fired)
            records, events = [], []
    if records:
        yield _once(engine.run(records, events), fired)


def _once(epoch: Epoch, fired: set[str]) -> Epoch:
    """Drop what a sink would drop by its id: an anchor read again beyond the member's last 16 (SEMANTICS 64)."""
    fresh = []
    for firing in epoch.firings:
        if firing.instance_id not in fired:
            fired.add(firing.instance_id)
            fresh.append(firing)
    epoch.firings = fresh
    return epoch
