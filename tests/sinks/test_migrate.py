"""Migrations: once each, in order, never changed; and the funnel they define counts each id once."""

from pathlib import Path

import msgspec
import pytest

from schemas.codec import encode_attribution, encode_command, encode_decision, encode_event
from schemas.commands import SendMessage
from schemas.errors import OperatorError
from schemas.events import Event
from schemas.records import Attribution, Decision
from sinks.clickhouse import Target, Warehouse
from sinks.migrate import load, migrate, split, status
from sinks.rows import LogRecord, build

AT = 1_763_000_000_000


@pytest.fixture
def warehouse(tmp_path: Path):
    opened = Warehouse(Target(path=tmp_path / "chdb"))
    yield opened
    opened.close()


def test_statements_end_at_semicolons_outside_quotes_and_comments() -> None:
    text = "SELECT ';' -- a; b\n; /* ; */ SELECT `x;y`, \"p;q\", 'it''s; \\'; ' ;\n-- only; a comment\n"
    assert split(text) == ["SELECT ';' -- a; b", "/* ; */ SELECT `x;y`, \"p;q\", 'it''s; \\'; '"]


def test_a_second_run_applies_nothing_and_each_file_bears_repetition(warehouse: Warehouse) -> None:
    client = warehouse.client()
    assert [s.state for s in status(client)] == ["pending"] * len(load())
    assert [m.number for m in warehouse.migrate()] == [m.number for m in load()]
    assert warehouse.migrate() == []
    assert {s.state for s in status(client)} == {"applied"}
    # As after a crash between the last statement and its record.
    client.command("TRUNCATE TABLE schema_migrations")
    assert len(warehouse.migrate()) == len(load())


def test_a_changed_file_is_refused_with_the_remedy(warehouse: Warehouse) -> None:
    warehouse.migrate()
    changed = [msgspec.structs.replace(load()[0], checksum="0" * 64), *load()[1:]]
    assert status(warehouse.client(), changed)[0].state == "changed"
    following = f"{len(load()) + 1:04d}"
    with pytest.raises(
        OperatorError, match=rf"0001_tables\.sql: it was applied and has changed since; restore .* new file {following}"
    ):
        migrate(warehouse.client(), changed)


def test_a_database_ahead_of_the_build_is_refused(warehouse: Warehouse) -> None:
    warehouse.migrate()
    with pytest.raises(OperatorError, match="run the newer build"):
        migrate(warehouse.client(), load()[:1])


@pytest.mark.parametrize("name", ["1_short.sql", "0001-dash.sql"])
def test_a_file_that_is_not_numbered_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("SELECT 1")
    with pytest.raises(OperatorError, match="not a migration's name"):
        load(tmp_path)


def test_a_gap_in_the_numbers_is_refused(tmp_path: Path) -> None:
    (tmp_path / "0002_later.sql").write_text("SELECT 1")
    with pytest.raises(OperatorError, match="expected 0001"):
        load(tmp_path)


def test_a_second_process_is_told_who_has_the_directory(warehouse: Warehouse) -> None:
    with pytest.raises(OperatorError, match=r"another one has it open \(got pid \d+\)") as caught:
        Warehouse(warehouse.target)
    assert caught.value.exit_code == 3


def test_a_database_name_that_needs_quotes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OperatorError, match="TIDINGS_CLICKHOUSE_DATABASE"):
        Target(path=tmp_path, database="x; DROP")


