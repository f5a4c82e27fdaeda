"""Rows of the REES46 / Open CDP shop export, read as our events.

Columns: `event_time,event_type,product_id,category_id,category_code,brand,price,user_id,user_session`.
It has no ids of events, so one is derived from the row and its place in the file: read again, they are the same.
It has no ids of orders or carts either; none are made up. An empty cell is an absent attribute.
"""

from collections.abc import Mapping
from typing import Any

from schemas.errors import DecodeError
from schemas.events import Event
from schemas.ids import h128
from schemas.reading import read_instant, text_id

COLUMNS = (
    "event_time",
    "event_type",
    "product_id",
    "category_id",
    "category_code",
    "brand",
    "price",
    "user_id",
    "user_session",
)
SOURCE = "rees46"
TYPES = {
    "view": "catalog.product.viewed",
    "cart": "cart.item.added",
    "remove_from_cart": "cart.item.removed",
    "purchase": "order.created",
}


def event_from_row(row: Mapping[str, str | None], index: int) -> Event:
    """Read one row.

    Args:
        row: column name to text, as `csv.DictReader` gives it.
        index: zero-based number of the row, the heading not counted; part of the event's id.

    Raises:
        DecodeError: `no-type` (an event_type we do not know), `no-time`, `bad-time` or `wrong-type` (the price, or no
            row of this export).
    """
    place = f"row {index}"
    if row.get("event_type") not in TYPES:
        raise DecodeError("no-type", f"{place}: event_type is none of {', '.join(TYPES)}")
    kind = TYPES[row["event_type"] or ""]
    if not row.get("event_time"):
        raise DecodeError("no-time", f"{place}: no event_time")
    # "2019-10-01 00:00:00 UTC" is RFC 3339 but for the name of the zone.
    occurred = read_instant(f"{place}: event_time", (row["event_time"] or "").replace(" UTC", "Z"))
    product = _product(row, place)
    if kind == "order.created":
        data: dict[str, Any] = {"items": [{**product, "quantity": 1}]}
        if "price" in product:
            data["total"] = product["price"]
    elif kind == "catalog.product.viewed":
        data = product
    else:
        data = {**product, "quantity": 1}
    if row.get("user_session"):
        data["session_id"] = row["user_session"]
    return Event(
        type=kind,
        occurred_at_ms=occurred,
        event_id=h128(SOURCE, str(index), *(row.get(column) or "" for column in COLUMNS)),
        member_id=text_id("user_id", row.get("user_id")),
        data=data,
        source=SOURCE,
    )


def _product(row: Mapping[str, str | None], place: str) -> dict[str, Any]:
    named = {
        "product_id": row.get("product_id"),
        "category": row.get("category_code"),
        "category_id": row.get("category_id"),
        "brand": row.get("brand"),
    }
    product: dict[str, Any] = {name: value for name, value in named.items() if value}
    if "product_id" not in product:
        raise DecodeError("wrong-type", f"{place}: no product_id; is this the REES46 export?")
    if row.get("price"):
        try:
            price = float(row["price"] or "")
        except ValueError:
            raise DecodeError("wrong-type", f"{place}: price must be a number (got text)") from None
        if not 0 <= price < float("inf"):
            raise DecodeError("wrong-type", f"{place}: price must be a number not below 0")
        product["price"] = price
    return product
