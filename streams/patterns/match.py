"""The heart: one event against one campaign's live instances of one member, then against its first step.

Pure: it changes the member's overlay it is given and appends outcomes. The rules and their numbers: docs/patterns.md
(SEMANTICS). Order inside a record (66): history and profile are updated by the caller, then live instances, oldest
first, then the start.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

from streams.patterns.expressions import Data, capture
from streams.patterns.moment import Moment as Moment
from streams.patterns.plan import Plan, Ref, StepPlan, TermPlan
from streams.patterns.windows import (
    add_latest,
    add_to_aggregate,
    aggregate_holds,
    aggregate_values,
)
from tables.member_state import (
    NO_MAP,
    NO_ROWS,
    Instance,
    Member,
    PlanState,
)

COMPLETED: Final = "completed"
CANCELLED: Final = "cancelled"
KILLED: Final = "killed"
EXPIRED: Final = "expired"
EVICTED: Final = "evicted"
REPLACED: Final = "replaced"
SILENT: Final = frozenset((CANCELLED, KILLED, EXPIRED, REPLACED))  # endings of which nothing is said but a count
COUNTED_AS: Final = {kind: f"instances.{kind}" for kind in (COMPLETED, EVICTED, *sorted(SILENT))}

Outcome = tuple[str, Plan, PlanState, Instance, int | None, str | None]
"""(kind, plan, state, instance, due of an absence, event id that completed, cancelled or replaced it)."""

PlanOf = Callable[[str, str], Plan | None]

_NO_ALIASES: Final[dict[str, Data]] = {}


def advance_instances(
    plan: Plan, plan_of: PlanOf, state: PlanState, member: Member, moment: Moment, out: list[Outcome]
) -> dict[Any, bool]:
    """Show the event to every live instance, oldest first.

    Returns:
        The keys under which one advanced, with True where one completed: the event is spent there.
    """
    advanced: dict[Any, bool] = {}
    keys: list[tuple[Any, Any]] = []
    keyed: Plan | None = None  # whose keys they are
    for instance in list(state.instances):
        own = plan if instance.version == plan.version else plan_of(plan.id, instance.version)
        if own is None or instance.started[0] < own.since_offset:
            state.instances.remove(instance)
            continue
        if moment.type not in own.types:
            continue
        if own is not keyed:
            keys, keyed = moment.keys_for(own), own
        if own.keys_of is not None and not any(key == instance.key for key, _ in keys):
            continue
        awaited = instance.step
        result = _step(own, instance, member, moment)
        if not result:
            continue
        if result != "advanced":
            state.instances.remove(instance)
            out.append((result, own, state, instance, None, moment.event_id))
        if (
            result in ("advanced", COMPLETED) or instance.step > awaited
        ):  # also one whose next absence is broken already
            advanced[instance.key] = advanced.get(instance.key, False) or result == COMPLETED
        if result == COMPLETED:
            spend(own, state, instance.key)
    return advanced


def _step(plan: Plan, instance: Instance, member: Member, moment: Moment) -> str:
    """Judge one event against the awaited step: "" (nothing), "advanced", or how the instance ended."""
    step = plan.steps[instance.step]
    if moment.too_old:  # it counts in windows that others complete, and moves nothing (SEMANTICS 9, 10)
        if step.kind in ("count", "all", "aggregate") and instance.e_prev <= moment.e < (instance.end or 0):
            _positive(plan, step, instance, moment)
        return ""
    if step.kind == "absent":
        return CANCELLED if _meets_absence(step, instance, moment) else ""
    if step.kind == "delay":
        return ""
    end = instance.end if instance.end is not None else moment.e
    if not instance.e_prev <= moment.e < end:
        return ""
    for number, term in enumerate(step.without):
        if term.kind == "all" and not instance.seen_without:
            instance.seen_without = {}
        if _meets_term(term, instance, moment, number * 64, instance.seen_without):
            return KILLED
    reached = _positive(plan, step, instance, moment)
    if reached is None or (instance.blocked_e is not None and instance.blocked_e < reached):
        return ""
    return advance(plan, instance, member, moment, reached)


def _meets_absence(step: StepPlan, instance: Instance, moment: Moment) -> bool:
    if step.term is None or instance.due is None or not instance.e_prev <= moment.e < instance.due:
        return False
    if step.term.kind == "all" and not instance.seen:
        instance.seen = {}
    return _meets_term(step.term, instance, moment, 0, instance.seen)


def _meets_term(term: TermPlan, instance: Instance, moment: Moment, base: int, seen: dict[int, Any]) -> bool:
    """Tell whether the event satisfies a term; for `all of`, whether it is the last one missing."""
    for index, ref in term.by_type.get(moment.type, ()):
        if ref.judge is None or ref.judge(moment.data, instance.aliases, moment.profile, moment.clock):
            if term.kind != "all":
                return True
            seen[base + index] = (moment.e, moment.offset)
    if term.kind != "all" or moment.type not in term.by_type:
        return False
    return all(base + index in seen for index in range(len(term.refs)))


def _positive(plan: Plan, step: StepPlan, instance: Instance, moment: Moment) -> int | None:
    """Return the step's event time if this event completes it, None otherwise."""
    term = step.term
    if term is None or moment.type not in term.by_type:
        return None
    hit = [
        index
        for index, ref in term.by_type[moment.type]
        if ref.judge is None or ref.judge(moment.data, instance.aliases, moment.profile, moment.clock)
    ]
    if not hit:
        return None
    reached: int | None = moment.e
    if step.kind == "count":
        entries = [list(entry) for entry in instance.counted]
        inside = add_latest(entries, [moment.e, moment.offset], step.count)
        instance.counted = [(entry[0], entry[1]) for entry in entries]
        reached = entries[-1][0] if inside and len(entries) == step.count else None
    elif step.kind == "all":
        instance.seen = {**instance.seen, **{index: (moment.e, moment.offset) for index in hit}}
        complete = all(index in instance.seen for index in range(len(term.refs)))
        reached = max(e for e, _ in instance.seen.values()) if complete else None
    elif step.kind == "aggregate":
        reached = _count_aggregate(step, instance, moment)
    if reached is None or not where_holds(plan, step, instance.aliases, moment):
        return None
    return reached


