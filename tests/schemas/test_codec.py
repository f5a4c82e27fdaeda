import json
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.codec import (
    MAX_BYTES,
    dead_letter_from,
    dead_letter_headers,
    decode_attribution,
    decode_command,
    decode_decision,
    decode_event,
    encode_attribution,
    encode_command,
    encode_decision,
    encode_event,
)
from schemas.commands import CancelMessage, SendMessage
from schemas.errors import DecodeError
from schemas.events import Event
from schemas.instants import instant_text
from schemas.reading import MAX_ID
from schemas.records import Attribution, DeadLetter, Decision

AT = 1_795_255_200_123


def wire(**fields: Any) -> bytes:
    return json.dumps({"type": "order.created", "occurred_at": AT, "member_id": "m1", **fields}).encode()


def reason_of(value: bytes | None) -> str:
    with pytest.raises(DecodeError) as caught:
        decode_event(value)
    return caught.value.reason


@pytest.mark.parametrize(
    "text",
    [
        "2026-11-21T10:00:00.123Z",
        "2026-11-21t10:00:00.123z",
        "2026-11-21 10:00:00.123Z",
        "2026-11-21T10:00:00.123456789Z",
        "2026-11-21T12:00:00.123+02:00",
        "2026-11-21T04:30:00.123-05:30",
        AT,
        float(AT),
    ],
)
def test_the_same_instant_reads_the_same_in_every_spelling(text: str | int | float) -> None:
    for _ in range(2):  # the second time from the memo
        event = decode_event(wire(occurred_at=text, sent_at=text, received_at=text))
        assert (event.occurred_at_ms, event.sent_at_ms, event.received_at_ms) == (AT, AT, AT)


def test_a_leap_second_is_the_first_instant_of_the_next_minute() -> None:
    leap, after = (decode_event(wire(occurred_at=t)) for t in ("2016-12-31T23:59:60Z", "2017-01-01T00:00:00Z"))
    assert leap.occurred_at_ms == after.occurred_at_ms


def test_the_memo_of_seconds_takes_no_other_text_for_an_instant() -> None:
    assert decode_event(wire(occurred_at="2026-11-21T10:00:00Z")).occurred_at_ms == AT - 123
    for text in ("2026-11-21T10:00:00.1234Z5", "2026-11-21T10:00:00.12", "2026-11-21T10:00:00"):
        assert reason_of(wire(occurred_at=text)) == "bad-time"


@pytest.mark.parametrize(
    "at",
    ["yesterday", "", "2026-11-21", "2026-11-21T10:00:00", "2026-13-01T00:00:00Z", "1969-12-31T23:59:59Z", -1, 1e300,
     "9999-12-31T23:59:59-23:59", 253_402_300_800_000],
)  # fmt: skip
def test_a_bad_time_is_refused(at: str | int | float) -> None:
    assert reason_of(wire(occurred_at=at)) == "bad-time"
    assert reason_of(wire(sent_at=at)) == "bad-time"


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (None, "empty"),
        (b"", "empty"),
        (b"{" + b" " * MAX_BYTES + b"}", "too-large"),
        (b'{"type":"order.created","occurr', "not-json"),
        (b"\xff\xfe", "not-json"),
        (b'{"type":"a.b","data":{"x":"\xff"}}', "not-json"),
        (b'{"type":"a.b","data":' + b"[" * 5000, "not-json"),
        (b'{"type":"a.b","occurred_at":1,"data":{"x":1e999}}', "not-json"),
        (b'{"type":"a.b"} {}', "not-json"),
        (b"\x00\x00\x00\x00\x07abc", "unknown-schema"),
        (b"[1]", "not-an-object"),
        (b'"order.created"', "not-an-object"),
        (b"null", "not-an-object"),
        (b"{}", "no-type"),
        (b'{"type":null,"occurred_at":1}', "no-type"),
        (b'{"type":"","occurred_at":1}', "no-type"),
        (b'{"type":"...","occurred_at":1}', "no-type"),
        (b'{"type":"order.created"}', "no-time"),
        (b'{"type":"order.created","occurred_at":null}', "no-time"),
        (b'{"type":7,"occurred_at":1}', "wrong-type"),
        (b'{"type":"order.created","occurred_at":true}', "wrong-type"),
        (b'{"type":"order.created","occurred_at":1,"data":[]}', "wrong-type"),
        (b'{"type":"order.created","occurred_at":1,"member_id":{}}', "wrong-type"),
        (b'{"type":"order.created","occurred_at":1,"member_id":1.5}', "wrong-type"),
        (b'{"type":"order.created","occurred_at":1,"context":[]}', "wrong-type"),
        (b'{"type":"a.b","occurred_at":1,"data":{"x":18446744073709551616}}', "wrong-type"),
        (b'{"type":"a.b","occurred_at":1,"data":{"x":[{"y":-9223372036854775809}]}}', "wrong-type"),
        (b'{"type":"a.b","occurred_at":1,"event_id":"' + b"x" * (MAX_ID + 1) + b'"}', "bad-id"),
        (b'{"type":"a.b","occurred_at":1,"member_id":' + b"9" * (MAX_ID + 1) + b"}", "bad-id"),
    ],
)
def test_what_is_no_event_is_refused_with_its_reason(value: bytes | None, reason: str) -> None:
    assert reason_of(value) == reason


