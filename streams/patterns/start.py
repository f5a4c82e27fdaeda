"""The first step: what gathers until it completes, and what then begins, re-anchors, is ignored or must make room.

Rules: SEMANTICS 17-20, 31, 36, 40, 47-59. As in `match`, the member's overlay is changed and outcomes are appended.
"""

from typing import Any, Final, NamedTuple

from streams.patterns.match import (
    COMPLETED,
    EVICTED,
    REPLACED,
    Moment,
    Outcome,
    advance,
    occurrences,
    spend,
    where_holds,
)
from streams.patterns.plan import Plan, StepPlan
from streams.patterns.windows import (
    add_latest,
    add_to_aggregate,
    add_to_set,
    aggregate_holds,
    aggregate_values,
    find_set,
)
from tables.member_state import (
    INSTANCES_MAX,
    INSTANCES_PER_PLAN_MAX,
    KEYS_MAX,
    NO_MAP,
    NO_ROWS,
    Instance,
    Member,
    PlanState,
)

_NO_ALIASES: Final[dict[str, Any]] = {}


class Start(NamedTuple):
    """Where an instance starts: least and greatest event time of the first step, anchor id, (e, offset) of its records.

    None of a match's own records may cancel or block it (SEMANTICS 17).
    """

    e_first: int
    e_anchor: int
    anchor: str
    records: list[tuple[int, int]]


def try_start(
    plan: Plan, state: PlanState, member: Member, moment: Moment, advanced: dict[Any, bool], out: list[Outcome]
) -> None:
    """Show the event to the plan's first step; `advanced`: keys under which it already moved one (SEMANTICS 31)."""
    step = plan.steps[0]
    term = step.term
    if term is None:
        return
    if step.kind == "event" and moment.type in plan.plain_starts:
        if not moment.too_old:
            _begin_each(plan, state, member, moment, advanced, out)
        return
    hit = [
        index
        for index, ref in term.by_type.get(moment.type, ())
        if ref.judge is None or ref.judge(moment.data, _NO_ALIASES, moment.profile, moment.clock)
    ]
    if not hit:
        return
    if step.kind == "event":
        if moment.too_old or not where_holds(plan, step, {}, moment):
            return
        _begin_each(plan, state, member, moment, advanced, out)
        return
    if state.counts_version != plan.shape or state.counts is NO_MAP:
        state.counts, state.counts_version = {}, plan.shape
    for key, correlation in moment.keys_for(plan):
        if advanced.get(key):
            continue  # it completed a match: read up to the firing, so spent (SEMANTICS 49)
        entries = _entries(state, key)
        gathered = _gather(step, entries, hit, member, moment, key)
        if not entries:
            del state.counts[key]
        if gathered is None or moment.too_old or key in advanced or not where_holds(plan, step, {}, moment):
            continue
        _begin(plan, state, member, moment, (key, correlation), gathered, out)


def _begin_each(
    plan: Plan, state: PlanState, member: Member, moment: Moment, advanced: dict[Any, bool], out: list[Outcome]
) -> None:
    start = Start(moment.e, moment.e, moment.event_id, [])
    for keyed in moment.keys_for(plan):
        if keyed[0] not in advanced:
            _begin(plan, state, member, moment, keyed, start, out)


def _entries(state: PlanState, key: Any) -> list[Any]:
    entries = state.counts.pop(key, None)
    if entries is None:
        entries = []
        if len(state.counts) >= KEYS_MAX:
            del state.counts[next(iter(state.counts))]
    state.counts[key] = entries  # youngest last
    return entries


