"""What do a thousand live campaigns cost?"""

from collections.abc import Callable

from benchmarks.forms import Cases, Facts, in_both_forms
from benchmarks.harness import Row, Scale
from benchmarks.replay_speed import PATTERN, plan_of, run_once
from benchmarks.workload import W_PRODUCTS, w
from schemas.codec import encode_event
from schemas.errors import StateError
from streams.patterns.plan import Plan

NAME = "campaigns_curve"
QUESTION = "What does an event cost with 1, 10, 100 and 1,000 live campaigns?"
METHOD = (
    "Replay of workload W as in replay_speed (`decisions=False`), with the campaign of replay_speed and n-1 others of "
    "eight kinds in turn: half ask for one of 20,000 products by `product_id = '…'` (sequence, absence, count), which "
    "few events satisfy; half wait for events that W does not have. `equality only`, `other types only`: 1,000 of one "
    "half. The firings of the first campaign must be the same in all cases. `compiled`: the same sources after "
    "`make compiled`, compared with one campaign compiled."
)
EVENTS, MEMBERS = 200_000, 20_000
SIZES = (1, 10, 100, 1_000)
EQUALITY, OTHER = "1,000, equality only", "1,000, other types only"
FIRST = "browse_abandon"


def equality(number: int) -> str:
    """Write the pattern of a campaign that wants one product."""
    item = f"[product_id = 'p{number * 17 % W_PRODUCTS}']"
    return (
        f"catalog.product.viewed{item} as v then no order.created for 2h, same product_id",
        f"cart.item.added{item} as c then no any of (order.created, cart.cleared) for 1h",
        f"3+ catalog.product.viewed{item} within 1h",
        f"catalog.product.viewed{item} then cart.item.added within 10m then order.created within 1h, same product_id",
    )[number % 4]


def other(number: int) -> str:
    """Write the pattern of a campaign on events that W does not have."""
    return (
        "2+ payment.failed within 1d then no payment.succeeded for 6h",
        "checkout.started then checkout.step_completed within 30m without order.cancelled",
        f"points.expired[amount >= {number}] then no points.redeemed for 3d",
        f"sum(receipt.issued.total) >= {100 + number} within 30d",
    )[number % 4]


def plans(count: int, kinds: str = "mixed") -> list[Plan]:
    """Load `count` campaigns; the first is always that of replay_speed."""
    found = [plan_of(FIRST, PATTERN)]
    for number in range(1, count):
        wants_equality = kinds == "equality" or (kinds == "mixed" and number % 2 == 1)
        found.append(plan_of(f"c{number}", (equality if wants_equality else other)(number // 2)))
    return found


def cases(scale: Scale) -> Cases:
    """Prepare what is measured."""
    lines = [encode_event(event) for event in w(2, scale.of(EVENTS), scale.of(MEMBERS))]
    live = {f"{count:,}": plans(count) for count in SIZES}
    live[EQUALITY] = plans(1_000, "equality")
    live[OTHER] = plans(1_000, "other")
    first: set[str] = set()

    def case(name: str) -> tuple[int, Facts]:
        fired = run_once(lines, live[name], decisions=False)
        ids = {firing.instance_id for firing in fired if firing.campaign == FIRST}
        first.update(ids if not first else ())
        if ids != first:
            raise StateError(f"campaigns_curve: {name} campaigns change what the first one fires (got {len(ids)})")
        return len(lines), {"firings": len(fired)}

    def bound(name: str) -> Callable[[], tuple[int, Facts]]:
        return lambda: case(name)

    return {name: bound(name) for name in live}


def run(scale: Scale) -> list[Row]:
    """Measure."""
    names = (*(f"{count:,}" for count in SIZES), EQUALITY, OTHER)
    return in_both_forms(NAME, names, scale, "event", own_base=True)
