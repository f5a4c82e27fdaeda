"""The token that a provider gives back with its receipts: which message they are about, signed against forgery.

Its form is that of `schemas/tokens.py`. It names the message whole, so that whoever receives the receipt needs to look
nothing up. It holds no address.
"""

from collections.abc import Sequence
from typing import Any

import msgspec

from schemas.commands import SendMessage
from schemas.events import Event
from schemas.ids import h128
from schemas.tokens import Signing

FORMAT = 1
MAX_TOKEN = 1_500


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

    def facts(self) -> dict[str, Any]:
        """Return what every receipt's event says of its message."""
        return {
            "command_id": self.command_id,
            "campaign": self.campaign,
            "version": self.version,
            "instance_id": self.instance_id,
            "step": self.step,
            "channel": self.channel,
            "template": self.template,
            "attribution_window_ms": self.attribution_window_ms,
        }


_signing = Signing(Reference, "receipt", b"tidings receipt v1\0", MAX_TOKEN)


def reference_of(command: SendMessage) -> Reference:
    """Name a message for its receipts."""
    return Reference(
        FORMAT, command.command_id, command.member_id, command.campaign, command.version, command.instance_id,
        command.step, command.channel, command.template, command.attribution_window_ms,
    )  # fmt: skip


def sign_reference(secret: bytes, reference: Reference) -> str:
    """Make the token. `secret`: at least 16 bytes."""
    return _signing.sign(secret, reference)


def read_reference(secrets: Sequence[bytes], token: str) -> Reference:
    """Read a token signed with any of `secrets`.

    Raises:
        TokenError: it is not ours, whatever it is.
    """
    reference = _signing.read(secrets, token)
    if reference.format != FORMAT:
        raise _signing.other_format()
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
        data=reference.facts() | {"provider": provider} | ({"status": status} if axis == "delivery" else {}) | more,
    )
