"""What a provider tells later about a message that it took: read from its call to us, pure.

Receipts come late, twice and out of order. Each is an event of its own, named by message, provider and status, so a
repeat is none. What we know already (that the provider took the message) is not told again.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol
from urllib.parse import parse_qsl

import msgspec

from schemas.events import Event
from schemas.references import Reference, told_event
from sinks.outcome import redact

# On the axis of delivery, what says more than that the provider took the message.
DELIVERY = frozenset({"delivered", "undelivered", "bounced", "rejected", "expired", "failed", "cancelled", "unknown"})
ENGAGEMENT = frozenset({"opened", "clicked", "read", "replied", "answered", "unsubscribed", "complained"})


class Unsigned(Exception):
    """A call that does not carry the provider's signature."""


@dataclass(frozen=True, slots=True)
class Told:
    """One receipt: a status of ours (any other is of no interest), the provider's id, its code, its words."""

    status: str
    provider_message_id: str = ""
    code: str = ""
    detail: str = ""

    @property
    def axis(self) -> str:
        """Name the axis; empty for a status of no interest."""
        return "delivery" if self.status in DELIVERY else "engagement" if self.status in ENGAGEMENT else ""


@dataclass(frozen=True, slots=True)
class HookCall:
    """A call of a provider to us. `url`: in full, as the provider was told it; names of headers in lower case."""

    url: str
    headers: Mapping[str, str]
    body: bytes = b""
    query: Mapping[str, str] | None = None

    def fields(self) -> Mapping[str, Any]:
        """Return the fields of its JSON, of its form or of its query; nothing if it has none."""
        if self.headers.get("content-type", "").startswith("application/json"):
            try:
                found = msgspec.json.decode(self.body)
            except msgspec.MsgspecError:
                return {}
            return found if isinstance(found, dict) else {}
        return dict(parse_qsl(self.body.decode("utf-8", "replace"), keep_blank_values=True)) or dict(self.query or {})


class Teller(Protocol):
    """An adapter whose provider tells receipts."""

    def told(self, call: HookCall) -> Told:
        """Read a call.

        Raises:
            Unsigned: it does not carry the signature it should.
        """


class Gatherer(Protocol):
    """An adapter whose provider tells of all messages at one address; each receipt gives our token back."""

    def gathered(self, call: HookCall) -> Iterator[tuple[str, Told]]:
        """Read a call: tokens and what is told of their messages.

        Raises:
            Unsigned: it does not carry the signature it should.
        """

    def challenge(self, call: HookCall) -> str:
        """Answer the provider's question, by GET, whether the address is ours.

        Raises:
            Unsigned: it is not the provider who asks.
        """


def receipt_event(reference: Reference, told: Told, provider: str, at_ms: int) -> Event:
    """Make the event of a receipt whose status is of interest."""
    more = {"provider_message_id": told.provider_message_id[:128]}
    if told.axis == "delivery":
        more |= {"code": told.code[:32], "detail": redact(told.detail), "reason": "told_by_provider"}
    return told_event(reference, told.axis, told.status, provider, at_ms, more)