@pytest.mark.parametrize(
    ("data", "place"),
    [
        ({"total": "abc"}, "data.total must be a number (got text)"),
        ({"total": True}, "data.total must be a number (got a flag)"),
        ({"total": [1]}, "data.total must be a number (got a list)"),
        ({"items": "x"}, "data.items must be a list (got text)"),
        ({"items": {}}, "data.items must be a list (got an object)"),
        ({"items": ["x"]}, "data.items[0] must be an object (got text)"),
        ({"items": [{}, {"price": "1"}]}, "data.items[1].price must be a number (got text)"),
        ({"order_id": {"a": 1}}, "data.order_id must be text (got an object)"),
    ],
)
def test_a_known_attribute_of_the_wrong_json_type_is_refused(data: dict[str, Any], place: str) -> None:
    with pytest.raises(DecodeError) as caught:
        decode_event(wire(data=data))
    assert (caught.value.reason, place in caught.value.message) == ("wrong-type", True)


@pytest.mark.parametrize(
    "data",
    [
        {"total": None, "items": None, "order_id": None},
        {"total": 5, "order_id": 17, "items": []},
        {"items": [{"product_id": 7, "price": None, "colour": ["red"]}]},
        {"no_such_attribute": {"anything": [1, "a", None]}},
    ],
)
def test_null_absence_numeric_ids_and_unknown_attributes_pass(data: dict[str, Any]) -> None:
    assert decode_event(wire(data=data)).data == data


def test_attributes_of_a_profile_are_free() -> None:
    data = {"channel": {"first": "web"}, "email": ["a", "b"], "consent": {"email": True}}
    assert decode_event(wire(type="member.updated", data=data)).data == data
    assert reason_of(wire(type="member.updated", data={"consent": "yes"})) == "wrong-type"


@pytest.mark.parametrize(
    ("given_type", "rides_as"),
    [
        ("order.created", "order.created"),
        ("shop.invoice.paid", "shop.invoice.paid"),  # a newer producer's
        ("custom.quiz_won", "custom.quiz_won"),
        ("custom.Quiz Won", "custom.quiz_won"),
        ("Foo Bar", "custom.foo_bar"),
        ("signup", "custom.signup"),
        ("fooBar", "custom.foo_bar"),
        ("Shop.Invoice", "custom.shop_invoice"),
        ("page", "custom.page"),  # in our envelope: has occurred_at, so it is no Segment call
    ],
)
def test_unknown_types_ride_as_custom_and_dotted_ones_pass(given_type: str, rides_as: str) -> None:
    assert decode_event(wire(type=given_type)).type == rides_as


def test_numeric_ids_become_text_and_empty_ones_absent() -> None:
    event = decode_event(wire(member_id=541312140, event_id=7, anonymous_id="", correlation_key=3))
    assert (event.member_id, event.event_id, event.anonymous_id, event.correlation_key) == ("541312140", "7", None, "3")
    assert decode_event(wire(member_id="", event_id="")).member_id is None


def test_ticks_and_control_records_need_no_time() -> None:
    assert decode_event(b'{"type":"tick","member_id":null}') == Event("tick", 0)
    assert decode_event(b'{"type":"campaign.withdrawn","data":{"campaign":"c"}}').data == {"campaign": "c"}


def test_a_refusal_never_holds_the_payload() -> None:
    secret = "anna@shop.example"
    for fields in ({"occurred_at": secret}, {"data": {"total": secret}}, {"data": {"items": [secret]}}):
        with pytest.raises(DecodeError) as caught:
            decode_event(wire(**fields))
        assert secret not in caught.value.message


# ---------------------------------------------------------------- evolution: newer and older producers


def test_fields_of_a_newer_producer_are_ignored() -> None:
    assert decode_event(wire(priority=9, schema_version=7, data={"total": 1})).schema_version == 7


def test_an_older_producer_may_lack_every_optional_field() -> None:
    event = decode_event(b'{"type":"order.created","occurred_at":1}')
    assert event == Event("order.created", 1)


def test_records_of_ours_read_across_versions() -> None:
    newer = msgspec.json.decode(encode_decision(DECISION)) | {"added_later": 1}
    older = {name: value for name, value in newer.items() if name not in ("inputs", "channel", "added_later")}
    assert decode_decision(msgspec.json.encode(newer)) == DECISION
    assert decode_decision(msgspec.json.encode(older)).inputs == {}


