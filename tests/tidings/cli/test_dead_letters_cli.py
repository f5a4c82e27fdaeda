import base64
import json
from collections.abc import Iterator

import pytest
from click.testing import CliRunner
from confluent_kafka import Producer

from schemas.codec import dead_letter_headers
from schemas.errors import OperatorError
from schemas.records import DeadLetter
from tidings.brokers.memory import MemoryBroker
from tidings.cli.dead_letters import dead_letters


@pytest.fixture
def broker() -> Iterator[str]:
    running = MemoryBroker({"events": 1, "dead-letters": 1})
    producer = Producer({"bootstrap.servers": running.bootstrap})
    for offset, (reason, value) in enumerate([("not-json", b'{"cut'), ("wrong-type", b"\xff\x00")]):
        found = DeadLetter("events", 0, offset, reason, f"event: {reason}", 1_795_255_200_000 + offset, b"m-1", value)
        producer.produce("dead-letters", value, found.key, 0, headers=list(dead_letter_headers(found)))
    producer.flush(10)
    yield running.bootstrap
    running.stop()


def run(*args: str) -> str:
    result = CliRunner().invoke(dead_letters, args, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_list_names_place_reason_and_size(broker: str) -> None:
    rows = [json.loads(line) for line in run("list", "--broker", broker, "--output", "ndjson").splitlines()]
    assert [(r["id"], r["state"], r["topic"], r["offset"], r["reason"], r["bytes"]) for r in rows] == [
        ("0/0", "open", "events", 0, "not-json", 5),
        ("0/1", "open", "events", 1, "wrong-type", 2),
    ]
    assert rows[0]["failed_at"] == "2026-11-21T10:00:00.000Z"
    assert "not-json" in run("list", "--broker", broker)


def test_show_prints_headers_and_bytes_and_raw_gives_the_bytes_alone(broker: str) -> None:
    shown = run("show", "0/0", "--broker", broker)
    assert "not-json" in shown
    assert '{"cut' in shown
    assert r"b'\xff\x00'" in run("show", "0/1", "--broker", broker)
    (row,) = json.loads(run("show", "0/1", "--broker", broker, "--output", "json"))
    assert base64.b64decode(row["value"]) == b"\xff\x00"
    raw = CliRunner().invoke(dead_letters, ["show", "0/1", "--broker", broker, "--raw"]).stdout_bytes
    assert raw == b"\xff\x00"


def test_replay_and_discard_take_letters_from_the_list_of_open_ones(broker: str) -> None:
    assert json.loads(run("replay", "0/0", "--broker", broker, "--output", "ndjson")) == {"chosen": 1, "sent": 1}
    discarded = run("discard", "--all", "--reason", "wrong-type", "--broker", broker, "--output", "ndjson")
    assert json.loads(discarded) == {"chosen": 1, "discarded": 1}
    assert run("list", "--broker", broker, "--output", "ndjson") == ""
    rows = json.loads(run("list", "--state", "all", "--broker", broker, "--output", "json"))
    assert [row["state"] for row in rows] == ["replayed", "discarded"]


@pytest.mark.parametrize("args", [["replay"], ["replay", "0/0", "--all"], ["discard"]])
def test_letters_are_named_or_all_are_meant(broker: str, args: list[str]) -> None:
    with pytest.raises(OperatorError, match="--all"):
        run(*args, "--broker", broker)


@pytest.mark.parametrize("name", ["list", "show", "replay", "discard"])
def test_help_shows_an_example(name: str) -> None:
    assert f"python -m tidings dead-letters {name}" in run(name, "--help")
