"""Which campaigns an event concerns, without asking those it does not.

A plan is found by the event's type; where its first step demands `attribute = "text"` of every event of that type, by
the attribute's value too, so that a thousand campaigns on one type cost a look-up, not a thousand judgements.
"""

from collections.abc import Iterable

from streams.patterns.expressions import Data
from streams.patterns.plan import Plan, Series


class Route:
    """What to do with one event type: histories to keep, plans to start."""

    __slots__ = ("series", "always", "by_value", "moves", "begins_only")

    def __init__(self) -> None:
        self.series: list[Series] = []
        self.always: list[Plan] = []
        self.by_value: dict[str, dict[str, list[Plan]]] = {}
        self.moves: set[str] = set()  # ids of campaigns in any version of which the type concerns a later step
        self.begins_only = True  # no history is kept of it and nothing live can meet it: it may begin, no more

    def add_start(self, plan: Plan, type_: str) -> None:
        """Index a plan under the constant its first step demands, else among those always asked."""
        term = plan.steps[0].term
        demands = {ref.equals for _, ref in term.by_type[type_]} if term is not None else {None}
        attributes = {demand[0] if demand else None for demand in demands}
        attribute = next(iter(attributes)) if len(attributes) == 1 else None
        if attribute is None:
            self.always.append(plan)
            return
        values = self.by_value.setdefault(attribute, {})
        for value in sorted({demand[1] for demand in demands if demand}):
            values.setdefault(value, []).append(plan)

    def starts(self, data: Data) -> list[Plan]:
        """List plans whose first step this event may match."""
        if not self.by_value:
            return self.always
        found = list(self.always)
        for attribute, values in self.by_value.items():
            value = data.get(attribute)
            if isinstance(value, str):
                found.extend(values.get(value, ()))
            else:  # in items, a list or of another type: let the plans themselves judge
                found.extend(dict.fromkeys(plan for plans in values.values() for plan in plans))
        return found


def build_routes(live: Iterable[Plan], draining: Iterable[Plan]) -> dict[str, Route]:
    """Index plans by event type; draining plans only continue, they start nothing.

    In the order of their names: a restart lists campaigns in another order than the log has published them.
    """
    routes: dict[str, Route] = {}
    known: dict[str, Series] = {}
    named = [
        sorted(((plan, starts) for plan in plans), key=lambda pair: (pair[0].id, pair[0].version))
        for plans, starts in ((live, True), (draining, False))
    ]
    for plan, starts in [*named[0], *named[1]]:
        for type_ in plan.types:
            route = routes.setdefault(type_, Route())
            if type_ in plan.moving_types:
                route.moves.add(plan.id)
        for type_ in plan.start_types if starts else ():
            routes[type_].add_start(plan, type_)
        for series in plan.series.values():
            same = known.setdefault(series.sid, series)
            same.keep_ms = max(same.keep_ms, series.keep_ms)
            if same is series:
                routes[series.type].series.append(series)
    for route in routes.values():
        route.begins_only = not route.series and not route.moves
    return routes
