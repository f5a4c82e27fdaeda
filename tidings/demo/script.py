"""The story: who is registered, what happens in the shop second by second, what goes wrong, how members react to mail.

From a seed: the same events in the same order with the same ids. When they happen is the wall clock's; so what the
campaigns make of them can differ by a few from run to run, and the replay of what was recorded cannot.
"""

import heapq
import random
from collections.abc import Iterator
from dataclasses import dataclass

from benchmarks.workload import product, registrations, shop
from schemas.codec import MAX_BYTES, encode_event
from schemas.events import Event
from schemas.ids import h128

RATE = 1_250  # events a second, as far as SPAN_MS_MIN allows
SPAN_MS_MIN = 12_000  # longer than the longest absence, so that some fire while the shop is busy
VISITORS_PER_EVENT = 0.51  # as the published figures; one in five of them is registered, the others gave no consent
REGISTERED_PER_EVENT = 0.1
REPEATED, LATE, TOO_OLD = 1 / 400, 1 / 200, 1 / 2_000  # share of the shop's events
REPEAT_AFTER_MS = (200, 3_000)
LATE_MS = (1_000, 30_000)
DAY_MS = 86_400_000
SCANNED, OPENS, CLICKS, LEAVES, COMPLAINS = 0.08, 0.5, 0.30, 0.04, 0.01  # of mails; the last two of those opened
ORDERS = 0.5  # of clicks
# Nobody reads a mail within a second; what comes so soon counts as a machine (tidings/web/tracking.py).
OPEN_AFTER_MS, CLICK_AFTER_MS, ORDER_AFTER_MS = (1_100, 1_600), (100, 900), (500, 1_500)
PHONES, AGREE_SMS, AGREE_VIBER = 0.9, 0.8, 0.5  # of members


@dataclass(frozen=True, slots=True, order=True)
class Sending:
    """One record to produce `at_ms` after the start. `number` keeps equal times in order."""

    at_ms: int
    number: int
    key: bytes | None
    value: bytes
    kind: str  # registration, shop, repeated, bad


def shop_span_ms(events: int) -> int:
    """How long the shop is open."""
    return max(SPAN_MS_MIN, events * 1_000 // RATE)


def opening(seed: int, events: int, at_ms: int) -> Iterator[Sending]:
    """Registrations, all at once, before the shop opens."""
    rng = random.Random(f"phones/{seed}")  # noqa: S311 chance of a story
    for number, event in enumerate(registrations(seed, max(10, round(events * REGISTERED_PER_EVENT)), at_ms)):
        agreed = {"sms": rng.random() < AGREE_SMS, "viber": rng.random() < AGREE_VIBER}
        event.data["consent"] = {**event.data["consent"], **agreed}
        if rng.random() < PHONES:
            event.data["phone"] = f"+4915{number:08d}"
        yield _sending(0, number, replace_time(event, at_ms), "registration")


def day(seed: int, events: int, start_ms: int) -> Iterator[Sending]:
    """The shop's events in the order in which they arrive, with repeats, late ones and bad ones among them."""
    rng = random.Random(f"demo/{seed}")  # noqa: S311 chance of a story
    span_ms = shop_span_ms(events)
    waiting: list[Sending] = [_bad(n, at, value) for n, (at, value) in enumerate(_bad_values(span_ms))]
    heapq.heapify(waiting)
    for number, event in enumerate(shop(seed, events, start_ms, span_ms), len(waiting)):
        at_ms = event.occurred_at_ms - start_ms
        if "product_id" in event.data:
            event.data["url"] = f"https://shop.example/p/{event.data['product_id']}"
        draw = rng.random()
        if draw < LATE:
            event = replace_time(event, event.occurred_at_ms - rng.randint(*LATE_MS))
        elif draw < LATE + TOO_OLD:
            event = replace_time(event, event.occurred_at_ms - 8 * DAY_MS)
        sending = _sending(at_ms, number, event, "shop")
        if rng.random() < REPEATED:
            again = at_ms + rng.randint(*REPEAT_AFTER_MS)
            heapq.heappush(waiting, Sending(again, number, sending.key, sending.value, "repeated"))
        while waiting and waiting[0].at_ms <= at_ms:
            yield heapq.heappop(waiting)
        yield sending
    yield from sorted(waiting)


@dataclass(frozen=True, slots=True)
class Reaction:
    """What a member does about a mail. Spans count from the mail, in ms; None: never.

    `scanned`: a program at the mailbox looks at the links first. `order` follows a click: ms from it, and the order.
    """

    scanned: bool
    opens: int | None
    clicks: int | None
    order: tuple[int, Event] | None
    leaves: int | None
    complains: int | None


def reaction(seed: int, member_id: str, command_id: str) -> Reaction:
    """Tell what a member does about a mail. The time of an order is 0: it happens when it is sent."""
    rng = random.Random(f"reaction/{seed}/{command_id}")  # noqa: S311 chance of a story
    scanned, opens, clicks = rng.random() < SCANNED, rng.random() < OPENS, rng.random() < CLICKS / OPENS
    opened = rng.randint(*OPEN_AFTER_MS)
    clicked = opened + rng.randint(*CLICK_AFTER_MS)
    left, complained = rng.random() < LEAVES, rng.random() < COMPLAINS
    order = None
    if rng.random() < ORDERS:
        item = {**product(rng, 2_000), "quantity": 1}
        total = round(100 + item["price"], 2)
        bought = {"order_id": f"o-{command_id[:12]}", "total": total, "currency": "EUR", "items": [item]}
        order = (
            rng.randint(*ORDER_AFTER_MS),
            Event("order.created", 0, h128(command_id, "order"), member_id, bought, source="shop"),
        )
    return Reaction(
        scanned,
        opened if opens else None,
        clicked if opens and clicks else None,
        order if opens and clicks else None,
        clicked if opens and left else None,
        clicked if opens and complained and not left else None,
    )


def replace_time(event: Event, occurred_at_ms: int) -> Event:
    """Return the event at another time."""
    event.occurred_at_ms = occurred_at_ms
    return event


def _sending(at_ms: int, number: int, event: Event, kind: str) -> Sending:
    return Sending(at_ms, number, (event.member_id or "").encode(), encode_event(event), kind)


def _bad(number: int, at_ms: int, value: bytes) -> Sending:
    return Sending(at_ms, number, b"m%d" % (number + 1), value, "bad")


def _bad_values(span_ms: int) -> list[tuple[int, bytes]]:
    """What producers really send when something is broken: not JSON, cut off, far too long, wrong types, no time."""
    good = b'{"type":"catalog.product.viewed","member_id":"m1","occurred_at":"2026-03-02T00:00:00Z","data":{"price":'
    values = [
        b"\x00\x01 this is no JSON",
        good[:60],
        good + b'1,"name":"' + b"x" * MAX_BYTES + b'"}}',
        good + b'"twelve"}}',
        b'{"member_id":"m5","occurred_at":"2026-03-02T00:00:00Z","data":{}}',
        b'{"type":"catalog.product.viewed","member_id":"m6","occurred_at":"yesterday","data":{}}',
        b'{"type":"order.created","member_id":"m7","data":{}}',
        b"",
    ]
    step = span_ms // (len(values) + 1)
    return [(step * (n + 1), value) for n, value in enumerate(values)]
