"""Events of an imagined shop, from a seed: the same seed gives the same log, byte for byte.

`shop` is shaped like the published figures of one real shop (2.76 M events: 96.7 % views, 2.5 % carts, 0.8 % purchases;
1.41 M visitors, 235 k items; most visitors come once, a few come hundreds of times). `w` is workload W of the
benchmarks: 70 % views, 15 % carts, 10 % orders, 5 % pages over 100 k members in 4 h of event time.
"""

import random
from collections.abc import Iterator
from itertools import accumulate
from typing import Any

from schemas.codec import encode_event
from schemas.events import Event

START_MS = 1_772_409_600_000  # Monday 2026-03-02T00:00:00Z, the day all our examples happen on
VIEW_SHARE, CART_SHARE = 0.967, 0.025  # the rest are purchases
EVENTS_PER_VISITOR = 2_756_101 / 1_407_580
ITEMS_PER_EVENT = 235_061 / 2_756_101
CATEGORIES = ("shoes", "coats", "phones", "books", "toys", "garden", "kitchen", "sport")
W_SHARES = (
    ("catalog.product.viewed", 0.70),
    ("cart.item.added", 0.15),
    ("order.created", 0.10),
    ("web.page.viewed", 0.05),
)
W_MEMBERS = 100_000
W_SPAN_MS = 4 * 3_600_000
W_PRODUCTS = 20_000


def product(rng: random.Random, items: int) -> dict[str, Any]:
    """Draw one item: popularity falls as a power of its rank; price and category follow from the item."""
    rank = min(items, int(rng.paretovariate(0.9)))
    number = rank * 7_919 % items
    return {
        "product_id": f"p{number}",
        "category": CATEGORIES[number % len(CATEGORIES)],
        "price": round(5 + number % 400 + (number % 100) / 100, 2),
        "currency": "EUR",
    }


def registrations(seed: int, members: int, at_ms: int = START_MS) -> Iterator[Event]:
    """Register members m1…mN; about one in six gives no consent to e-mail, one in fifty no address."""
    rng = random.Random(f"registrations/{seed}")
    for number in range(1, members + 1):
        data: dict[str, Any] = {"first_name": f"Member {number}", "consent": {"email": rng.random() > 1 / 6}}
        if rng.random() > 1 / 50:
            data["email"] = f"member{number}@shop.example"
        yield Event("member.registered", at_ms + number // 10, f"r{seed}-{number}", f"m{number}", data, source="crm")


def shop(seed: int, events: int, start_ms: int = START_MS, span_ms: int = 86_400_000) -> Iterator[Event]:
    """Yield `events` events in order of time over `span_ms`, by about `events / 1.96` visitors, heavy-tailed."""
    rng = random.Random(f"shop/{seed}")
    visitors = max(1, round(events / EVENTS_PER_VISITOR))
    items = max(50, round(events * ITEMS_PER_EVENT))
    weights = list(accumulate(rng.paretovariate(1.3) for _ in range(visitors)))
    members = rng.choices(range(1, visitors + 1), cum_weights=weights, k=events)
    latest: dict[int, dict[str, Any]] = {}
    for number, member in enumerate(members):
        at_ms = start_ms + number * span_ms // events
        draw = rng.random()
        seen = latest.get(member)
        if draw < VIEW_SHARE:
            seen = latest[member] = product(rng, items)
            kind, data = "catalog.product.viewed", seen
        else:
            item = seen or product(rng, items)
            data = {**item, "quantity": 1}
            kind = "cart.item.added"
            if draw >= VIEW_SHARE + CART_SHARE:
                kind = "order.created"
                data = {"order_id": f"o{seed}-{number}", "total": item["price"], "currency": "EUR", "items": [data]}
        yield Event(kind, at_ms, f"e{seed}-{number}", f"m{member}", data, source="shop")


def w(seed: int, events: int, members: int = W_MEMBERS) -> Iterator[Event]:
    """Yield workload W: `events` events in order of time over 4 h."""
    rng = random.Random(f"w/{seed}")
    kinds = rng.choices([k for k, _ in W_SHARES], [share for _, share in W_SHARES], k=events)
    for number, kind in enumerate(kinds):
        member, item = f"m{rng.randrange(members)}", f"p{rng.randrange(W_PRODUCTS)}"
        if kind == "order.created":
            data: dict[str, Any] = {"order_id": f"o{number}", "total": 50, "items": [{"product_id": item, "price": 50}]}
        elif kind == "web.page.viewed":
            data = {"url": "/", "section": "home"}
        else:
            data = {"product_id": item, "category": CATEGORIES[rng.randrange(8)], "price": 50}
        yield Event(kind, START_MS + number * W_SPAN_MS // events, f"e{number}", member, data)


def ndjson(events: Iterator[Event]) -> Iterator[bytes]:
    """Spell events as NDJSON lines."""
    for event in events:
        yield encode_event(event) + b"\n"