def _count_aggregate(step: StepPlan, instance: Instance, moment: Moment) -> int | None:
    values = aggregate_values(step, moment.data)
    if not values:
        return None
    entries = [[entry[0], *entry[1]] for entry in instance.counted]
    inside = add_to_aggregate(entries, step, (moment.e, moment.offset), values)
    instance.counted = [(entry[0], entry[1:]) for entry in entries]
    return entries[-1][0] if inside and aggregate_holds(step, entries) else None


def where_holds(plan: Plan, step: StepPlan, aliases: dict[str, Any], moment: Moment) -> bool:
    """Judge `where` at a positive step's match: bare names are the event's, its own alias is bound (SEMANTICS 44)."""
    if plan.where is None:
        return True
    bound = {**aliases, step.alias: moment.data} if step.alias else aliases
    return plan.where(moment.data, bound, moment.profile, moment.clock)


def advance(
    plan: Plan, instance: Instance, member: Member, moment: Moment, reached: int, own: Sequence[int] | None = None
) -> str:
    """Reach the awaited step at event time `reached`; `own`: offsets of the records of a first step at that time."""
    step = plan.steps[instance.step]
    if own is None:
        own = () if reached > instance.e_prev else instance.own
        if step.kind == "all":
            own = (*own, *(offset for e, offset in instance.seen.values() if e == reached))
        elif step.kind == "count":
            own = (*own, *(offset for e, offset in instance.counted if e == reached))
        elif step.kind == "aggregate":
            own = (*own, *(entry[0] for e, entry in instance.counted if e == reached))
    instance.own = (*own, moment.offset) if moment.e == reached else own
    instance.matched = (*instance.matched, (instance.step, moment.event_id, reached))
    if step.alias and plan.captures[step.alias]:
        instance.aliases = {**instance.aliases, step.alias: capture(moment.data, plan.captures[step.alias])}
    if plan.last_names:
        instance.last = capture(moment.data, plan.last_names)
    if instance.step + 1 == len(plan.steps):
        return COMPLETED
    return "advanced" if enter(plan, instance, member, moment.offset, reached) else CANCELLED


