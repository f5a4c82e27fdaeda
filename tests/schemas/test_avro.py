import io
import json
from typing import Any

import fastavro
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.avro_codec import (
    NAMES,
    decode_event_avro,
    decode_receipt_avro,
    decode_record_avro,
    encode_event_avro,
    encode_receipt_avro,
    encode_record_avro,
    event_decoder,
    parse_schema,
    schema_id_of,
    schema_text,
)
from schemas.codec import encode_event
from schemas.commands import CancelMessage, SendMessage
from schemas.errors import DecodeError
from schemas.events import LINE_FIELDS, Event
from schemas.member_commands import AccruePoints, UpdateSegments, UpdateTags
from schemas.records import Attribution, Decision

AT = 1_795_255_200_123
EVENT = Event(
    "order.created", AT, "e-1", "m-1", {"total": 10, "items": [{"product_id": "p", "price": 1.5}], "n": None},
    sent_at_ms=AT + 1, source="shop", source_seq=3, context={"ip": "::1"},
)  # fmt: skip
RECORDS = [
    SendMessage("c1", "m", "c", "v", "i", "s", "email", "t", "a@b.example", AT, AT, AT, "e1", data={"a": [1.5, "x"]}),
    SendMessage("c1", "m", "c", "v", "i", "s", "email", "t", "a@b.example", AT, AT, AT, "e1", variant="b"),
    CancelMessage("c1", "m", "c", "i", "late", AT, AT),
    AccruePoints("c1", "m", "c", "v", "i", "s", 12.5, AT, AT, "e1", "gift", AT),
    AccruePoints("c1", "m", "c", "v", "i", "s", 1.0, AT, AT, "e1"),
    UpdateTags("c1", "m", "c", "v", "i", "s", AT, AT, "e1", ["a"], ["b", "c"]),
    UpdateSegments("c1", "m", "c", "v", "i", "s", AT, AT, "e1", ["a"]),
    Decision("d", "m", "c", "v", "i", "x", "eligible", "matched", AT, AT, "e1", ["a", 1], AT, inputs={"b": 1}),
    Decision("d", "m", "c", "v", "i", "x", "eligible", "matched", AT, AT, "e1"),
    Attribution("a", "m", "c", "v", "i", "c1", "email", "last_touch", "sent", AT, "e2", "order.created", AT, AT, 9.5),
]


def schemas(**by_name: str) -> Any:
    """Resolve id 1 to the schema in use, or to the texts given."""
    return lambda schema_id: parse_schema(by_name.get(f"s{schema_id}") or schema_text("event"))


def ours(name: str) -> Any:
    return lambda _schema_id: parse_schema(schema_text(name))


def changed(name: str, *, without: tuple[str, ...] = (), add: tuple[dict[str, Any], ...] = ()) -> str:
    schema = json.loads(schema_text(name))
    schema["fields"] = [field for field in schema["fields"] if field["name"] not in without] + list(add)
    return json.dumps(schema)


def written(text: str, fields: dict[str, Any], schema_id: int = 1) -> bytes:
    out = io.BytesIO(b"\0" + schema_id.to_bytes(4, "big"))
    out.seek(5)
    fastavro.schemaless_writer(out, fastavro.parse_schema(json.loads(text)), fields)
    return out.getvalue()


def test_an_event_comes_back_as_it_was() -> None:
    value = encode_event_avro(EVENT, 7)
    assert schema_id_of(value) == 7
    assert decode_event_avro(value, ours("event")) == EVENT


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: type(record).__name__)
def test_records_of_ours_come_back_as_they_were(record: Any) -> None:
    value = encode_record_avro(record, 1)
    assert decode_record_avro(type(record), value, ours(NAMES[type(record)])) == record


def test_a_receipt_comes_back_as_a_delivery_event() -> None:
    data = {"command_id": "c1", "campaign": "c", "version": "v", "instance_id": "i", "channel": "email", "attempt": 2}
    event = Event("delivery.bounced", AT, "e-1", "m-1", {**data, "status": "bounced", "code": "550"})
    assert decode_receipt_avro(encode_receipt_avro(event, 1), ours("receipt")) == event


def test_every_contract_names_the_fields_of_its_value() -> None:
    for kind, name in NAMES.items():
        avro = {field["name"] for field in json.loads(schema_text(name))["fields"]}
        fields = getattr(kind, "__struct_fields__")  # noqa: B009 - a plain attribute is not typed on `type`
        values = {field if field in avro else field.removesuffix("_ms") for field in fields if field not in LINE_FIELDS}
        assert avro == values


# ---------------------------------------------------------------- evolution


def test_new_reader_old_writer_missing_fields_take_their_defaults() -> None:
    old = changed("event", without=("tenant", "context", "data", "schema_version", "source_seq"))
    value = written(old, {"type": "order.created", "occurred_at": AT})
    event = decode_event_avro(value, schemas(s1=old))
    assert event == Event("order.created", AT)


