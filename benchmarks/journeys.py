"""What do twenty running journeys of a member cost the decisions about it?"""

from functools import partial

from benchmarks.durable import DurableEngine
from benchmarks.harness import Row, Scale, Work, interleaved
from benchmarks.replay_speed import plan_of
from schemas.errors import StateError

NAME = "journeys"
QUESTION = "How many decisions a second with 20 journeys running for every member, beside none?"
METHOD = (
    "One campaign that sends at each order: one decision and one command per event. Every member has 20 journeys of "
    "another campaign, each about one product, waiting 30 days and over at an order of it. `orders of other products`: "
    "every order is shown to the 20 and ends none. `events they do not await`: the sending campaign fires on opening "
    "the app instead. `none`: neither journeys nor their campaign. Durable epochs of 500 records: members are encoded "
    "and written to a store in memory, as a worker does. Beginning the journeys is not timed. Ratio: cost per decision "
    "beside `none`; 2.00 is half the rate."
)
DECISIONS, MEMBERS, JOURNEYS = 40_000, 4_000, 20
BATCH = 500
ORDER, OPENED, CART = "order.created", "app.opened", "cart.item.added"
SEND = "send: {channel: email, template: thanks, data: {id: t.order_id}}\n"
CHAIN = "flow:\n- wait: 30d\n- send: {channel: email, template: reminder}\nexit_on: order.created\n"
PROFILE: dict[str, object] = {"email": "m@shop.example", "city": "Omsk", "consent": {"email": True, "sms": True}}


class Bench:
    """One engine whose members have what a case wants; each run decides about every member anew."""

    def __init__(self, trigger: str, journeys: int, members: int) -> None:
        """Begin the journeys."""
        plans = [plan_of("trigger", f"{trigger} as t", SEND)]
        if journeys:
            plans.append(plan_of("chain", f"{CART} as c, same product_id", CHAIN))
        self.trigger, self.journeys, self.members = trigger, journeys, members
        self.durable = DurableEngine(plans, BATCH)
        self.durable.take([("member.registered", n, dict(PROFILE)) for n in range(members)])
        for number in range(journeys):
            self.durable.take([(CART, n, {"product_id": f"p{number}"}) for n in range(members)])

    def run(self, decisions: int) -> Work:
        """Decide so many messages.

        Raises:
            StateError: another number of messages, or journeys were lost.
        """
        data = {"order_id": "A-1", "total": 99.5, "items": [{"product_id": "other", "price": 99.5, "quantity": 1}]}
        took = self.durable.take([(self.trigger, n % self.members, data) for n in range(decisions)])
        left = len((self.durable.engine.member_view("m0") or {"journeys": []})["journeys"])
        if took.commands != decisions or left != self.journeys:
            found = f"{took.commands} messages and {left} journeys"
            raise StateError(f"journeys: {found} (wanted {decisions}, {self.journeys})")
        return Work(decisions, took.wall_s, took.cpu_s)


def run(scale: Scale) -> list[Row]:
    """Measure."""
    decisions, members = scale.of(DECISIONS), scale.of(MEMBERS)
    cases = {
        "none": Bench(ORDER, 0, members),
        "20, orders of other products": Bench(ORDER, JOURNEYS, members),
        "20, events they do not await": Bench(OPENED, JOURNEYS, members),
    }
    return interleaved({name: partial(bench.run, decisions) for name, bench in cases.items()}, scale, "decision")
