"""Short ways to run campaigns over a handful of events in tests of the core."""

import json
from typing import Any

from schemas.events import Record
from streams.campaigns import load_campaign
from streams.engine import PartitionEngine
from streams.epoch import Epoch
from streams.patterns.plan import Plan
from streams.replay import read_log, replay
from tables.store import MemoryStore

MINUTE = 60_000
HOUR = 60 * MINUTE
DAY = 24 * HOUR


def plan(text: str) -> Plan:
    """Compile a campaign's text; its findings are the test's fault."""
    campaign, findings = load_campaign(text, "test.yaml", lenient=True)
    if campaign is None:
        raise ValueError("\n".join(str(f) for f in findings))
    return Plan(campaign)


def event(type_: str, at: int, event_id: str | None = None, member: str | None = "m1", **data: Any) -> dict[str, Any]:
    """Build one event in the wire's form; `at` is event time and append time unless `appended_at` is given."""
    appended = data.pop("appended_at", at)
    made = {"type": type_, "member_id": member, "occurred_at": at, "appended_at": appended, "data": data}
    return made if event_id is None else {**made, "event_id": event_id}


def tick(at: int) -> dict[str, Any]:
    """Move the clock to `at`."""
    return {"type": "tick", "member_id": None, "occurred_at": at, "appended_at": at}


def run(plans: list[Plan] | None, *events: dict[str, Any], batch: int = 3) -> list[Epoch]:
    """Replay events, in log order."""
    return list(replay(read_log(json.dumps(e).encode() for e in events), plans, batch=batch))


def firings(plans: list[Plan] | None, *events: dict[str, Any]) -> list[Any]:
    """Replay events and list the firings."""
    return [firing for epoch in run(plans, *events) for firing in epoch.firings]


class Durable:
    """One partition with a store that survives `crash`: an engine over it, epochs written as the worker does."""

    def __init__(self, plans: list[Plan] | None = None) -> None:
        self.store = MemoryStore()
        self.plans = plans
        self.offset = 0
        self.log: list[Record] = []
        self.engine = self._open()

    def _open(self) -> PartitionEngine:
        return PartitionEngine(0, self.store, campaigns=self.plans)

    def feed(self, *events: dict[str, Any], write: bool = True) -> Epoch:
        """Append events to the log and run them as one epoch; written to the store unless told otherwise."""
        records = []
        for made in events:
            records.append(Record(self.offset, made["appended_at"], None, json.dumps(made).encode()))
            self.offset += 1
        self.log.extend(records)
        epoch = self.engine.run(records)
        if write:
            self.store.write(epoch.members, epoch.meta, epoch.hints, None)
            self.engine.written(epoch)
        return epoch

    def crash(self) -> Epoch:
        """Forget the engine, open a new one on the store and let it read the log again from the start."""
        self.engine = self._open()
        return self.engine.run(self.log)
