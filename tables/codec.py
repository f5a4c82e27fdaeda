"""Member records to bytes and back: one msgpack array, format first, the timer hint second.

Format 1: [1, fire_at_ms | nil, applied, recent ids (8 bytes each), profile, history, plans, touches, notes].
A reader of a newer format refuses; an older one is upgraded on read and written in the present format.
"""

from typing import Any

import msgspec

from schemas.errors import StateError
from tables.member_state import Instance, Member, PlanState

FORMAT = 1
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(list[Any]).decode
_ID_BYTES = 8


class _Head(msgspec.Struct, array_like=True):
    format: int
    fire_at_ms: int | None


_decode_head = msgspec.msgpack.Decoder(_Head).decode


def fire_at_of(record: bytes) -> int | None:
    """Read the timer hint of an encoded member without decoding the rest.

    Raises:
        StateError: the bytes are torn or of a newer format.
    """
    try:
        head = _decode_head(record)
    except msgspec.MsgspecError as error:
        message = f"member record: not a msgpack array of ours ({error}); rebuild the store from its changelog"
        raise StateError(message) from error
    _require_format(head.format)
    return head.fire_at_ms


def encode_member(member: Member, fire_at_ms: int | None) -> bytes:
    """Encode a member; `fire_at_ms` is its earliest timer on the clock."""
    # Sorted: the order of first use in memory is not that after a reload, and equal states must be equal bytes.
    plans = {name: _pack_plan(state) for name, state in sorted(member.plans.items()) if not state.empty()}
    recent = b"".join(n.to_bytes(_ID_BYTES, "big") for n in member.recent)
    return _encode(
        [
            FORMAT, fire_at_ms, member.applied, recent, member.profile, member.history, plans, member.touches,
            member.notes,
        ]
    )  # fmt: skip


def decode_member(member_id: str, record: bytes) -> Member:
    """Decode what `encode_member` wrote, of this format or an older one.

    Raises:
        StateError: the bytes are torn or of a newer format.
    """
    try:
        fields = _decode(record)
        _require_format(fields[0])
        member = Member(member_id)
        _, member.hint, member.applied, recent, member.profile, member.history, plans, touches, notes = fields
        member.recent = [int.from_bytes(recent[i : i + _ID_BYTES], "big") for i in range(0, len(recent), _ID_BYTES)]
        member.plans = {name: _unpack_plan(packed) for name, packed in plans.items()}
        member.touches, member.notes = touches, notes
    except StateError:
        raise
    except (msgspec.MsgspecError, ValueError, TypeError, IndexError, KeyError, AttributeError) as error:
        message = f"member record: unreadable ({error}); rebuild the store from its changelog"
        raise StateError(message) from error
    return member


def _require_format(number: object) -> None:
    if number != FORMAT:
        message = f"member record: written at format {number!r}, this build reads up to {FORMAT}; deploy a newer build"
        raise StateError(message)


def _pack_plan(state: PlanState) -> list[Any]:
    instances = [
        [
            i.version, i.key, i.correlation, i.anchor, i.started, i.step, i.e_first, i.e_anchor, i.e_prev, i.due, i.end,
            i.blocked_e, i.aliases, i.last, i.matched, i.seen, i.counted, i.seen_without, i.own,
            i.wake,
        ]
        for i in state.instances
    ]  # fmt: skip
    counts = [[key, entries] for key, entries in state.counts.items()]
    fired = [[key, times] for key, times in state.fired.items()]
    return [instances, counts, state.counts_version, fired, state.late, state.armed, state.fired_ids]


def _unpack_plan(packed: list[Any]) -> PlanState:
    state = PlanState()
    instances, counts, state.counts_version, fired, state.late, armed, state.fired_ids = packed
    for f in instances:
        instance = Instance(f[0], _key(f[1]), f[2], f[3], (f[4][0], f[4][1]), f[6], f[7])
        instance.step, instance.e_prev, instance.due, instance.end, instance.blocked_e = f[5], f[8], f[9], f[10], f[11]
        instance.aliases, instance.last = f[12], f[13]
        instance.matched = [(m[0], m[1], m[2]) for m in f[14]]
        instance.seen = f[15]
        instance.counted = [(c[0], c[1]) for c in f[16]]
        instance.seen_without, instance.own, instance.wake = f[17], f[18], f[19]
        state.instances.append(instance)
    state.counts = {_key(key): entries for key, entries in counts}
    state.fired = {_key(key): times for key, times in fired}
    state.armed = (armed[0], armed[1]) if armed is not None else None
    return state


def _key(packed: Any) -> Any:
    return tuple(packed) if isinstance(packed, list) else packed
