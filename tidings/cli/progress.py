"""A progress bar on stderr for what takes longer than two seconds, on a terminal only."""

import sys
import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

PATIENCE_S = 2.0


class Bar:
    """Counts in silence; shows itself once it has run for two seconds, if stderr is a terminal. A context manager."""

    def __init__(self, title: str, total: int | None) -> None:
        self._title = title
        self._total = total or None
        self._started = time.monotonic()
        self._bar: Progress | None = None
        self._allowed = sys.stderr.isatty()

    def __enter__(self) -> "Bar":
        """Begin to count."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Take the bar away."""
        if self._bar is not None:
            self._bar.stop()

    def at(self, done: int, note: str = "") -> None:
        """Say how much is done, in the unit of the total, with a word beside the bar."""
        if not self._allowed:
            return
        if self._bar is None:
            if time.monotonic() - self._started < PATIENCE_S:
                return
            columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
            self._bar = Progress(
                *columns, TextColumn("{task.fields[note]}"), console=Console(stderr=True), transient=True
            )
            self._bar.start()
            self._bar.add_task(self._title, total=self._total, note=note)
        self._bar.update(self._bar.task_ids[0], completed=done, note=note)
