"""Member records to bytes and back: one msgpack array, format first, the timer hint second.

Format 4: [4, fire_at_ms | nil, applied, base_ms, places, recent digests, plans, history, profile, notes, touches,
journeys, contacts]; trailing fields that are empty are left out. `base_ms`: what times in plans are counted back from,
0 for fire_at_ms. `places`: for each anchor in plans, where its digest belongs among the recent ones; `recent` holds
only the others. `contacts`: [sent, dead], what the arbiter remembers. Format 3 had none, format 2 no journeys either.
A reader of a newer format refuses; an older one is upgraded on read and written in the present format.

To add a field: append it to `Row` with a default, to `encode_member` and to `decode_member`, and raise FORMAT, for
an older build that read the record would drop the field. Records of formats 2 and up are then read by the same code.
"""

from typing import Any, Final

import msgspec

from schemas.errors import StateError
from tables.digests import DIGEST_BYTES, place_of
from tables.format1 import read_format1
from tables.journey_codec import pack_journeys, unpack_journey
from tables.member_state import NO_MAP, NO_ROWS, Contacts, Member
from tables.plan_codec import pack_plan, unpack_plan
from tables.rows import Head, Row

FORMAT: Final = 4
_FIELDS_MIN: Final = 4
_NOWHERE: Final = 255  # an anchor whose event is no longer, or twice, among the recent ones
_encode: Final = msgspec.msgpack.Encoder().encode


_decode_head: Final = msgspec.msgpack.Decoder(Head).decode
_decode: Final = msgspec.msgpack.Decoder(Row).decode
_decode_any: Final = msgspec.msgpack.Decoder(list[Any]).decode


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
    states = sorted(member.plans.items()) if len(member.plans) > 1 else list(member.plans.items())
    states = [pair for pair in states if not pair[1].empty()]
    base_ms, applied = 0, member.applied
    base = fire_at_ms
    if base is None:
        base = base_ms = next((state.late[-1].due for _, state in states if state.late), 0)
    digests: list[bytes] = []
    packed = {name: pack_plan(state, base, applied, digests) for name, state in states}
    places, recent = _fold_recent(member.recent, digests) if digests else (b"", member.recent)
    fields = [
        FORMAT, fire_at_ms, applied, base_ms, places, recent, packed, member.history, member.profile, member.notes,
        member.touches, pack_journeys(member),
        member.contacts.packed() if member.contacts is not None else None,
    ]  # fmt: skip
    while len(fields) > _FIELDS_MIN and not fields[-1]:
        fields.pop()
    return _encode(fields)


def decode_member(member_id: str, record: bytes) -> Member:
    """Decode what `encode_member` wrote, of this format or an older one.

    Raises:
        StateError: the bytes are torn or of a newer format.
    """
    try:
        if record[1:2] == b"\x01":
            return read_format1(member_id, _decode_any(record))
        row = _decode(record)
        _require_format(row.format)
        member = Member(member_id)
        member.hint = base = row.fire_at_ms
        applied = member.applied = row.applied
        if base is None:
            base = row.base_ms
        digests: list[bytes] = []
        for name, packed in row.plans.items():
            member.plans[name] = unpack_plan(packed, base, applied, digests)
        member.recent = _unfold_recent(row.places, row.recent, digests) if row.places else row.recent
        member.history, member.profile = row.history or NO_MAP, row.profile or NO_MAP
        member.notes, member.touches = row.notes or NO_ROWS, row.touches or NO_ROWS
        if row.journeys:
            member.journeys = [unpack_journey(packed) for packed in row.journeys]
            member.journeys_moved()
        if row.contacts:
            member.contacts = Contacts(*row.contacts)
    except StateError:
        raise
    except (msgspec.MsgspecError, ValueError, TypeError, IndexError, KeyError, AttributeError, StopIteration) as error:
        _require_readable(record)
        message = f"member record: unreadable ({error}); rebuild the store from its changelog"
        raise StateError(message) from error
    return member


def _require_readable(record: bytes) -> None:
    """Say it first if the record is unreadable because a newer build wrote it."""
    try:
        head = _decode_head(record)
    except msgspec.MsgspecError:
        return
    _require_format(head.format)


def _require_format(number: int) -> None:
    if not 1 <= number <= FORMAT:
        message = f"member record: written at format {number!r}, this build reads up to {FORMAT}; deploy a newer build"
        raise StateError(message)


def _fold_recent(recent: bytes, digests: list[bytes]) -> tuple[bytes, bytes]:
    """Leave out the recent digests that an anchor of the record gives again; say where each belongs."""
    places: list[int] = []
    given: list[int] = []  # where those begin in `recent` that are left out
    for digest in digests:
        at = place_of(recent, digest)
        if at < 0 or at in given:
            places.append(_NOWHERE)
        else:
            places.append(at // DIGEST_BYTES)
            given.append(at)
    if not given:
        return b"", recent
    given.sort()
    left: list[bytes] = []
    start = 0
    for at in given:
        if at > start:
            left.append(recent[start:at])
        start = at + DIGEST_BYTES
    left.append(recent[start:])
    return bytes(places), b"".join(left)


def _unfold_recent(places: bytes, rest: bytes, digests: list[bytes]) -> bytes:
    """Undo `_fold_recent`."""
    cells = [rest[at : at + DIGEST_BYTES] for at in range(0, len(rest), DIGEST_BYTES)]
    for place, digest in sorted(zip(places, digests, strict=True)):
        if place == _NOWHERE:
            break
        cells.insert(place, digest)
    return b"".join(cells)
