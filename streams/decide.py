"""From a completed match to what is said about it: the firing, the decision with its reason, the command.

A match of a campaign with a flow begins a journey (`streams/flows/run.py`) instead of sending.
"""

from collections.abc import Callable
from typing import Any

from mypy_extensions import mypyc_attr

from schemas.campaign import Send
from schemas.commands import SendMessage, lane_of_category
from schemas.ids import command_id, correlation_text, decision_id, instance_id
from schemas.records import Decision, Firing
from streams.caps import record_firing, refused_by
from streams.flows.plan import SEND_STEP
from streams.patterns.expressions import scalars
from streams.patterns.plan import Plan
from streams.place import Place as Place
from streams.policies.contact import address_of
from streams.policies.groups import exposed
from streams.policies.verdict import Held, MessageRequest, Suppressed
from streams.policies.verdict import Verdict as Answer
from tables.digests import add, digest_of_hex, holds
from tables.member_state import FIRED_IDS_MAX, NOTES_MAX, Instance, Member, PlanState

Arbiter = Callable[[MessageRequest, Member, int], Answer]
"""Judges a message for a member on a clock, and counts it if it may go: `streams/arbiter.py`."""


@mypyc_attr(acyclic=True, free_list_len=1)
class Match:
    """A match about which something is said, with its ids. `due` of an absence, or `completed_by` of a positive end."""

    __slots__ = ("plan", "member", "instance", "at", "due", "completed_by", "instance_id", "command_id")

    def __init__(
        self,
        plan: Plan,
        member: Member,
        instance: Instance,
        at: Place,
        due: int | None = None,
        completed_by: str | None = None,
    ) -> None:
        self.plan = plan
        self.member = member
        self.instance = instance
        self.at = at
        self.due = due
        self.completed_by = completed_by
        self.instance_id = instance_id(plan.id, member.member_id, instance.correlation, instance.anchor)
        self.command_id = command_id(self.instance_id, SEND_STEP)


@mypyc_attr(acyclic=True, free_list_len=1)
class Verdict:
    """What a completed match leads to. `firing` is None when `if still` or a cap refused it.

    `begins`: a journey begins; `held`: because its plain send must wait.
    """

    __slots__ = ("decision", "firing", "command", "begins", "held")

    def __init__(
        self,
        decision: Decision,
        firing: Firing | None = None,
        command: SendMessage | None = None,
        begins: bool = False,
        held: Held | None = None,
    ) -> None:
        self.decision = decision
        self.firing = firing
        self.command = command
        self.begins = begins
        self.held = held


def conclude(match: Match, state: PlanState, arbiter: Arbiter) -> Verdict:
    """Judge a completed match: `if still`, then the campaign's caps, then the arbiter. Records the firing for the caps.

    That it fired, and what was decided, is for the caller to note. Only `if still` and the campaign's caps decide
    whether it fires; a firing that the arbiter stops is a suppressed send, and counts for cooldown, limit and once like
    any other (docs/patterns.md).
    """
    campaign, instance, at = match.plan.campaign, match.instance, match.at
    refusal = _refusal(match, state)
    if refusal is not None:
        return Verdict(decision_of(match, "suppressed", refusal))
    if match.plan.capped:
        record_firing(campaign, state, instance.key, at.clock_ms)
    if _fired_before(match, state):
        return Verdict(decision_of(match, "suppressed", "duplicate"))
    firing = _firing(match)
    if campaign.groups:
        exposures, refusal = exposed(campaign, match.member.member_id)
        if refusal is not None:
            return Verdict(decision_of(match, "suppressed", refusal, {"exposures": exposures}), firing)
        answered = _answer(match, firing, arbiter)
        answered.decision.inputs = {**answered.decision.inputs, "exposures": exposures}
        return answered
    return _answer(match, firing, arbiter)


def _answer(match: Match, firing: Firing, arbiter: Arbiter) -> Verdict:
    """Begin the journey of a match that fired, or ask for its message."""
    campaign, at = match.plan.campaign, match.at
    if campaign.flow is not None:
        return Verdict(decision_of(match, "entered", "flow"), firing, begins=True)
    send = campaign.send
    if send is None:
        return Verdict(decision_of(match, "eligible", "no_send"), firing)
    answer = arbiter(_request(match, send), match.member, at.clock_ms)
    if isinstance(answer, Held) and answer.until_ms >= at.clock_ms + send.lifetime_ms:
        answer = Suppressed("expired", answer.inputs)
    if isinstance(answer, Suppressed):
        return Verdict(decision_of(match, "suppressed", answer.reason, answer.inputs), firing)
    if isinstance(answer, Held):
        inputs = {**answer.inputs, "until_ms": answer.until_ms}
        return Verdict(decision_of(match, "held", answer.reason, inputs), firing, begins=True, held=answer)
    return Verdict(decision_of(match, "eligible", "sent_to_delivery", answer.inputs), firing, _message(match, send))


