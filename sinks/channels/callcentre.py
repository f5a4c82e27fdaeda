"""Calls by people, for channel `call`: the pure half of the queue. Its transport is that of the inbox."""

from dataclasses import dataclass

import msgspec

from schemas.calls import FORMAT, CallTask
from schemas.references import reference_of
from sinks.channels.base import AddressError, ContentError, Dispatch, Needs
from sinks.channels.twilio import PHONE

TEXT_MAX = 8_000


class CallsSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`tries`: how often a member who is not reached is called; `again_minutes`: apart."""

    tries: int = 3
    again_minutes: int = 60


@dataclass(frozen=True, slots=True)
class Calls:
    """The pure half. A second task of one command is dropped where it is kept."""

    settings: CallsSettings
    needs: Needs = Needs(("txt",))

    def accepts(self, address: str) -> bool:
        """Take a telephone number in E.164."""
        return bool(PHONE.fullmatch(address))

    def request(self, dispatch: Dispatch) -> CallTask:
        """Make the record; see `Adapter`. The transport names the provider."""
        command = dispatch.command
        if not self.accepts(command.address):
            raise AddressError("no telephone number")
        if len(dispatch.content.text) > TEXT_MAX:
            raise ContentError("text_too_long")
        return CallTask(
            FORMAT, reference_of(command), "", command.address, dispatch.content.text, dispatch.at_ms,
            command.expires_at_ms, self.settings.tries, self.settings.again_minutes * 60_000,
        )  # fmt: skip
