"""From a completed match to what is said about it: the firing, the decision with its reason, the command."""

from typing import Any

import msgspec

from schemas.commands import SendMessage
from schemas.ids import command_id, decision_id, instance_id
from schemas.records import Decision, Firing
from streams.caps import record_firing, refused_by
from streams.patterns.expressions import scalars
from streams.patterns.plan import Plan
from tables.member_state import FIRED_IDS_MAX, NOTES_MAX, Instance, Member, PlanState

SEND_STEP = "send"  # the one step of a campaign's flow until journeys have more; part of every command id

ADDRESS_OF = {"email": "email", "sms": "phone", "viber": "phone", "push": "push_token"}


class Place(msgspec.Struct, gc=False):
    """Where in the log a decision is taken: partition, offset, the record's append time and the clock after it."""

    partition: int
    offset: int
    append_ms: int
    clock_ms: int


class Verdict(msgspec.Struct, gc=False):
    """What a completed match leads to. `firing` is None when `if still` or a cap refused it."""

    decision: Decision
    firing: Firing | None
    command: SendMessage | None


def conclude(
    plan: Plan,
    state: PlanState,
    member: Member,
    instance: Instance,
    due: int | None,
    completed_by: str | None,
    at: Place,
) -> Verdict:
    """Judge a completed match: `if still`, then caps, then consent and address. Records the firing for the caps.

    Only `if still` and caps decide whether it fires; a firing that consent or a missing address stops is a suppressed
    send, and counts for cooldown, limit and once like any other (docs/patterns.md).
    """
    campaign = plan.campaign
    named = instance_id(plan.id, member.member_id, instance.correlation, instance.anchor)
    command = command_id(named, SEND_STEP)
    refusal = _refusal(plan, state, member, instance, at)
    if refusal is not None:
        decision = describe(plan, member, instance, at, "suppressed", refusal, due, completed_by)
        return Verdict(decision, None, None)
    record_firing(campaign, state, instance.key, at.clock_ms)
    if _fired_before(state, named):
        decision = describe(plan, member, instance, at, "suppressed", "duplicate", due, completed_by)
        return Verdict(decision, None, None)
    firing = Firing(
        campaign=plan.id,
        member_id=member.member_id,
        anchor=instance.anchor,
        correlation=instance.correlation,
        due=due,
        completed_by=completed_by,
        fired_at=at.clock_ms,
        instance_id=named,
        command_id=command,
    )
    send = campaign.send
    if send is None:
        return Verdict(describe(plan, member, instance, at, "eligible", "no_send", due, completed_by), firing, None)
    reason, inputs = _contact_refusal(member, send.channel)
    if reason is not None:
        decision = describe(plan, member, instance, at, "suppressed", reason, due, completed_by)
        decision.inputs = inputs
        return Verdict(decision, firing, None)
    message = SendMessage(
        command_id=command,
        member_id=member.member_id,
        campaign=plan.id,
        version=plan.version,
        instance_id=named,
        step=SEND_STEP,
        channel=send.channel,
        template=send.template,
        address=str(member.profile[ADDRESS_OF.get(send.channel, send.channel)]),
        decided_at_ms=at.clock_ms,
        caused_at_ms=at.append_ms,
        expires_at_ms=at.clock_ms + send.lifetime_ms,
        anchor=instance.anchor,
        category=send.category,
        attribution_window_ms=campaign.attribution_window_ms,
        data=_send_data(plan, member, instance, at.clock_ms),
        member=dict(member.profile),
    )
    return Verdict(
        describe(plan, member, instance, at, "eligible", "sent_to_delivery", due, completed_by), firing, message
    )


def describe(
    plan: Plan,
    member: Member,
    instance: Instance,
    at: Place,
    outcome: str,
    reason: str,
    due: int | None = None,
    completed_by: str | None = None,
) -> Decision:
    """Build the decision record of an instance and note it on the member for the operator's page."""
    named = instance_id(plan.id, member.member_id, instance.correlation, instance.anchor)
    member.notes.append([at.clock_ms, plan.id, outcome, reason, named])
    del member.notes[:-NOTES_MAX]
    send = plan.campaign.send
    return Decision(
        decision_id=decision_id(named, outcome, reason, f"{at.partition}/{at.offset}"),
        member_id=member.member_id,
        campaign=plan.id,
        version=plan.version,
        instance_id=named,
        command_id=command_id(named, SEND_STEP),
        outcome=outcome,
        reason=reason,
        decided_at_ms=at.clock_ms,
        caused_at_ms=at.append_ms,
        anchor=instance.anchor,
        correlation=instance.correlation,
        due_ms=due,
        completed_by=completed_by,
        channel=send.channel if send else None,
    )


def _fired_before(state: PlanState, named: str) -> bool:
    """Tell whether this very instance fired already: its anchor was read twice, or anchors two sets (SEMANTICS 64)."""
    digest = int(named[:16], 16)
    if digest in state.fired_ids:
        return True
    state.fired_ids.append(digest)
    del state.fired_ids[:-FIRED_IDS_MAX]
    return False


def _refusal(plan: Plan, state: PlanState, member: Member, instance: Instance, at: Place) -> str | None:
    if plan.if_still and not plan.if_still(instance.last, instance.aliases, member.profile, at.clock_ms):
        return "if_still"
    return refused_by(plan.campaign, state, instance.key, at.clock_ms) if plan.capped else None


def _contact_refusal(member: Member, channel: str) -> tuple[str | None, dict[str, Any]]:
    """Name why the member may not be reached: `no_consent`, `no_address`, `invalid_address`; else None."""
    consent = member.profile.get("consent")
    granted = consent.get(channel) if isinstance(consent, dict) else None
    if granted is not True:
        return "no_consent", {"consent": granted}
    attribute = ADDRESS_OF.get(channel, channel)
    address = member.profile.get(attribute)
    if not address:
        return "no_address", {"attribute": attribute}
    if not isinstance(address, str) or (channel == "email" and not _looks_like_email(address)):
        return "invalid_address", {"attribute": attribute}
    return None, {}


def _looks_like_email(address: str) -> bool:
    """Tell whether an address can stand in an SMTP envelope at all; whether it exists, only the receipt tells."""
    local, at, domain = address.rpartition("@")
    return (
        bool(at and local and domain) and len(address) <= 254 and not any(c.isspace() or c in "<>,;" for c in address)
    )


def _send_data(plan: Plan, member: Member, instance: Instance, clock_ms: int) -> dict[str, Any]:
    data: dict[str, Any] = {}
    for name, values in plan.send_values.items():
        found = scalars(values(instance.last, instance.aliases, member.profile, clock_ms))
        data[name] = None if not found else found[0] if len(found) == 1 else found
    return data
