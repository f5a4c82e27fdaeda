"""The sink puts every record into ClickHouse once: over crashes, restarts, outages of the database, bad records."""

import logging
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition

from agents.records import GROUP, Lane, Limits, Range, RecordSink, parse_range
from schemas.codec import encode_event
from schemas.events import Event
from sinks.clickhouse import Target, Warehouse
from sinks.rows import LogRecord
from tests.helpers.workers import until
from tests.sinks.clickhouse_http import ClickHouseOverHttp

AT = 1_763_000_000_000
ROOT = Path(__file__).parents[2]
PARTITIONS = 4  # of a topic that the in-memory broker makes by itself


class Broker:
    """librdkafka's in-memory cluster, alive as long as its first client."""

    def __init__(self) -> None:
        self.producer = Producer({"test.mock.num.brokers": 1, "log_level": 3})
        broker = next(iter(self.producer.list_topics(timeout=10).brokers.values()))
        self.config: dict[str, Any] = {
            "bootstrap.servers": f"{broker.host}:{broker.port}",
            "session.timeout.ms": 6000,
            "log_level": 3,
        }

    def send(self, first: int, end: int) -> None:
        for n in range(first, end):
            kind = "delivery.sent" if n % 2 else "catalog.product.viewed"
            value = encode_event(
                Event(type=kind, occurred_at_ms=AT, event_id=f"e{n}", member_id=f"m{n}", data={"product_id": f"p{n}"})
            )
            self.producer.produce("events", key=f"m{n}", value=value, partition=n % PARTITIONS)
        assert self.producer.flush(10) == 0


class Assigned(RecordSink):
    """Takes its partitions without waiting for a group's rebalance (3 to 5 s on the in-memory broker)."""

    def _join(self) -> None:
        self._assigned(self._consumer, [TopicPartition("events", n) for n in range(PARTITIONS)])


class Crash(BaseException):
    """Nothing may catch it, as nothing catches a power cut."""


@pytest.fixture
def broker() -> Broker:
    return Broker()


@pytest.fixture
def warehouse(tmp_path: Path) -> Iterator[Warehouse]:
    opened = Warehouse(Target(path=tmp_path / "chdb"))
    opened.migrate()
    yield opened
    opened.close()


def run_until(sink: RecordSink, done: Callable[[], bool], seconds: float = 30.0) -> None:
    stop = threading.Event()
    errors: list[BaseException] = []

    def run() -> None:
        try:
            sink.run(stop)
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    deadline = time.monotonic() + seconds
    while thread.is_alive() and not done() and time.monotonic() < deadline:
        time.sleep(0.02)
    finished = done()
    stop.set()
    thread.join()
    if errors:
        raise errors[0]
    assert finished, sink.counters


def counts(warehouse: Warehouse) -> tuple[int, int, int, int]:
    query = (
        "SELECT (SELECT count() FROM events), (SELECT uniqExact(event_id) FROM events),"
        " (SELECT count() FROM receipts), (SELECT count() FROM events FINAL)"
    )
    return warehouse.client().query(query).result_rows[0]  # type: ignore[return-value]


def committed(broker: Broker) -> list[TopicPartition]:
    asking = Consumer({**broker.config, "group.id": GROUP})
    try:
        return asking.committed([TopicPartition("events", n) for n in range(PARTITIONS)], timeout=10)
    finally:
        asking.close()


def test_everything_arrives_once_and_the_commits_end_without_a_range(broker: Broker, warehouse: Warehouse) -> None:
    broker.send(0, 4_000)
    sink = Assigned(broker.config, warehouse, limits=Limits(rows=1_000, age_ms=50))
    run_until(sink, lambda: sink.counters.records == 4_000)
    assert counts(warehouse) == (4_000, 4_000, 2_000, 4_000)
    assert {(place.offset, place.metadata or "") for place in committed(broker)} == {(1_000, "")}


