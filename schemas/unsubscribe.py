"""The token of an unsubscribe link: who leaves what, signed, so that a link cannot be made up for somebody else.

    token = base64url(msgpack [1, member_id, channel, category, command_id]) "." base64url(HMAC-SHA256, first 16 bytes)

It holds no address. It does not expire: a link in an old mail must still work (RFC 8058 names no end; laws say 30 days
or more).
"""

import base64
import hashlib
import hmac
from collections.abc import Sequence

import msgspec

from schemas.errors import TidingsError
from schemas.events import Event
from schemas.ids import h128

FORMAT = 1
SIGNATURE_BYTES = 16  # 128 bits, as strong as any id of ours
MAX_TOKEN = 700
_CONTEXT = b"tidings unsubscribe v1\0"  # the same secret may sign other things


class TokenError(TidingsError):
    """A token that we did not sign."""


class Leaving(msgspec.Struct, frozen=True, array_like=True):
    """What one unsubscribe link asks for."""

    format: int
    member_id: str
    channel: str
    category: str
    command_id: str


_decode = msgspec.msgpack.Decoder(Leaving).decode
_encode = msgspec.msgpack.Encoder().encode


def unsubscribe_url(base_url: str, secret: bytes, leaving: Leaving) -> str:
    """Make the link: `base_url` with the token as last path segment."""
    return f"{base_url.rstrip('/')}/{sign(secret, leaving)}"


def sign(secret: bytes, leaving: Leaving) -> str:
    """Make the token. `secret`: at least 16 bytes.

    Raises:
        ValueError: the secret is too short.
    """
    if len(secret) < 16:
        raise ValueError("unsubscribe secret: at least 16 bytes")
    body = _encode(leaving)
    return f"{_text(body)}.{_text(_signature(secret, body))}"


def verify(secrets: Sequence[bytes], token: str) -> Leaving:
    """Read a token signed with any of `secrets` (the newest first; older ones stay valid after a change of secret).

    Raises:
        TokenError: it is not ours, whatever it is.
    """
    if len(token) > MAX_TOKEN or token.count(".") != 1:
        raise TokenError("unsubscribe: not a token of ours")
    try:
        body, signature = (base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)) for part in token.split("."))
    except ValueError:
        raise TokenError("unsubscribe: not a token of ours") from None
    # All are compared, each in constant time: how long it takes tells nothing.
    if not any([hmac.compare_digest(_signature(secret, body), signature) for secret in secrets]):  # noqa: C419
        raise TokenError("unsubscribe: not signed by us")
    try:
        leaving = _decode(body)
    except msgspec.MsgspecError:
        raise TokenError("unsubscribe: a token of another format") from None
    if leaving.format != FORMAT:
        raise TokenError("unsubscribe: a token of another format")
    return leaving


def revocation(leaving: Leaving, at_ms: int) -> Event:
    """Make the event that takes consent back. Its id depends on the message alone: pressing twice counts once."""
    return Event(
        type="consent.revoked",
        occurred_at_ms=at_ms,
        event_id=h128("consent.revoked", leaving.command_id, leaving.channel),
        member_id=leaving.member_id,
        data={"channel": leaving.channel, "source": "one-click"},
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


def _signature(secret: bytes, body: bytes) -> bytes:
    return hmac.digest(secret, _CONTEXT + body, hashlib.sha256)[:SIGNATURE_BYTES]


def _text(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode("ascii")
