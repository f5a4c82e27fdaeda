"""What an event about a message says of its delivery: that it came, that it did not, or nothing of it."""

from collections.abc import Mapping
from typing import Any

from streams.policies.receipts import CAME, NEVER_CAME, UNSURE

DELIVERED = "delivered"
TELLING = CAME | NEVER_CAME  # all final; `delivery.unknown` is not among them: it says that nobody knows


def told(event_type: str, data: Mapping[str, Any]) -> str:
    """Name what is said of the delivery: `delivered`, a word of failure, or "" for nothing."""
    if event_type in CAME:
        return DELIVERED
    if event_type in NEVER_CAME and not (event_type == "delivery.failed" and data.get("reason") in UNSURE):
        return event_type.rpartition(".")[2]
    return ""
