"""What the engine says beside commands: firings, decisions, attributions, dead letters."""

from typing import Any

import msgspec


class Firing(msgspec.Struct, gc=False):
    """A pattern matched to its end: the line that `replay` prints, field for field.

    `correlation` is the value for one `same` path, a list for several, None for none. `due` is set for an absence,
    `completed_by` (an event id) for a positive match; the other one is None. Times in ms UTC.
    """

    campaign: str
    member_id: str
    anchor: str
    correlation: Any
    due: int | None
    completed_by: str | None
    fired_at: int
    instance_id: str
    command_id: str


class Decision(msgspec.Struct, gc=False):
    """What was decided for one instance, and why.

    `outcome`: `eligible`, `suppressed`, `evicted` or `late`; `reason` is one word of docs/glossary.md; `inputs` are the
    values the decision looked at.
    """

    decision_id: str
    member_id: str
    campaign: str
    version: str
    instance_id: str
    command_id: str
    outcome: str
    reason: str
    decided_at_ms: int
    caused_at_ms: int
    anchor: str
    correlation: Any = None
    due_ms: int | None = None
    completed_by: str | None = None
    channel: str | None = None
    inputs: dict[str, Any] = {}


class Attribution(msgspec.Struct, gc=False):
    """One credit: this conversion followed that touch inside the campaign's window."""

    attribution_id: str
    member_id: str
    campaign: str
    version: str
    instance_id: str
    command_id: str
    channel: str
    model: str
    touch: str
    touched_at_ms: int
    conversion_event_id: str
    conversion_type: str
    converted_at_ms: int
    caused_at_ms: int
    value: float | None = None
    currency: str | None = None
    order_id: str | None = None


class DeadLetter(msgspec.Struct, gc=False):
    """A record that could not be used: its bytes as they came, where it stood, and why it was refused."""

    topic: str
    partition: int
    offset: int
    reason: str
    message: str
    failed_at_ms: int
    key: bytes | None
    value: bytes | None
