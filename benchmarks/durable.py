"""An engine as a worker has it, without Kafka: members are encoded and stored in memory after each epoch."""

import time
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from benchmarks.workload import START_MS
from schemas.codec import encode_event
from schemas.events import Event, Record
from streams.engine import PartitionEngine
from streams.patterns.plan import Plan
from tables.store import MemoryStore

Happening = tuple[str, int, dict[str, object]]
"""(type, the member's number, data); one every millisecond."""


class Took(NamedTuple):
    """What came of some events, and what they took. Making their bytes is not timed."""

    commands: int
    decisions: int
    cpu_s: float
    wall_s: float


class DurableEngine:
    """One partition. `batch`: records of an epoch."""

    def __init__(self, plans: Sequence[Plan], batch: int) -> None:
        self.store = MemoryStore()
        self.engine = PartitionEngine(0, self.store, campaigns=plans)
        self._batch = batch
        self._offset = 0

    def take(self, happenings: Iterable[Happening]) -> Took:
        """Run events."""
        records = []
        for offset, (type_, member, data) in enumerate(happenings, self._offset):
            event = Event(type_, START_MS + offset, f"e{offset}", f"m{member}", data)
            records.append(Record(offset, event.occurred_at_ms, None, encode_event(event)))
        self._offset += len(records)
        commands = decisions = 0
        cpu, wall = time.process_time(), time.perf_counter()
        for first in range(0, len(records), self._batch):
            epoch = self.engine.run(records[first : first + self._batch])
            self.store.write(epoch.members, epoch.meta, epoch.hints, None)
            self.engine.written(epoch)
            commands += len(epoch.commands)
            decisions += len(epoch.decisions)
        return Took(commands, decisions, time.process_time() - cpu, time.perf_counter() - wall)
