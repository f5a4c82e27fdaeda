"""A journey to plain values for msgpack and back. Part of member formats 3 and up."""

from typing import Any

import msgspec

from tables.member_state import Instance, Journey, Member

_encode = msgspec.msgpack.Encoder().encode


def pack_journey(j: Journey) -> msgspec.Raw:
    """Pack a journey as a row. Most stand for days while their member is written often: their bytes are kept."""
    packed: msgspec.Raw | None = j.packed
    if packed is None:
        packed = j.packed = msgspec.Raw(_encode(_row(j)))
    return packed


def pack_journeys(member: Member) -> Any:
    """Pack all journeys of a member; an empty list when there are none. Kept as a whole, too, until one moves."""
    if not member.journeys:
        return []
    packed: msgspec.Raw | None = member.packed_journeys
    if packed is None:
        packed = member.packed_journeys = msgspec.Raw(_encode([pack_journey(journey) for journey in member.journeys]))
    return packed


def _row(j: Journey) -> list[Any]:
    return [
        j.campaign, j.version, bytes.fromhex(j.instance_id), j.key, j.correlation, j.anchor, j.started, j.joined,
        j.e_anchor, j.step, j.since, j.due, j.wake, j.wanted, j.aliases, j.last, j.outcomes,
    ]  # fmt: skip


def unpack_journey(row: list[Any]) -> Journey:
    """Undo `pack_journey`; what is malformed raises as its parts do."""
    campaign, version, named, key, correlation, anchor, started, joined, e_anchor, *rest = row
    key = tuple(key) if isinstance(key, list) else key
    instance = Instance(version, key, correlation, anchor, (started[0], started[1]), e_anchor, e_anchor)
    journey = Journey(campaign, version, named.hex(), instance, joined)
    (
        journey.step, journey.since, journey.due, journey.wake, journey.wanted, journey.aliases, journey.last,
        journey.outcomes,
    ) = rest  # fmt: skip
    return journey
