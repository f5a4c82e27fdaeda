"""Groups by a stable hash: the same member is in the same one for ever, on every partition and in every replay."""

from schemas.ids import h128

BUCKETS = 10_000  # so that percent may have two decimals


def bucket_of(member_id: str, salt: str) -> int:
    """Give a member's bucket, 0 to 9,999; another salt deals the members anew."""
    return int(h128("group", salt, member_id)[:12], 16) % BUCKETS


def in_control_group(member_id: str, salt: str, percent: float) -> bool:
    """Tell whether a member is among the `percent` of all who are left out under this salt."""
    return bucket_of(member_id, salt) < round(percent * BUCKETS / 100)