def conclude_firing(match: Match, state: PlanState) -> Firing | None:
    """Judge a completed match as `conclude` does, for callers that want the firing and nothing said beside it."""
    if _refusal(match, state) is not None:
        return None
    if match.plan.capped:
        record_firing(match.plan.campaign, state, match.instance.key, match.at.clock_ms)
    if _fired_before(match, state):
        return None
    remember_fired(match, state)
    return _firing(match)


def _firing(match: Match) -> Firing:
    return Firing(
        match.plan.id,
        match.member.member_id,
        match.instance.anchor,
        match.instance.correlation,
        match.due,
        match.completed_by,
        match.at.clock_ms,
        match.instance_id,
        match.command_id,
    )


def _request(match: Match, send: Send) -> MessageRequest:
    plan, at = match.plan, match.at
    return MessageRequest(
        member_id=match.member.member_id, campaign=plan.id, version=plan.version, instance_id=match.instance_id,
        command_id=match.command_id, step=SEND_STEP, variant="", channel=send.channel, category=send.category,
        wanted_at_ms=at.clock_ms, lifetime_ms=send.lifetime_ms, timezone=plan.campaign.timezone,
        profile=match.member.profile, topic=send.topic, priority=send.priority,
    )  # fmt: skip


def _message(match: Match, send: Send) -> SendMessage:
    member, at = match.member, match.at
    return SendMessage(
        command_id=match.command_id,
        member_id=member.member_id,
        campaign=match.plan.id,
        version=match.plan.version,
        instance_id=match.instance_id,
        step=SEND_STEP,
        channel=send.channel,
        template=send.template,
        address=address_of(member.member_id, member.profile, send.channel),
        decided_at_ms=at.clock_ms,
        caused_at_ms=at.append_ms,
        expires_at_ms=at.clock_ms + send.lifetime_ms,
        anchor=match.instance.anchor,
        category=send.category,
        attribution_window_ms=match.plan.campaign.attribution_window_ms,
        data=_send_data(match.plan, member, match.instance, at.clock_ms),
        member=dict(member.profile),
        lane=send.lane,
    )


def lane_of_send(send: Send | None) -> str:
    """Name the lane of a campaign's messages; empty when it sends none."""
    return "" if send is None else send.lane or lane_of_category(send.category)


def describe(match: Match, outcome: str, reason: str) -> Decision:
    """Build the decision record of a match and note it on the member for the operator's page."""
    note(match.member, match.at, match.plan.id, outcome, reason, match.instance_id)
    return decision_of(match, outcome, reason)


def decision_of(match: Match, outcome: str, reason: str, inputs: dict[str, Any] | None = None) -> Decision:
    """Build the decision record of a match."""
    plan, at = match.plan, match.at
    send = plan.campaign.send
    return Decision(
        decision_id=decision_id(match.instance_id, outcome, reason, f"{at.partition}/{at.offset}"),
        member_id=match.member.member_id,
        campaign=plan.id,
        version=plan.version,
        instance_id=match.instance_id,
        command_id=match.command_id,
        outcome=outcome,
        reason=reason,
        decided_at_ms=at.clock_ms,
        caused_at_ms=at.append_ms,
        anchor=match.instance.anchor,
        correlation=match.instance.correlation,
        due_ms=match.due,
        completed_by=match.completed_by,
        channel=send.channel if send else None,
        inputs=inputs or {},
    )


def note(member: Member, at: Place, campaign: str, outcome: str, reason: str, instance: str) -> None:
    """Keep a decision on the member, for the operator's page."""
    member.notes = [*member.notes, [at.clock_ms, campaign, outcome, reason, bytes.fromhex(instance)]][-NOTES_MAX:]


def _fired_before(match: Match, state: PlanState) -> bool:
    """Tell whether this very instance fired already: its anchor was read twice, or anchors two sets (SEMANTICS 64)."""
    if state.fired_ids and holds(state.fired_ids, digest_of_hex(match.instance_id)):
        return True
    anchor, correlation = match.instance.anchor, match.instance.correlation
    for fired in state.late:
        if fired.anchor == anchor and correlation_text(fired.correlation) == correlation_text(correlation):
            return True
    return False


def remember_fired(match: Match, state: PlanState) -> None:
    """Remember of a firing that it was one: of an absence `streams/late.py` keeps more."""
    state.fired_ids = add(state.fired_ids, digest_of_hex(match.instance_id), FIRED_IDS_MAX)


def _refusal(match: Match, state: PlanState) -> str | None:
    plan, instance, clock_ms = match.plan, match.instance, match.at.clock_ms
    if plan.if_still and not plan.if_still(instance.last, instance.aliases, match.member.profile, clock_ms):
        return "if_still"
    return refused_by(plan.campaign, state, instance.key, clock_ms) if plan.capped else None


def _send_data(plan: Plan, member: Member, instance: Instance, clock_ms: int) -> dict[str, Any]:
    data: dict[str, Any] = {}
    for name, values in plan.send_values.items():
        found = scalars(values(instance.last, instance.aliases, member.profile, clock_ms))
        data[name] = None if not found else found[0] if len(found) == 1 else found
    return data
