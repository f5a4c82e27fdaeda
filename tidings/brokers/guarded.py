"""A child process that never outlives us, stopped in good order; and the lock files that tell who runs.

Each child runs under `tidings/brokers/guard.py`, which ends it when we end in whatever way, SIGKILL included.
"""

import contextlib
import errno
import fcntl
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

from tidings.brokers import guard


class GuardedProcess:
    """One child under its guard, from its start to its end.

    Args:
        command: what to run, without a shell.
        stop_s: how long it may take after SIGTERM, before SIGKILL.
        lock: a descriptor that guard and child keep open, so that a lock lasts until the last of them is gone.
        output: where its stdout and stderr go.
        env: its environment; None for ours.
    """

    def __init__(
        self, command: Sequence[str], *, stop_s: float, lock: int, output: IO[str], env: Mapping[str, str] | None = None
    ) -> None:
        self._guard = subprocess.Popen(  # noqa: S603 no shell; the words are our callers'
            [sys.executable, "-I", "-S", str(Path(guard.__file__)), str(stop_s), str(lock), *command],
            env=env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=output,
            text=True,
            pass_fds=(lock,),
            start_new_session=True,  # Ctrl-C in the terminal is for us; see guard.py
        )
        self.pid = int((self._guard.stdout.readline() if self._guard.stdout else "") or 0)

    def ended(self) -> int | None:
        """Return the exit code, 128 + number for a signal; None while it runs."""
        return self._guard.poll()

    def ask_to_stop(self) -> None:
        """Have the guard send SIGTERM, and SIGKILL after `stop_s`."""
        if self._guard.stdin is not None and not self._guard.stdin.closed:
            self._guard.stdin.close()

    def kill(self) -> None:
        """End it at once, with whatever it started."""
        if self._guard.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._guard.pid, signal.SIGKILL)

    def wait(self, timeout_s: float) -> bool:
        """Wait for its end; tells whether it came."""
        try:
            self._guard.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return False
        for pipe in (self._guard.stdin, self._guard.stdout):
            if pipe is not None:
                pipe.close()
        return True


def take_lock(descriptor: int) -> bool:
    """Try to lock an open file for this process and those that inherit it; False while others hold it."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in (errno.EAGAIN, errno.EACCES):
            raise
        return False
    return True


def alive(pid: int) -> bool:
    """Tell whether a process runs."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
