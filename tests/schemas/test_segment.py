import json
from typing import Any

import pytest

from schemas.codec import decode_event, encode_event
from schemas.errors import DecodeError
from schemas.events import Event
from schemas.segment import NAMES
from schemas.taxonomy import EVENT_TYPES


def call(kind: str, **fields: Any) -> Event:
    base = {"type": kind, "messageId": "m-1", "userId": 42, "timestamp": "2026-11-21T10:00:00Z"}
    return decode_event(json.dumps(base | fields).encode())


def test_every_segment_name_maps_to_a_type_we_know() -> None:
    assert set(NAMES.values()) <= set(EVENT_TYPES)


@pytest.mark.parametrize(("name", "event_type"), sorted(NAMES.items()))
def test_names_map_whatever_their_case(name: str, event_type: str) -> None:
    assert call("track", event=name.title()).type == event_type


def test_an_order_carries_items_and_a_total() -> None:
    event = call(
        "track",
        event="Order Completed",
        anonymousId="a-1",
        properties={
            "order_id": "o-1",
            "revenue": "25.50",
            "currency": "EUR",
            "products": [{"product_id": "p-1", "price": "10.5", "quantity": 1}, {"id": "p-2", "price": 15}],
        },
        context={"userAgent": "x", "locale": "de"},
    )
    assert (event.type, event.event_id, event.member_id, event.anonymous_id) == ("order.created", "m-1", "42", "a-1")
    assert event.data == {
        "order_id": "o-1",
        "revenue": 25.5,
        "total": 25.5,
        "currency": "EUR",
        "items": [{"product_id": "p-1", "price": 10.5, "quantity": 1}, {"product_id": "p-2", "price": 15}],
    }
    assert event.context == {"user_agent": "x", "locale": "de"}
    assert decode_event(encode_event(event)) == event


def test_a_total_given_wins_over_revenue() -> None:
    assert call("track", event="Order Completed", properties={"total": 30, "revenue": 25}).data["total"] == 30


def test_an_unknown_name_rides_as_custom_and_our_own_names_pass() -> None:
    assert call("track", event="Quiz Won!").type == "custom.quiz_won"
    assert call("track", event="payment.failed").type == "payment.failed"


def test_wishlist_mail_and_coupon_calls_gain_what_the_name_says() -> None:
    assert call("track", event="Product Added to Wishlist").data == {"list_kind": "wishlist"}
    assert call("track", event="Unsubscribed").data == {"channel": "email"}
    assert call("track", event="Coupon Applied", properties={"coupon": "X1"}).data == {"code": "X1"}


def test_identify_updates_the_profile() -> None:
    event = call("identify", traits={"email": "a@b.example", "vip": True})
    assert (event.type, event.data) == ("member.updated", {"email": "a@b.example", "vip": True})


def test_page_screen_alias_and_group_are_read() -> None:
    assert call("page", name="Home", category="Shop", properties={"url": "/x"}).data == {
        "url": "/x", "name": "Home", "section": "Shop",
    }  # fmt: skip
    assert call("screen", name="Home").type == "app.screen.viewed"
    assert (call("alias", previousId="old").type, call("alias", previousId="old").data) == (
        "member.merged", {"merged_from": "old"},
    )  # fmt: skip
    assert call("group", groupId="g", traits={"plan": "x"}).data == {"plan": "x", "group_id": "g"}


def test_clock_skew_of_the_sender_is_taken_out() -> None:
    event = call(
        "track",
        event="Product Viewed",
        originalTimestamp="2026-11-21T08:00:00.000Z",  # the device is two hours slow
        sentAt="2026-11-21T08:00:05.000Z",
        receivedAt="2026-11-21T10:00:06.000Z",
    )
    right = call("track", event="Product Viewed", timestamp="2026-11-21T10:00:01.000Z")
    assert event.occurred_at_ms == right.occurred_at_ms


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"timestamp": None}, "no-time"),
        ({"timestamp": "soon"}, "bad-time"),
        ({"event": None}, "no-type"),
        ({"event": "!!!"}, "no-type"),
        ({"event": 7}, "wrong-type"),
        ({"event": "Order Completed", "properties": {"total": "abc"}}, "wrong-type"),
        ({"event": "Order Completed", "properties": {"products": "abc"}}, "wrong-type"),
        ({"event": "x" * 300}, "bad-id"),
        ({"messageId": "x" * 300}, "bad-id"),
    ],
)
def test_calls_that_cannot_be_read_are_refused(fields: dict[str, Any], reason: str) -> None:
    with pytest.raises(DecodeError) as caught:
        call("track", **{"event": "Product Viewed"} | fields)
    assert caught.value.reason == reason
