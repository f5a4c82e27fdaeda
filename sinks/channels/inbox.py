"""Messages in an inbox of ours, for channel `in_app`: the pure half, and the transport to what keeps them."""

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import msgspec

from schemas.inbox import FORMAT, InboxItem
from schemas.references import reference_of
from sinks.channels.base import AddressError, ContentError, Dispatch, Needs
from sinks.channels.bounded import Bounded
from sinks.outcome import Outcome, ProviderDown

TEXT_MAX = 4_000
DAY_MS = 86_400_000

Keep = Callable[[str, Any], Awaitable[Outcome]]


class InboxSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`days`: how long a message is shown."""

    days: int = 30


@dataclass(frozen=True, slots=True)
class Inbox:
    """The pure half. A second message of one command is dropped where it is kept."""

    settings: InboxSettings
    needs: Needs = Needs(("subject", "txt"), ("link", "image"))

    def accepts(self, address: str) -> bool:
        """Take a member's id."""
        return bool(address)

    def request(self, dispatch: Dispatch) -> InboxItem:
        """Make the record; see `Adapter`. The transport names the provider."""
        content, at_ms = dispatch.content, dispatch.at_ms
        if not self.accepts(dispatch.command.member_id):
            raise AddressError("no member")
        if len(content.text) > TEXT_MAX:
            raise ContentError("text_too_long")
        return InboxItem(
            FORMAT, reference_of(dispatch.command), "", at_ms, at_ms + self.settings.days * DAY_MS,
            content.title, content.text, content.link, content.button, content.image,
        )  # fmt: skip


class KeepingTransport(Bounded):
    """Hands records to what keeps them: a topic of ours; `desk`: which."""

    def __init__(self, name: str, desk: str, connections: int, per_second: float) -> None:
        super().__init__(name, connections, per_second)
        self.desk = desk
        self._keep: Keep | None = None

    def attach(self, keep: Keep) -> None:
        """Name what keeps: called with the provider's name and the record, it says what came of it."""
        self._keep = keep

    @contextlib.asynccontextmanager
    async def link(self) -> AsyncIterator["KeepingLink"]:
        """See `Transport`."""
        async with self.place():
            if self._keep is None:
                raise ProviderDown("not_attached", 1.0)
            yield KeepingLink(self, self._name, self._keep)

    async def close(self) -> None:
        """See `Transport`: there is nothing open."""


class KeepingLink:
    """One place."""

    def __init__(self, transport: KeepingTransport, name: str, keep: Keep) -> None:
        self._transport = transport
        self._name = name
        self._keep = keep

    async def send(self, request: Any) -> Outcome:
        """See `Link`."""
        return self._transport.judge(await self._keep(self._name, request))

    def drop(self) -> None:
        """See `Link`: a record under way may be written; its fold knows it."""