def _gather(
    step: StepPlan, entries: list[Any], hit: list[int], member: Member, moment: Moment, key: Any
) -> Start | None:
    """Add the event to what the first step gathers; say where an instance starts if that completes it."""
    if step.kind == "count":
        inside = add_latest(entries, [moment.e, moment.offset, moment.event_id], step.count)
        if not inside or len(entries) < step.count or entries[-1][0] - entries[0][0] >= step.window_ms:
            return None
        records = [(entry[0], entry[1]) for entry in entries]
        start = Start(entries[0][0], entries[-1][0], moment.event_id, records)
        return None if _count_blocked(step, member, moment, key, start) else start
    if step.kind == "aggregate":
        values = aggregate_values(step, moment.data)
        if (
            not values
            or not add_to_aggregate(entries, step, (moment.e, moment.offset), values)
            or not aggregate_holds(step, entries)
        ):
            return None
        return Start(entries[0][0], entries[-1][0], moment.event_id, [(entry[0], entry[1]) for entry in entries])
    count = len(step.term.refs) if step.term is not None else 0
    for index in hit:
        add_to_set(entries, [index, moment.e, moment.offset, moment.event_id])
    for index in hit:
        chosen = find_set(entries, count, [index, moment.e, moment.offset, moment.event_id], step.window_ms)
        if chosen is not None:
            times = [entry[1] for entry in chosen]
            anchor = min(chosen, key=lambda entry: int(entry[2]))[3]
            start = Start(min(times), max(times), anchor, [(entry[1], entry[2]) for entry in chosen])
            if not _count_blocked(step, member, moment, key, start):
                return start
    return None


def _count_blocked(step: StepPlan, member: Member, moment: Moment, key: Any, start: Start) -> bool:
    """A `without` event read before, at low <= e < high, blocks a first count (SEMANTICS 36)."""
    if not step.without:
        return False
    low, high = start.e_first, start.e_anchor
    probe = Instance("", key, None, "", (0, 0), low, low)
    probe.own = [offset for _, offset in start.records]
    for term in step.without:
        met = [any(low <= e < high for e in occurrences(ref, probe, member, moment.offset)) for ref in term.refs]
        if all(met) if term.kind == "all" else any(met):
            return True
    return False


def _begin(
    plan: Plan,
    state: PlanState,
    member: Member,
    moment: Moment,
    keyed: tuple[Any, Any],
    start: Start,
    out: list[Outcome],
) -> None:
    """Start an instance for (key, correlation), as `on_repeat` allows."""
    key, e_anchor = keyed[0], start.e_anchor
    peers = state.instances and [i for i in state.instances if i.key == key and e_anchor < (i.deadline or 0)]
    if peers:
        kind = plan.repeat.kind
        if kind == "keep" or (kind == "parallel" and len(peers) >= plan.repeat.most):
            return
        if kind == "restart":
            if any(peer.e_anchor > e_anchor for peer in peers):
                return  # the latest A by event time re-anchors; an older one read later is ignored (SEMANTICS 54)
            for peer in peers:
                state.instances.remove(peer)
                out.append((REPLACED, plan, state, peer, None, moment.event_id))
    moment.begun += 1
    started = (moment.offset, moment.begun)
    instance = Instance(plan.version, key, keyed[1], start.anchor, started, start.e_first, e_anchor)
    own = [o for e, o in start.records if e == e_anchor] if start.records else NO_ROWS
    result = advance(plan, instance, member, moment, e_anchor, own)
    if result == "advanced":
        instance.tidy()
        _make_room(plan, state, member, out)
        state.instances.append(instance)
        return
    if result == COMPLETED:
        spend(plan, state, key)
    out.append((result, plan, state, instance, None, moment.event_id))


def _make_room(plan: Plan, state: PlanState, member: Member, out: list[Outcome]) -> None:
    while len(state.instances) >= INSTANCES_PER_PLAN_MAX:
        _evict(plan, [(state, i) for i in state.instances], out)
    while len(member.plans) > INSTANCES_MAX // INSTANCES_PER_PLAN_MAX and member.live_instances() >= INSTANCES_MAX:
        _evict(plan, [(s, i) for s in member.plans.values() for i in s.instances], out)


def _evict(plan: Plan, living: list[tuple[PlanState, Instance]], out: list[Outcome]) -> None:
    """End the instance with the earliest due; none due: the oldest (SEMANTICS 59)."""
    dated = [pair for pair in living if pair[1].due is not None]
    if dated:
        state, instance = min(dated, key=lambda pair: (pair[1].due or 0, pair[1].started))
    else:
        state, instance = min(living, key=lambda pair: pair[1].started)
    state.instances.remove(instance)
    out.append((EVICTED, plan, state, instance, None, None))
