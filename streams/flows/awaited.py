"""Whether an event is one that a journey looks out for."""

from collections.abc import Collection
from typing import Any

from streams.flows.plan import AwaitedPlan
from streams.patterns.match import Moment
from streams.patterns.plan import Plan
from tables.member_state import Journey


def concerns(term: AwaitedPlan, moment: Moment, plan: Plan, journey: Journey, aliases: dict[str, Any]) -> bool:
    """Tell whether an event is one that a journey looks out for: by type, by whose it is, by its condition."""
    judges = term.judges.get(moment.type)
    if judges is None:
        return False
    if term.own:
        if moment.type in plan.flow.message_types:
            if moment.data.get("instance_id") != journey.instance_id:
                return False
        elif not keyed(moment, plan, journey):
            return False
    return any(judge is None or judge(moment.data, aliases, moment.profile, moment.clock) for judge in judges)


def keyed(moment: Moment, plan: Plan, journey: Journey) -> bool:
    """Tell whether an event carries the journey's value of `same`."""
    return plan.keys_of is None or any(key == journey.key for key, _ in moment.keys_for(plan))


def keys_met(moment: Moment, plan: Plan) -> Collection[Any] | None:
    """List the keys of the journeys that may look up at an event, none where its type is nothing to them; None: all."""
    if moment.type not in plan.flow.types:
        return ()
    if moment.type not in plan.flow.keyed_types or plan.keys_of is None:
        return None
    return [key for key, _ in moment.keys_for(plan)]
