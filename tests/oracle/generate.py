"""Random campaigns and logs, one per seed, made so that things collide and times fall on the edges.

Campaigns have the shapes of the twelve examples of DESIGN §4 over a few event types, with spans of seconds to minutes.
Times of events are drawn from marks: an earlier event's time plus a span of a campaign, plus lateness, one millisecond
around.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

START_MS = 1_760_000_000_000
DAY_MS = 86_400_000
SPANS = {"8s": 8_000, "20s": 20_000, "1m": 60_000, "1m30s": 90_000, "3m": 180_000}
LONG_SPANS = {"7d": 7 * DAY_MS, "7d1s": 7 * DAY_MS + 1_000, "8d": 8 * DAY_MS, "10d": 10 * DAY_MS}
PACE = (1, 500, 3_000, 7_000, 15_000)
LONG_PACE = (1, 7_000, DAY_MS // 2, DAY_MS, 2 * DAY_MS)
LATENESS = {"5s": 5_000, "30s": 30_000, "1s": 5_000}
SEND = {"channel": "email", "template": "hello"}

VIEW, CART, ORDER = "catalog.product.viewed", "cart.item.added", "order.created"
FAILED, PAID, REVIEW = "payment.failed", "payment.succeeded", "review.posted"
SESSION, OPENED, CLEARED = "web.session.started", "app.opened", "cart.cleared"
WORLDS: dict[str, tuple[list[str], list[str]]] = {
    "shop": ([VIEW, CART, ORDER, REVIEW], ["product_id", "category", "product_id, category"]),
    "pay": ([ORDER, FAILED, PAID, REVIEW], ["order_id"]),
    "plain": ([SESSION, OPENED, CLEARED], []),
}
PRODUCT = {"product_id": ["p1", "p2"], "category": ["c1", "c2"]}
NUMBERS = {"price": [10, 40, 50, 100], "quantity": [1, 2, 3]}
ATTRIBUTES: dict[str, dict[str, list[Any]]] = {
    VIEW: PRODUCT | NUMBERS,
    CART: PRODUCT | NUMBERS,
    ORDER: {"order_id": ["o1", "o2"], "total": [50, 100, 200]},
    FAILED: {"order_id": ["o1", "o2"], "amount": [50, 100]},
    PAID: {"order_id": ["o1", "o2"], "amount": [50, 100]},
    REVIEW: PRODUCT | {"order_id": ["o1", "o2"], "rating": [1, 3, 5]},
    SESSION: {"source": ["ad", "mail"]},
    OPENED: {"platform": ["ios", "web"]},
    CLEARED: {"reason": ["user", "empty"]},
}
ITEM = PRODUCT | NUMBERS
MEMBER_TESTS = [
    "not member.staff",
    "member.staff",
    "member.consent.email",
    "member.city = 'x'",
    "member.city is null",
    "member.city != 'x'",
    "member.score >= 2",
    "member.city in ('x', 'y')",
    "member.tags contains 'b'",
]


@dataclass
class CampaignMaker:
    """Makes one campaign over a small alphabet."""

    rng: random.Random
    types: list[str]
    same: list[str]
    spans: dict[str, int]
    focused: bool = False
    names: dict[str, str] = field(default_factory=dict)

    def chance(self, of_100: int) -> bool:
        """True in so many of 100 cases."""
        return self.rng.randrange(100) < of_100

    def span(self) -> str:
        """A duration."""
        return self.rng.choice(list(self.spans))

    def test(self, type_: str) -> str:
        """A comparison that makes sense for the attributes of an event type."""
        choices = ATTRIBUTES[type_] | (ITEM if type_ == ORDER else {})
        name = self.rng.choice(list(choices))
        value = self.rng.choice(choices[name])
        others = [f"{alias}.{name}" for alias, t in self.names.items() if name in ATTRIBUTES[t]]
        if others and self.chance(60):
            return f"{name} {self.rng.choice(['=', '=', '!='])} {self.rng.choice(others)}"
        if self.chance(10):
            return f"{name} is null"
        if isinstance(value, str):
            forms = [
                f"{name} = '{value}'",
                f'{name} != "{value}"',
                f"{name} in ('{value}', 'z')",
                f"not {name} = '{value}'",
            ]
        else:
            forms = [f"{name} {sign} {value}" for sign in (">", ">=", "<", "<=", "=", "!=")]
        return self.rng.choice(forms)

    def expression(self, type_: str, member: int) -> str:
        """One or two comparisons; `member`: how many of 100 are about the profile."""
        parts = [
            self.rng.choice(MEMBER_TESTS) if self.chance(member) else self.test(type_)
            for _ in range(2 if self.chance(25) else 1)
        ]
        return self.rng.choice([" and ", " or "]).join(parts)

    def event(self, type_: str | None = None, tested: int = 20) -> str:
        """An event name, some with a predicate."""
        type_ = type_ or self.rng.choice(self.types)
        tested = tested // 5 if self.focused else tested
        return f"{type_}[{self.expression(type_, 15)}]" if self.chance(tested) else type_

    def term(self) -> str:
        """An event or an `any of`."""
        if self.chance(15):
            return f"any of ({self.event()}, {self.event()})"
        return self.event()

    def named(self, name: str) -> str:
        """An event with a step name, remembered for later predicates."""
        type_ = self.rng.choice(self.types)
        text = f"{self.event(type_)} as {name}"
        self.names[name] = type_
        return text

    def aggregate(self) -> str:
        """An aggregate with a bound that small logs reach."""
        type_ = self.rng.choice(self.types)
        numbers = [a for a, values in ATTRIBUTES[type_].items() if isinstance(values[0], int)]
        texts = [a for a, values in ATTRIBUTES[type_].items() if isinstance(values[0], str)]
        if type_ == ORDER:
            numbers, texts = [*numbers, "items.price"], [*texts, "items.product_id"]
        within = f"within {self.span()}"
        function = self.rng.choice(["count", "sum", "avg", "min", "max", "distinct"])
        if function == "count" or not numbers and function != "distinct":
            path = type_ if self.chance(60) else f"{type_}.{self.rng.choice(texts)}"
            return f"count({path}) {self.rng.choice(['>= 2', '>= 3', '> 1', '= 2'])} {within}"
        if function == "distinct":
            return f"distinct({type_}.{self.rng.choice(texts)}) {self.rng.choice(['>= 2', '> 1', '= 1'])} {within}"
        bound = self.rng.choice(["> 60", ">= 50", ">= 100", "< 100", "<= 3", ">= 3"])
        return f"{function}({type_}.{self.rng.choice(numbers)}) {bound} {within}"

    def several(self) -> str:
        """`all of` over two or three different types."""
        types = self.rng.sample(self.types, k=min(len(self.types), self.rng.choice([2, 2, 3])))
        return f"all of ({', '.join(self.event(t, 10) for t in types)})"

    def absence(self) -> str:
        """A closing absence."""
        term = self.several() if self.chance(12) else self.term()
        return f"no {term} for {self.span()}"

    def positive(self, name: str = "") -> str:
        """A positive step that is not the first."""
        roll = self.rng.randrange(100)
        if roll < 12:
            text = f"{self.rng.choice([1, 2, 2, 3])}+ {self.term()}"
        elif roll < 20:
            return self.aggregate()
        elif roll < 27:
            text = self.several()
        else:
            text = self.named(name) if name and self.chance(40) else self.term()
        if self.chance(70):
            text += f" within {self.span()}"
        for _ in range(self.rng.choice([0, 0, 1, 1, 2])):
            text += f" without {self.term()}"
        return text

    def again(self) -> str:
        """The same event twice: one that advances must not start."""
        type_ = self.rng.choice(self.types)
        ends = ["", f" then {self.absence()}", f" then no {type_} for {self.span()}"]
        return f"{type_} then {type_} within {self.span()}{self.rng.choice(ends)}"

    def pattern(self) -> tuple[str, str]:
        """A pattern without its trailing `same`, and the type that `where` is about."""

        def limit() -> str:
            return f"within {self.span()}"

        shapes: list[tuple[int, Callable[[], str]]] = [
            (26, lambda: f"{self.named('v')} then {self.absence()}"),
            (10, lambda: f"{self.term()} then {self.absence()}"),
            (10, lambda: f"no {self.several() if self.chance(15) else self.term()} for {self.span()}"),
            (8, lambda: f"no {self.term()} for {self.span()} then {self.positive()}"),
            (3, lambda: f"no {self.term()} for {self.span()} then {self.positive('w')} then {self.term()}, {limit()}"),
            (3, lambda: f"2+ {self.term()} then {self.positive()}, {limit()}"),
            (10, lambda: f"{self.rng.choice([1, 2, 2, 3])}+ {self.term()} within {self.span()}"),
            (7, lambda: f"{self.rng.choice([2, 2, 3])}+ {self.term()} within {self.span()} then {self.absence()}"),
            (6, lambda: f"{self.aggregate()} then {self.absence()}"),
            (5, self.aggregate),
            (10, lambda: f"{self.named('v')} then {self.positive('w')}"),
            (8, lambda: f"{self.named('v')} then {self.positive('w')} then {self.positive()}"),
            (7, lambda: f"{self.named('v')} then {self.positive('w')} then {self.absence()}"),
            (5, lambda: f"{self.several()}, within {self.span()}"),
            (4, lambda: f"{self.several()} within {self.span()} then {self.absence()}"),
            (4, lambda: f"2+ {self.term()}, within {self.span()}"),
            (3, lambda: f"2+ {self.term()} within {self.span()} without {self.term()}"),
            (6, self.term),
            (4, self.again),
        ]
        text = self.rng.choices([shape for _, shape in shapes], [weight for weight, _ in shapes])[0]()
        if ", within" not in text and text.count(" then ") - text.count(" then no ") >= 1 and self.chance(25):
            text += f", within {self.span()}"
        return text, self.rng.choice(self.types)

    def make(self, name: str) -> dict[str, Any]:
        """One campaign as a mapping."""
        self.names = {}
        text, type_ = self.pattern()
        if self.same and self.chance(45):
            text += f", same {self.rng.choice(self.same)}"
        campaign: dict[str, Any] = {"campaign": name, "pattern": text}
        if self.chance(5 if self.focused else 20):
            campaign["where"] = self.expression(type_, 60)
        if self.chance(5 if self.focused else 15):
            known = [f"{alias}.product_id != 'p1'" for alias, t in self.names.items() if "product_id" in ATTRIBUTES[t]]
            campaign["if still"] = self.rng.choice([*MEMBER_TESTS, *known, *known])
        repeat = self.rng.choice(
            [None, None, None, "restart", "keep", {"parallel": 1}, {"parallel": 2}, {"parallel": 9}]
        )
        if repeat is not None:
            campaign["on_repeat"] = repeat
        if self.chance(30 if self.focused else 20):
            campaign["cooldown"] = self.span()
        if self.chance(30 if self.focused else 20):
            campaign["limit"] = f"{self.rng.choice([1, 2])} per {self.span()}"
        if self.chance(8):
            campaign["once"] = True
        if self.chance(30):
            campaign["per"] = self.rng.choice(["key", "member"])
        if self.chance(25):
            campaign["lateness"] = self.rng.choice(list(LATENESS))
        if self.chance(10):
            campaign["on_late"] = "cancel"
        campaign["send"] = dict(SEND)
        return campaign


@dataclass
class LogMaker:
    """Makes one log for given spans; remembers what it wrote to aim at its edges."""

    rng: random.Random
    types: list[str]
    members: list[str]
    spans: dict[str, int]
    appended: bool
    pace: tuple[int, ...] = PACE
    clock: int = START_MS
    times: list[int] = field(default_factory=list)
    log: list[dict[str, Any]] = field(default_factory=list)

    def mark(self) -> int:
        """A time on an edge: an earlier event's, plus a span or none, plus lateness or none, give or take 1 ms."""
        base = self.rng.choice(self.times[-8:]) if self.times else self.clock
        span = self.rng.choice([0, *self.spans.values()])
        late = self.rng.choice([0, 0, 0, 5_000, 5_000, 30_000])
        return base + span + late + self.rng.choice([-1, 0, 0, 0, 1])

    def append_time(self) -> int:
        """The next record's append time; mostly moves on, at times stands still or goes back."""
        roll = self.rng.randrange(100)
        if roll < 15:
            return self.clock
        if roll < 22:
            return self.clock - self.rng.choice([1, 1_000, 6_000])
        if roll < 55:
            later = [m for m in (self.mark() for _ in range(6)) if m >= self.clock]
            if later:
                return min(later)
        return self.clock + self.rng.choice(self.pace)

    def event_time(self, a: int) -> int:
        """The event time of a record appended at `a`."""
        roll = self.rng.randrange(100)
        if self.pace is LONG_PACE and self.rng.randrange(100) < 12:
            return a - 7 * DAY_MS - self.rng.choice([-1, 0, 1, 60_000, DAY_MS])
        if roll < 32:
            return a - self.rng.choice([0, 0, 0, 1, 800])
        if roll < 58:
            earlier = [m for m in (self.mark() for _ in range(6)) if m <= a]
            return self.rng.choice(earlier) if earlier else a
        if roll < 72 and self.times:
            return self.rng.choice(self.times[-4:]) + self.rng.choice([-1, 0, 0, 0, 1])
        if roll < 78:
            return a + self.rng.choice([1, 5_000, 60_000])
        if roll < 84:
            return a - 7 * DAY_MS - self.rng.choice([-1, 0, 1, 60_000])
        return a - self.rng.choice([2_000, 4_999, 5_000, 5_001, 20_000, 60_000])

    def values(self, attributes: dict[str, list[Any]]) -> dict[str, Any]:
        """Attributes, some null, some missing."""
        data = {name: self.rng.choice([*choices, *choices, *choices, None]) for name, choices in attributes.items()}
        return {name: value for name, value in data.items() if self.rng.randrange(100) >= 7}

    def data(self, type_: str) -> dict[str, Any]:
        """What an event of a type says; an order has items."""
        data = self.values(ATTRIBUTES[type_])
        if type_ == ORDER and self.rng.randrange(100) < 85:
            data["items"] = [self.values(ITEM) for _ in range(self.rng.choice([1, 1, 2, 3, 0]))]
        return data

    def profile(self) -> tuple[str, dict[str, Any]]:
        """An event that changes the profile."""
        if self.rng.randrange(100) < 35:
            type_ = self.rng.choice(["consent.granted", "consent.revoked"])
            data = {"channel": self.rng.choice(["email", "sms"])}
            return type_, data | ({"topic": "sale"} if len(self.log) % 4 == 1 else {})
        choices: dict[str, list[Any]] = {
            "staff": [True, False, None],
            "city": ["x", "y", None],
            "score": [1, 2, 3],
            "tags": [["a"], ["a", "b"], []],
            "consent": [{"email": True}, {"email": False}],
        }
        names = self.rng.sample(list(choices), k=self.rng.choice([1, 2, 3]))
        return self.rng.choice(["member.registered", "member.updated"]), {n: self.rng.choice(choices[n]) for n in names}

    def add(self) -> None:
        """Append one record."""
        a = self.append_time()
        roll = self.rng.randrange(100)
        if roll < 7 and self.log:
            self.repeat(a)
            return
        if roll < 12:
            self.put({"type": "tick", "member_id": None, "occurred_at": a}, a)
            return
        type_, data = (None, None) if roll >= 20 else self.profile()
        if type_ is None:
            type_ = self.rng.choice([*self.types, *self.types[:2]])
            data = self.data(type_)
        e = self.event_time(a) if self.appended or self.rng.randrange(100) < 40 else a
        event = {"type": type_, "member_id": self.rng.choice(self.members), "occurred_at": e, "data": data}
        if self.rng.randrange(100) < 92:
            event["event_id"] = f"e{len(self.log)}"
        self.times.append(min(e, a))
        if e != a and self.rng.randrange(100) < 40:
            self.times.append(a)
        self.put(event, a)

    def repeat(self, a: int) -> None:
        """Append an earlier record once more, some with another time, member or content."""
        event = dict(self.rng.choice(self.log[-10:] if self.rng.randrange(100) < 50 else self.log))
        own = [x for x in self.log if x["member_id"] == self.members[0]]
        if len(own) >= 15 and self.rng.randrange(100) < 50:
            event = dict(self.rng.choice(own[-18:-14]))
        if self.rng.randrange(100) < 50:
            event["occurred_at"] = self.event_time(a)
        if self.rng.randrange(100) < 15 and event["member_id"] is not None:
            event["member_id"] = self.rng.choice(self.members)
        self.put(event, a)

    def put(self, event: dict[str, Any], a: int) -> None:
        """Write a record down with its times in one of the forms that are allowed."""
        event.pop("appended_at", None)
        if self.appended:
            event["appended_at"] = a
        occurred = event["occurred_at"]
        if self.rng.randrange(100) < 5 and isinstance(event["occurred_at"], int):
            event["occurred_at"] = rfc3339(event["occurred_at"])
        self.log.append(event)
        if self.appended:
            self.clock = max(self.clock, a)
        elif isinstance(occurred, int):
            self.clock = max(self.clock, occurred)