def test_old_reader_new_writer_added_fields_are_skipped() -> None:
    new = changed("event", add=({"name": "priority", "type": "int", "default": 0},))
    value = written(new, {"type": "order.created", "occurred_at": AT, "priority": 9, "data": '{"total":1}'})
    assert decode_event_avro(value, schemas(s1=new)).data == {"total": 1}


def test_a_wider_type_of_the_reader_takes_what_an_older_writer_wrote() -> None:
    older = changed("event", without=("source_seq",), add=({"name": "source_seq", "type": "int"},))
    value = written(older, {"type": "order.created", "occurred_at": AT, "source_seq": 5})
    assert decode_event_avro(value, schemas(s1=older)).source_seq == 5


def test_a_writer_without_a_required_field_does_not_fit() -> None:
    broken = changed("event", without=("occurred_at",))
    with pytest.raises(DecodeError) as caught:
        decode_event_avro(written(broken, {"type": "order.created"}), schemas(s1=broken))
    assert caught.value.reason == "unknown-schema"


def test_a_decision_written_before_inputs_existed_still_reads() -> None:
    record = next(record for record in RECORDS if isinstance(record, Decision) and not record.inputs)
    old = changed("decision", without=("inputs", "channel", "correlation"))
    fields = {
        "decision_id": "d", "member_id": "m", "campaign": "c", "version": "v", "instance_id": "i", "command_id": "x",
        "outcome": "eligible", "reason": "matched", "decided_at": AT, "caused_at": AT, "anchor": "e1",
    }  # fmt: skip
    assert decode_record_avro(Decision, written(old, fields), lambda _: parse_schema(old)) == record


MESSAGE = {
    "command_id": "c1", "member_id": "m", "campaign": "c", "version": "v", "instance_id": "i", "step": "s",
    "channel": "email", "template": "t", "address": "a@b.example", "decided_at": AT, "caused_at": AT, "expires_at": AT,
    "anchor": "e1",
}  # fmt: skip


def test_a_message_written_before_variants_existed_still_reads() -> None:
    old = changed("send_message", without=("variant",))
    found = decode_record_avro(SendMessage, written(old, MESSAGE), lambda _: parse_schema(old))
    assert found.variant == ""


def test_a_reader_that_knows_no_variant_reads_what_has_one() -> None:
    new = schema_text("send_message")
    body = io.BytesIO(written(new, {**MESSAGE, "variant": "b"})[5:])
    old = fastavro.parse_schema(json.loads(changed("send_message", without=("variant",))))
    found: Any = fastavro.schemaless_reader(body, fastavro.parse_schema(json.loads(new)), old)
    assert "variant" not in found
    assert found["command_id"] == "c1"


# ---------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (b"", "empty"),
        (b"{}", "not-avro"),
        (b"\0\0\0\0", "not-avro"),
        (b"\0\0\0\0\1", "not-avro"),
        (encode_event_avro(EVENT, 1)[:-4], "not-avro"),
        (encode_event_avro(EVENT, 1) + b"x", "not-avro"),
        (encode_event_avro(Event("", AT), 1), "no-type"),
        (encode_event_avro(Event("a.b", -5), 1), "bad-time"),
        (encode_event_avro(Event("a.b", AT, "x" * 300), 1), "bad-id"),
        (encode_event_avro(Event("x" * 300, AT), 1), "bad-id"),
        (encode_event_avro(Event("order.created", AT, data={"total": "x"}), 1), "wrong-type"),
        (written(schema_text("event"), {"type": "a.b", "occurred_at": AT, "data": "{"}), "not-json"),
        (written(schema_text("event"), {"type": "a.b", "occurred_at": AT, "data": "[1]"}), "wrong-type"),
        (written(schema_text("event"), {"type": "a.b", "occurred_at": AT, "data": f'{{"a":{2**70}}}'}), "wrong-type"),
    ],
)
def test_what_is_no_event_is_refused_with_its_reason(value: bytes, reason: str) -> None:
    with pytest.raises(DecodeError) as caught:
        decode_event_avro(value, ours("event"))
    assert caught.value.reason == reason


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=120))
def test_any_bytes_decode_or_are_refused(body: bytes) -> None:
    try:
        event = decode_event_avro(b"\0\0\0\0\1" + body, ours("event"))
    except DecodeError:
        return
    assert decode_event_avro(encode_event_avro(event, 1), ours("event")) == event


def test_a_schema_that_is_none_is_refused() -> None:
    for text in ("", "{", '{"type":"nonsense"}', "[]["):
        with pytest.raises(DecodeError) as caught:
            parse_schema(text)
        assert caught.value.reason == "unknown-schema"


def test_with_a_registry_each_record_is_read_by_its_first_byte() -> None:
    decode = event_decoder(ours("event"))
    assert decode(encode_event_avro(EVENT, 1)) == decode(encode_event(EVENT)) == EVENT
    without = event_decoder(None)
    with pytest.raises(DecodeError) as caught:
        without(encode_event_avro(EVENT, 1))
    assert caught.value.reason == "unknown-schema"
