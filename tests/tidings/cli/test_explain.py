"""`explain` on the command line: a file or the broker, words or JSON."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from confluent_kafka import Producer

from schemas.errors import CampaignError, OperatorError
from schemas.partitioning import partition_of
from tidings.cli.explain import explain

REMINDER = """
campaign: reminder
pattern: catalog.product.viewed as v then no order.created for 2h, same product_id
"""
THANKS = """
campaign: thanks
pattern: order.created[total > 100]
"""
AT = "2026-11-21T"
EVENTS = [
    {"type": "catalog.product.viewed", "event_id": "v1", "member_id": "m-1", "occurred_at": f"{AT}10:00:00Z",
     "data": {"product_id": "p1"}},
    {"type": "order.created", "event_id": "o1", "member_id": "m-1", "occurred_at": f"{AT}10:30:00Z",
     "data": {"total": 40, "items": [{"product_id": "p2"}]}},
    {"type": "app.opened", "event_id": "a1", "member_id": "m-2", "occurred_at": f"{AT}12:30:00Z"},
]  # fmt: skip


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "campaigns").mkdir()
    (tmp_path / "campaigns" / "reminder.yaml").write_text(REMINDER)
    (tmp_path / "campaigns" / "thanks.yaml").write_text(THANKS)
    (tmp_path / "log.ndjson").write_bytes(b"".join(json.dumps(event).encode() + b"\n" for event in EVENTS))
    return tmp_path


def call(*args: object) -> Result:
    return CliRunner().invoke(explain, [str(arg) for arg in args], catch_exceptions=False)


def told(*args: object) -> str:
    result = call(*args)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_words_name_each_campaign_and_its_state(place: Path) -> None:
    words = told(place / "campaigns", "--member", "m-1", "--events", place / "log.ndjson")
    assert "reminder: fired" in words
    assert "fired at 2026-11-21T12:30:00Z; the campaign sends nothing" in words
    assert "thanks: never entered" in words
    assert "total > 100 is false: total = 40" in words


def test_json_holds_the_same(place: Path) -> None:
    found = json.loads(told(place / "campaigns", "--member", "m-1", "-e", place / "log.ndjson", "-o", "json"))
    assert [(c["campaign"], c["state"]) for c in found["campaigns"]] == [
        ("reminder", "fired"),
        ("thanks", "never_entered"),
    ]


def test_one_campaign_and_a_moment_can_be_chosen(place: Path) -> None:
    words = told(
        place / "campaigns", "--member", "m-1", "--campaign", "reminder", "-e", place / "log.ndjson",
        "--at", f"{AT}11:00:00Z",
    )  # fmt: skip
    assert "reminder: waiting" in words
    assert "thanks" not in words


def test_an_unknown_member_is_no_error(place: Path) -> None:
    words = told(place / "campaigns", "--member", "m-7", "-e", place / "log.ndjson")
    assert words.startswith("member m-7: not found. The log holds 3 records of 2 members")


def test_campaigns_of_the_log_itself_are_explained_without_naming_any(place: Path) -> None:
    data = {"campaign": "thanks", "yaml": THANKS, "path": "thanks.yaml"}
    published = {"type": "campaign.published", "occurred_at": f"{AT}09:00:00Z", "data": data}
    lines = [json.dumps(event) for event in [published, *EVENTS]]
    (place / "own.ndjson").write_text("\n".join(lines))
    assert "thanks: never entered" in told("--member", "m-1", "-e", place / "own.ndjson")


def test_wrong_usage_names_what_to_do(place: Path) -> None:
    log = place / "log.ndjson"
    with pytest.raises(OperatorError, match="say --events FILE or --live"):
        call(place / "campaigns", "--member", "m-1")
    with pytest.raises(OperatorError, match="did you mean 'reminder'"):
        call(place / "campaigns", "--member", "m-1", "-e", log, "--campaign", "remindr")
    with pytest.raises(OperatorError, match="--at: "):
        call(place / "campaigns", "--member", "m-1", "-e", log, "--at", "yesterday")
    (place / "campaigns" / "bad.yaml").write_text("campaign: bad\npattern: 'then'\n")
    with pytest.raises(CampaignError):
        call(place / "campaigns", "--member", "m-1", "-e", log)


# ---------------------------------------------------------------- live


def send(bootstrap: str, partition: int, key: str | None, value: bytes, at_ms: int) -> None:
    producer = Producer({"bootstrap.servers": bootstrap})
    producer.produce("events", value, key, partition, timestamp=at_ms)
    assert producer.flush(10) == 0


def test_live_reads_the_members_partition_and_others_move_its_clock(place: Path, broker: str) -> None:
    start_ms = 1_795_255_200_000  # 2026-11-21T10:00:00Z
    own = partition_of(b"m-1", 3)
    send(broker, own, "m-1", json.dumps(EVENTS[0]).encode(), start_ms)
    send(broker, own, "m-9", b"not even JSON", start_ms + 60_000)
    send(broker, (own + 1) % 3, "m-1", json.dumps(EVENTS[1]).encode(), start_ms + 1_800_000)
    live = ("--member", "m-1", "--live", "--broker", f"memory://{broker}", place / "campaigns", "-o", "json")
    found = json.loads(told(*live))
    assert found["read"] == {"records": 2, "members": 2, "events": 1, "duplicates": 0, "too_old": 0}
    assert found["campaigns"][0]["state"] == "waiting"
    send(broker, own, None, b'{"type":"tick","member_id":null}', start_ms + 7_205_000)
    found = json.loads(told(*live))
    assert (found["campaigns"][0]["state"], found["as_of"]) == ("fired", "2026-11-21T12:00:05.000Z")


def test_live_from_a_broker_out_of_reach_ends_with_its_address(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tidings.cli.explain.TIMEOUT_S", 1.0)
    with pytest.raises(OperatorError, match=r"127\.0\.0\.1:9: the broker gives no answer") as caught:
        call("--member", "m-1", "--live", "--broker", "127.0.0.1:9", place / "campaigns")
    assert caught.value.exit_code == 3