def rfc3339(ms: int) -> str:
    """Spell a time as text with milliseconds."""
    seconds, rest = divmod(ms, 1_000)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{rest:03d}Z"


def crowded(rng: random.Random) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Make one member with so many keys that the bounds on live instances bite (8 per campaign, 64 in all)."""
    patterns = [
        f"{VIEW} then no {ORDER} for {rng.choice(['3m', '1h', '1h'])}",
        f"{VIEW} then {CART} within 1h then no {ORDER} for 1h",
        f"{VIEW} then {CART} within {rng.choice(['1m', '1h'])} without {ORDER}",
        f"no {VIEW} for 1h then {CART}",
        f"2+ {VIEW} within 1h then no {ORDER} for 1h",
    ]
    campaigns = []
    for n in range(rng.choice([1, 2, 10])):
        campaign: dict[str, Any] = {"campaign": f"campaign-{n}", "pattern": rng.choice(patterns), "send": dict(SEND)}
        if rng.randrange(100) < 50:
            campaign["pattern"] += ", same product_id"
        else:
            campaign["on_repeat"] = {"parallel": rng.choice([7, 8, 9, 20])}
        campaigns.append(campaign)
    log = LogMaker(rng, [VIEW], ["m1"], SPANS, appended=True)
    for n in range(rng.randint(12, 60)):
        type_ = rng.choice([VIEW] * 6 + [CART, CART, ORDER])
        a = log.append_time()
        e = log.event_time(a) if rng.randrange(100) < 30 else a
        log.times.append(min(e, a))
        data = {"product_id": f"p{rng.randint(1, 14)}"}
        log.put({"type": type_, "member_id": "m1", "occurred_at": e, "event_id": f"e{n}", "data": data}, a)
    log.put({"type": "tick", "member_id": None, "occurred_at": log.clock + 7_200_000}, log.clock + 7_200_000)
    return campaigns, log.log


def aged(rng: random.Random) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Make windows longer than the greatest age of an event, and events just within and beyond that age."""
    span = rng.choice(["8d", "10d"])
    patterns = [
        f"{VIEW} then no {ORDER} for {span}",
        f"{VIEW} then {CART} within {span} without {ORDER}",
        f"{VIEW} then {CART} within {span} then no {ORDER} for {span}",
        f"{VIEW} then 2+ {ORDER} within {span}",
        f"no {VIEW} for {span}",
        f"2+ {VIEW} within {span} then no {ORDER} for {span}",
        f"all of ({VIEW}, {ORDER}) within {span}",
    ]
    repeats: list[Any] = ["restart", "keep", {"parallel": 3}]
    campaigns = [
        {"campaign": f"campaign-{n}", "pattern": rng.choice(patterns), "on_repeat": rng.choice(repeats)}
        for n in range(2)
    ]
    log = LogMaker(rng, [VIEW, ORDER], ["m1"], LONG_SPANS, appended=True)
    a = START_MS
    for n in range(rng.randint(6, 20)):
        a += rng.choice([0, 1, 5_000, DAY_MS, 2 * DAY_MS, 3 * DAY_MS, 4 * DAY_MS])
        type_ = VIEW if n == 0 else rng.choice([VIEW, ORDER, ORDER, ORDER, CART])
        ages = [0, DAY_MS, 7 * DAY_MS - 1, 7 * DAY_MS, 7 * DAY_MS + 1, 7 * DAY_MS + 1, 7 * DAY_MS + 5_000, 8 * DAY_MS]
        age = rng.choice(ages if type_ == VIEW or rng.randrange(100) < 10 else ages[-4:])
        e = a if n == 0 or type_ == CART else a - age
        log.put({"type": type_, "member_id": "m1", "occurred_at": e, "event_id": f"e{n}", "data": {}}, a)
    log.put({"type": "tick", "member_id": None, "occurred_at": a + 30 * DAY_MS}, a + 30 * DAY_MS)
    return campaigns, log.log


