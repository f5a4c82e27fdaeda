import json

import pytest

from schemas.instants import instant_ms, instant_text
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


def at(time: str) -> str:
    return f"2026-03-02T{time}Z"


def edit(time: str, text: str) -> dict:
    return published(at(time), "a", text)


def said(time: str, word: str) -> dict:
    return {"type": f"campaign.{word}", "occurred_at": at(time), "data": {"campaign": "a"}}


def clock(time: str) -> dict:
    return tick(at(time))


def order(time: str) -> dict:
    return event(at(time))


def decided(*lines: dict) -> list[str]:
    """List when it was decided, if that is the same wherever batches end and whether or not the engine is restarted."""
    records = [record for record, _ in read_log(json.dumps(line).encode() for line in lines)]
    found = {}
    whole = len(records)
    for ends in ([whole], list(range(1, whole + 1)), *([n, whole] for n in range(1, whole))):
        for restart in (False, True):
            store, times = MemoryStore(), []
            engine = PartitionEngine(0, store)
            for first, end in zip([0, *ends], ends, strict=False):
                epoch = engine.run(records[first:end])
                store.write(epoch.members, epoch.meta, epoch.hints, None)
                engine.written(epoch)
                times += [decision.decided_at_ms for decision in epoch.decisions]
                engine = PartitionEngine(0, store) if restart else engine
            found[tuple(times)] = ends, restart
    assert len(found) == 1, found
    return [instant_text(time)[11:19] for time in next(iter(found))]


START = (edit("08:00:00", "10:00"), order("08:00:01"))
HOUR = "10:00\nlateness: 1h"


def test_an_edit_between_a_date_and_its_decision_leaves_it_to_the_version_it_came_in() -> None:
    late = (edit("08:00:00", HOUR), order("08:00:01"))
    rest = (order("10:20:00"), clock("10:30:00"), clock("11:00:05"))
    assert decided(*late, clock("10:00:06"), edit("10:00:10", "10:00"), *rest) == ["11:00:05"]
    assert decided(*START, edit("10:00:02", HOUR), clock("10:00:06"), *rest) == ["10:00:06"]
    back = (edit("08:00:02", HOUR), clock("10:00:06"), edit("10:00:10", "10:00"))  # the first version has drained since
    assert decided(*START, *back, *rest) == ["11:00:05"]


@pytest.mark.parametrize(("time", "wanted"), [("12:00", ["12:00:05"]), ("09:30", ["09:30:05"]), ("08:30", [])])
def test_the_time_of_an_edited_campaign_replaces_the_old_one_for_members_seen_since(
    time: str, wanted: list[str]
) -> None:
    after = (clock("09:30:05"), clock("10:00:05"), clock("12:00:05"))
    assert decided(*START, edit("09:00:00", time), order("09:00:01"), *after) == wanted


@pytest.mark.parametrize(("time", "wanted"), [("12:00", ["12:00:05"]), ("09:30", ["10:00:05"]), ("08:30", [])])
def test_the_time_of_an_edited_campaign_replaces_the_old_one_when_that_comes(time: str, wanted: list[str]) -> None:
    after = (clock("09:30:05"), clock("10:00:05"), clock("12:00:05"))
    assert decided(*START, edit("09:00:00", time), *after) == wanted


@pytest.mark.parametrize(
    ("word", "said_at", "resumed_at", "wanted"),
    [
        ("paused", "09:59:59", "10:00:02", []),  # it came in the pause
        ("paused", "10:00:00", "10:00:02", []),
        ("paused", "09:59:59", "10:00:00", ["10:00:06"]),
        ("paused", "10:00:01", "10:00:03", ["10:00:06"]),
        ("paused", "10:00:01", "10:00:08", ["10:00:06"]),  # decided in it
        ("drained", "09:59:59", "10:00:02", []),
        ("drained", "10:00:01", "10:00:08", ["10:00:06"]),
    ],
)
def test_a_date_is_skipped_if_it_came_in_a_pause_whenever_it_is_decided(
    word: str, said_at: str, resumed_at: str, wanted: list[str]
) -> None:
    words = [said(said_at, word), said(resumed_at, "resumed"), clock("10:00:06")]
    words.sort(key=lambda line: line["occurred_at"])
    assert decided(*START, *words, clock("10:30:00")) == wanted


def test_of_several_pauses_each_skips_what_came_in_it() -> None:
    start = (edit("08:00:00", HOUR), order("08:00:01"))
    pauses = (said("09:58:00", "paused"), said("09:59:00", "resumed"), said("10:01:00", "paused"))
    assert decided(*start, *pauses, said("10:02:00", "resumed"), clock("11:00:00")) == ["11:00:00"]
    pauses = (said("09:58:00", "paused"), said("10:01:00", "resumed"), said("10:02:00", "paused"))
    assert decided(*start, *pauses, said("10:03:00", "resumed"), clock("11:00:00")) == []


def test_a_date_of_a_withdrawn_campaign_does_not_keep_others_from_being_set():
    assert fired(
        published("2026-03-02T08:00:00Z", "a", "10:00"),
        event("2026-03-02T08:00:01Z"),
        withdrawn("2026-03-02T08:00:02Z", "a"),
        published("2026-03-02T08:00:03Z", "b", "11:00"),
        event("2026-03-02T08:00:04Z"),
        tick("2026-03-02T12:00:00Z"),
    ) == [("b", instant_ms("2026-03-02T11:00:00Z"))]
