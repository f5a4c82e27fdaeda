"""Events: facts in the past tense that producers, providers and we ourselves write to the topic `events`.

The envelope is the same for all of them; what differs lies in `data`, described per type in `schemas/taxonomy.py`.
Instants are int milliseconds since the epoch, UTC, and end in `_ms`.
"""

from typing import Any

import msgspec

from schemas.log import Record as Record

TICK = "tick"
CAMPAIGN_PUBLISHED = "campaign.published"
CAMPAIGN_WITHDRAWN = "campaign.withdrawn"
CAMPAIGN_SUSPENDED = "campaign.suspended"
CAMPAIGN_PAUSED = "campaign.paused"
CAMPAIGN_RESUMED = "campaign.resumed"
CAMPAIGN_DRAINED = "campaign.drained"
CAMPAIGN_STOPPED = "campaign.stopped"
LIFE_TYPES = frozenset({CAMPAIGN_PAUSED, CAMPAIGN_RESUMED, CAMPAIGN_DRAINED, CAMPAIGN_STOPPED})
POLICY_PUBLISHED = "policy.published"
POLICY_WITHDRAWN = "policy.withdrawn"
CONTROL_TYPES = LIFE_TYPES | {
    CAMPAIGN_PUBLISHED,
    CAMPAIGN_WITHDRAWN,
    CAMPAIGN_SUSPENDED,
    POLICY_PUBLISHED,
    POLICY_WITHDRAWN,
}

LINE_FIELDS = frozenset({"appended_at"})  # of an event, those that only the line of a recorded log has


class Event(
    msgspec.Struct,
    gc=False,
    omit_defaults=True,
    rename={"occurred_at_ms": "occurred_at", "sent_at_ms": "sent_at", "received_at_ms": "received_at"},
):
    """One event as every part of the product sees it.

    `event_id` is None only when the producer gave none; the reader then names it by its place in the log.
    `member_id` is None for ticks, control records and visitors not yet known. On the wire its
    fields are named as in the envelope (VOCABULARY §2): a record in milliseconds is read straight into it.
    `appended_at`: what the line of a recorded log says of its append; for the reader of that line alone.
    """

    type: str
    occurred_at_ms: int
    event_id: str | None = None
    member_id: str | None = None
    data: dict[str, Any] = {}
    schema_version: int = 1
    anonymous_id: str | None = None
    sent_at_ms: int | None = None
    received_at_ms: int | None = None
    source: str | None = None
    source_seq: int | None = None
    correlation_key: str | None = None
    causation_id: str | None = None
    trace_id: str | None = None
    tenant: str | None = None
    context: dict[str, Any] | None = None
    appended_at: str | int | float | None = None