def case(
    seed: int, most_campaigns: int = 4, most_events: int = 60
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Make the campaigns and the log of a seed; the same seed always gives the same."""
    rng = random.Random(seed)
    special = rng.randrange(100)
    if special < 5:
        return crowded(rng)
    if special < 10:
        return aged(rng)
    types, same = WORLDS[rng.choice(["shop", "shop", "shop", "pay", "plain"])]
    types = rng.sample(types, k=min(len(types), rng.choice([2, 3, 3, 4])))
    spans = dict(rng.sample(list(SPANS.items()), k=3))
    slow = rng.randrange(100) < 15
    if slow:
        spans = LONG_SPANS
    # Focused: one span, one member, few predicates, so that most edges are some campaign's edge.
    focused = rng.randrange(100) < 40
    if focused:
        spans = dict([rng.choice(list(spans.items()))])
        most_campaigns = min(2, most_campaigns)
    maker = CampaignMaker(rng, types, same, spans, focused)
    campaigns = [maker.make(f"campaign-{n}") for n in range(rng.randint(1, most_campaigns))]
    members = [f"m{n + 1}" for n in range(1 if focused else rng.choice([1, 1, 2, 3]))]
    pace = LONG_PACE if slow else PACE
    log = LogMaker(rng, types, members, spans, appended=rng.randrange(100) < 80, pace=pace)
    for _ in range(rng.randint(5, most_events)):
        log.add()
    if rng.randrange(100) < 60:
        log.put({"type": "tick", "member_id": None, "occurred_at": log.clock + 600_000}, log.clock + 600_000)
    return campaigns, log.log
