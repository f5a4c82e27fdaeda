"""How many rows a second go into chDB?"""

import itertools
import tempfile
from pathlib import Path

from benchmarks.harness import Case, Row, Scale, Work, interleaved
from benchmarks.replay_speed import PATTERN, plan_of
from benchmarks.workload import w
from schemas.codec import encode_decision, encode_event
from schemas.errors import StateError
from sinks.clickhouse import Target, Warehouse
from sinks.rows import DECISIONS, EVENTS, LogRecord, build
from streams.replay import read_log, replay

NAME = "sink_rate"
QUESTION = "How many rows a second does the sink turn into columns and insert into chDB?"
METHOD = (
    "Records of workload W, and the decisions it leads to, as the consumer hands them over; `sinks.rows.build` and "
    "`Warehouse.insert` into chDB on disk in a directory of its own, tables migrated, merges running. CPU is that of "
    "all threads, chDB's included. `columns only`: build without an insert. The count of rows is asked for at the end."
)
ROWS = 200_000
BLOCK = 50_000  # agents.records.Limits: what a cycle holds under load
SMALL_BLOCK = 5_000


class Inserts:
    """Builds and inserts records in blocks, each under an offset range and token of its own."""

    def __init__(self, warehouse: Warehouse) -> None:
        self.warehouse = warehouse
        self.sent: dict[str, int] = {EVENTS: 0, DECISIONS: 0}
        self._numbers = itertools.count()

    def put(self, topic: str, records: list[LogRecord], block: int) -> Work:
        """Insert all records."""
        partition = next(self._numbers)  # each run is a partition of its own, so that none is a repeat
        for start in range(0, len(records), block):
            batch = build(topic, partition, records[start : start + block])
            for table, columns in batch.columns.items():
                self.warehouse.insert(table, columns, f"{topic}:{partition}:{start}")
        self.sent[topic] += len(records)
        return Work(len(records))

    def check(self) -> None:
        """Ask the database for its counts. Rows of one id are one row after a merge: offsets are counted instead.

        Raises:
            StateError: it has other rows than were sent.
        """
        events = self.warehouse.client().query("SELECT uniqExact(event_id) FROM events").result_rows[0][0]
        decisions = self.warehouse.client().query("SELECT uniqExact(decision_id) FROM decisions").result_rows[0][0]
        if not events or not decisions:
            raise StateError(f"sink_rate: rows are missing in chDB (got {events} events, {decisions} decisions)")
        self.distinct = {EVENTS: events, DECISIONS: decisions}


def columns_only(records: list[LogRecord]) -> Work:
    """Build without inserting."""
    for start in range(0, len(records), BLOCK):
        build(EVENTS, 0, records[start : start + BLOCK])
    return Work(len(records))


def run(scale: Scale) -> list[Row]:
    """Measure."""
    count = scale.of(ROWS)
    lines = [encode_event(event) for event in w(4, count, scale.of(ROWS // 10))]
    log = list(read_log(lines))
    events = [LogRecord(record.offset, record.append_ms, record.value) for record, _ in log]
    said = [decision for epoch in replay(log, [plan_of("browse_abandon", PATTERN)]) for decision in epoch.decisions]
    decisions = [LogRecord(n, d.decided_at_ms, encode_decision(d)) for n, d in enumerate(said)]
    with tempfile.TemporaryDirectory() as place:
        warehouse = Warehouse(Target(path=Path(place) / "chdb"))
        try:
            warehouse.migrate()
            inserts = Inserts(warehouse)
            cases: dict[str, Case] = {
                "events, blocks of 50,000": lambda: inserts.put(EVENTS, events, BLOCK),
                "events, blocks of 5,000": lambda: inserts.put(EVENTS, events, SMALL_BLOCK),
                "decisions, blocks of 50,000": lambda: inserts.put(DECISIONS, decisions, BLOCK),
                "events, columns only": lambda: columns_only(events),
            }
            rows = interleaved(cases, scale, "row")
            inserts.check()
        finally:
            warehouse.close()
    if inserts.distinct != {EVENTS: len(events), DECISIONS: len(decisions)}:
        raise StateError(f"sink_rate: chDB holds other rows than were sent (got {inserts.distinct})")
    return rows
