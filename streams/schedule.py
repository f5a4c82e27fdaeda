"""Timers of a member: when it must be looked at next, and the dates its campaigns wait for."""

from collections.abc import Iterable, Iterator
from heapq import heappop
from typing import Any

from schemas.campaign import DEFAULT_LATENESS_MS
from streams.dates import member_zone, next_calendar_date, next_member_date
from streams.life import LIVE, state_by_dates
from streams.patterns.match import COMPLETED, Outcome
from streams.patterns.nodes import Calendar, MemberDate
from streams.patterns.plan import Plan
from streams.registry import Registry
from tables.member_state import NEVER, UNKNOWN, Armed, Instance, Member, PlanState

DAY_MS = 86_400_000


def next_wake(member: Member) -> int | None:
    """Return the clock value (deadline + the campaign's lateness) at which the member's earliest timer fires."""
    wake = member.journeys_wake
    if wake == UNKNOWN:
        wake = NEVER
        for journey in member.journeys:
            if journey.wake < wake:
                wake = journey.wake
        member.journeys_wake = wake
    for state in member.plans.values():
        for instance in state.instances:
            at = instance.wake
            if at < wake:
                wake = at
        if state.armed is not None and state.armed[3] < wake:
            wake = state.armed[3]
    return None if wake == NEVER else wake


def queue_timers(members: Iterable[Member], offset: int, registry: Registry, clock_ms: int) -> list[tuple[Any, ...]]:
    """Sort what the clock has reached of members: (due, member, campaign, start, …, state, instance or journey)."""
    queue: list[tuple[Any, ...]] = []
    for member in members:
        member.scheduled = NEVER
        if offset > member.applied:  # else an interrupted epoch had already brought it past this record
            _queue_member(queue, member, registry, clock_ms)
    if len(queue) > 1:
        queue.sort()
    return queue


def in_turn(queue: list[tuple[Any, ...]], later: list[tuple[Any, ...]]) -> Iterator[tuple[Any, ...]]:
    """Yield what `queue_timers` gave, and in its order what is pushed to the heap `later` meanwhile."""
    for entry in queue:
        while later and later[0] < entry:
            yield heappop(later)
        yield entry
    while later:
        yield heappop(later)


def drop(state: PlanState, instance: Instance | None) -> None:
    """Forget an instance; None: the date that was looked at."""
    if instance is None:
        state.armed = None
    else:
        state.instances = [kept for kept in state.instances if kept is not instance]


def _queue_member(queue: list[tuple[Any, ...]], member: Member, registry: Registry, clock_ms: int) -> None:
    member_id = member.member_id
    over: list[str] = []
    for plan_id, state in member.plans.items():
        for instance in state.instances:
            if instance.wake <= clock_ms:
                place = (instance.deadline, member_id, plan_id, instance.started)
                queue.append((*place, id(instance), member, state, instance))
        if state.armed is not None and state.armed[3] <= clock_ms:
            live = registry.live.get(plan_id)
            if live is None:
                state.armed = None
            elif _reach_date(state, member, live, registry, clock_ms):
                queue.append((state.armed[0], member_id, plan_id, (-1, 0), id(state), member, state, None))
            if state.armed is None:
                over.append(plan_id)
    for plan_id in over:
        if member.plans[plan_id].empty():
            del member.plans[plan_id]
    for journey in member.journeys:
        if journey.wake <= clock_ms:
            place = (journey.due, member_id, journey.campaign, journey.started)
            queue.append((*place, id(journey), member, None, journey))


def _reach_date(state: PlanState, member: Member, live: Plan, registry: Registry, clock_ms: int) -> bool:
    """Look at a date once the least lateness has passed since it came, and tell whether it is to be decided now.

    Here it is settled which version decides it, and with which lateness: the one that was live when it came. From then
    on it stays so, as instances stay on the version they began with. A date of a version that was replaced before it
    came is none: the new version's takes its place, also one that came up to a day ago.
    """
    if state.armed is None:
        return False
    due, label, version, wake = state.armed
    own = registry.plan_of(live.id, version) if version else live
    if wake == due + DEFAULT_LATENESS_MS:
        if own is not live and due >= live.since_ms:
            state.armed = armed = next_date(live, member, max(live.since_ms - 1, due - DAY_MS))
            if armed is None or armed[3] > clock_ms:
                return False
            own, (due, label, _, _) = live, armed
        if own is not None:
            wake = due + own.lateness_ms
            state.armed = (due, label, own.version, wake)
    if own is None:  # it went with its version
        state.armed = next_date(live, member, max(due, clock_ms))
        return False
    return wake <= clock_ms


def arm_dates(plans: Iterable[Plan], member: Member, clock_ms: int, profile_changed: bool) -> bool:
    """Set dated campaigns' next dates from the profile as it is; a date already reached but not fired stays.

    With the profile unchanged only those without one of this version are looked at: campaigns published or edited
    since, and those whose date the member lacked. Tells whether there was one to look at.
    """
    if not profile_changed:
        plans = [plan for plan in plans if _armed_by(member.plans.get(plan.id)) != plan.version]
    looked = False
    for plan in plans:
        looked = True
        state = member.plans.get(plan.id)
        if state is not None and state.armed is not None and state.armed[0] <= clock_ms:
            continue
        coming = next_date(plan, member, clock_ms)
        if coming is None:
            if state is not None:
                state.armed = None
            continue
        if state is None:
            state = member.plans[plan.id] = PlanState()
        state.armed = coming
    return looked


def _armed_by(state: PlanState | None) -> str | None:
    return None if state is None or state.armed is None else state.armed[2]


def next_date(plan: Plan, member: Member, after_ms: int) -> Armed | None:
    """Return a dated plan's next date for a member: what `PlanState.armed` keeps.

    It is looked at after the least lateness there is, for an edit may come before.
    """
    node = plan.steps[0].node
    campaign, coming = plan.campaign, None
    zone = member_zone(member.profile, campaign.timezone)
    if campaign.start_ms is not None:
        after_ms = max(after_ms, campaign.start_ms - 1)
    if isinstance(node, MemberDate):
        coming = next_member_date(node, member.profile, zone, after_ms)
    elif isinstance(node, Calendar):
        coming = next_calendar_date(node, zone, after_ms)
    ended = coming is not None and campaign.end_ms is not None and coming[0] >= campaign.end_ms
    if coming is None or ended:
        return None
    return coming[0], coming[1], plan.version, coming[0] + DEFAULT_LATENESS_MS


def fire_date(
    plan: Plan, state: PlanState, member: Member, offset: int, clock_ms: int, out: list[Outcome], registry: Registry
) -> None:
    """A date has come: complete it if `where` holds now, and arm the next. Dates missed meanwhile are skipped.

    So is a date that came while its campaign was withdrawn, paused or drained, whatever it is when the date is decided.
    """
    if state.armed is None:
        return
    due, label, _, _ = state.armed
    live = registry.live.get(plan.id)
    state.armed = None if live is None else next_date(live, member, max(due, clock_ms))
    if due < plan.since_ms or not registry.life.free_at(plan.id, due) or state_by_dates(plan.campaign, due) != LIVE:
        return
    if plan.where is not None and not plan.where({}, {}, member.profile, clock_ms):
        return
    instance = Instance(plan.version, None, None, label, (offset, 0), due, due)
    instance.matched = ((0, "", due),)
    out.append((COMPLETED, plan, state, instance, due, None))
