"""What the laboratory produces: campaigns with windows of seconds, and a shop's events, by seed, until told to stop."""

import heapq
import json
import random
import threading
import time
from typing import Any

import yaml
from confluent_kafka import KafkaException, Producer

from agents.topics import EVENTS
from schemas.events import TICK
from schemas.partitioning import partition_of
from tidings.cli.campaigns import send_everywhere
from tidings.config import Settings
from tidings.producing import Sender

PROBE = "probe"
PROBE_S = 0.25  # per partition: how finely a standstill is seen
EVENT_S = 0.035  # between two events of all members
MEMBERS = 6  # per partition, beside the probe's
TRANSACTION_S = 0.7
PRODUCTS = [("p1", "c1"), ("p2", "c1"), ("p3", "c2")]
SEND = {"channel": "email", "template": "hello", "lifetime": "1d"}

VIEW, CART, ORDER, SEARCH = "catalog.product.viewed", "cart.item.added", "order.created", "catalog.search.performed"


def campaigns_of(rng: random.Random) -> list[dict[str, Any]]:
    """The campaigns of a seed: one that answers every probe at once, and three or four that wait, count and cap."""
    span = rng.choice(["2s", "3s"])
    shapes: list[dict[str, Any]] = [
        {"campaign": "left-cart", "pattern": f"{CART} as c then no {ORDER} for {span}, same product_id"},
        {"campaign": "left-look", "pattern": f"{VIEW} then no {ORDER} for 3s", "limit": "2 per 10s"},
        {"campaign": "thanks", "pattern": f"{ORDER} as o", "cooldown": rng.choice(["2s", "4s"])},
        {"campaign": "eager", "pattern": f"3+ {VIEW} within 5s, same category", "cooldown": "3s"},
        {"campaign": "seeker", "pattern": f"{SEARCH} then {CART} within 4s without {ORDER}"},
        {"campaign": "welcome", "pattern": f"member.registered then no {ORDER} for {span}", "once": True},
    ]
    chosen = rng.sample(shapes, rng.choice([3, 4]))
    for campaign in chosen:
        if " no " in campaign["pattern"]:
            campaign["on_repeat"] = rng.choice(["restart", "keep", {"parallel": 2}])
    return [{**c, "send": dict(SEND)} for c in [{"campaign": PROBE, "pattern": "app.opened as a"}, *chosen]]


def members_of(partitions: int) -> list[list[str]]:
    """Names of members, MEMBERS and one per partition."""
    found: list[list[str]] = [[] for _ in range(partitions)]
    number = 0
    while any(len(names) <= MEMBERS for names in found):
        name = f"m{number}"
        place = found[partition_of(name.encode(), partitions)]
        if len(place) <= MEMBERS:
            place.append(name)
        number += 1
    return found


class Spoilt(RuntimeError):
    """The laboratory itself failed: what a schedule says then is nothing about the product."""


