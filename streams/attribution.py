"""Which message earned an order: the last touch within the campaign's window. E-mail touches when it is sent."""

from collections.abc import Sequence
from typing import Any, Final

from schemas.events import Event
from schemas.ids import attribution_id
from schemas.records import Attribution
from tables.member_state import TOUCHES_MAX, Member

TOUCH_TYPES: Final = frozenset({"delivery.sent"})
CONVERSION_TYPES: Final = frozenset({"order.created", "receipt.issued"})
MODEL: Final = "last_touch"


def record_touch(member: Member, event: Event, e: int) -> None:
    """Remember a touch from a delivery receipt; a receipt without a command id touches nothing."""
    data = event.data
    window = data.get("attribution_window_ms")
    if not isinstance(data.get("command_id"), str) or not isinstance(window, int) or window <= 0:
        return
    if any(touch[1] == data["command_id"] for touch in member.touches):
        return
    text = [str(data.get(name, "")) for name in ("command_id", "campaign", "version", "instance_id", "channel")]
    member.touches = [*member.touches, [e, *text, window]][-TOUCHES_MAX:]


def credit(member: Member, event: Event, event_id: str, e: int, caused_at_ms: int) -> list[Attribution]:
    """Credit a conversion to the latest touch whose window holds it: `touch <= e < touch + window`; else to none."""
    touch: Sequence[Any] | None = None
    for candidate in member.touches:
        if candidate[0] <= e < candidate[0] + candidate[6] and (touch is None or candidate[0] >= touch[0]):
            touch = candidate
    if touch is None:
        return []
    data = event.data
    value = data.get("total")
    currency, order = data.get("currency"), data.get("order_id", data.get("receipt_id"))
    credited = Attribution(
        attribution_id=attribution_id(event_id, touch[1], MODEL),
        member_id=member.member_id,
        campaign=touch[2],
        version=touch[3],
        instance_id=touch[4],
        command_id=touch[1],
        channel=touch[5],
        model=MODEL,
        touch="sent",
        touched_at_ms=touch[0],
        conversion_event_id=event_id,
        conversion_type=event.type,
        converted_at_ms=e,
        caused_at_ms=caused_at_ms,
        value=float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None,
        currency=currency if isinstance(currency, str) else None,
        order_id=str(order) if isinstance(order, str | int) else None,
    )
    return [credited]


def forget_stale_touches(member: Member, clock_ms: int, slack_ms: int) -> None:
    """Drop touches whose window, and the age an order may have, have passed."""
    if member.touches:
        member.touches = [touch for touch in member.touches if touch[0] + touch[6] + slack_ms > clock_ms]
