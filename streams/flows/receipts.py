"""What an event about a message says of its delivery: that it came, that it did not, or nothing of it."""

from collections.abc import Mapping
from typing import Any

from schemas.taxonomy import EVENT_TYPES
from streams.policies.receipts import UNSURE

DELIVERED = "delivered"
# Who opens, reads, clicks or complains has got it; what a machine opened has come as far as the mailbox.
CAME = frozenset({"delivery.delivered", *(name for name in EVENT_TYPES if name.startswith("engagement."))})
# Final. `delivery.unknown` is not among them: it says that nobody knows.
FAILED = frozenset(
    f"delivery.{word}" for word in ("undelivered", "bounced", "rejected", "expired", "failed", "cancelled")
)
TELLING = CAME | FAILED


def told(event_type: str, data: Mapping[str, Any]) -> str:
    """Name what is said of the delivery: `delivered`, a word of failure, or "" for nothing."""
    if event_type in CAME:
        return DELIVERED
    if event_type in FAILED and not (event_type == "delivery.failed" and data.get("reason") in UNSURE):
        return event_type.rpartition(".")[2]
    return ""
