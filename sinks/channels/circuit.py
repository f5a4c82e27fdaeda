"""When to leave a provider alone: closed, open for a while after failures in a row, then one call at a time to try.

Time is handed in (seconds of any monotonic clock), so the rules are plain to test.
"""

from dataclasses import dataclass


@dataclass(slots=True)
class Circuit:
    """The health of one provider as its answers tell it.

    Args:
        threshold: failures in a row that open it; one alone may be an accident.
        base_s: how long it is left alone at first; doubles with each failed trial.
        cap_s: at most. A provider that is back is noticed within this time.
    """

    threshold: int = 5
    base_s: float = 0.5
    cap_s: float = 15.0
    failures: int = 0
    open_until: float = 0.0
    trying: bool = False
    reason: str = ""

    def wait_s(self, now: float) -> float:
        """Tell how long to leave it alone; 0 when a call may be made."""
        if self.open_until > now:
            return self.open_until - now
        if self.failures >= self.threshold and self.trying:
            return self.base_s  # somebody else is finding out
        return 0.0

    def begin(self) -> None:
        """Note that a call is made."""
        self.trying = True

    def good(self) -> None:
        """Note an answer that shows the provider at work, whatever it said about the message."""
        self.failures, self.open_until, self.trying = 0, 0.0, False

    def bad(self, now: float, reason: str, retry_after_s: float = 0.0) -> None:
        """Note an answer, or none, that shows trouble. `retry_after_s`: the provider's own wish, obeyed at once."""
        self.trying = False
        if self.open_until > now:
            return  # calls that fail together are one failure
        self.failures += 1
        self.reason = reason
        if self.failures >= self.threshold:
            self.open_until = now + min(self.cap_s, self.base_s * 2.0 ** min(self.failures - self.threshold, 10))
        if retry_after_s > 0:
            self.open_until = max(self.open_until, now + retry_after_s)

    def gone(self) -> None:
        """Note a call that was given up by us: it tells nothing."""
        self.trying = False
