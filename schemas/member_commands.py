"""Commands about a member that are no messages: points, tags, segments. Each with an id that is its idempotency key.

They lie on a topic of their own, `member-commands`, keyed by member. Whoever obeys one obeys its id once.
"""

from collections.abc import Callable
from typing import Any

import msgspec

from schemas.errors import DecodeError
from schemas.reading import refuse_json


class AccruePoints(msgspec.Struct, gc=False, tag="AccruePoints", tag_field="type"):
    """Give a member points. `expires_at_ms` None: the account's own rule holds."""

    command_id: str
    member_id: str
    campaign: str
    version: str
    instance_id: str
    step: str
    points: float
    decided_at_ms: int
    caused_at_ms: int
    anchor: str
    reason: str = ""
    expires_at_ms: int | None = None


class UpdateTags(msgspec.Struct, gc=False, tag="UpdateTags", tag_field="type"):
    """Add tags to a member and remove others. The engine's own profile has them already."""

    command_id: str
    member_id: str
    campaign: str
    version: str
    instance_id: str
    step: str
    decided_at_ms: int
    caused_at_ms: int
    anchor: str
    add: list[str] = []
    remove: list[str] = []


class UpdateSegments(msgspec.Struct, gc=False, tag="UpdateSegments", tag_field="type"):
    """Put a member into segments and take it out of others. The engine's own profile has it already."""

    command_id: str
    member_id: str
    campaign: str
    version: str
    instance_id: str
    step: str
    decided_at_ms: int
    caused_at_ms: int
    anchor: str
    add: list[str] = []
    remove: list[str] = []


MemberCommand = AccruePoints | UpdateTags | UpdateSegments

_encode = msgspec.json.Encoder(order="deterministic").encode
_decode: Callable[[bytes], Any] = msgspec.json.Decoder(MemberCommand).decode


def encode_member_command(command: MemberCommand) -> bytes:
    """Write one command; its kind is the field `type`."""
    return _encode(command)


def decode_member_command(value: bytes | None) -> MemberCommand:
    """Read one command. Fields it does not know are ignored, missing optional ones take their defaults.

    Raises:
        DecodeError: no command; reasons as for events.
    """
    if not value:
        raise DecodeError("empty", "member command: no bytes")
    try:
        found: MemberCommand = _decode(value)
    except (ValueError, OverflowError, RecursionError) as error:
        refuse_json("member command", value, error)
    return found
