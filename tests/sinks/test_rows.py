"""Records become rows: total, deterministic, without personal data where it does not belong."""

import math

import pytest

from schemas.codec import encode_command, encode_decision, encode_event
from schemas.commands import CancelMessage, SendMessage
from schemas.events import Event
from schemas.member_commands import AccruePoints, UpdateTags, encode_member_command
from schemas.records import Decision
from sinks.rows import MAX_TIME_MS, TABLES, Batch, LogRecord, build

AT = 1_763_000_000_000


def event(**fields: object) -> bytes:
    return encode_event(Event(**{"type": "order.created", "occurred_at_ms": AT, "member_id": "m1", **fields}))  # type: ignore[arg-type]


def cells(batch: Batch, table: str, row: int = 0) -> dict[str, object]:
    return {name: column[row] for name, column in zip(TABLES[table], batch.columns[table], strict=True)}


def test_an_event_fills_its_typed_columns_and_keeps_its_data_as_json() -> None:
    data = {"order_id": 17, "total": 99.5, "currency": "EUR", "items": [{"product_id": "p1"}]}
    row = cells(build("events", 3, [LogRecord(7, AT + 5, event(event_id="e1", data=data))]), "events")
    assert (row["order_id"], row["total"], row["currency"]) == ("17", 99.5, "EUR")
    assert row["data"] == '{"currency":"EUR","items":[{"product_id":"p1"}],"order_id":17,"total":99.5}'
    assert (row["occurred_at"], row["appended_at"], row["log_partition"], row["log_offset"]) == (AT, AT + 5, 3, 7)


def test_an_event_without_id_is_named_by_its_place_in_the_log() -> None:
    assert cells(build("events", 3, [LogRecord(7, AT, event())]), "events")["event_id"] == "events/3/7"


def test_ticks_give_no_row_and_control_records_do() -> None:
    records = [
        LogRecord(0, AT, b'{"type":"tick","member_id":null}'),
        LogRecord(1, AT, b'{"type":"campaign.withdrawn","data":{"campaign":"c"}}'),
    ]
    batch = build("events", 0, records)
    assert batch.row_count == 1
    assert cells(batch, "events")["type"] == "campaign.withdrawn"


def test_a_receipt_is_an_event_and_a_receipt() -> None:
    data = {"campaign": "c1", "command_id": "k1", "attempt": 2, "provider": "smtp", "code": 250}
    batch = build("events", 0, [LogRecord(0, AT, event(type="delivery.sent", event_id="r1", data=data))])
    assert set(batch.columns) == {"events", "receipts"}
    row = cells(batch, "receipts")
    assert (row["status"], row["campaign"], row["command_id"], row["attempt"], row["code"]) == (
        "sent",
        "c1",
        "k1",
        2,
        "250",
    )


def test_a_command_leaves_address_and_profile_out() -> None:
    send = SendMessage(
        "k1",
        "m1",
        "c1",
        "v1",
        "i1",
        "s1",
        "email",
        "t1",
        "ann@shop.example",
        AT,
        AT,
        AT + 9,
        "e1",
        member={"name": "Ann"},
    )
    cancel = CancelMessage("k1", "m1", "c1", "i1", "late", AT, AT)
    batch = build("commands", 0, [LogRecord(0, AT, encode_command(send)), LogRecord(1, AT, encode_command(cancel))])
    assert "ann" not in repr(batch.columns).lower()
    assert [cells(batch, "messages", n)["kind"] for n in (0, 1)] == ["send", "cancel"]
    assert cells(batch, "messages", 1)["expires_at"] is None


def test_a_decision_spells_its_correlation_as_json() -> None:
    said = Decision("d1", "m1", "c1", "v1", "i1", "k1", "suppressed", "no_consent", AT, AT, "e1", correlation=["p1", 2])
    row = cells(build("decisions", 0, [LogRecord(0, AT, encode_decision(said))]), "decisions")
    assert (row["correlation"], row["due_at"]) == ('["p1",2]', None)


@pytest.mark.parametrize("topic", ["events", "commands", "decisions", "attributions"])
@pytest.mark.parametrize("value", [None, b"", b"\xff", b"{", b"[]", b"{}", b'{"type":1}', b"\x00\x00\x00\x00\x01x"])
def test_what_cannot_be_read_is_a_row_without_its_bytes(topic: str, value: bytes | None) -> None:
    batch = build(topic, 2, [LogRecord(4, -1, value)])
    row = cells(batch, "undecodable")
    assert (row["topic"], row["log_partition"], row["log_offset"], row["appended_at"]) == (topic, 2, 4, 0)
    assert sum(batch.undecodable.values()) == 1


HOSTILE = [True, [], {}, "nan", "1e999", "-inf", -1, 10**18, 1.5, "", "x" * 70_000, "\x00", "\U0001f600", None]


@pytest.mark.parametrize("value", HOSTILE, ids=range(len(HOSTILE)))
def test_a_hostile_attribute_still_fits_its_column(value: object) -> None:
    names = ("campaign", "attempt", "code", "reason", "provider", "template")
    batch = build(
        "events",
        0,
        [
            LogRecord(
                0,
                2**62,
                event(type="delivery.failed", occurred_at_ms=MAX_TIME_MS + 1, data=dict.fromkeys(names, value)),
            )
        ],
    )
    for table, columns in batch.columns.items():
        for name, cell in zip(TABLES[table], (column[0] for column in columns), strict=True):
            if name.endswith("_at"):
                assert 0 <= cell <= MAX_TIME_MS
            elif name in ("total", "price", "quantity"):
                assert cell is None or math.isfinite(cell)
            elif name in ("attempt", "machine", "schema_version", "log_partition", "log_offset"):
                assert 0 <= cell < 2**32
            else:
                assert isinstance(cell, str)


def test_the_same_records_give_the_same_columns() -> None:
    records = [LogRecord(n, AT + n, event(data={"b": n, "a": {"y": 1, "x": 2}})) for n in range(20)]
    assert build("events", 0, records) == build("events", 0, records)


def test_commands_about_members_fill_one_table() -> None:
    accrue = AccruePoints("k1", "m1", "c1", "v", "i1", "gift", 12.5, AT, AT, "e1", "birthday", AT + 5)
    tags = UpdateTags("k2", "m1", "c1", "v", "i1", "tag", AT, AT, "e1", ["vip"], ["old"])
    values = [encode_member_command(accrue), encode_member_command(tags), b"{}"]
    batch = build("member-commands", 0, [LogRecord(n, AT, value) for n, value in enumerate(values)])
    first, second = cells(batch, "member_commands"), cells(batch, "member_commands", 1)
    assert (first["kind"], first["points"], first["reason"], first["expires_at"]) == (
        "AccruePoints", 12.5, "birthday", AT + 5,
    )  # fmt: skip
    assert (second["kind"], second["points"], second["added"], second["removed"]) == (
        "UpdateTags", None, ["vip"], ["old"],
    )  # fmt: skip
    assert list(batch.undecodable.values()) == [1]


def test_a_message_keeps_the_variant_that_was_chosen() -> None:
    send = SendMessage("k1", "m1", "c", "v", "i", "s", "email", "t", "a@b.example", AT, AT, AT, "e1", variant="b")
    assert cells(build("commands", 0, [LogRecord(0, AT, encode_command(send))]), "messages")["variant"] == "b"
