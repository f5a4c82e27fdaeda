"""Commands: imperative, each with an id that serves as idempotency key all the way to the provider."""

from typing import Any

import msgspec

# Lanes: each has a topic, a consumer and connections to providers of its own, so that none waits behind another.
TRANSACTIONAL, TRIGGER, BULK = "transactional", "trigger", "bulk"
LANES = (TRANSACTIONAL, TRIGGER, BULK)
CHANNELS = ("email", "sms", "viber", "whatsapp", "push", "in_app", "webhook", "call", "bot", "pos")


class SendMessage(msgspec.Struct, gc=False, tag="SendMessage", tag_field="type"):
    """Send one message to one member.

    `data` holds the values named under `send.data` in the campaign, `member` the profile the template may use.
    `expires_at_ms`: not sent after it. `caused_at_ms`: append time of the record whose processing decided it. `lane`:
    see `lane_of`. `variant`: the one of several texts that was chosen; "" where there is one.
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
    lane: str = ""
    variant: str = ""


class CancelMessage(msgspec.Struct, gc=False, tag="CancelMessage", tag_field="type"):
    """Do not send the message of this command id, if it has not left yet. `lane`: that of the message."""

    command_id: str
    member_id: str
    campaign: str
    instance_id: str
    reason: str
    decided_at_ms: int
    caused_at_ms: int
    lane: str = ""


Command = SendMessage | CancelMessage


def lane_of(command: Command) -> str:
    """Name the lane of a command: the one it asks for, else that of its category."""
    if command.lane in LANES:
        return command.lane
    return lane_of_category(command.category) if isinstance(command, SendMessage) else TRIGGER


def lane_of_category(category: str) -> str:
    """Name the lane of messages that ask for none: transactional ones have their own, all others are triggered."""
    return TRANSACTIONAL if category == TRANSACTIONAL else TRIGGER
