"""Frequency caps: how many messages a member may get, rolling or by calendar, per channel, per category, in all.

Per scope (channel/category) the newest messages are remembered, as many as the largest cap of that scope counts. A cap
lets no more through, so that is all it has to know: counts are exact, and bounded.

The legs of one cascade are one message: their rows share a group, which counts once, at the time of its newest row.
"""

from collections.abc import Collection, Iterable
from datetime import tzinfo
from typing import Any

from schemas.policy import Cap, Policy
from streams.patterns.durations import format_duration
from streams.policies.local_time import period_end, period_of
from tables.member_state import Contacts, Member

# [clock ms, digest of the command id] and, of a cascade's leg, its group; oldest first. A negative clock: given back,
# for it never came; it may return, so the newest of them are kept (streams/policies/receipts.py).
Sent = Iterable[Any]
GIVEN_BACK_MAX = 16  # per scope


def applies(cap: Cap, channel: str, category: str) -> bool:
    """Tell whether a cap counts a message."""
    return cap.channel in (None, channel) and cap.category in (None, category)


def spell_cap(cap: Cap) -> str:
    """Write a cap as in the file, with what it counts: `1 per calendar day, channel sms`."""
    span = format_duration(cap.span_ms) if cap.span_ms is not None else f"calendar {cap.period}"
    parts = [f"{cap.count} per {span}"]
    parts += [f"channel {cap.channel}"] if cap.channel else []
    parts += [f"category {cap.category}"] if cap.category else []
    parts += [f"{cap.reserved} reserved for priority {cap.reserved_for}"] if cap.reserved else []
    return ", ".join(parts)


def inside(cap: Cap, sent: Sent, clock_ms: int, zone: tzinfo) -> list[Any]:
    """List the messages that a cap counts at a moment."""
    if cap.span_ms is not None:
        return [row for row in sent if row[0] >= 0 and clock_ms - row[0] < cap.span_ms]
    period = cap.period or "day"
    now = period_of(period, clock_ms, zone)
    return [row for row in sent if row[0] >= 0 and period_of(period, row[0], zone) == now]


def group_of(row: Any) -> int:
    """Name what a row counts as: its cascade, else the message itself."""
    return int(row[2] if len(row) > 2 else row[1])


def once_each(rows: list[Any]) -> list[Any]:
    """Keep the newest row of each group, oldest first."""
    if all(len(row) == 2 for row in rows):
        return rows
    newest: dict[int, Any] = {}
    for row in rows:
        group = group_of(row)
        newest.pop(group, None)
        newest[group] = row
    return list(newest.values())


def free_at(cap: Cap, counted: list[Any], allowed: int, clock_ms: int, zone: tzinfo) -> int | None:
    """Return when a slot will be free if nothing else is sent; None if never (all slots are reserved)."""
    if allowed <= 0:
        return None
    if cap.span_ms is not None:
        return int(counted[len(counted) - allowed][0]) + cap.span_ms
    return period_end(cap.period or "day", clock_ms, zone)


def judge_caps(
    policy: Policy,
    contacts: Contacts | None,
    channel: str,
    category: str,
    priority: int,
    clock_ms: int,
    zone: tzinfo,
    rivals: Collection[int] = (),
    group: int | None = None,
) -> tuple[str | None, list[dict[str, Any]]]:
    """Say whether a message fits under every cap: `frequency_cap`, `priority_lost` or None, and the arithmetic.

    `rivals`: digests of messages of higher priority that took a slot in this very contest (docs/policies.md). `group`:
    of the cascade whose leg is asked for; its other legs are the same message and take no slot from it. The arithmetic
    ends with the cap that refused.
    """
    sums: list[dict[str, Any]] = []
    for cap in policy.caps:
        if not applies(cap, channel, category):
            continue
        sent = contacts.sent.get(cap.scope, ()) if contacts is not None else ()
        counted = once_each(inside(cap, sent, clock_ms, zone))
        if group is not None:
            counted = [known for known in counted if group_of(known) != group]
        allowed = cap.count if priority >= cap.reserved_for else cap.count - cap.reserved
        row = {"cap": spell_cap(cap), "used": len(counted), "allowed": allowed}
        sums.append(row)
        if len(counted) < allowed:
            continue
        row["sent_at"] = [known[0] for known in counted]
        row["free_at"] = free_at(cap, counted, allowed, clock_ms, zone)
        without_rivals = sum(known[1] not in rivals for known in counted)
        lost = len(counted) < cap.count or without_rivals < allowed
        return ("priority_lost" if lost else "frequency_cap"), sums
    return None, sums


def count_message(
    policy: Policy, member: Member, channel: str, category: str, clock_ms: int, digest: int, group: int | None = None
) -> None:
    """Take a slot of each cap that counts the message; legs of one `group` share theirs."""
    row = [clock_ms, digest] if group is None else [clock_ms, digest, group]
    for scope, most in _scopes(policy, channel, category).items():
        if member.contacts is None:
            member.contacts = Contacts()
        sent = member.contacts.sent.get(scope, [])
        member.contacts.sent[scope] = _newest([*sent, row], most)


def _newest(rows: list[Any], most: int) -> list[Any]:
    """Keep the rows of the newest groups, as many groups as a cap can count, and the newest that were given back."""
    if len(rows) <= min(most, GIVEN_BACK_MAX):
        return rows
    kept = {group_of(row) for row in once_each([row for row in rows if row[0] >= 0])[-most:]}
    back = {id(row) for row in [row for row in rows if row[0] < 0][-GIVEN_BACK_MAX:]}
    return [row for row in rows if (id(row) in back if row[0] < 0 else group_of(row) in kept)]


def _scopes(policy: Policy, channel: str, category: str) -> dict[str, int]:
    most: dict[str, int] = {}
    for cap in policy.caps:
        if applies(cap, channel, category):
            most[cap.scope] = max(most.get(cap.scope, 0), cap.count)
    return most
