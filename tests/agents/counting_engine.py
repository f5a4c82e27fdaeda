"""A test double of `streams.engine.PartitionEngine` for tests of the protocol around it: it counts.

Every `EVERY`th event of a member makes a command and a decision; each event (re)starts the member's one timer, which
makes a command `TIMER_MS` later by the log's clock. A value of `bad` is a dead letter. Everything it says is a function
of the log and of the stored state, like the real engine's.
"""

from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from schemas.commands import SendMessage
from schemas.events import Record
from schemas.ids import h128
from schemas.records import DeadLetter, Decision
from streams.breaker import Breaker
from streams.epoch import Epoch
from tables.store import StateStore

EVERY = 3
TIMER_MS = 3_600_000
META = b"\x00meta"
BAD = b"bad"


class CountingEngine:
    """See the module."""

    def __init__(self, partition: int, store: StateStore, timer_ms: int = TIMER_MS) -> None:
        self._partition = partition
        self._store = store
        self._timer_ms = timer_ms
        stored = store.meta().get(META)
        self.applied_offset: int = -1
        self.clock_ms: int = 0
        if stored:
            self.applied_offset, self.clock_ms = msgspec.msgpack.decode(stored)
        self._members: dict[bytes, list[Any]] = {}
        self._due: dict[bytes, int] = {key: due for due, key in store.due(None, 1_000_000)}
        self.breaker = Breaker()
        self.breathe: Callable[[], None] = lambda: None
        self.computed_ahead = 0
        self.not_written = 0

    @property
    def next_fire_ms(self) -> int | None:
        return min(self._due.values(), default=None)

    def run(self, records: Sequence[Record]) -> Epoch:
        first, last = records[0].offset, records[-1].offset
        epoch = Epoch(self._partition, first, last, 0, 0, None, [], [], [], [], [], {}, {}, [], {})
        before: dict[bytes, int | None] = {}
        for record in records:
            if record.offset <= self.applied_offset:
                continue
            epoch.record_count += 1
            self.applied_offset = record.offset
            self.clock_ms = max(self.clock_ms, record.append_ms)
            for due, key in sorted((due, key) for key, due in self._due.items() if due <= self.clock_ms):
                before.setdefault(key, due)
                member = self._load(key)
                del self._due[key]
                member[1], member[2] = None, record.offset
                self._say(epoch, key, h128(key.decode(), "timer", str(due)), record)
            self._apply(epoch, record, before)
        for key, old in before.items():
            epoch.members[key] = msgspec.msgpack.encode(self._members[key])
            epoch.hints.append((key, old, self._due.get(key)))
        if epoch.record_count:
            epoch.meta[META] = msgspec.msgpack.encode((self.applied_offset, self.clock_ms))
        epoch.clock_ms, epoch.next_fire_ms = self.clock_ms, self.next_fire_ms
        self.not_written += 1
        self.computed_ahead = max(self.computed_ahead, self.not_written)
        return epoch

    def written(self, epoch: Epoch) -> None:
        self.not_written -= 1

    def member_view(self, member_id: str) -> dict[str, Any] | None:
        return {"count": self._load(member_id.encode())[3]}

    def campaigns_view(self) -> list[dict[str, Any]]:
        return []

    def _apply(self, epoch: Epoch, record: Record, before: dict[bytes, int | None]) -> None:
        key = record.key
        if key is None or not key:
            return  # a tick
        if record.value == BAD:
            epoch.dead_letters.append(
                DeadLetter("events", self._partition, record.offset, "not-json", "test", record.append_ms, key, BAD)
            )
            return
        member = self._load(key)
        if member[2] >= record.offset:
            return
        before.setdefault(key, self._due.get(key))
        member[3] += 1
        member[1] = self._due[key] = record.append_ms + self._timer_ms
        member[2] = record.offset
        if member[3] % EVERY == 0:
            self._say(epoch, key, h128(key.decode(), str(member[3])), record)

    def _load(self, key: bytes) -> list[Any]:
        member = self._members.get(key)
        if member is None:
            stored = self._store.get_many([key])[0]
            member = self._members[key] = msgspec.msgpack.decode(stored) if stored else [1, None, -1, 0]
        return member

    def _say(self, epoch: Epoch, key: bytes, command_id: str, record: Record) -> None:
        member_id = key.decode()
        epoch.commands.append(
            SendMessage(
                command_id=command_id, member_id=member_id, campaign="c", version="v", instance_id="i", step="s",
                channel="email", template="t", address="", decided_at_ms=self.clock_ms, caused_at_ms=record.append_ms,
                expires_at_ms=0, anchor="a",
            )
        )  # fmt: skip
        epoch.decisions.append(
            Decision(
                decision_id=command_id, member_id=member_id, campaign="c", version="v", instance_id="i",
                command_id=command_id, outcome="eligible", reason="", decided_at_ms=self.clock_ms,
                caused_at_ms=record.append_ms, anchor="a",
            )
        )  # fmt: skip
