"""A pure, broker-free run of the engine over a recorded log of one partition."""

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Final

import msgspec

from schemas.codec import decode_event, plain_events
from schemas.envelope import Times
from schemas.errors import DecodeError
from schemas.events import Event, Record
from schemas.instants import instant_ms
from schemas.policy import Policy
from streams.engine import PartitionEngine
from streams.epoch import Epoch
from streams.patterns.plan import Plan
from tables.store import MemoryStore

BATCH: Final = 512  # what is decoded is still in the cache when it is applied: 4,096 cost a tenth more
READ_AHEAD: Final = 256  # lines decoded together for who asks for one after the other


_decode_times: Final = msgspec.json.Decoder(Times).decode

Line = tuple[Record, Event | None]


class Log:
    """The log of one partition, read from lines as it is asked for: a (record, event) for each line."""

    def __init__(self, lines: Iterable[bytes]) -> None:
        self._lines = iter(lines)
        self._offset = 0
        self._latest_ms = 0

    def __iter__(self) -> Iterator[Line]:
        """Yield line after line."""
        for records, events in self.batches(READ_AHEAD):
            yield from zip(records, events, strict=True)

    def batches(self, size: int) -> Iterator[tuple[list[Record], list[Event | None]]]:
        """Yield `size` lines at a time, decoded together; blank lines count, so there may be fewer records."""
        while lines := list(islice(self._lines, size)):
            values = [line.strip() for line in lines]
            places = list(range(self._offset, self._offset + len(lines)))
            self._offset += len(lines)
            if b"" in values:
                places = [place for place, value in zip(places, values, strict=True) if value]
                values = [value for value in values if value]
            if values:
                yield self._read(places, values)

    def _read(self, places: list[int], values: list[bytes]) -> tuple[list[Record], list[Event | None]]:
        records: list[Record] = []
        events = plain_events(values)
        latest_ms = self._latest_ms
        for number, value in enumerate(values):
            event = events[number]
            if event is None or event.appended_at is not None:
                append_ms, events[number] = _read_line(value, event, latest_ms)
            else:
                append_ms = event.occurred_at_ms
                if append_ms < latest_ms:
                    append_ms = latest_ms
            if append_ms > latest_ms:
                latest_ms = append_ms
            records.append(Record(places[number], append_ms, None, value))
        self._latest_ms = latest_ms
        return records, events


def _read_line(value: bytes, event: Event | None, latest_ms: int) -> tuple[int, Event | None]:
    """Read one line: its append time, and its event if it is one; `event`: the one already read."""
    try:
        event = event or decode_event(value)
        appended = _decode_times(value).appended_at if b'"appended_at"' in value else None
        return instant_ms(appended) if appended is not None else max(latest_ms, event.occurred_at_ms), event
    except (DecodeError, msgspec.MsgspecError, ValueError):
        return latest_ms, None


def read_log(lines: Iterable[bytes]) -> Log:
    """Read NDJSON lines as the log of one partition, offset = zero-based line (SEMANTICS 68).

    `appended_at` is the append time; without it `occurred_at` is, made monotone. A line that is no event comes without
    one, at the append time of the line before, for the engine to refuse. Blank lines count as lines and are left out.
    """
    return Log(lines)


def replay(
    log: Iterable[Line],
    plans: Iterable[Plan] | None,
    *,
    partition: int = 0,
    topic: str = "events",
    batch: int = BATCH,
    decisions: bool = True,
    policy: Policy | None = None,
) -> Iterator[Epoch]:
    """Run plans over a log, an epoch per batch. `plans` None: those the log itself publishes. `policy`: beside plans.

    `decisions` False leaves all outputs out but the firings, which costs a third less.

    What is pending at the end of the log stays pending: the log alone decides (SEMANTICS 5). The batch size never
    changes a result. Nothing is written anywhere; members stay in memory, one decoded record each.
    """
    fixed = None if plans is None else list(plans)
    says = decisions or any(plan.flow.marks for plan in fixed or ())  # a journey's tags may decide a firing
    engine = PartitionEngine(
        partition, MemoryStore(), topic=topic, campaigns=fixed, durable=False, decisions=says, policy=policy
    )
    fired: set[str] = set()
    for records, events in log.batches(batch) if isinstance(log, Log) else _batches(log, batch):
        yield _once(engine.run(records, events), fired)


def _batches(log: Iterable[Line], size: int) -> Iterator[tuple[list[Record], list[Event | None]]]:
    lines = iter(log)
    while batch := list(islice(lines, size)):
        yield [record for record, _ in batch], [event for _, event in batch]


def _once(epoch: Epoch, fired: set[str]) -> Epoch:
    """Drop what a sink would drop by its id: an anchor read again beyond the member's last 16 (SEMANTICS 64)."""
    fresh = []
    for firing in epoch.firings:
        if firing.instance_id not in fired:
            fired.add(firing.instance_id)
            fresh.append(firing)
    epoch.firings = fresh
    return epoch