class Load(threading.Thread):
    """Produces until `stop`; `asked_at`: when each probe was handed to the producer, monotonic, by event id.

    `renewed`: how often the producer of transactions was begun anew. Kafka may refuse, for good, to end a transaction
    that was open when it went down.
    """

    def __init__(self, settings: Settings, seed: int, holes: bool) -> None:
        super().__init__(name="load", daemon=True)
        self.campaigns = campaigns_of(random.Random(f"campaigns {seed}"))
        self.asked_at: dict[str, tuple[int, float]] = {}
        self._rng = random.Random(f"load {seed}")
        self._settings = settings
        self._members = members_of(settings.partitions)
        self._holes = holes
        self._number = 0
        self._later: list[tuple[float, int, bytes, str]] = []
        self._stopping = threading.Event()
        config = settings.confluent(
            log_level=0, partitioner="murmur2_random", linger_ms=5, enable_idempotence=True, message_timeout_ms=600_000
        )
        self._producer = Producer(config)
        own = {"transactional.id": "lab", "message.timeout.ms": 30_000, "transaction.timeout.ms": 30_000}
        self._transactional = config | own
        self.renewed = 0
        self._thread: threading.Thread | None = None

    def open_shop(self) -> None:
        """Publish the campaigns and register the members: the head of every partition's log."""
        sender = Sender(self._settings, EVENTS)
        for campaign in self.campaigns:
            name = campaign["campaign"]
            text = yaml.safe_dump(campaign, sort_keys=False)
            send_everywhere(sender, "campaign.published", {"campaign": name, "yaml": text, "path": f"{name}.yaml"})
        for name in (name for names in self._members for name in names):
            data = {"email": f"{name}@shop.example", "first_name": "Ada", "consent": {"email": True}}
            self._produce("member.registered", name, data)
        if self._producer.flush(30):
            raise Spoilt("members could not be registered")
        if self._holes:
            self._thread = threading.Thread(target=self._transact, name="transactions", daemon=True)
            self._thread.start()

    def run(self) -> None:
        probe_at = time.monotonic()
        while not self._stopping.wait(EVENT_S):
            now = time.monotonic()
            while self._later and self._later[0][0] <= now:
                _, _, raw, key = heapq.heappop(self._later)
                self._producer.produce(EVENTS, raw, key.encode())
            if now >= probe_at:
                probe_at = max(probe_at + PROBE_S, now)
                self._probe()
            self._shop()
            self._producer.poll(0)

    def stop(self) -> None:
        """Stop and end every partition with a plain record; everything is on the log afterwards."""
        self._stopping.set()
        self.join(30)
        if self._thread is not None:
            self._thread.join(60)
        for _, _, raw, key in self._later:
            self._producer.produce(EVENTS, raw, key.encode())
        if self._producer.flush(120):
            raise Spoilt("the broker did not take all events")
        for partition in range(self._settings.partitions):
            tick = json.dumps({"type": TICK, "occurred_at": now_ms()}).encode()
            self._producer.produce(EVENTS, tick, partition=partition)
        if self._producer.flush(60):
            raise Spoilt("the broker did not take the last ticks")

    def _probe(self) -> None:
        for partition, names in enumerate(self._members):
            ident = self._produce("app.opened", names[-1], {})
            self.asked_at[ident] = (partition, time.monotonic())

    def _shop(self) -> None:
        rng = self._rng
        name = rng.choice(self._members[rng.randrange(len(self._members))][:-1])
        product, category = rng.choice(PRODUCTS)
        kind = rng.choice([VIEW, VIEW, VIEW, CART, CART, SEARCH, ORDER])
        data: dict[str, Any] = {"product_id": product, "category": category}
        if kind == ORDER:
            data = {"order_id": f"o{self._number}", "total": 20, "currency": "EUR", "items": [{"product_id": product}]}
        elif kind == SEARCH:
            data = {"query": product}
        # Most arrive as they happen; some late, so that the log's order is not the events', some from a fast clock.
        age = rng.choice([0, 0, 0, 0, 300, 1_500, 4_000, -2_000])
        ident = self._produce(kind, name, data, age)
        if rng.randrange(60) == 0:
            self._producer.produce(EVENTS, b"no event " + ident.encode(), name.encode())
        if rng.randrange(60) == 0:
            self._producer.produce(EVENTS, json.dumps({"type": TICK, "occurred_at": now_ms()}).encode(), b"")

    def _produce(self, kind: str, member: str, data: dict[str, Any], age_ms: int = 0, producer: Any = None) -> str:
        self._number += 1
        ident = f"{'t' if producer else 'e'}{self._number}"
        event = {"type": kind, "event_id": ident, "member_id": member, "occurred_at": now_ms() - age_ms, "data": data}
        raw = json.dumps(event).encode()
        (producer or self._producer).produce(EVENTS, raw, member.encode())
        if producer is None and self._rng.randrange(12) == 0:  # a producer that sends again
            heapq.heappush(self._later, (time.monotonic() + self._rng.uniform(0, 2), self._number, raw, member))
        return ident

    def _transact(self) -> None:
        """Leave holes in the log: a marker at each transaction's end, and every third one is taken back as a whole."""
        rng = random.Random(1)
        producer = None
        while not self._stopping.wait(TRANSACTION_S):
            try:
                if producer is None:
                    producer = Producer(self._transactional)
                    producer.init_transactions(30)  # ends what was left open
                self._one_transaction(producer, rng)
            except KafkaException:
                producer = None
                self.renewed += 1

    def _one_transaction(self, producer: Any, rng: random.Random) -> None:
        producer.begin_transaction()
        for names in self._members:
            self._produce(VIEW, rng.choice(names[:-1]), {"product_id": "p1", "category": "c1"}, 0, producer)
        taken_back = rng.randrange(3) == 0
        while True:
            try:
                if taken_back:
                    producer.flush(10)  # so that they are on the log
                    producer.abort_transaction(30)
                else:
                    producer.commit_transaction(10)
                return
            except KafkaException as error:
                taken_back = taken_back or error.args[0].txn_requires_abort()
                if not (error.args[0].retriable() or error.args[0].txn_requires_abort()):
                    raise


def now_ms() -> int:
    return time.time_ns() // 1_000_000
