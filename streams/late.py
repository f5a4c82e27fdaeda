"""Events that come too late: the absence they break has fired. It stays fired; that it was broken is counted."""

from collections.abc import Callable, Iterator

from streams.patterns.match import Moment
from streams.patterns.plan import KEEP_SLACK_MS, MAX_AGE_MS, Plan
from tables.member_state import FIRED_MAX, Instance, PlanState

PlanOf = Callable[[str, str], Plan | None]


def note_firing(state: PlanState, instance: Instance, due: int, sent: bool) -> None:
    """Keep what a later event needs to be recognised as late; `sent`: a command went out."""
    entry = (
        instance.key,
        instance.e_prev,
        due,
        instance.aliases,
        instance.correlation,
        instance.anchor,
        instance.version,
        sent,
    )
    state.late = (*state.late, entry)[-FIRED_MAX:]


def meets_firing(
    plan: Plan, plan_of: PlanOf, state: PlanState, moment: Moment
) -> Iterator[tuple[str, Instance, int, bool]]:
    """Yield (version, instance as it fired, due, sent) of each firing this event comes too late for; each only once."""
    for entry in list(state.late):
        key, e_prev, due, aliases, correlation, anchor, version, sent = entry
        own = plan_of(plan.id, version)
        if own is None or due < moment.clock - MAX_AGE_MS - KEEP_SLACK_MS:
            state.late = [kept for kept in state.late if kept is not entry]
            continue
        term = own.steps[-1].term
        if term is None or moment.type not in term.by_type or not e_prev <= moment.e < due:
            continue
        key = tuple(key) if isinstance(key, list) else key
        if own.keys_of is not None and not any(k == key for k, _ in moment.keys_for(own)):
            continue
        refs = (ref for _, ref in term.by_type[moment.type])
        if any(r.judge is None or r.judge(moment.data, aliases, moment.profile, moment.clock) for r in refs):
            state.late = [kept for kept in state.late if kept is not entry]
            yield version, Instance(version, key, correlation, anchor, (0, 0), e_prev, e_prev), due, sent