def enter(plan: Plan, instance: Instance, member: Member, offset: int, e_prev: int) -> bool:
    """Let an instance await its next step, `e_prev` being the event time of the one just reached.

    Returns:
        False if history read before `offset` already ends it: the awaited absence was broken (SEMANTICS 15).
    """
    if instance.step:
        instance.seen, instance.counted, instance.seen_without = NO_MAP, NO_ROWS, NO_MAP
        instance.due = instance.end = instance.blocked_e = None
    instance.step += 1
    instance.e_prev = e_prev
    step = plan.steps[instance.step]
    if step.waits:
        instance.due = due = e_prev + step.window_ms
        instance.wake = due + plan.lateness_ms
        return not member.history or step.term is None or not _absence_broken(step.term, instance, member, offset)
    instance.end = e_prev + step.window_ms
    if plan.whole_ms is not None:
        instance.end = min(instance.end, instance.e_first + plan.whole_ms)
    instance.wake = instance.end + plan.lateness_ms
    if step.without and member.history:
        instance.blocked_e = _blocked_from(step, instance, member, offset)
    return True


def occurrences(ref: Ref, instance: Instance, member: Member, offset: int) -> list[int]:
    """List event times of the reference's history read before `offset`, with the instance's key and predicate."""
    return [
        entry[0] for entry in _entries_of(ref, instance, member) if entry[1] < offset and entry[1] not in instance.own
    ]


def _entries_of(ref: Ref, instance: Instance, member: Member) -> Iterator[list[Any]]:
    for entry in member.history.get(ref.series, ()):
        keys, data, profile = entry[2], entry[3], entry[4]
        if keys is not None and instance.key not in keys and list(_listed(instance.key)) not in keys:
            continue
        if ref.late is None or ref.late(data or _NO_ALIASES, instance.aliases, profile or _NO_ALIASES, entry[0]):
            yield entry


def _listed(key: Any) -> Any:
    return key if isinstance(key, tuple) else (key,)


def _absence_broken(term: TermPlan, instance: Instance, member: Member, offset: int) -> bool:
    """Tell whether what was read before breaks the awaited absence (SEMANTICS 15).

    Of two events at one time that each both anchor and cancel, the later read stays (18).
    """
    due = instance.due or 0
    if not any(ref.series in member.history for ref in term.refs):
        return False
    found = [list(_entries_of(ref, instance, member)) for ref in term.refs]
    own = instance.own
    mutual = instance.step == 1 and any(e[1] in own and e[0] == instance.e_prev for entries in found for e in entries)
    for index, entries in enumerate(found):
        times = [
            e[0]
            for e in entries
            if e[1] < offset
            and e[1] not in own
            and instance.e_prev <= e[0] < due
            and not (mutual and term.refs[index].anchors and e[5] and e[0] == instance.e_prev)
        ]
        if times:
            if term.kind != "all":
                return True
            instance.seen = {**instance.seen, index: (times[-1], -1)}
    return term.kind == "all" and all(index in instance.seen for index in range(len(term.refs)))


def _blocked_from(step: StepPlan, instance: Instance, member: Member, offset: int) -> int | None:
    """Find the event time after which a `without` event read earlier blocks this step (SEMANTICS 33)."""
    blocks: list[int] = []
    for term in step.without:
        firsts = []
        for ref in term.refs:
            times = [e for e in occurrences(ref, instance, member, offset) if e >= instance.e_prev]
            if times:
                firsts.append(min(times))
        if term.kind == "all":
            blocks.extend([max(firsts)] if len(firsts) == len(term.refs) else [])
        else:
            blocks.extend(firsts)
    return min(blocks) if blocks else None


def reach_deadline(
    plan: Plan, state: PlanState, member: Member, instance: Instance, offset: int, out: list[Outcome]
) -> None:
    """The watermark passed the awaited step's deadline: an absence or delay is reached, a positive step has expired."""
    step = plan.steps[instance.step]
    if step.kind not in ("absent", "delay"):
        state.instances.remove(instance)
        out.append((EXPIRED, plan, state, instance, None, None))
        return
    due = instance.due or 0
    last = instance.step + 1 == len(plan.steps)
    if last and instance.plain:
        instance.reach()
    else:
        instance.matched = (*instance.matched, (instance.step, "", due))
    if last:
        state.instances.remove(instance)
        spend(plan, state, instance.key)
        out.append((COMPLETED, plan, state, instance, due, None))
        return
    if plan.leads_with_absence:
        instance.e_first = due  # the anchoring X is no positive step of the pattern as written
    enter(plan, instance, member, offset, due)


def spend(plan: Plan, state: PlanState, key: Any) -> None:
    """After a match, what was read up to it is spent for its key (SEMANTICS 49, 50)."""
    if state.counts:
        state.counts.pop(key, None)
