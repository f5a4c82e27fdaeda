"""Say that something takes time: silent for two seconds, then one line that a terminal rewrites."""

import sys
import time
from types import TracebackType

QUIET_S = 2.0
# Where nobody looks at a terminal (CI's log), a line each this many seconds shows that it is alive.
REPEAT_S = 10.0


class Waiting:
    """A context manager around one wait; call `tick` in its loop."""

    def __init__(self, what: str) -> None:
        self.what = what
        self.started = time.monotonic()
        self._terminal = sys.stderr.isatty()
        self._shown_at = self.started - REPEAT_S
        self._shown = False

    @property
    def elapsed_s(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self.started

    def tick(self, detail: str = "") -> None:
        """Show the state if it is time to; `detail` says how far."""
        now = time.monotonic()
        if now - self.started < QUIET_S or (not self._terminal and now - self._shown_at < REPEAT_S):
            return
        text = f"{self.what}: {now - self.started:.0f} s" + (f", {detail}" if detail else "")
        sys.stderr.write(f"\r\x1b[K{text}" if self._terminal else f"{text}\n")
        sys.stderr.flush()
        self._shown_at, self._shown = now, True

    def __enter__(self) -> "Waiting":
        """Start the clock."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Take the line back."""
        if self._shown and self._terminal:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()
