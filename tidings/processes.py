"""Child processes of `demo` and `up`: start them, watch them, start them again, stop them, never leave one behind.

Each child runs under a guard (`tidings/brokers/guarded.py`), which ends it when we end in whatever way, SIGKILL
included. Children stand in sessions of their own: Ctrl-C in the terminal reaches us alone, and we stop them in order.
"""

import contextlib
import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from schemas.errors import OperatorError
from tidings.brokers.guarded import GuardedProcess, alive, take_lock
from tidings.config import PREFIX, Settings
from tidings.web.ask import URL_FILE

POLL_S = 0.05
# Longer than any role takes by itself (20 s for delivery with mail under way): only what hangs is cut off.
STOP_S = 25.0
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 30.0
SETTLED_S = 60.0  # a child that lived this long begins with a short pause again
LOG_BYTES_MAX = 32 << 20
TAIL_LINES = 5


@dataclass(frozen=True, slots=True)
class Program:
    """What a child runs: a name for people and for its log file, the words after `python -m tidings`."""

    name: str
    words: tuple[str, ...]


def role_program(role: str) -> Program:
    """Return the program of one role, first instance."""
    return Program(role, ("worker", "--role", role))


class Child:
    """One program that should run.

    Args:
        program: what.
        settings: of a broker that runs; handed over as environment variables.
        log_dir: its output goes to `{name}.log` in it, appended.
        lock: a descriptor it keeps open, so that a lock lasts until the last child is gone.
    """

    def __init__(self, program: Program, settings: Settings, log_dir: Path, lock: int) -> None:
        self.program = program
        self.log_path = log_dir / f"{program.name}.log"
        self.pid = 0
        self.starts = 0
        self._settings = settings
        self._lock = lock
        self._process: GuardedProcess | None = None

    def start(self) -> None:
        """Start it."""
        self.log_path.parent.mkdir(parents=True, exist_ok=True)
        # What is left of a killed worker would name a port where nobody listens.
        (self._settings.data_dir / f"{self.program.name}-0" / URL_FILE).unlink(missing_ok=True)
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
        with self.log_path.open("a") as output:
            self._process = GuardedProcess(
                [sys.executable, "-m", "tidings", *self.program.words],
                stop_s=STOP_S,
                lock=self._lock,
                output=output,
                env=inherited | self._settings.environment(),
            )
        self.pid = self._process.pid
        self.starts += 1

    def ended(self) -> int | None:
        """Return the exit code of a child that ended by itself, 128 + number for a signal; None while it runs."""
        return self._process.ended() if self._process is not None else None

    def ask_to_stop(self) -> None:
        """Send SIGTERM, and SIGKILL after `STOP_S`."""
        if self._process is not None:
            self._process.ask_to_stop()

    def kill(self) -> None:
        """End it at once, with whatever it started."""
        if self._process is not None:
            self._process.kill()

    def wait(self, timeout_s: float) -> bool:
        """Wait for its end; tells whether it came."""
        return self._process is None or self._process.wait(timeout_s)

    def url(self) -> str | None:
        """Where its web endpoints listen; None until it says so."""
        try:
            return (self._settings.data_dir / f"{self.program.name}-0" / URL_FILE).read_text("utf-8").strip() or None
        except OSError:
            return None

    def last_words(self, lines: int) -> str:
        """Return the last lines of its log, for an error."""
        try:
            with self.log_path.open("rb") as file:
                file.seek(max(0, file.seek(0, os.SEEK_END) - 8_192))
                found = file.read().decode("utf-8", "replace").splitlines()
        except OSError:
            return ""
        return "\n".join(line[:600] for line in found[-lines:])

    def trim_log(self) -> None:
        """Move a log that grew long aside; the child goes on writing at the new beginning (it appends)."""
        with contextlib.suppress(OSError):
            if self.log_path.stat().st_size > LOG_BYTES_MAX:
                shutil.copyfile(self.log_path, self.log_path.with_suffix(".log.1"))
                os.truncate(self.log_path, 0)


class Children:
    """All children of one command; a context manager that ends with all of them stopped.

    Args:
        restart: start a child again that ends by itself, after a pause that doubles; else its end is an error.
        say: told what happened to a child, one line for people.
    """

    def __init__(self, children: Sequence[Child], *, restart: bool, say: Callable[[str], None]) -> None:
        self.all = list(children)
        self._restart = restart
        self._say = say
        self._pauses: dict[str, float] = {}
        self._started: dict[str, float] = {}
        self._again: dict[str, float] = {}

    def __enter__(self) -> "Children":
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()

    def start(self) -> None:
        """Start them, all at once."""
        for child in self.all:
            self._start(child)

    def watch(self, fatal: Collection[int] = ()) -> None:
        """Look after them; call it every second or faster.

        Args:
            fatal: exit codes after which a child is not started again.

        Raises:
            OperatorError: one ended by itself, and is not to be started again.
        """
        now = time.monotonic()
        for child in self.all:
            name = child.program.name
            if name in self._again:
                if now >= self._again[name]:
                    del self._again[name]
                    self._start(child)
                    self._say(f"{name} started again")
                continue
            code = child.ended()
            if code is None:
                child.trim_log()
                continue
            if not self._restart or code in fatal:
                raise OperatorError(
                    f"{name}: ended by itself (got exit code {code}); its log {child.log_path} ends with:\n"
                    + child.last_words(TAIL_LINES),
                    exit_code=code if code in fatal else 1,
                )
            child.wait(1)
            settled = now - self._started[name] > SETTLED_S
            pause = FIRST_PAUSE_S if settled else min(LONGEST_PAUSE_S, self._pauses.get(name, FIRST_PAUSE_S / 2) * 2)
            self._pauses[name] = pause
            self._again[name] = now + pause
            self._say(
                f"{name} ended by itself (exit code {code}), starts again in {pause:g} s; {child.log_path} ends with:\n"
                f"  {child.last_words(1)[:300]}"
            )

    def stop(self) -> None:
        """Ask all to stop, wait until they are gone; a second Ctrl-C while it waits kills them."""
        running = [child for child in self.all if child.program.name not in self._again]
        self._again.clear()
        for child in running:
            child.ask_to_stop()
        try:
            for child in running:
                if not child.wait(STOP_S + 5):
                    child.kill()
        except BaseException:
            for child in running:
                child.kill()
            raise
        finally:
            for child in running:
                child.wait(1)

    def _start(self, child: Child) -> None:
        child.start()
        self._started[child.program.name] = time.monotonic()


@contextlib.contextmanager
def only_one(path: Path, what: str) -> Iterator[int]:
    """Hold a lock file; children that inherit the descriptor hold it too, until the last of them is gone.

    Raises:
        OperatorError: somebody holds it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        until = time.monotonic() + STOP_S
        while not take_lock(descriptor):
            holder = _holder(path)
            # Its starter is gone and the children are on their way out: worth a wait.
            if time.monotonic() > until or holder is None or alive(holder):
                raise OperatorError(
                    f"{path}: {what} already runs on this data (got pid {holder or 'unknown'});"
                    " stop it, or set another TIDINGS_DATA_DIR"
                )
            time.sleep(POLL_S)
        os.truncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps({"pid": os.getpid()}).encode(), 0)
        yield descriptor
    finally:
        os.close(descriptor)


def _holder(path: Path) -> int | None:
    try:
        return int(json.loads(path.read_text())["pid"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
