"""What one campaign remembers of one member, to plain values for msgpack and back. Part of member format 2.

Times are kept as distances to the record's base time, offsets as distances to its `applied`. Nearly all live
instances of a campaign are alike: on their first wait, with nothing but key, anchor, offset and time of their own.
Neighbours that are alike share one group of columns; any other instance has a row of its own. The same for firings.
"""

from collections.abc import Sequence
from typing import Any

from schemas.campaign import DEFAULT_LATENESS_MS
from tables.digests import digest_of
from tables.member_state import NEVER, NO_MAP, NO_ROWS, Fired, Instance, PlanState

# What a row of its own spells out, in this order after its fixed fields; a field that is as usual is left out.
_CORRELATION, _E_FIRST, _E_PREV, _BLOCKED, _ALIASES, _LAST = 1, 2, 4, 8, 16, 32
_MATCHED, _SEEN, _COUNTED, _SEEN_WITHOUT, _OWN, _ENDS = 64, 128, 256, 512, 1024, 2048


def pack_plan(state: PlanState, base: int, applied: int, digests: list[bytes]) -> list[Any]:
    """Pack a state that is not empty; trailing fields that are empty are left out.

    The digests of its anchors are added to `digests`, in the order in which `unpack_plan` adds them.
    """
    packed: list[Any] = [
        _pack_instances(state.instances, base, applied, digests) if state.instances else NO_ROWS,
        _pack_firings(state.late, base, digests) if state.late else NO_ROWS,
        state.fired_ids,
    ]
    if state.fired or state.counts or state.armed:
        packed.append([[key, [base - at for at in times]] for key, times in state.fired.items()])
        packed.append([[key, entries] for key, entries in state.counts.items()])
        packed.append(state.counts_version if state.counts else "")
        armed = state.armed
        packed.append(armed and [*armed[:3], armed[3] - armed[0]])
    while not packed[-1]:
        packed.pop()
    return packed


def unpack_plan(packed: list[Any], base: int, applied: int, digests: list[bytes]) -> PlanState:
    """Undo `pack_plan`; what is malformed raises as its parts do."""
    state = PlanState()
    count = len(packed)
    if packed[0]:
        _unpack_instances(packed[0], state.instances, base, applied)
        for instance in state.instances:
            instance.digest = digest_of(instance.anchor)
            digests.append(instance.digest)
    if count > 1 and packed[1]:
        state.late = _unpack_firings(packed[1], base)
        digests += [fired.digest for fired in state.late]
    if count > 2:
        state.fired_ids = packed[2]
    if count > 3 and packed[3]:
        state.fired = {_key(key): [base - at for at in times] for key, times in packed[3]}
    if count > 5:
        state.counts = {_key(key): entries for key, entries in packed[4]} or NO_MAP
        state.counts_version = packed[5]
    if count > 6:
        due, label, *settled = packed[6]  # an older build wrote these two alone
        version, span = settled or ("", DEFAULT_LATENESS_MS)
        state.armed = (due, label, version, due + span)
    return state


def _pack_instances(instances: Sequence[Instance], base: int, applied: int, digests: list[bytes]) -> list[Any]:
    groups: list[Any] = []
    first: Instance | None = None  # of the group that is open, with its span and lag
    span = lag = 0
    keys: list[Any] = []
    anchors: list[str] = []
    offsets: list[int] = []
    times: list[int] = []
    for i in instances:
        if not i.digest:
            i.digest = digest_of(i.anchor)
        digests.append(i.digest)
        e, deadline = i.e_anchor, i.deadline
        unlike = _unlike(i)
        if unlike & ~_ENDS or deadline is None or i.wake == NEVER:
            first = None
            groups.append(_pack_row(i, unlike, base, applied))
            continue
        if (
            first is None
            or deadline - e != span
            or i.wake - deadline != lag
            or i.step != first.step
            or i.started[1] != first.started[1]
            or i.undated != first.undated
            or i.version != first.version
        ):
            first, span, lag = i, deadline - e, i.wake - deadline
            keys, anchors, offsets, times = [], [], [], []
            groups.append([i.version, i.step, bool(unlike), span, lag, i.started[1], keys, anchors, offsets, times])
        keys.append(i.key)
        anchors.append(i.anchor)
        offsets.append(applied - i.started[0])
        times.append(base - e)
    return groups


def _unlike(i: Instance) -> int:
    """Name what an instance has that is not as usual."""
    e, key, correlation = i.e_anchor, i.key, i.correlation
    found = 0
    if key is not correlation and not (type(key) is str and key == correlation):
        found = _CORRELATION
    if i.e_first != e:
        found |= _E_FIRST
    if i.e_prev != e:
        found |= _E_PREV
    if i.undated:
        found |= _ENDS
    if i.plain:
        return found
    if i.blocked_e is not None:
        found |= _BLOCKED
    if i.aliases:
        found |= _ALIASES
    if i.last:
        found |= _LAST
    if not i.as_begun:
        found |= _unlike_begun(i)
    if i.seen:
        found |= _SEEN
    if i.counted:
        found |= _COUNTED
    if i.seen_without:
        found |= _SEEN_WITHOUT
    return found


def _unlike_begun(i: Instance) -> int:
    matched, own = i.matched, i.own
    found = _MATCHED if len(matched) != 1 or matched[0] != (0, i.anchor, i.e_anchor) else 0
    return found | _OWN if len(own) != 1 or own[0] != i.started[0] else found


