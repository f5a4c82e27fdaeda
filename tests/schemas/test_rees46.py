import csv
from pathlib import Path

import pytest

from schemas.codec import decode_event, encode_event
from schemas.errors import DecodeError
from schemas.events import Event
from schemas.rees46 import COLUMNS, event_from_row

EXCERPT = Path(__file__).with_name("rees46_excerpt.csv")


def events() -> list[Event]:
    with EXCERPT.open(newline="") as file:
        return [event_from_row(row, index) for index, row in enumerate(csv.DictReader(file))]


def row(**changed: str) -> dict[str, str]:
    given = ("2019-10-01 00:00:05 UTC", "cart", "1", "2", "a.b", "acme", "9.50", "7", "s-1")
    return dict(zip(COLUMNS, given, strict=True)) | changed


def test_the_excerpt_of_a_real_shop_reads_whole() -> None:
    found = events()
    assert len(found) == 20
    assert {event.type for event in found} == {"catalog.product.viewed", "cart.item.added", "order.created"}
    assert len({event.event_id for event in found}) == 20


def test_reading_again_gives_the_same_events_and_they_pass_the_wire() -> None:
    assert events() == events()
    for event in events():
        assert decode_event(encode_event(event)) == event


def test_a_view_carries_the_product() -> None:
    event = event_from_row(row(event_type="view"), 0)
    assert (event.type, event.member_id, event.occurred_at_ms) == ("catalog.product.viewed", "7", 1_569_888_005_000)
    assert event.data == {
        "product_id": "1", "category": "a.b", "category_id": "2", "brand": "acme", "price": 9.5, "session_id": "s-1",
    }  # fmt: skip


def test_a_purchase_is_an_order_of_one_item() -> None:
    data = event_from_row(row(event_type="purchase"), 0).data
    assert (data["total"], len(data["items"]), data["items"][0]["quantity"]) == (9.5, 1, 1)


def test_an_empty_cell_is_an_absent_attribute() -> None:
    data = event_from_row(row(category_code="", brand="", price="", user_session=""), 0).data
    assert data == {"product_id": "1", "category_id": "2", "quantity": 1}


def test_equal_rows_at_different_places_are_different_events() -> None:
    assert event_from_row(row(), 0).event_id != event_from_row(row(), 1).event_id
    assert event_from_row(row(event_type="remove_from_cart"), 0).type == "cart.item.removed"


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"event_type": "refund"}, "no-type"),
        ({"event_time": ""}, "no-time"),
        ({"event_time": "noon"}, "bad-time"),
        ({"price": "cheap"}, "wrong-type"),
        ({"price": "nan"}, "wrong-type"),
        ({"product_id": ""}, "wrong-type"),
    ],
)
def test_a_row_that_cannot_be_read_is_refused_with_its_number(changed: dict[str, str], reason: str) -> None:
    with pytest.raises(DecodeError) as caught:
        event_from_row(row(**changed), 41)
    assert (caught.value.reason, "row 41" in caught.value.message) == (reason, True)
