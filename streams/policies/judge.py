"""The arbiter: one question per message, whichever campaign asks. Judges; counting is a step of its own.

The rules are asked in the order of docs/policies.md; the first that refuses is the reason. What each looked at is in
`inputs`, so that the decision can be read again later, with its arithmetic.
"""

from collections.abc import Collection
from datetime import tzinfo
from typing import Any

from schemas.policy import TRANSACTIONAL, Policy
from streams.dates import member_zone
from streams.policies.caps import count_message, judge_caps
from streams.policies.contact import address_of, contact_refusal
from streams.policies.groups import BUCKETS, bucket_of, in_control_group
from streams.policies.local_time import is_quiet, quiet_until, wall_clock, zone_name
from streams.policies.receipts import command_digest
from streams.policies.share import Share, address_name
from streams.policies.verdict import Eligible, Held, MessageRequest, Suppressed, Verdict
from tables.member_state import Member


def judge(
    request: MessageRequest,
    policy: Policy,
    member: Member,
    clock_ms: int,
    share: Share,
    rivals: Collection[int] = (),
) -> Verdict:
    """Judge one message at a moment. Changes nothing; `count` follows when it is sent.

    Args:
        request: what is to be sent.
        policy: the policy in force on this partition.
        member: whom to.
        clock_ms: the partition's clock.
        share: what the partition may spend, and which addresses it has seen.
        rivals: digests of messages of higher priority that were let through in the same contest.
    """
    plain = request.category != TRANSACTIONAL
    inputs: dict[str, Any] = {}
    expires_ms = request.wanted_at_ms + request.lifetime_ms
    if clock_ms >= expires_ms:
        return Suppressed("expired", {"wanted_at": request.wanted_at_ms, "expires_at": expires_ms})
    refusal = contact_refusal(member.profile, member.contacts, request, plain or policy.transactional_consent)
    if refusal is not None:
        return Suppressed(*refusal)
    zone = member_zone(member.profile, policy.timezone)
    if plain:
        refused = _control(policy, member, inputs) or _quiet(request, policy, clock_ms, expires_ms, zone, inputs)
        if refused is not None:
            return refused
        if policy.caps:
            reason, inputs["caps"] = judge_caps(
                policy, member.contacts, request.channel, request.category, request.priority, clock_ms, zone, rivals,
                command_digest(request.cascade) if request.cascade else None,
            )  # fmt: skip
            if reason is not None:
                return Suppressed(reason, {"zone": zone_name(zone), "priority": request.priority, **inputs})
    return _shared(request, policy, member, clock_ms, share, inputs) or Eligible(inputs)


def count(
    request: MessageRequest, policy: Policy, member: Member, clock_ms: int, share: Share, offset: int, place: Any
) -> int:
    """Count a message that leaves, for caps, budgets and its address; returns its digest, a rival's from now on.

    `offset`, `place`: where in the log it was judged, and in which place of the record's order.
    """
    digest = command_digest(request.command_id)
    if policy.caps and request.category != TRANSACTIONAL:
        group = command_digest(request.cascade) if request.cascade else None
        count_message(policy, member, request.channel, request.category, clock_ms, digest, group)
    if policy.budgets or policy.dedupe_address_ms is not None:
        zone = member_zone({}, policy.timezone)
        spent = share.spending(policy, request.campaign, request.channel, clock_ms, zone)
        name = _address(request, member) if policy.dedupe_address_ms is not None else None
        share.apply((offset, place, member.member_id, clock_ms, spent, name), policy.dedupe_address_ms)
    return digest


def _control(policy: Policy, member: Member, inputs: dict[str, Any]) -> Suppressed | None:
    """Leave the control group out. The bucket is recorded either way: it is the exposure."""
    group = policy.control_group
    if group is None:
        return None
    facts = {"salt": group.salt, "percent": group.percent, "bucket": bucket_of(member.member_id, group.salt)}
    inputs["control_group"] = {**facts, "of": BUCKETS}
    return Suppressed("control", inputs) if in_control_group(member.member_id, group.salt, group.percent) else None


def _quiet(
    request: MessageRequest, policy: Policy, clock_ms: int, expires_ms: int, zone: tzinfo, inputs: dict[str, Any]
) -> Verdict | None:
    """Hold or cancel in quiet hours. Windows that touch are one; those that leave no moment free cancel."""
    mine = [hours for hours in policy.quiet_hours if not hours.channels or request.channel in hours.channels]
    now = [hours for hours in mine if is_quiet(hours, clock_ms, zone)]
    if not now:
        return None
    shown = [f"{_minute(hours.from_minute)}-{_minute(hours.to_minute)}" for hours in now]
    facts: dict[str, Any] = {"zone": zone_name(zone), "local": wall_clock(clock_ms, zone), "windows": shown}
    if any(hours.cancel for hours in now):
        return Suppressed("quiet_hours_cancel", {**inputs, "quiet_hours": facts})
    until, current = clock_ms, now
    for _ in range(2 * len(mine)):
        until = max(quiet_until(hours, until, zone) for hours in current)
        current = [hours for hours in mine if is_quiet(hours, until, zone)]
        if not current:
            break
    if current:
        return Suppressed("quiet_hours_cancel", {**inputs, "quiet_hours": {**facts, "free_at": None}})
    facts["free_at"] = until
    if until >= expires_ms:
        return Suppressed("expired", {**inputs, "quiet_hours": facts, "expires_at": expires_ms})
    return Held(until, "quiet_hours", {**inputs, "quiet_hours": facts})


def _shared(
    request: MessageRequest, policy: Policy, member: Member, clock_ms: int, share: Share, inputs: dict[str, Any]
) -> Suppressed | None:
    """Ask what is limited for all members together."""
    if policy.dedupe_address_ms is not None:
        name = _address(request, member)
        if share.taken_by(name, member.member_id, clock_ms, policy.dedupe_address_ms):
            at_ms = share.addresses[name][0]
            return Suppressed("duplicate", {**inputs, "address": {"another_member_at": at_ms}})
    if policy.budgets:
        zone = member_zone({}, policy.timezone)
        fits, inputs["budgets"] = share.judge_budget(policy, request.campaign, request.channel, clock_ms, zone)
        if not fits:
            return Suppressed("budget", inputs)
    return None


def _address(request: MessageRequest, member: Member) -> str:
    address = address_of(member.member_id, member.profile, request.channel)
    return address_name(request.campaign, request.channel, address)


def _minute(minute: int) -> str:
    return f"{minute // 60:02}:{minute % 60:02}"
