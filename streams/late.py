"""Events that come too late: the absence they break has fired. It stays fired; that it was broken is counted."""

from collections.abc import Callable, Iterator

from schemas.commands import CancelMessage
from schemas.ids import instance_id
from schemas.records import Decision
from streams.decide import Match
from streams.patterns.match import Moment, occurrences
from streams.patterns.plan import KEEP_SLACK_MS, MAX_AGE_MS, Plan, TermPlan
from tables.digests import add, digest_of, digest_of_hex
from tables.member_state import FIRED_IDS_MAX, FIRED_MAX, Fired, Instance, Member, PlanState

PlanOf = Callable[[str, str], Plan | None]


def note_firing(match: Match, state: PlanState, sent: bool, outcome: str, reason: str) -> None:
    """Keep what a later event needs to be recognised as late; `sent`: a command went out.

    `outcome`, `reason` of the decision: the entry is its note, and says that the instance fired.
    """
    member, instance, clock_ms = match.member, match.instance, match.at.clock_ms
    for fired in state.late:
        if _beyond_reach(fired, clock_ms):
            forget_firing(match.plan.id, member.member_id, state, fired)
    if len(state.late) >= FIRED_MAX:
        forget_firing(match.plan.id, member.member_id, state, state.late[0])
    entry = Fired(
        instance.key, instance.e_prev, match.due or 0, instance.aliases, instance.correlation, instance.anchor,
        instance.version, sent, clock_ms, outcome, reason, instance.digest or digest_of(instance.anchor),
        match.instance_id,
    )  # fmt: skip
    state.late = (*state.late, entry)


def forget_firing(campaign: str, member_id: str, state: PlanState, fired: Fired) -> None:
    """Keep no more of a firing than that it fired."""
    state.late = tuple(kept for kept in state.late if kept is not fired)
    named = fired.instance_id or instance_id(campaign, member_id, fired.correlation, fired.anchor)
    digest = digest_of_hex(named)
    state.fired_ids = add(state.fired_ids, digest, FIRED_IDS_MAX)


def cancel_of(decision: Decision, lane: str) -> CancelMessage:
    """Call back what was sent in a lane, for the `late` decision of a firing."""
    return CancelMessage(
        command_id=decision.command_id,
        member_id=decision.member_id,
        campaign=decision.campaign,
        instance_id=decision.instance_id,
        reason="late_event",
        decided_at_ms=decision.decided_at_ms,
        caused_at_ms=decision.caused_at_ms,
        lane=lane,
    )


def meets_firing(
    plan: Plan, plan_of: PlanOf, state: PlanState, member: Member, moment: Moment
) -> Iterator[tuple[str, Instance, int, bool]]:
    """Yield (version, instance as it fired, due, sent) of each firing this event comes too late for; each only once."""
    for fired in state.late:
        own = plan_of(plan.id, fired.version)
        if own is None or _beyond_reach(fired, moment.clock):
            forget_firing(plan.id, member.member_id, state, fired)
            continue
        term, due = own.steps[-1].term, fired.due
        if term is None or moment.type not in term.by_type or not fired.e_prev <= moment.e < due:
            continue
        if own.keys_of is not None and not any(k == fired.key for k, _ in moment.keys_for(own)):
            continue
        met = {
            index
            for index, r in term.by_type[moment.type]
            if r.judge is None or r.judge(moment.data, fired.aliases, moment.profile, moment.clock)
        }
        e = fired.e_prev
        instance = Instance(fired.version, fired.key, fired.correlation, fired.anchor, (0, 0), e, e)
        if met and (term.kind != "all" or _rest_read(term, met, fired, member, moment)):
            forget_firing(plan.id, member.member_id, state, fired)
            yield fired.version, instance, due, fired.sent


def _rest_read(term: TermPlan, met: set[int], fired: Fired, member: Member, moment: Moment) -> bool:
    """Tell whether what else an `all of` asks for was read, too. The match's own records, at `e_prev`, do not count."""
    probe = Instance(fired.version, fired.key, fired.correlation, fired.anchor, (0, 0), fired.e_prev, fired.e_prev)
    probe.aliases = fired.aliases
    return all(
        index in met or any(fired.e_prev < e < fired.due for e in occurrences(ref, probe, member, moment.offset))
        for index, ref in enumerate(term.refs)
    )


def _beyond_reach(fired: Fired, clock_ms: int) -> bool:
    """Tell whether every event that could break it is too old to."""
    return fired.due < clock_ms - MAX_AGE_MS - KEEP_SLACK_MS
