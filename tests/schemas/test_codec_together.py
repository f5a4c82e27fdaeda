"""Values decoded together against values decoded one by one."""

from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.codec import decode_event, plain_events

ODD: list[Any] = [
    {"occurred_at": "2026-11-21T10:00:00Z"},
    {"occurred_at": -1},
    {"occurred_at": 253_402_300_800_000},
    {"member_id": 7},
    {"member_id": ""},
    {"member_id": "\x00m"},
    {"member_id": "m" * 257},
    {"event_id": None},
    {"event_id": "e" * 257},
    {"type": "shop.unknown"},
    {"type": "Odd"},
    {"data": {"product_id": {}}},
    {"data": {"x": 2**70}},
    {"data": {"x": "y" * 5_000}},
    {"data": {"items": [{"product_id": "p", "price": 5}, {"price": {}}]}},
    {"data": {"items": 5}},
    {"data": {"items": [5]}},
    {"data": {"items": [{"product_id": "p", "price": 5}]}},
    {"context": {"a": 1}},
    {"sent_at": 5},
]
PLAIN = {"type": "catalog.product.viewed", "occurred_at": 1_772_409_600_000, "event_id": "e1", "member_id": "m1"}
RAW: list[bytes | None] = [None, b"", b"{", b"[]", b'{"type":\n"tick"}', b"{}\n{}", b'\n{"type":"tick"}\n', b"\xff"]
WIRE = st.sampled_from(ODD).map(lambda odd: msgspec.json.encode({**PLAIN, **odd}))
VALUES = st.lists(st.just(msgspec.json.encode({**PLAIN, "data": {"price": 5}})) | WIRE | st.sampled_from(RAW))


@settings(max_examples=300, deadline=None)
@given(VALUES)
def test_what_is_decoded_together_is_what_each_value_is_alone(values: list[bytes | None]) -> None:
    found = plain_events(values)
    assert len(found) == len(values)
    for value, event in zip(values, found, strict=True):
        if event is not None:
            assert event == decode_event(value)


def test_events_of_our_envelope_are_decoded_together() -> None:
    values = [msgspec.json.encode({**PLAIN, "event_id": f"e{n}"}) for n in range(700)]
    assert [event and event.event_id for event in plain_events(values)] == [f"e{n}" for n in range(700)]


def test_one_bad_value_is_the_only_one_left_to_be_judged_alone() -> None:
    good = msgspec.json.encode({**PLAIN, "data": {"price": 5}})
    assert [event is None for event in plain_events([good, b"{", good, None])] == [False, True, False, True]
