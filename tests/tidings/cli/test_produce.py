import json
import time
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition

from schemas.codec import decode_event
from schemas.errors import OperatorError
from tidings import producing
from tidings.cli.produce import produce
from tidings.config import Settings

START = 1_760_000_000_000
REES46 = (
    "event_time,event_type,product_id,category_id,category_code,brand,price,user_id,user_session\n"
    "2019-10-01 00:00:00 UTC,view,1,2,shoes,acme,10.5,7,s\n"
    "2019-10-01 00:00:10 UTC,look,1,2,shoes,acme,10.5,7,s\n"
)


def event(number: int, **more) -> dict:
    return {
        "event_id": f"e{number}", "type": "order.created", "member_id": f"m{number % 5}",
        "occurred_at": START + number * 1_000, **more,
    }  # fmt: skip


def log(place: Path, *rows: dict | str) -> str:
    path = place / "log.ndjson"
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return str(path)


def run(*args: str) -> Result:
    return CliRunner().invoke(produce, [*args, "-o", "ndjson"], catch_exceptions=False)


def read(broker: str, count: int) -> list:
    consumer = Consumer({"bootstrap.servers": broker, "group.id": "t", "fetch.wait.max.ms": 20})
    consumer.assign([TopicPartition("events", number, 0) for number in range(3)])
    found: list = []
    until = time.monotonic() + 10
    while len(found) < count and time.monotonic() < until:
        found += [message for message in consumer.consume(count, timeout=0.2) if message.error() is None]
    consumer.close()
    return found


def test_events_go_as_they_are_to_their_members_partition_in_order(tmp_path, broker):
    rows = [event(number) for number in range(200)]
    result = run(log(tmp_path, *rows), "--broker", broker)
    assert result.exit_code == 0
    shown = json.loads(result.stdout)
    assert (shown["sent"], shown["skipped"], shown["failed"]) == (200, 0, 0)
    found = read(broker, 200)
    assert sorted(message.value() for message in found) == sorted(json.dumps(row).encode() for row in rows)
    for member in range(5):
        own = [message for message in found if message.key() == f"m{member}".encode()]
        assert len({message.partition() for message in own}) == 1
        assert [json.loads(m.value())["event_id"] for m in own] == [f"e{n}" for n in range(member, 200, 5)]


def test_lines_that_are_no_events_are_named_and_left_out_unless_raw(tmp_path, broker):
    file = log(tmp_path, event(1), '{"cut', {"type": "tick"}, "")
    result = run(file, "--broker", broker)
    assert (result.exit_code, json.loads(result.stdout)["skipped"]) == (0, 2)
    assert f"{file}:2: not-json" in result.stderr
    assert f"{file}:3: a record of type tick" in result.stderr
    assert json.loads(run(file, "--raw", "--broker", broker).stdout)["sent"] == 2
    assert b'{"cut' in {message.value() for message in read(broker, 3)}


def test_now_shifts_all_times_by_one_span_so_that_the_latest_is_now(tmp_path, broker):
    run(log(tmp_path, event(5, sent_at=START), event(2), event(3)), "--now", "--broker", broker)
    found = {e.event_id: e for e in (decode_event(message.value()) for message in read(broker, 3))}
    assert abs(found["e5"].occurred_at_ms - time.time() * 1000) < 10_000
    assert found["e5"].occurred_at_ms - found["e2"].occurred_at_ms == 3_000
    assert found["e5"].occurred_at_ms - (found["e5"].sent_at_ms or 0) == 5_000


def test_paced_sends_each_event_when_its_time_comes(tmp_path, broker):
    rows = [event(1, occurred_at=START), event(2, occurred_at=START + 400)]
    began = time.monotonic()
    run(log(tmp_path, *rows), "--paced", "--broker", broker)
    assert time.monotonic() - began >= 0.4
    for message in read(broker, 2):
        assert abs(decode_event(message.value()).occurred_at_ms - message.timestamp()[1]) < 300


def test_a_rate_is_kept(tmp_path, broker):
    began = time.monotonic()
    run(log(tmp_path, *(event(number) for number in range(50))), "--rate", "100/s", "--broker", broker)
    assert 0.45 <= time.monotonic() - began < 5


