"""Calls in the Segment spec (`track`, `identify`, `page`, `screen`, `alias`, `group`), read as our events.

Names follow the table of VOCABULARY §3. Clock skew of the sender is taken out as Segment does it:
`receivedAt − (sentAt − originalTimestamp)`.
"""

from typing import Any

import msgspec

from schemas.attributes import ITEM, NUMBER
from schemas.errors import DecodeError
from schemas.events import Event
from schemas.instants import MAX_INSTANT_MS
from schemas.reading import MAX_ID, read_instant, refuse_json, snake, text_id, wire_type
from schemas.taxonomy import CUSTOM, EVENT_TYPES

CALLS = frozenset({"track", "identify", "page", "screen", "alias", "group"})
SOURCE = "segment"

# Names of `track` in Segment's e-commerce spec v2, e-mail spec and mobile spec, lower case. What is not here becomes
# `custom.<snake_name>`.
NAMES: dict[str, str] = {
    "product list viewed": "catalog.list.viewed",
    "product viewed": "catalog.product.viewed",
    "products searched": "catalog.search.performed",
    "product added": "cart.item.added",
    "product removed": "cart.item.removed",
    "cart viewed": "cart.item.viewed",
    "product added to wishlist": "list.item.added",
    "product removed from wishlist": "list.item.removed",
    "wishlist product added to cart": "cart.item.added",
    "checkout started": "checkout.started",
    "checkout step completed": "checkout.step_completed",
    "order completed": "order.created",
    "order updated": "order.updated",
    "order cancelled": "order.cancelled",
    "order refunded": "order.refunded",
    "coupon entered": "promo.entered",
    "coupon applied": "promo.applied",
    "coupon denied": "promo.denied",
    "product reviewed": "review.posted",
    "signed up": "member.registered",
    "application installed": "app.installed",
    "application opened": "app.opened",
    "email delivered": "delivery.delivered",
    "email opened": "engagement.opened",
    "email link clicked": "engagement.clicked",
    "email bounced": "delivery.bounced",
    "email marked as spam": "engagement.complained",
    "unsubscribed": "consent.revoked",
}
_WISHLIST = frozenset({"list.item.added", "list.item.removed"})
_EMAIL = frozenset(
    {
        "delivery.delivered",
        "engagement.opened",
        "engagement.clicked",
        "delivery.bounced",
        "engagement.complained",
        "consent.revoked",
    }
)
_LISTED = frozenset({"catalog.list.viewed"})  # VOCABULARY §3 keeps `products` there: shown, not bought
_COUPONS = frozenset({"promo.entered", "promo.applied", "promo.denied"})
_RENAMED = {"linkUrl": "url", "link_url": "url", "wishlist_id": "list_id", "coupon_id": "code", "review_body": "body"}

_Time = str | int | float | None


class _Call(msgspec.Struct, gc=False, rename="camel"):
    """The fields of a call that we read; the others are ignored."""

    type: str
    message_id: str | int | None = None
    user_id: str | int | None = None
    anonymous_id: str | int | None = None
    previous_id: str | int | None = None
    group_id: str | int | None = None
    event: str | None = None
    name: str | None = None
    category: str | None = None
    timestamp: _Time = None
    original_timestamp: _Time = None
    sent_at: _Time = None
    received_at: _Time = None
    properties: dict[str, Any] | None = None
    traits: dict[str, Any] | None = None
    context: dict[str, Any] | None = None


_decode = msgspec.json.Decoder(_Call).decode
_fits = msgspec.msgpack.Encoder().encode


def decode_call(value: bytes) -> Event:
    """Read one call as an event of ours; its attributes are renamed but not yet checked.

    Raises:
        DecodeError: reasons as listed in `schemas.codec`.
    """
    try:
        call = _decode(value)
        _fits((call.properties, call.traits, call.context))
    except (ValueError, OverflowError, RecursionError) as error:
        refuse_json("event", value, error)
    kind, data = _meaning(call)
    sent, received, occurred = _instants(call)
    context = dict(call.context) if call.context else None
    if context and "userAgent" in context:
        context["user_agent"] = context.pop("userAgent")
    return Event(
        type=kind,
        occurred_at_ms=occurred,
        event_id=text_id("messageId", call.message_id),
        member_id=text_id("userId", call.user_id),
        anonymous_id=text_id("anonymousId", call.anonymous_id),
        data=data,
        sent_at_ms=sent,
        received_at_ms=received,
        source=SOURCE,
        context=context,
    )


