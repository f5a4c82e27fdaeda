"""Timers of a member: when it must be looked at next, and the dates its campaigns wait for."""

from collections.abc import Iterable, Mapping
from heapq import heappush
from typing import Any

from schemas.campaign import DEFAULT_LATENESS_MS
from streams.dates import member_zone, next_calendar_date, next_member_date
from streams.life import LIVE, Life, state_by_dates
from streams.patterns.match import COMPLETED, Outcome
from streams.patterns.nodes import Calendar, MemberDate
from streams.patterns.plan import Plan
from tables.member_state import NEVER, Instance, Member, PlanState


def next_wake(member: Member, live: Mapping[str, Plan], clock_ms: int) -> int | None:
    """Return the clock value (deadline + the campaign's lateness) at which the member's earliest timer fires.

    For a date it is at first the least lateness there is: what the campaign's is, or whether it is over, may change by
    then, after the member was written.
    """
    wake = NEVER
    for journey in member.journeys:
        if journey.wake < wake:
            wake = journey.wake
    for plan_id, state in member.plans.items():
        for instance in state.instances:
            at = instance.wake
            if at < wake:
                wake = at
        if state.armed is not None:
            at = state.armed[0] + DEFAULT_LATENESS_MS
            if at <= clock_ms and plan_id in live:
                at = state.armed[0] + live[plan_id].lateness_ms
            if at < wake:
                wake = at
    return None if wake == NEVER else wake


def queue_timers(
    members: Iterable[Member], offset: int, live: Mapping[str, Plan], clock_ms: int
) -> list[tuple[Any, ...]]:
    """Heap what the clock has reached of members: (due, member, campaign, start, …, state, instance or journey)."""
    queue: list[tuple[Any, ...]] = []
    for member in members:
        member.scheduled = None
        if offset > member.applied:  # else an interrupted epoch had already brought it past this record
            _queue_member(queue, member, live, clock_ms)
    return queue


def _queue_member(queue: list[tuple[Any, ...]], member: Member, live: Mapping[str, Plan], clock_ms: int) -> None:
    member_id = member.member_id
    over: list[str] = []
    for plan_id, state in member.plans.items():
        for instance in state.instances:
            if instance.wake <= clock_ms:
                due = instance.due if instance.due is not None else instance.end
                heappush(queue, (due, member_id, plan_id, instance.started, id(instance), member, state, instance))
        if state.armed is not None and state.armed[0] + DEFAULT_LATENESS_MS <= clock_ms:
            plan = live.get(plan_id)
            if plan is None:
                over.append(plan_id)
            elif state.armed[0] + plan.lateness_ms <= clock_ms:
                heappush(queue, (state.armed[0], member_id, plan_id, (-1, 0), id(state), member, state, None))
    for plan_id in over:
        member.plans[plan_id].armed = None
        if member.plans[plan_id].empty():
            del member.plans[plan_id]
    for journey in member.journeys:
        if journey.wake <= clock_ms:
            place = (journey.due, member_id, journey.campaign, journey.started)
            heappush(queue, (*place, id(journey), member, None, journey))


def arm_dates(plans: Iterable[Plan], member: Member, clock_ms: int, profile_changed: bool) -> bool:
    """Set dated campaigns' next dates from the profile as it is; a date already reached but not fired stays.

    With the profile unchanged only those without one are looked at: campaigns published since, and those whose date the
    member lacked. Tells whether there was one to look at.
    """
    if not profile_changed:
        states = member.plans
        plans = [plan for plan in plans if plan.id not in states or states[plan.id].armed is None]
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


def next_date(plan: Plan, member: Member, after_ms: int) -> tuple[int, str] | None:
    """Return (due in ms, label) of a dated plan's next date for a member."""
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
    return None if ended else coming


def fire_date(
    plan: Plan, state: PlanState, member: Member, offset: int, clock_ms: int, out: list[Outcome], life: Life
) -> None:
    """A date has come: complete it if `where` holds now, and arm the next. Dates missed meanwhile are skipped.

    A date that comes while its campaign is paused or drains is skipped too.
    """
    if state.armed is None:
        return
    due, label = state.armed
    state.armed = next_date(plan, member, max(due, clock_ms))
    if due < plan.since_ms or not life.free(plan.id) or state_by_dates(plan.campaign, due) != LIVE:
        return  # it came while the campaign was withdrawn, or paused
    if plan.where is not None and not plan.where({}, {}, member.profile, clock_ms):
        return
    instance = Instance(plan.version, None, None, label, (offset, 0), due, due)
    instance.matched = ((0, "", due),)
    out.append((COMPLETED, plan, state, instance, due, None))
