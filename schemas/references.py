"""The token that a provider gives back with its receipts: which message they are about, signed against forgery.

    token = base64url(msgpack [1, command_id, member_id, …]) "." base64url(HMAC-SHA256, first 16 bytes)

It names the message whole, so that whoever receives the receipt needs to look nothing up. It holds no address.
"""

import base64
import hashlib
import hmac
from collections.abc import Sequence
from typing import Any

import msgspec

from schemas.commands import SendMessage
from schemas.errors import TidingsError
from schemas.events import Event
from schemas.ids import h128

FORMAT = 1
SIGNATURE_BYTES = 16
MAX_TOKEN = 1_500
_CONTEXT = b"tidings receipt v1\0"  # the same secret signs other things


class UnknownReference(TidingsError):
    """A token that we did not sign."""


class Reference(msgspec.Struct, frozen=True, array_like=True):
    """The message that a receipt is about. Fields are only added at the end."""

    format: int
    command_id: str
    member_id: str
    campaign: str
    version: str
    instance_id: str
    step: str
    channel: str
    template: str
    attribution_window_ms: int


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Reference).decode


def reference_of(command: SendMessage) -> Reference:
    """Name a message for its receipts."""
    return Reference(
        FORMAT, command.command_id, command.member_id, command.campaign, command.version, command.instance_id,
        command.step, command.channel, command.template, command.attribution_window_ms,
    )  # fmt: skip


def sign_reference(secret: bytes, reference: Reference) -> str:
    """Make the token. `secret`: at least 16 bytes."""
    body = _encode(reference)
    return f"{_text(body)}.{_text(_signature(secret, body))}"


def read_reference(secrets: Sequence[bytes], token: str) -> Reference:
    """Read a token signed with any of `secrets`.

    Raises:
        UnknownReference: it is not ours, whatever it is.
    """
    if len(token) > MAX_TOKEN or token.count(".") != 1 or not token.isascii():
        raise UnknownReference("receipt: not a token of ours")
    try:
        body, signature = (base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)) for part in token.split("."))
    except ValueError:
        raise UnknownReference("receipt: not a token of ours") from None
    # All are compared, each in constant time: how long it takes tells nothing.
    if not any([hmac.compare_digest(_signature(secret, body), signature) for secret in secrets]):  # noqa: C419
        raise UnknownReference("receipt: not signed by us")
    try:
        reference = _decode(body)
    except msgspec.MsgspecError:
        raise UnknownReference("receipt: a token of another format") from None
    if reference.format != FORMAT:
        raise UnknownReference("receipt: a token of another format")
    return reference


def told_event(reference: Reference, axis: str, status: str, provider: str, at_ms: int, more: dict[str, Any]) -> Event:
    """Make the event of a receipt; `axis`: `delivery` or `engagement`.

    Its id holds message, provider and status: a receipt told twice counts once.
    """
    return Event(
        type=f"{axis}.{status}",
        occurred_at_ms=at_ms,
        event_id=h128("told", reference.command_id, provider, f"{axis}.{status}"),
        member_id=reference.member_id,
        source="tidings-receipts",
        causation_id=reference.command_id,
        data={
            "command_id": reference.command_id,
            "campaign": reference.campaign,
            "version": reference.version,
            "instance_id": reference.instance_id,
            "step": reference.step,
            "channel": reference.channel,
            "provider": provider,
            "template": reference.template,
            "attribution_window_ms": reference.attribution_window_ms,
        }
        | ({"status": status} if axis == "delivery" else {})
        | more,
    )


def _signature(secret: bytes, body: bytes) -> bytes:
    return hmac.digest(secret, _CONTEXT + body, hashlib.sha256)[:SIGNATURE_BYTES]


def _text(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode("ascii")
