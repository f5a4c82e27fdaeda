"""Commands: imperative, each with an id that serves as idempotency key all the way to the provider."""

from typing import Any

import msgspec


class SendMessage(msgspec.Struct, gc=False, tag="SendMessage", tag_field="type"):
    """Send one message to one member.

    `data` holds the values named under `send.data` in the campaign, `member` the profile the template may use.
    `expires_at_ms`: not sent after it. `caused_at_ms`: append time of the record whose processing decided it.
    """

    command_id: str
    member_id: str
    campaign: str
    version: str
    instance_id: str
    step: str
    channel: str
    template: str
    address: str
    decided_at_ms: int
    caused_at_ms: int
    expires_at_ms: int
    anchor: str
    category: str = "marketing"
    attribution_window_ms: int = 0
    data: dict[str, Any] = {}
    member: dict[str, Any] = {}


class CancelMessage(msgspec.Struct, gc=False, tag="CancelMessage", tag_field="type"):
    """Do not send the message of this command id, if it has not left yet."""

    command_id: str
    member_id: str
    campaign: str
    instance_id: str
    reason: str
    decided_at_ms: int
    caused_at_ms: int


Command = SendMessage | CancelMessage