# ---------------------------------------------------------------- round trips

DECISION = Decision("d", "m", "c", "v", "i", "x", "eligible", "matched", AT, AT, "e1", ["a", 1], inputs={"b": None})
SEND = SendMessage("c1", "m", "c", "v", "i", "s", "email", "t", "a@b.example", AT, AT, AT, "e1", data={"a": [1.5]})
CANCEL = CancelMessage("c1", "m", "c", "i", "late", AT, AT)
ATTRIBUTION = Attribution(
    "a", "m", "c", "v", "i", "c1", "email", "last_touch", "sent", AT, "e2", "order.created", AT, AT, 9.5
)


def test_records_of_ours_come_back_as_they_were() -> None:
    assert decode_command(encode_command(SEND)) == SEND
    assert decode_command(encode_command(CANCEL)) == CANCEL
    assert decode_decision(encode_decision(DECISION)) == DECISION
    assert decode_attribution(encode_attribution(ATTRIBUTION)) == ATTRIBUTION


def test_equal_values_give_equal_bytes_whatever_the_order_of_keys() -> None:
    one, two = Event("a.b", 1, data={"x": 1, "y": 2}), Event("a.b", 1, data={"y": 2, "x": 1})
    assert encode_event(one) == encode_event(two)


@pytest.mark.parametrize("decode", [decode_command, decode_decision, decode_attribution])
def test_records_of_ours_are_refused_like_events(decode: Any) -> None:
    for value, reason in ((None, "empty"), (b"{", "not-json"), (b"[]", "not-an-object"), (b'{"type":7}', "wrong-type")):
        with pytest.raises(DecodeError) as caught:
            decode(value)
        assert caught.value.reason == reason


def test_a_dead_letter_survives_its_headers() -> None:
    letter = DeadLetter("events", 3, 17, "not-json", "event: kein JSON – ü", AT, b"m1", b"\xff\x00")
    assert dead_letter_from(dead_letter_headers(letter), letter.key, letter.value) == letter


def test_headers_that_are_no_dead_letter_are_refused() -> None:
    for headers in ([], [("topic", b"events"), ("partition", b"x"), ("offset", b"1"), ("reason", b"")]):
        with pytest.raises(DecodeError):
            dead_letter_from(headers, None, None)


# ---------------------------------------------------------------- any bytes, any event

INT64 = st.integers(-(2**63), 2**63 - 1)
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
JSON = st.recursive(
    st.none() | st.booleans() | INT64 | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)
ENVELOPE = (
    "type", "occurred_at", "member_id", "event_id", "data", "context", "sent_at", "messageId", "event", "properties",
    "traits", "userId", "originalTimestamp", "sentAt", "receivedAt", "timestamp", "schema_version",
)  # fmt: skip
CALLS = ["track", "identify", "page", "alias", "group", "screen"]
TYPES = st.sampled_from(["order.created", "tick", "member.updated", *CALLS])
INSTANT = st.integers(0, 253_402_300_799_999)


def only_refusals(value: bytes) -> None:
    try:
        event = decode_event(value)
    except DecodeError as error:
        assert error.reason
    else:
        assert isinstance(event.data, dict)
        msgspec.msgpack.encode(event)  # it can be written to a member's record
        assert decode_event(encode_event(event)) == event


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=200) | TEXT.map(str.encode))
def test_any_bytes_decode_or_are_refused(value: bytes) -> None:
    only_refusals(value)


@settings(max_examples=250, deadline=None)
@given(st.dictionaries(st.sampled_from(ENVELOPE), JSON, max_size=8), TYPES | TEXT, INSTANT.map(instant_text) | JSON)
def test_any_object_decodes_or_is_refused(fields: dict[str, Any], event_type: str, at: Any) -> None:
    only_refusals(msgspec.json.encode({"occurred_at": at, "originalTimestamp": at, **fields, "type": event_type}))


@settings(max_examples=150, deadline=None)
@given(
    st.builds(
        Event,
        type=st.sampled_from(["order.created", "custom.x", "shop.invoice.paid", "tick"]),
        occurred_at_ms=INSTANT,
        event_id=st.none() | st.text("ab1-", min_size=1, max_size=10),
        member_id=st.none() | st.text("ab1-", min_size=1, max_size=10),
        data=st.dictionaries(TEXT.map("x_".__add__), JSON, max_size=4),
        sent_at_ms=st.none() | INSTANT,
        source=st.none() | TEXT,
        source_seq=st.none() | INT64,
        context=st.none() | st.dictionaries(TEXT, JSON, max_size=3),
    )
)
def test_an_event_comes_back_as_it_was(event: Event) -> None:
    assert decode_event(encode_event(event)) == event
