"""The token of an unsubscribe link: who leaves what, signed, so that a link cannot be made up for somebody else.

Its form is that of `schemas/tokens.py`. It does not expire: a link in an old mail must still work (RFC 8058 names no
end; laws say 30 days or more).
"""

from collections.abc import Sequence

import msgspec

from schemas.events import Event
from schemas.ids import h128
from schemas.tokens import Signing

FORMAT = 1
MAX_TOKEN = 700


class Leaving(msgspec.Struct, frozen=True, array_like=True):
    """What one unsubscribe link asks for."""

    format: int
    member_id: str
    channel: str
    category: str
    command_id: str


_signing = Signing(Leaving, "unsubscribe", b"tidings unsubscribe v1\0", MAX_TOKEN)


def unsubscribe_url(base_url: str, secret: bytes, leaving: Leaving) -> str:
    """Make the link: `base_url` with the token as last path segment."""
    return f"{base_url.rstrip('/')}/{sign(secret, leaving)}"


def sign(secret: bytes, leaving: Leaving) -> str:
    """Make the token. `secret`: at least 16 bytes.

    Raises:
        ValueError: the secret is too short.
    """
    return _signing.sign(secret, leaving)


def verify(secrets: Sequence[bytes], token: str) -> Leaving:
    """Read a token signed with any of `secrets` (the newest first; older ones stay valid after a change of secret).

    Raises:
        TokenError: it is not ours, whatever it is.
    """
    leaving = _signing.read(secrets, token)
    if leaving.format != FORMAT:
        raise _signing.other_format()
    return leaving


def revocation(leaving: Leaving, at_ms: int) -> Event:
    """Make the event that takes consent back. Its id depends on the message alone: pressing twice counts once."""
    return Event(
        type="consent.revoked",
        occurred_at_ms=at_ms,
        event_id=h128("consent.revoked", leaving.command_id, leaving.channel),
        member_id=leaving.member_id,
        data={"channel": leaving.channel, "source": "one-click", "proof": leaving.command_id},
        source="tidings-unsubscribe",
        causation_id=leaving.command_id,
    )


def choice(leaving: Leaving, channel: str, granted: bool, at_ms: int) -> Event:
    """Make the event of a choice in the preference centre. Each counts, in the order in which they were made."""
    kind = "consent.granted" if granted else "consent.revoked"
    return Event(
        type=kind,
        occurred_at_ms=at_ms,
        event_id=h128(kind, leaving.command_id, channel, str(at_ms)),
        member_id=leaving.member_id,
        data={"channel": channel, "source": "preference-centre", "proof": leaving.command_id},
        source="tidings-unsubscribe",
        causation_id=leaving.command_id,
    )