def _pack_row(i: Instance, unlike: int, base: int, applied: int) -> list[Any]:
    deadline = i.deadline
    row = [
        unlike, i.version, i.key, i.anchor, applied - i.started[0], i.started[1], i.step, base - i.e_anchor,
        None if deadline is None else base - deadline, None if i.wake == NEVER else base - i.wake,
    ]  # fmt: skip
    if unlike & _CORRELATION:
        row.append(i.correlation)
    if unlike & _E_FIRST:
        row.append(base - i.e_first)
    if unlike & _E_PREV:
        row.append(base - i.e_prev)
    if unlike & _BLOCKED:
        row.append(base - (i.blocked_e or 0))
    if unlike & _ALIASES:
        row.append(i.aliases)
    if unlike & _LAST:
        row.append(i.last)
    if unlike & _MATCHED:
        row.append([[step, event_id, base - e] for step, event_id, e in i.matched])
    if unlike & _SEEN:
        row.append(i.seen)
    if unlike & _COUNTED:
        row.append(i.counted)
    if unlike & _SEEN_WITHOUT:
        row.append(i.seen_without)
    if unlike & _OWN:
        row.append([applied - offset for offset in i.own])
    return row


def _unpack_instances(groups: list[Any], into: list[Instance], base: int, applied: int) -> None:
    for group in groups:
        if type(group[0]) is int:
            into.append(_unpack_row(group, base, applied))
            continue
        version, step, ends, span, lag, ordinal, keys, anchors, offsets, times = group
        for key, anchor, distance, back in zip(keys, anchors, offsets, times, strict=True):
            e, offset = base - back, applied - distance
            i = Instance(version, key, key, anchor, (offset, ordinal), e, e)
            i.step = step
            deadline = e + span
            if ends:
                i.end = deadline
            else:
                i.due = deadline
            i.wake = deadline + lag
            i.begun()
            into.append(i)


def _unpack_row(row: list[Any], base: int, applied: int) -> Instance:
    unlike, version, key, anchor, distance, ordinal, step, back, deadline, wake = row[:10]
    rest = iter(row[10:])
    key, e, offset = _key(key), base - back, applied - distance
    i = Instance(version, key, next(rest) if unlike & _CORRELATION else key, anchor, (offset, ordinal), e, e)
    i.step = step
    due = None if deadline is None else base - deadline
    if unlike & _ENDS:
        i.end = due
    else:
        i.due = due
    i.wake = NEVER if wake is None else base - wake
    if unlike & _E_FIRST:
        i.e_first = base - next(rest)
    if unlike & _E_PREV:
        i.e_prev = base - next(rest)
    if unlike & _BLOCKED:
        i.blocked_e = base - next(rest)
    if unlike & _ALIASES:
        i.aliases = next(rest)
    if unlike & _LAST:
        i.last = next(rest)
    i.matched = tuple((m[0], m[1], base - m[2]) for m in next(rest)) if unlike & _MATCHED else ((0, anchor, e),)
    if unlike & _SEEN:
        i.seen = next(rest)
    if unlike & _COUNTED:
        i.counted = tuple((c[0], c[1]) for c in next(rest))
    if unlike & _SEEN_WITHOUT:
        i.seen_without = next(rest)
    i.own = tuple(applied - distance for distance in next(rest)) if unlike & _OWN else (offset,)
    i.tidy()
    return i


def _pack_firings(late: Sequence[Fired], base: int, digests: list[bytes]) -> list[Any]:
    groups: list[Any] = []
    first: Fired | None = None  # of the group that is open, with its span
    span = 0
    keys: list[Any] = []
    anchors: list[str] = []
    times: list[int] = []
    lags: list[int] = []
    for f in late:
        key, due = f.key, f.due
        digests.append(f.digest)
        if f.aliases or not (key is f.correlation or (type(key) is str and key == f.correlation)):
            first = None
            row = [key, base - f.e_prev, base - due, f.aliases, f.correlation, f.anchor, f.version, f.sent]
            groups.append([None, *row, f.clock_ms, f.outcome, f.reason])
            continue
        if (
            first is None
            or due - f.e_prev != span
            or f.sent != first.sent
            or f.version != first.version
            or f.outcome != first.outcome
            or f.reason != first.reason
        ):
            first, span = f, due - f.e_prev
            keys, anchors, times, lags = [], [], [], []
            groups.append([f.version, span, f.sent, f.outcome, f.reason, keys, anchors, times, lags])
        keys.append(key)
        anchors.append(f.anchor)
        times.append(base - due)
        lags.append(f.clock_ms - due)
    return groups


def _unpack_firings(groups: list[Any], base: int) -> tuple[Fired, ...]:
    late: list[Fired] = []
    for group in groups:
        if group[0] is None:
            _, key, e_prev, due, aliases, correlation, anchor, version, sent, clock_ms, outcome, reason = group
            e_prev, due = base - e_prev, base - due
            names = (aliases, correlation, anchor, version, sent, clock_ms, outcome, reason)
            late.append(Fired(_key(key), e_prev, due, *names, digest_of(anchor)))
            continue
        version, span, sent, outcome, reason, keys, anchors, times, lags = group
        for key, anchor, back, lag in zip(keys, anchors, times, lags, strict=True):
            due = base - back
            names = (NO_MAP, key, anchor, version, sent, due + lag, outcome, reason)
            late.append(Fired(key, due - span, due, *names, digest_of(anchor)))
    return tuple(late)


def _key(packed: Any) -> Any:
    return tuple(packed) if type(packed) is list else packed
