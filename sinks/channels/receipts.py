"""What a provider tells later about a message that it took, and how it counts among what is known (VOCABULARY §5).

Receipts come late, twice and out of order. Each is an event of its own; `later` says which of two statuses stands.
"""

from dataclasses import dataclass

DELIVERY = ("accepted", "sent", "deferred", "delivered", "undelivered", "bounced", "rejected", "expired", "failed",
            "cancelled", "unknown")  # fmt: skip
ENGAGEMENT = ("opened", "clicked", "read", "replied", "answered", "unsubscribed", "complained")
# A status stands until one of a higher rank comes. `delivered` beats `expired` and `unknown`: those were guesses.
_RANK = {
    "requested": 0, "accepted": 1, "deferred": 2, "sent": 3, "unknown": 4, "expired": 4,
    "undelivered": 5, "bounced": 5, "rejected": 5, "failed": 5, "cancelled": 5, "delivered": 6,
}  # fmt: skip
_GUESSES = frozenset({"expired", "unknown"})
FINAL_RANK = 5


@dataclass(frozen=True, slots=True)
class Told:
    """One receipt as the provider words it: a status of ours (empty: nothing of interest), its id, its code.

    `at_ms`: the provider's own time, 0 when it gives none.
    """

    status: str
    provider_message_id: str = ""
    code: str = ""
    detail: str = ""
    at_ms: int = 0


def later(known: str, told: str) -> str:
    """Return which of two delivery statuses stands: the higher one; among final ones the first, `delivered` aside."""
    if told not in _RANK:
        return known
    if known not in _RANK:
        return told
    if _RANK[known] >= FINAL_RANK:
        return known
    return told if _RANK[told] > _RANK[known] else known


def is_late(known: str, told: str) -> bool:
    """Tell whether a message that was given up turned out to be delivered."""
    return told == "delivered" and known in _GUESSES
