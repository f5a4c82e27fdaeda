import json

import pytest

from schemas.instants import instant_ms
from streams.engine import PartitionEngine
from streams.replay import read_log, replay
from tables.store import MemoryStore

DAILY = "campaign: {name}\npattern: every day at {at}\n"


def published(at: str, name: str, time: str) -> dict:
    text = DAILY.format(name=name, at=time)
    data = {"campaign": name, "yaml": text, "path": f"{name}.yaml"}
    return {"type": "campaign.published", "occurred_at": at, "data": data}


def withdrawn(at: str, name: str) -> dict:
    return {"type": "campaign.withdrawn", "occurred_at": at, "data": {"campaign": name}}


def event(at: str) -> dict:
    return {"type": "order.created", "member_id": "m1", "occurred_at": at, "event_id": at}


def tick(at: str) -> dict:
    return {"type": "tick", "occurred_at": at}


def fired(*records: dict) -> list[tuple[str, int | None]]:
    log = read_log(json.dumps(record).encode() for record in records)
    return [(firing.campaign, firing.due) for epoch in replay(log, None) for firing in epoch.firings]


def test_a_dated_campaign_published_later_reaches_members_whom_another_one_already_waits_for():
    assert fired(
        published("2026-03-02T08:00:00Z", "a", "10:00"),
        event("2026-03-02T08:00:01Z"),
        published("2026-03-02T08:00:02Z", "b", "11:00"),
        event("2026-03-02T08:00:03Z"),
        tick("2026-03-02T12:00:00Z"),
    ) == [("a", instant_ms("2026-03-02T10:00:00Z")), ("b", instant_ms("2026-03-02T11:00:00Z"))]


@pytest.mark.parametrize(("first", "second"), [("1h", "5s"), ("5s", "1h")])
def test_a_date_fires_by_the_lateness_in_force_then_wherever_batches_end(first: str, second: str):
    lines = [
        published("2026-03-02T08:00:00Z", "a", f"10:00\nlateness: {first}"),
        event("2026-03-02T08:00:01Z"),
        published("2026-03-02T08:00:02Z", "a", f"10:00\nlateness: {second}"),
        tick("2026-03-02T10:00:04Z"),
        tick("2026-03-02T10:00:05Z"),
        tick("2026-03-02T10:59:59Z"),
        tick("2026-03-02T11:00:05Z"),
    ]
    records = [record for record, _ in read_log(json.dumps(line).encode() for line in lines)]
    wanted = instant_ms("2026-03-02T10:00:05Z" if second == "5s" else "2026-03-02T11:00:05Z")
    for cut in range(1, len(records) + 1):
        for restart in (False, True):
            store, at = MemoryStore(), []
            engine = PartitionEngine(0, store)
            for first_of_batch in range(0, len(records), cut):
                epoch = engine.run(records[first_of_batch : first_of_batch + cut])
                store.write(epoch.members, epoch.meta, epoch.hints, None)
                engine.written(epoch)
                at += [decision.decided_at_ms for decision in epoch.decisions]
                engine = PartitionEngine(0, store) if restart else engine
            assert at == [wanted], f"batches of {cut}, restarts {restart}"


def test_a_date_of_a_withdrawn_campaign_does_not_keep_others_from_being_set():
    assert fired(
        published("2026-03-02T08:00:00Z", "a", "10:00"),
        event("2026-03-02T08:00:01Z"),
        withdrawn("2026-03-02T08:00:02Z", "a"),
        published("2026-03-02T08:00:03Z", "b", "11:00"),
        event("2026-03-02T08:00:04Z"),
        tick("2026-03-02T12:00:00Z"),
    ) == [("b", instant_ms("2026-03-02T11:00:00Z"))]