def test_a_recorded_log_keeps_its_append_times_and_ends_with_a_tick_on_every_partition(tmp_path, broker):
    later = {**event(2), "appended_at": START + 9_000}
    run(log(tmp_path, event(1), later, event(3)), "--as-recorded", "--broker", broker)
    messages = read(broker, 3 + 3)
    events = [m for m in messages if decode_event(m.value()).type != "tick"]
    recorded = sorted(dict(m.headers())["recorded-at"] for m in events)
    assert recorded == [b"%d" % (START + 1_000), b"%d" % (START + 9_000), b"%d" % (START + 9_000)]
    assert [m.headers() for m in messages if m not in events] == [None] * 3


def test_a_recorded_log_that_takes_too_long_is_broken_off_at_once_and_counts_for_nothing(tmp_path, broker):
    file = log(tmp_path, *(event(number) for number in range(600)))
    result = run(file, "--as-recorded", "--within", "1s", "--rate", "10/s", "--broker", broker)
    assert result.exit_code == 1
    shown = json.loads(result.stdout)
    assert shown["sent"] == 0
    assert 0 < shown["failed"] < 600  # not sent to the end for nothing
    assert "not sent within 1s, so none of it counts" in result.stderr
    assert "transaction.max.timeout.ms" in result.stderr


@pytest.mark.parametrize("span", ["0s", "25d", "soon"])
def test_a_time_that_no_transaction_can_have_is_wrong_usage(tmp_path, span):
    result = run(log(tmp_path, event(1)), "--as-recorded", "--within", span)
    assert (result.exit_code, "--within" in result.stderr) == (2, True)


@pytest.mark.parametrize(
    ("code", "remedy"),
    [
        (KafkaError.INVALID_TRANSACTION_TIMEOUT, r"raise the brokers' transaction\.max\.timeout\.ms"),
        (KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED, "allow our user Write on transactional ids"),
        (KafkaError._TIMED_OUT, r"__transaction_state: it needs as many brokers as"),
    ],
)
def test_brokers_that_begin_no_transaction_are_told_of_with_the_remedy(broker, monkeypatch, code, remedy):
    class Refused(Producer):
        def init_transactions(self, timeout=-1):
            raise KafkaException(KafkaError(code))

    monkeypatch.setattr(producing, "Producer", Refused)
    with pytest.raises(OperatorError, match=remedy) as told:
        producing.Sender(Settings(broker=broker), "events", atomic_ms=producing.ATOMIC_MS)
    assert told.value.exit_code == 3


def test_rees46_and_segment_are_events(tmp_path, broker):
    (tmp_path / "shop.csv").write_text(REES46)
    result = run(str(tmp_path / "shop.csv"), "--broker", broker)
    assert json.loads(result.stdout)["sent"] == 1
    assert "shop.csv:3: row 1" in result.stderr
    call = {"type": "track", "event": "Product Viewed", "userId": "u", "timestamp": "2026-03-02T10:00:00Z"}
    assert json.loads(run(log(tmp_path, call), "--broker", broker).stdout)["sent"] == 1
    types = {decode_event(message.value()).type for message in read(broker, 2)}
    assert types == {"catalog.product.viewed"}
    assert {message.key() for message in read(broker, 2)} == {b"7", b"u"}


def test_a_record_the_broker_does_not_take_is_counted_and_ends_with_one(tmp_path, broker):
    large = event(1, data={"order_id": "x" * 1_050_000})
    result = run(log(tmp_path, large, event(2)), "--raw", "--broker", broker)
    assert result.exit_code == 1
    assert (json.loads(result.stdout)["sent"], json.loads(result.stdout)["failed"]) == (1, 1)
    assert "MSG_SIZE_TOO_LARGE" in result.stderr


def test_a_broker_out_of_reach_is_an_error_with_exit_code_three(tmp_path, monkeypatch):
    monkeypatch.setattr("tidings.producing.ANSWER_SECONDS", 1.0)
    with pytest.raises(OperatorError, match="start the broker") as caught:
        run(log(tmp_path, event(1)), "--broker", "127.0.0.1:1")
    assert caught.value.exit_code == 3


@pytest.mark.parametrize("args", [("--now", "--paced"), ("--rate", "fast"), ("--rate", "0")])
def test_options_that_make_no_sense_are_wrong_usage(tmp_path, args):
    assert run(log(tmp_path, event(1)), *args).exit_code == 2


def test_help_shows_an_example():
    assert "python -m tidings produce" in run("--help").output
