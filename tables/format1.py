"""Member records of format 1, as the first builds wrote them: read, never written.

[1, fire_at_ms | nil, applied, recent ids (8 bytes each), profile, history, plans, touches, notes].
"""

from typing import Any

from schemas.campaign import DEFAULT_LATENESS_MS
from tables.digests import DIGEST_BYTES, digest_of
from tables.member_state import NEVER, NO_MAP, NO_ROWS, NOTES_MAX, Fired, Instance, Member, PlanState

_ID_BYTES = 8


def read_format1(member_id: str, fields: list[Any]) -> Member:
    """Build a member from the fields of a record of format 1; what is malformed raises as its parts do."""
    member = Member(member_id)
    _, member.hint, member.applied, recent, profile, history, plans, touches, notes = fields
    member.recent = b"".join(recent[i : i + DIGEST_BYTES] for i in range(0, len(recent), _ID_BYTES))
    member.profile, member.history = profile or NO_MAP, history or NO_MAP
    member.plans = {name: _plan(packed) for name, packed in plans.items()}
    member.touches = touches
    member.notes = [[*note[:4], bytes.fromhex(note[4])] for note in notes[-NOTES_MAX:]]
    return member


def _plan(packed: list[Any]) -> PlanState:
    state = PlanState()
    instances, counts, state.counts_version, fired, late, armed, fired_ids = packed
    state.instances = [_instance(fields) for fields in instances]
    state.counts = {_key(key): entries for key, entries in counts} or NO_MAP
    state.fired = {_key(key): times for key, times in fired} or NO_MAP
    # These firings have a note of their own: the entry brings none.
    state.late = tuple(_fired(*row) for row in late)
    state.armed = (armed[0], armed[1], "", armed[0] + DEFAULT_LATENESS_MS) if armed is not None else None
    state.fired_ids = b"".join(n.to_bytes(_ID_BYTES, "big")[:DIGEST_BYTES] for n in fired_ids)
    return state


def _fired(
    key: Any, e_prev: int, due: int, aliases: Any, correlation: Any, anchor: str, version: str, sent: bool
) -> Fired:
    names = (aliases, correlation, anchor, version, sent)
    return Fired(_key(key), e_prev, due, *names, 0, "", "", digest_of(anchor))


def _instance(f: list[Any]) -> Instance:
    instance = Instance(f[0], _key(f[1]), f[2], f[3], (f[4][0], f[4][1]), f[6], f[7])
    instance.step, instance.e_prev, instance.due, instance.end, instance.blocked_e = f[5], f[8], f[9], f[10], f[11]
    instance.aliases, instance.last = f[12] or NO_MAP, f[13] or NO_MAP
    instance.matched = tuple((m[0], m[1], m[2]) for m in f[14])
    instance.seen = f[15] or NO_MAP
    instance.counted = tuple((c[0], c[1]) for c in f[16]) or NO_ROWS
    instance.seen_without, instance.own, wake = f[17] or NO_MAP, tuple(f[18]), f[19]
    instance.wake = NEVER if wake is None else wake
    return instance


def _key(packed: Any) -> Any:
    return tuple(packed) if isinstance(packed, list) else packed
