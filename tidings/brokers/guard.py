"""Runs one child process that must not outlive us: `guard.py BOUND_S COMMAND …`. Standard library only.

Our parent holds the other end of the pipe on our standard input. When that closes, because the parent asks for a stop
or because it died in any way (SIGKILL too), the child gets SIGTERM, BOUND_S seconds, then SIGKILL. The exit code is the
child's. A thread's end, a closed terminal or Ctrl-C does not reach the child: the workers beside it stop first and can
still commit.
"""

import contextlib
import ctypes
import os
import select
import signal
import subprocess
import sys

PR_SET_PDEATHSIG = 1  # linux/prctl.h
IGNORED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)  # the guard ends only after its child


def _before_exec() -> None:
    """In the child: end if this guard itself is killed (only Linux can), and take signals as usual again."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    for number in IGNORED:
        signal.signal(number, signal.SIG_DFL)


def main(bound_s: float, command: list[str], inherit: tuple[int, ...]) -> int:
    """Run `command` until it ends or our standard input closes; `inherit`: file descriptors that it keeps open."""
    for number in IGNORED:
        signal.signal(number, signal.SIG_IGN)
    child = subprocess.Popen(  # noqa: S603 the command is composed by our parent, without a shell
        command,
        stdin=subprocess.DEVNULL,
        stdout=sys.stderr,  # our own stdout is a pipe to our parent, which reads one line of it
        pass_fds=inherit,
        preexec_fn=_before_exec,  # safe: this process has one thread
    )
    sys.stdout.write(f"{child.pid}\n")
    sys.stdout.flush()
    exited = os.pidfd_open(child.pid) if hasattr(os, "pidfd_open") else -1
    while child.poll() is None:
        ready, _, _ = select.select([0] + [exited] * (exited >= 0), [], [], None if exited >= 0 else 1.0)
        if 0 in ready and not os.read(0, 1):
            child.terminate()
            try:
                child.wait(bound_s)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
    return child.returncode


if __name__ == "__main__":
    ended = main(float(sys.argv[1]), sys.argv[3:], (int(sys.argv[2]),))
    sys.exit(ended if ended >= 0 else 128 - ended)  # as shells say "by signal"