def _fill(warehouse: Warehouse, token: str) -> None:
    outcomes = [
        ("eligible", "matched"),
        ("suppressed", "no_consent"),
        ("suppressed", "no_consent"),
        ("suppressed", "cooldown"),
    ]
    decisions = [
        encode_decision(Decision(f"d{n}", f"m{n}", "c1", "v", f"i{n}", f"k{n}", outcome, reason, AT, AT, "e"))
        for n, (outcome, reason) in enumerate(outcomes)
    ]
    send = SendMessage("k0", "m0", "c1", "v", "i0", "s", "email", "t", "a@b.example", AT, AT, AT, "e")
    receipts = [
        encode_event(
            Event(
                type=f"delivery.{s}",
                occurred_at_ms=AT,
                event_id=s,
                member_id="m0",
                data={"campaign": "c1", "command_id": "k0"},
            )
        )
        for s in ("accepted", "sent", "delivered")
    ] + [
        encode_event(
            Event(
                type="engagement.opened",
                occurred_at_ms=AT + n,
                event_id=f"o{n}",
                member_id="m0",
                data={"campaign": "c1", "command_id": "k0"},
            )
        )
        for n in range(2)
    ]
    credits_ = [
        encode_attribution(
            Attribution(
                f"a{n}",
                "m0",
                "c1",
                "v",
                "i0",
                "k0",
                "email",
                "last",
                "sent",
                AT,
                f"o{n}",
                "order.created",
                AT,
                AT,
                10.5,
                "EUR",
            )
        )
        for n in range(2)
    ]
    for topic, values in (
        ("decisions", decisions),
        ("commands", [encode_command(send)]),
        ("events", receipts),
        ("attributions", credits_),
    ):
        for table, columns in build(topic, 0, [LogRecord(n, AT, v) for n, v in enumerate(values)]).columns.items():
            warehouse.insert(table, columns, token)


def test_the_funnel_counts_each_id_once_even_before_merges(warehouse: Warehouse) -> None:
    warehouse.migrate()
    _fill(warehouse, "first")
    _fill(warehouse, "second")  # the same rows under another token: they are stored twice until a merge
    assert warehouse.client().command("SELECT count() FROM decisions") == 8
    funnel = warehouse.client().query("SELECT * FROM campaign_funnel")
    assert [dict(zip(funnel.column_names, row, strict=True)) for row in funnel.result_rows] == [
        {
            "campaign": "c1",
            "decided": 4, "eligible": 1, "held": 0, "suppressed": 3,
            "held_by_reason": {}, "suppressed_by_reason": {"no_consent": 2, "cooldown": 1},
            "commanded": 1, "sent": 1, "delivered": 1, "opened": 1, "clicked": 0,
            "opened_by_machines": 0, "clicked_by_machines": 0, "failed": 0, "complained": 0, "unsubscribed": 0,
            "orders_attributed": 2, "value_by_currency": {"EUR": 21.0},
        }
    ]  # fmt: skip


def test_a_block_with_a_known_token_is_dropped_also_after_a_restart(warehouse: Warehouse) -> None:
    warehouse.migrate()
    _fill(warehouse, "same")
    _fill(warehouse, "same")
    warehouse.close()
    again = Warehouse(warehouse.target)
    try:
        _fill(again, "same")
        assert again.client().query(
            "SELECT (SELECT count() FROM decisions), (SELECT count() FROM events)"
        ).result_rows == [(4, 5)]
    finally:
        again.close()


def test_of_two_events_with_one_id_the_first_in_the_log_stays(warehouse: Warehouse) -> None:
    warehouse.migrate()
    for offset, product in ((9, "later"), (2, "first")):
        value = encode_event(
            Event(type="a.b.c", occurred_at_ms=AT, event_id="e", member_id="m", data={"product_id": product})
        )
        warehouse.insert("events", build("events", 0, [LogRecord(offset, AT, value)]).columns["events"], str(offset))
    assert warehouse.client().command("SELECT product_id FROM events FINAL") == "first"


def test_timestamps_over_many_months_do_not_stop_an_insert(warehouse: Warehouse) -> None:
    warehouse.migrate()
    month = 31 * 86_400_000
    records = [
        LogRecord(n, n * month, encode_event(Event(type="a.b.c", occurred_at_ms=AT, event_id=f"e{n}")))
        for n in range(150)
    ]
    warehouse.insert("events", build("events", 0, records).columns["events"], "t")
    assert warehouse.client().command("SELECT count() FROM events") == 150
