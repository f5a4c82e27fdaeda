"""How fast does one core replay a recorded log?"""

from collections.abc import Iterable

from benchmarks.forms import Cases, Facts, in_both_forms
from benchmarks.harness import Row, Scale
from benchmarks.workload import w
from schemas.codec import encode_event
from schemas.errors import StateError
from schemas.events import Event
from schemas.records import Firing
from streams.campaigns import load_campaign
from streams.patterns.plan import Plan
from streams.replay import read_log, replay
from tables.member_state import INSTANCES_PER_PLAN_MAX

NAME = "replay_speed"
QUESTION = "How many events a second does one core replay, one campaign live?"
METHOD = (
    "Workload W as NDJSON lines in memory, `read_log` and `replay`, decoding included; campaign 'viewed, no order of "
    "the product within 2 h'. `firings`: `decisions=False`, which gives firings alone. `all outputs`: decisions, "
    "commands and attributions too. `firings, 300 members`: as many events, ten a member all the same, but in logs of "
    "300 members, one after the other, each with an engine of its own: what an event costs whose members lie in the "
    "core's own cache. The set of firings is compared with the definition's. `compiled`: the "
    "same sources after `make compiled`."
)
EVENTS, MEMBERS = 500_000, 50_000
FEW = 300
CASES = ("firings", "all outputs", "firings, 300 members")
WITHIN_MS, LATENESS_MS = 7_200_000, 5_000
VIEWED, ORDERED = "catalog.product.viewed", "order.created"
_Log = tuple[list[bytes], set[tuple[str, str]], int]
"""Lines, which views fire, how many were dropped."""

PATTERN = f"{VIEWED} as v then no {ORDERED} for 2h, same product_id"


def plan_of(campaign: str, pattern: str, more: str = "") -> Plan:
    """Load a campaign; `more` is further YAML.

    Raises:
        ValueError: it cannot be run.
    """
    loaded, findings = load_campaign(f"campaign: {campaign}\npattern: {pattern}\n{more}", f"{campaign}.yaml")
    if loaded is None:
        raise ValueError("\n".join(str(finding) for finding in findings))
    return Plan(loaded)


def expected(
    events: Iterable[Event], end_ms: int | None = None, views_max: int | None = INSTANCES_PER_PLAN_MAX
) -> tuple[set[tuple[str, str]], int]:
    """Compute from the definition which views fire, for a log in order of time without equal times of one member.

    Knows nothing of the engine: per member, a list of open views (due, product, event id). Of the same product, a later
    view takes the place of an open one, an order in time ends it. Beyond `views_max` open views the one due first goes.

    Args:
        events: the log.
        end_ms: the clock at its end; None: that of its last event.
        views_max: open views of one member; None: no bound.

    Returns:
        (member, event id of the view) of each firing, and how many open views were dropped.
    """
    waiting: dict[str, list[tuple[int, str, str]]] = {}
    fired: set[tuple[str, str]] = set()
    dropped, clock_ms = 0, 0
    for event in events:
        clock_ms = event.occurred_at_ms
        if event.type not in (VIEWED, ORDERED) or event.member_id is None or event.event_id is None:
            continue
        views = waiting.setdefault(event.member_id, [])
        over = [view for view in views if view[0] + LATENESS_MS <= clock_ms]
        fired.update((event.member_id, view[2]) for view in over)
        views[:] = [view for view in views if view not in over]
        if event.type == VIEWED:
            products = [event.data["product_id"]]
        else:
            products = [item["product_id"] for item in event.data["items"]]
        views[:] = [view for view in views if view[1] not in products or clock_ms >= view[0]]
        if event.type == VIEWED:
            if len(views) == views_max:
                views.remove(min(views))
                dropped += 1
            views.append((clock_ms + WITHIN_MS, products[0], event.event_id))
    if end_ms is not None:
        clock_ms = end_ms
    for member_id, views in waiting.items():
        fired.update((member_id, view[2]) for view in views if view[0] + LATENESS_MS <= clock_ms)
    return fired, dropped


def run_once(lines: list[bytes], plans: list[Plan], decisions: bool) -> list[Firing]:
    """Replay lines, give back the firings."""
    fired: list[Firing] = []
    for epoch in replay(read_log(lines), plans, decisions=decisions):
        fired += epoch.firings
    return fired


def cases(scale: Scale) -> Cases:
    """Prepare what is measured."""
    plans = [plan_of("browse_abandon", PATTERN)]
    members = scale.of(MEMBERS)
    whole = [_log(1, scale.of(EVENTS), members)]
    small = [_log(number, FEW * EVENTS // MEMBERS, FEW) for number in range(max(1, members // FEW))]

    def case(logs: list[_Log], decisions: bool) -> tuple[int, Facts]:
        for lines, due, _ in logs:
            fired = run_once(lines, plans, decisions)
            if {(firing.member_id, firing.anchor) for firing in fired} != due or len(fired) != len(due):
                difference = f"got {len(fired)}, not {len(due)}"
                raise StateError(f"replay_speed: firings differ from the definition's ({difference})")
        facts: Facts = {
            "firings": sum(len(due) for _, due, _ in logs),
            "dropped at 8 instances": sum(n for *_, n in logs),
        }
        return sum(len(lines) for lines, *_ in logs), facts

    return {
        CASES[0]: lambda: case(whole, False),
        CASES[1]: lambda: case(whole, True),
        CASES[2]: lambda: case(small, False),
    }


def _log(seed: int, events: int, members: int) -> _Log:
    log = list(w(seed, events, members))
    return [encode_event(event) for event in log], *expected(log)


def run(scale: Scale) -> list[Row]:
    """Measure."""
    return in_both_forms(NAME, CASES, scale, "event")
