"""What do a member's live instances cost each of his events?"""

from functools import partial

from benchmarks.durable import DurableEngine
from benchmarks.harness import Row, Scale, Work, interleaved
from benchmarks.replay_speed import plan_of
from schemas.errors import StateError
from tables.member_state import INSTANCES_PER_PLAN_MAX

NAME = "instances_curve"
QUESTION = "What does an event cost a member with 1 to 64 live instances?"
METHOD = (
    "Each member has looked at as many products; 'viewed, no order of it within 30 d' waits for each. A campaign holds "
    f"{INSTANCES_PER_PLAN_MAX} instances of a member, so 16, 32 and 64 of them belong to 2, 4 and 8 campaigns, each on "
    "a category of its own. Then the members order other products in turn: every order is held against all instances "
    "and ends none. Durable epochs of 512 records, one per member: what changed is encoded and written to a store in "
    "memory, as a worker does. Looking is not timed. The core is compiled where `make compiled` was run. That all "
    "instances are still there, and nothing fired, is asked at the end of each run. Ratio: cost beside one instance."
)
ORDERS, MEMBERS = 40_000, 512
SIZES = (1, 2, 4, 8, 16, 32, 64)
LEAST, BATCH = 64, 512
VIEWED, ORDERED = "catalog.product.viewed", "order.created"


class Bench:
    """One engine whose members have so many live instances."""

    def __init__(self, instances: int, members: int) -> None:
        """Look at products."""
        self.instances, self.members = instances, members
        campaigns = -(-instances // INSTANCES_PER_PLAN_MAX)
        plans = [
            plan_of(f"c{n}", f"{VIEWED}[category = 'c{n}'] as v then no {ORDERED} for 30d, same product_id")
            for n in range(campaigns)
        ]
        self.durable = DurableEngine(plans, BATCH)
        for number in range(instances):
            product = {"product_id": f"p{number}", "category": f"c{number % campaigns}", "price": 50}
            self.durable.take([(VIEWED, n, product) for n in range(members)])

    def run(self, orders: int) -> Work:
        """Order so many times.

        Raises:
            StateError: an instance ended, or was lost.
        """
        data = {"order_id": "A-1", "total": 99.5, "items": [{"product_id": "other", "price": 99.5, "quantity": 1}]}
        took = self.durable.take([(ORDERED, n % self.members, data) for n in range(orders)])
        left = len((self.durable.engine.member_view("m0") or {"instances": []})["instances"])
        if took.decisions or left != self.instances:
            found = f"{left} instances, {took.decisions} decisions"
            raise StateError(f"instances_curve: {found} (wanted {self.instances}, 0)")
        return Work(orders, took.wall_s, took.cpu_s)


def run(scale: Scale) -> list[Row]:
    """Measure."""
    orders, members = scale.of(ORDERS, LEAST), min(MEMBERS, scale.of(MEMBERS * 20, LEAST))
    benches = {f"{size}": Bench(size, members) for size in SIZES}
    rows = interleaved({name: partial(bench.run, orders) for name, bench in benches.items()}, scale, "event")
    for row, bench in zip(rows, benches.values(), strict=True):
        bytes_ = sum(map(len, bench.durable.store.members.values())) / len(bench.durable.store.members)
        row.more = {"record bytes": round(bytes_)}
    return rows
