"""The core in both forms, plain Python and compiled, each in a process of its own, measured in turns in the same run.

`python -m benchmarks.forms NAME FACTOR` is such a process: it prepares the cases of a question once, then runs the one
that each line of its input names, and answers with a line of JSON.
"""

import contextlib
import importlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence

import msgspec

from benchmarks.harness import ROOT, Case, Row, Scale, Work, interleaved, peak_mb, reset_peak
from schemas.errors import StateError
from tidings import compiled
from tidings.collector import quiet_gc

Facts = dict[str, float | int | str]
Cases = Mapping[str, Callable[[], tuple[int, Facts]]]
"""By name, a run that says how many items it took and what was found."""
COMPILED = ", compiled"


class Done(msgspec.Struct):
    """What one run took in its process, and found."""

    items: int
    wall_s: float
    cpu_s: float
    peak_mb: float
    more: Facts


def in_both_forms(name: str, cases: Sequence[str], scale: Scale, unit: str, *, own_base: bool = False) -> list[Row]:
    """Measure a question's cases in plain Python and, where `make compiled` was run, compiled.

    Args:
        name: the question; its module has `cases(scale)`.
        cases: their names, in order; the first is what the others are compared with.
        scale: how much.
        unit: of one item.
        own_base: compiled cases are compared with the first compiled one.
    """
    facts: dict[str, Facts] = {}
    with contextlib.ExitStack() as stack:
        asked: dict[str, Case] = {}
        for word, suffix in (("0", ""), ("1", COMPILED)) if compiled.built() else (("0", ""),):
            process = stack.enter_context(_process(name, scale, word))
            for case in cases:
                asked[case + suffix] = _bound(process, case, facts, case + suffix)
        bases = {case + COMPILED: cases[0] + COMPILED for case in cases} if own_base else {}
        rows = interleaved(asked, scale, unit, bases=bases)
    for row in rows:
        row.more = facts[row.case]
    return rows


@contextlib.contextmanager
def _process(name: str, scale: Scale, word: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "benchmarks.forms", name, str(scale.factor)]
    environment = {**os.environ, "TIDINGS_COMPILED": word}
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=ROOT, env=environment, stdin=pipe, stdout=pipe, text=True) as process:
        try:
            yield process
        finally:
            process.terminate()


def _bound(process: subprocess.Popen[str], case: str, facts: dict[str, Facts], shown: str) -> Case:
    def run() -> Work:
        if process.stdin is None or process.stdout is None:
            raise StateError(f"{shown}: its process has no pipes")
        process.stdin.write(case + "\n")
        process.stdin.flush()
        line = process.stdout.readline()
        if not line:
            raise StateError(f"{shown}: its process ended; see its message above")
        done = msgspec.json.decode(line, type=Done)
        facts[shown] = done.more
        return Work(done.items, done.wall_s, done.cpu_s, done.peak_mb)

    return run


def main(name: str, factor: str) -> None:
    """Run the cases that standard input names."""
    if compiled.use(compiled.wanted()) is not compiled.wanted():
        raise SystemExit("benchmarks: no build fits these sources; run 'make compiled'")
    cases: Cases = importlib.import_module(f"benchmarks.{name}").cases(Scale(float(factor)))
    for line in sys.stdin:
        with quiet_gc():
            reset_peak()
            wall, cpu = time.perf_counter(), time.process_time()
            items, more = cases[line.strip()]()
            cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
            done = Done(items, wall, cpu, peak_mb(), more)
        sys.stdout.write(msgspec.json.encode(done).decode() + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
