import json

from schemas.instants import instant_ms
from streams.replay import read_log, replay

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


def test_a_date_of_a_withdrawn_campaign_does_not_keep_others_from_being_set():
    assert fired(
        published("2026-03-02T08:00:00Z", "a", "10:00"),
        event("2026-03-02T08:00:01Z"),
        withdrawn("2026-03-02T08:00:02Z", "a"),
        published("2026-03-02T08:00:03Z", "b", "11:00"),
        event("2026-03-02T08:00:04Z"),
        tick("2026-03-02T12:00:00Z"),
    ) == [("b", instant_ms("2026-03-02T11:00:00Z"))]