def _meaning(call: _Call) -> tuple[str, dict[str, Any]]:
    if call.type == "identify":
        return "member.updated", dict(call.traits or {})
    if call.type == "alias":
        return "member.merged", {"merged_from": text_id("previousId", call.previous_id)}
    if call.type == "group":
        return f"{CUSTOM}group", {**(call.traits or {}), "group_id": text_id("groupId", call.group_id)}
    given = dict(call.properties or {})
    if call.type == "track":
        if not call.event or not snake(call.event):
            raise DecodeError("no-type", "event: a track call without the name of its event")
        # A producer may already track under our names: `order.created`.
        plain = call.event.strip()
        kind = NAMES.get(plain.lower()) or wire_type(plain)
        if len(kind) > MAX_ID:
            raise DecodeError("bad-id", f"event: the name is longer than {MAX_ID} characters")
        return kind, _attributes(kind, given)
    if call.name is not None:
        given.setdefault("name", call.name)
    if call.type == "page":
        if call.category is not None:
            given.setdefault("section", call.category)
        return "web.page.viewed", _attributes("web.page.viewed", given)
    return "app.screen.viewed", _attributes("app.screen.viewed", given)


def _attributes(kind: str, given: dict[str, Any]) -> dict[str, Any]:
    data: dict[str, Any] = {}
    for name, value in given.items():
        data.setdefault(_RENAMED.get(name, name), value)
    if "products" in data and kind not in _LISTED:
        data.setdefault("items", data.pop("products"))
    for lines in ("items", "products"):
        if isinstance(data.get(lines), list):
            data[lines] = [_item(line) if isinstance(line, dict) else line for line in data[lines]]
    if "total" not in data and kind.startswith("order."):
        worth = data.get("revenue", data.get("value"))
        if worth is not None:
            data["total"] = worth
    if kind in _WISHLIST:
        data.setdefault("list_kind", "wishlist")
    elif kind in _EMAIL:
        data.setdefault("channel", "email")
    elif kind in _COUPONS and "coupon" in data:
        data.setdefault("code", data.pop("coupon"))
    known = EVENT_TYPES.get(kind)
    if known is not None and not known.open:
        for name, value in data.items():
            attribute = known.attributes.get(name)
            if attribute is not None and attribute.kind == NUMBER:
                data[name] = _number(value)
    return data


def _item(line: dict[str, Any]) -> dict[str, Any]:
    item = dict(line)
    if "id" in item:
        item.setdefault("product_id", item.pop("id"))
    for name, value in item.items():
        attribute = ITEM.get(name)
        if attribute is not None and attribute.kind == NUMBER:
            item[name] = _number(value)
    return item


def _number(value: Any) -> Any:
    """Read numeric text as a number, which Segment's sources often send; leave all else for the check to refuse."""
    if not isinstance(value, str):
        return value
    try:
        number = float(value)
    except ValueError:
        return value
    return number if abs(number) < float("inf") else value


def _instants(call: _Call) -> tuple[int | None, int | None, int]:
    def read(place: str, value: _Time) -> int | None:
        return None if value is None else read_instant(place, value)

    sent, received = read("sentAt", call.sent_at), read("receivedAt", call.received_at)
    original, stamp = read("originalTimestamp", call.original_timestamp), read("timestamp", call.timestamp)
    if sent is not None and received is not None and original is not None:
        return sent, received, min(max(received - (sent - original), 0), MAX_INSTANT_MS)
    for at in (stamp, original, received, sent):
        if at is not None:
            return sent, received, at
    raise DecodeError("no-time", "event: no timestamp, originalTimestamp, receivedAt or sentAt")