@pytest.mark.parametrize("at", ["announced", "first table in", "all tables in"])
def test_a_restart_repeats_exactly_the_announced_range(
    broker: Broker, warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    broker.send(0, 4_000)
    # Six inserts at the least: two partitions have one table, two have two; more where a fetch mixes partitions.
    real, left = warehouse.insert, 3 + {"announced": 0, "first table in": 1, "all tables in": 2}[at]

    def insert(table: str, columns: list[list[Any]], token: str) -> None:
        nonlocal left
        if left == 0:
            raise Crash
        left -= 1
        real(table, columns, token)
        if left == 0 and at != "announced":
            raise Crash

    monkeypatch.setattr(warehouse, "insert", insert)
    crashed = Assigned(broker.config, warehouse, limits=Limits(rows=1_000, age_ms=50))
    with pytest.raises(Crash):
        run_until(crashed, lambda: False)
    monkeypatch.undo()
    broker.send(4_000, 6_000)  # the log goes on: a range cut anew would end elsewhere
    # Less room than the announced ranges need together: they still go in whole.
    sink = Assigned(broker.config, warehouse, limits=Limits(rows=300, age_ms=50))
    run_until(sink, lambda: counts(warehouse)[1] == 6_000)
    assert 1 <= sink.counters.repeated_ranges <= PARTITIONS
    assert counts(warehouse) == (6_000, 6_000, 3_000, 6_000)
    warehouse.client().command("OPTIMIZE TABLE events FINAL")
    assert counts(warehouse)[0] == 6_000


def test_a_killed_process_leaves_neither_gaps_nor_doubles(broker: Broker, tmp_path: Path) -> None:
    broker.send(0, 6_000)
    for insert, when, wanted in (("4", "before", 0), ("3", "after", 0), ("0", "never", 6_000)):
        command = [
            sys.executable,
            "-m",
            "tests.agents.sink_process",
            broker.config["bootstrap.servers"],
            str(tmp_path / "chdb"),
            insert,
            when,
            "6000",
        ]
        child = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        try:
            if not wanted:
                assert child.wait(60) == -signal.SIGKILL
                continue
            until(lambda: sum(p.offset for p in committed(broker)) == 6_000, "everything is committed", 180)
            child.send_signal(signal.SIGTERM)
            assert child.wait(60) == 0
        finally:
            child.kill()
            child.communicate()
    warehouse = Warehouse(Target(path=tmp_path / "chdb"))
    try:
        assert counts(warehouse) == (6_000, 6_000, 3_000, 6_000)
    finally:
        warehouse.close()


def test_an_outage_of_the_server_loses_nothing_and_doubles_nothing(broker: Broker, tmp_path: Path) -> None:
    server = ClickHouseOverHttp(tmp_path / "chdb")
    server.start()
    warehouse = Warehouse(Target(url=server.url))
    try:
        warehouse.migrate()
        sink = Assigned(broker.config, warehouse, limits=Limits(rows=500, age_ms=50))
        steps = iter(
            [
                lambda: sink.counters.records >= 1_000,
                lambda: sink.counters.failures >= 3,
                lambda: sink.counters.records == 4_000,
            ]
        )
        broker.send(0, 1_000)

        def play() -> bool:
            if len(done) == 3:
                return True
            if not step[0]():
                return False
            done.append(1)
            if len(done) == 1:
                server.stop()
                broker.send(1_000, 3_000)
            elif len(done) == 2:
                assert sink.counters.outage
                assert sink.counters.records == 1_000
                server.swallow_answers = 1  # back, and one insert is done without its answer arriving
                server.start()
                broker.send(3_000, 4_000)
            step[0] = next(steps, step[0])
            return len(done) == 3

        done: list[int] = []
        step = [next(steps)]
        run_until(sink, play, 60)
        assert sink.counters.failures >= 3
        assert not sink.counters.outage
        assert server.swallow_answers == 0
        assert server.rows("SELECT count(), uniqExact(event_id) FROM tidings.events") == [["4000", "4000"]]
        assert server.rows("SELECT count() FROM tidings.receipts") == [["2000"]]
    finally:
        warehouse.close()
        server.close()


def test_a_stop_during_an_outage_is_quick_and_the_next_start_goes_on(broker: Broker, tmp_path: Path) -> None:
    server = ClickHouseOverHttp(tmp_path / "chdb")
    server.start()
    warehouse = Warehouse(Target(url=server.url))
    try:
        warehouse.migrate()
        server.stop()
        broker.send(0, 400)
        sink = Assigned(broker.config, warehouse, limits=Limits(rows=500, age_ms=50))
        began = time.monotonic()
        run_until(sink, lambda: sink.counters.failures >= 2)
        assert time.monotonic() - began < 10
        server.start()
        again = Assigned(broker.config, warehouse, limits=Limits(rows=500, age_ms=50))
        run_until(again, lambda: again.counters.records == 400)
        # How many partitions had come in when the outage was met is the broker's business.
        assert 1 <= again.counters.repeated_ranges <= PARTITIONS
        assert server.rows("SELECT count(), uniqExact(event_id) FROM tidings.events") == [["400", "400"]]
    finally:
        warehouse.close()
        server.close()


def test_bad_records_are_counted_and_the_good_ones_beside_them_arrive(
    broker: Broker, warehouse: Warehouse, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    for value in (b"{", b"\xff\xfe", b'{"type":5}', None):
        broker.producer.produce("events", key=b"ann@shop.example", value=value, partition=0)
    broker.send(0, 8)
    sink = Assigned(broker.config, warehouse, limits=Limits(age_ms=50))
    run_until(sink, lambda: sink.counters.records == 12)
    assert counts(warehouse)[1] == 8
    assert sum(sink.counters.undecodable.values()) == 4
    assert warehouse.client().command("SELECT count() FROM undecodable FINAL") == 4


def test_the_group_assigns_partitions_and_a_second_member_goes_on_where_the_first_left(
    broker: Broker, warehouse: Warehouse
) -> None:
    broker.send(0, 400)
    first = RecordSink(broker.config, warehouse, topics=("events",), limits=Limits(age_ms=50))
    run_until(first, lambda: first.counters.records == 400)
    broker.send(400, 600)
    second = RecordSink(broker.config, warehouse, topics=("events",), limits=Limits(age_ms=50))
    run_until(second, lambda: second.counters.records == 200)
    assert counts(warehouse) == (600, 600, 300, 600)


# ------------------------------------------------------------------ ranges


def test_a_range_is_read_back_as_it_was_written() -> None:
    announced = Range(3, 17, "ab12")
    assert parse_range(announced.metadata()) == announced
    assert announced.token("events", 2) == "events:2:3-17:ab12"


@pytest.mark.parametrize("metadata", [None, "", "v2 1 2 x", "v1 1 2", "v1 a 2 x", "v1 1 -2 x"])
def test_other_metadata_announces_nothing(metadata: str | None) -> None:
    assert parse_range(metadata) is None


def lane(redo: Range | None, *offsets: int) -> Lane:
    made = Lane("events", 0, redo)
    for offset in offsets:
        made.add(LogRecord(offset, AT, b"x"), 10, 1.0)
    return made


def test_an_announced_range_waits_until_it_is_read_to_its_end() -> None:
    made = lane(Range(5, 9, "n"), 5, 6, 8)
    assert not made.cut("mine")
    made.add(LogRecord(9, AT, b"x"), 10, 1.0)
    made.add(LogRecord(10, AT, b"x"), 10, 1.0)
    assert made.cut("mine")
    assert (made.range, made.announced) == (Range(5, 9, "n"), True)
    assert made.inserted(2.0) == 4
    assert made.cut("mine")
    assert (made.range, made.announced) == (Range(10, 10, "mine"), False)


def test_an_announced_range_ends_at_a_later_offset_when_its_last_record_is_gone() -> None:
    made = lane(Range(5, 9, "n"), 5, 12)
    assert made.cut("mine")
    assert made.range == Range(5, 9, "n")
    assert made.inserted(2.0) == 1


def test_an_announced_range_that_retention_took_is_given_up() -> None:
    made = lane(Range(5, 9, "n"), 30)
    assert made.cut("mine")
    assert made.range == Range(30, 30, "mine")


def test_a_range_once_cut_does_not_grow() -> None:
    made = lane(None, 1, 2)
    assert made.cut("mine")
    made.add(LogRecord(3, AT, b"x"), 10, 1.0)
    assert made.cut("mine")
    assert made.range == Range(1, 2, "mine")


def test_the_groups_name_is_permanent() -> None:
    assert GROUP == "tidings-sink"


def test_partitions_that_come_back_are_read_on_though_they_left_paused(broker: Broker, tmp_path: Path) -> None:
    """librdkafka keeps a pause over a rebalance, and an outage may end while nothing is assigned.

    They are resumed as they leave: whoever does it as they come may have librdkafka drop its own start of them.
    """
    sink = RecordSink(broker.config, Warehouse(Target(path=tmp_path / "chdb")))
    calls: list[str] = []
    places = [TopicPartition("events", 0, 3)]

    class Seen:
        def committed(self, asked: list[TopicPartition], timeout: float) -> list[TopicPartition]:
            return places

        def __getattr__(self, name: str) -> Any:
            return lambda given: calls.append(f"{name} {given[0].offset}")

    seen, own = Seen(), sink._consumer
    sink._consumer = seen  # type: ignore[assignment]
    sink.counters.outage = True
    sink._assigned(seen, places)  # type: ignore[arg-type]
    sink._revoked(seen, places)  # type: ignore[arg-type]
    sink.counters.outage = False
    sink._assigned(seen, places)  # type: ignore[arg-type]
    assert calls == ["assign 3", "resume 3", "assign 3"]
    own.close()


def test_partitions_that_come_in_an_outage_are_held_from_their_first_record_on(broker: Broker, tmp_path: Path) -> None:
    sink = RecordSink(broker.config, Warehouse(Target(path=tmp_path / "chdb")))
    broker.send(0, 400)
    try:
        sink.counters.outage = True
        sink._retry_at = time.monotonic() + 3_600
        sink._join()
        until = time.monotonic() + 60
        while not any(lane.records for lane in sink._lanes.values()) and time.monotonic() < until:
            sink._wait()
        for _ in range(20):
            sink._wait()
        assert sum(len(lane.records) for lane in sink._lanes.values()) == 1
        sink._recovered()
        while sum(len(lane.records) for lane in sink._lanes.values()) < 400 and time.monotonic() < until:
            sink._fetch()
        assert sum(len(lane.records) for lane in sink._lanes.values()) == 400
    finally:
        sink._consumer.close()
