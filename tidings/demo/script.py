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
CLICKS, ORDERS = 0.30, 0.5  # of mails; of clicks
CLICK_AFTER_MS, ORDER_AFTER_MS = (300, 1_500), (500, 2_000)


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
    for number, event in enumerate(registrations(seed, max(10, round(events * REGISTERED_PER_EVENT)), at_ms)):
        yield _sending(0, number, replace_time(event, at_ms), "registration")


def day(seed: int, events: int, start_ms: int) -> Iterator[Sending]:
    """The shop's events in the order in which they arrive, with repeats, late ones and bad ones among them."""
    rng = random.Random(f"demo/{seed}")  # noqa: S311 chance of a story
    span_ms = shop_span_ms(events)
    waiting: list[Sending] = [_bad(n, at, value) for n, (at, value) in enumerate(_bad_values(span_ms))]
    heapq.heapify(waiting)
    for number, event in enumerate(shop(seed, events, start_ms, span_ms), len(waiting)):
        at_ms = event.occurred_at_ms - start_ms
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


def reaction(
    seed: int, member_id: str, command_id: str, campaign: str
) -> tuple[int, Event, tuple[int, Event] | None] | None:
    """What a member does about a mail: nothing, a click, a click and then an order of 100 or more.

    Returns:
        (ms until the click, the click, (ms from the click to the order, the order) or None), or None. The times of the
        events are 0: they happen when they are sent.
    """
    rng = random.Random(f"reaction/{seed}/{command_id}")  # noqa: S311 chance of a story
    if rng.random() >= CLICKS:
        return None
    data = {"command_id": command_id, "campaign": campaign, "channel": "email", "link_id": "main"}
    click = Event("engagement.clicked", 0, h128(command_id, "clicked"), member_id, data, source="demo")
    after = rng.randint(*CLICK_AFTER_MS)
    if rng.random() >= ORDERS:
        return after, click, None
    item = {**product(rng, 2_000), "quantity": 1}
    total = round(100 + item["price"], 2)
    bought = {"order_id": f"o-{command_id[:12]}", "total": total, "currency": "EUR", "items": [item]}
    order = Event("order.created", 0, h128(command_id, "order"), member_id, bought, source="shop")
    return after, click, (rng.randint(*ORDER_AFTER_MS), order)


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
