"""One worker of the laboratory: python -m tests.faults.process ROLE INSTANCE SESSION_MS, settings as TIDINGS_*.

The product's own worker, with three things that only a test may do: a session shorter than settings allow, a wall clock
that somebody else can move (FAULTS_CLOCK, a file of eight bytes: nanoseconds to add), and an end or a freeze at a point
of the protocol (FAULTS_POINT, a file that says `point count kill|stop`; it is gone when that has happened).
"""

import dataclasses
import faulthandler
import mmap
import os
import signal
import struct
import sys
import time
from pathlib import Path

from agents import failpoints
from tidings import logs
from tidings.config import Settings

SIGNALS = {"kill": signal.SIGKILL, "stop": signal.SIGSTOP}


def move_clock(path: Path) -> None:
    """Let `time.time` and `time.time_ns` be off by what the file says, from now on and at any time."""
    with path.open("r+b") as file:
        shared = mmap.mmap(file.fileno(), 8)
    real_ns = time.time_ns

    def time_ns() -> int:
        return real_ns() + int(struct.unpack("<q", shared[:8])[0])

    time.time_ns = time_ns
    time.time = lambda: time_ns() / 1e9


def watch_points(path: Path) -> None:
    """End or freeze this process at the point that the file names, when it comes by there for the n-th time."""

    def hit(point: str) -> None:
        try:
            wanted, count, action = path.read_text().split()
        except (OSError, ValueError):
            return
        if wanted != point:
            return
        if int(count) > 1:
            path.write_text(f"{wanted} {int(count) - 1} {action}")
            return
        path.unlink()
        os.kill(os.getpid(), SIGNALS[action])

    failpoints.hit = hit


def main() -> None:
    role, instance, session_ms = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    faulthandler.register(signal.SIGUSR1)  # where every thread stands, for the log of a run that does not settle
    move_clock(Path(os.environ["FAULTS_CLOCK"]))
    watch_points(Path(os.environ["FAULTS_POINT"]))
    settings = dataclasses.replace(Settings.from_env(), session_timeout_ms=session_ms)
    logs.set_up(settings.log_level)
    from tidings.worker import run_worker

    run_worker(settings, role, instance=instance)


if __name__ == "__main__":
    main()
