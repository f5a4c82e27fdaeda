"""What adapters and transports have in common.

An *adapter* is pure: it makes the request of a command and reads the provider's answer, and has no way to a network. A
*transport* carries requests. A replay makes requests, and cannot send any.
"""

from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Any, Protocol

from schemas.commands import SendMessage
from sinks.mime import AddressError as AddressError
from sinks.outcome import Outcome
from sinks.templates import Content

REPLY_BYTES_MAX = 65_536


class ContentError(ValueError):
    """A message that this channel cannot carry: too long, no text, no link. The text quotes nothing of it."""


@dataclass(frozen=True, slots=True)
class Dispatch:
    """All that a request is made of: the command, its rendered parts, where the provider may send its receipts.

    `callback`: a URL of ours for this one message, empty when none is configured. `at_ms`: the time of the attempt.
    """

    command: SendMessage
    content: Content
    callback: str = ""
    at_ms: int = 0


@dataclass(frozen=True, slots=True)
class HttpRequest:
    """One HTTP request, without what authorizes it: that is the transport's, and changes with time."""

    method: str
    url: str
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""


@dataclass(frozen=True, slots=True)
class HttpReply:
    """One HTTP answer; names of headers in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True, slots=True)
class Needs:
    """Which parts of a template a channel wants: `required` must be there, `optional` are used if they are."""

    required: tuple[str, ...] = ("txt",)
    optional: tuple[str, ...] = ()


class Adapter(Protocol):
    """The pure half of a channel."""

    @property
    def needs(self) -> Needs:
        """Which parts of a template it wants."""

    def accepts(self, address: str) -> bool:
        """Tell whether this adapter could reach an address of this form."""

    def request(self, dispatch: Dispatch) -> Any:
        """Make the request.

        Raises:
            AddressError, ContentError: it cannot be made.
        """


class HttpAdapter(Adapter, Protocol):
    """The pure half of a channel over HTTP."""

    def request(self, dispatch: Dispatch) -> HttpRequest:
        """Make the request; see `Adapter`."""

    def outcome(self, reply: HttpReply) -> Outcome:
        """Read the answer."""


class Link(Protocol):
    """One place at a provider, for one message at a time."""

    async def send(self, request: Any) -> Outcome:
        """Hand over one message; raises `ProviderDown` if it certainly was not taken and the provider is away."""

    def drop(self) -> None:
        """Give up what is under way."""


class Transport(Protocol):
    """A bounded number of places at one provider."""

    def wait_s(self) -> float:
        """Tell how long there is no use in asking; 0 when it may be asked now."""

    def link(self) -> AbstractAsyncContextManager[Link]:
        """Take a place, waiting for one; raises `ProviderDown` while there is none to be had."""

    def retire(self) -> None:
        """Let those who wait for a place go: the configuration no longer names this provider."""

    async def close(self) -> None:
        """Close what is open; nothing is under way any more."""


def usual_outcome(reply: HttpReply, *, message_id: str = "", detail: str = "") -> Outcome:
    """Read an answer by its HTTP status alone, as RFC 9110 means it.

    A refused login is the provider's trouble with us, not with this message: nothing else will pass either.
    """
    status = reply.status
    if 200 <= status < 300:
        return Outcome("sent", status, "accepted", detail, message_id)
    if status == 429:
        return Outcome("deferred", status, "throttled", detail, retry_after_ms=retry_after_ms(reply), healthy=False)
    if status in (401, 403, 407):
        return Outcome("deferred", status, "credentials_refused", detail, healthy=False)
    if status == 504:
        return Outcome("unknown", status, "reply_lost", detail, healthy=False)
    if status == 408 or status >= 500:
        after = retry_after_ms(reply)
        return Outcome("deferred", status, "provider_error", detail, retry_after_ms=after, healthy=False)
    if 300 <= status < 400:
        return Outcome("failed", status, "redirected", detail)
    return Outcome("rejected", status, "request_refused", detail)


def retry_after_ms(reply: HttpReply) -> int:
    """Read `Retry-After` in seconds; 0 without one, or with a date (which would need a clock)."""
    text = reply.headers.get("retry-after", "").strip()
    if not (text.isascii() and text.isdigit()):
        return 0
    return min(int(text[:15]), 86_400) * 1000  # Python refuses to read thousands of digits
