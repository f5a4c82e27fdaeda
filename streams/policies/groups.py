"""Groups by a stable hash: the same member is in the same one for ever, on every partition and in every replay."""

from typing import Any

from schemas.campaign import Campaign
from schemas.ids import h128

BUCKETS = 10_000  # so that percent may have two decimals


def bucket_of(member_id: str, salt: str) -> int:
    """Give a member's bucket, 0 to 9,999; another salt deals the members anew."""
    return int(h128("group", salt, member_id)[:12], 16) % BUCKETS


def in_control_group(member_id: str, salt: str, percent: float) -> bool:
    """Tell whether a member is among the `percent` of all who are left out under this salt."""
    return bucket_of(member_id, salt) < round(percent * BUCKETS / 100)


def exposed(campaign: Campaign, member_id: str) -> tuple[list[dict[str, Any]], str | None]:
    """Say in which arm of each group of a campaign a member is, for the decision; and why it is left out, if it is.

    Who is left out of one group is in no arm of the next: what keeps the message from it is not that group.
    """
    found: list[dict[str, Any]] = []
    for group in campaign.groups:
        bucket = bucket_of(member_id, group.salt)
        out = bucket < round(group.percent * BUCKETS / 100)
        found.append(
            {
                "group": group.name, "arm": "control" if out else "treated", "percent": group.percent, "bucket": bucket,
                "of": BUCKETS, "window_ms": campaign.attribution_window_ms,
            }
        )  # fmt: skip
        if out:
            return found, group.name.partition(":")[0]
    return found, None
