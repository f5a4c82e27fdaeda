"""When to try again: a pure back-off, spread by a hash, so that a replay and a restart give the same delays."""

from dataclasses import dataclass

from schemas.ids import h128

_HASH_RANGE = 16**8


@dataclass(frozen=True, slots=True)
class Backoff:
    """Delays that double from `base_ms` up to `cap_ms`; at most `attempts` tries in all.

    The defaults try within half an hour for grey-listing servers (they ask for 1 to 15 minutes) and give up after about
    two hours; a message's own lifetime ends it earlier.
    """

    base_ms: int = 30_000
    cap_ms: int = 3_600_000
    attempts: int = 8

    def __post_init__(self) -> None:
        if self.base_ms < 1 or self.cap_ms < self.base_ms or self.attempts < 1:
            raise ValueError("backoff: base_ms and attempts must be at least 1 and cap_ms at least base_ms")

    def delay_ms(self, attempt: int, key: str) -> int:
        """Return how long to wait after attempt `attempt` (from 1): half the step and a share hashed from `key`."""
        step = min(self.cap_ms, self.base_ms << min(max(attempt, 1) - 1, 40))
        share = int(h128(key, str(attempt))[:8], 16) / _HASH_RANGE
        return max(1, step // 2 + int(step / 2 * share))

    def exhausted(self, attempt: int) -> bool:
        """Tell whether attempt `attempt` was the last one allowed."""
        return attempt >= self.attempts
