"""How a question is measured: interleaved runs, CPU and wall time, memory, calibrated, compared with an earlier result.

A question is a module of this package with `NAME`, `QUESTION`, `METHOD` and `run(scale) -> rows`. `__main__` runs each
one in a process of its own, so that neither heap nor peak memory of one question shows in another.
"""

import contextlib
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import msgspec

from benchmarks import calibration
from schemas.errors import OperatorError
from tidings import compiled
from tidings.collector import quiet_gc

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
LIBRARIES = ("msgspec", "xxhash", "faust-streaming", "aiokafka", "confluent-kafka", "rocksdict", "chdb", "fastavro")
GATE = 1.3  # a calibrated figure above this multiple of the earlier one fails
RUNS_MIN = 3
FORMAT = 1
GC_NOTE = "collector as in `replay`: frozen before each run, thresholds 200,000/50/1,000"


class Row(msgspec.Struct, kw_only=True):
    """One case of a question.

    Costs are per item, in microseconds of process CPU time: the median of the runs, and the lowest and highest. `steps`
    is the median cost in steps of the calibration loop. `ratio`: cost as a multiple of the first case's in the same
    round, with lowest and highest. `gated` is what the regression gate compares, None for nothing. `more` holds what
    only this question has; `series` points of a curve, where benchmarks/plots.py draws one.
    """

    case: str
    unit: str
    items: int = 0
    runs: int = 0
    cpu_us: float | None = None
    cpu_us_low: float | None = None
    cpu_us_high: float | None = None
    wall_us: float | None = None
    steps: float | None = None
    ratio: float | None = None
    ratio_low: float | None = None
    ratio_high: float | None = None
    peak_mb: float | None = None
    gated: float | None = None
    more: dict[str, float | int | str] = {}
    series: list[tuple[float, float]] = []


class Answer(msgspec.Struct, kw_only=True):
    """What one question found, and the machine's step then (CPU microseconds, median)."""

    name: str
    question: str
    method: str
    seconds: float
    step_us: float
    rows: list[Row]


class Result(msgspec.Struct, kw_only=True):
    """One run of the benchmarks."""

    format: int
    commit: str
    changed_files: int
    started_at: str
    scale: float
    machine: dict[str, Any]
    versions: dict[str, str]
    answers: list[Answer]


@dataclass
class Scale:
    """How much to measure, and whom to tell about progress.

    `factor` multiplies the sizes that each question names for a full run; `runs` of each case are made.
    """

    factor: float = 1.0
    runs: int = RUNS_MIN
    progress: Callable[[float, str], None] = lambda share, note: None

    def __post_init__(self) -> None:
        """Refuse what would give no figures.

        Raises:
            OperatorError: a factor outside 0.001..100, fewer than three runs.
        """
        if not 0.001 <= self.factor <= 100:
            raise OperatorError(f"--scale: must be from 0.001 to 100 (got {self.factor}); 1 is a full run")
        if self.runs < RUNS_MIN:
            raise OperatorError(f"--runs: a median needs {RUNS_MIN} or more (got {self.runs})")

    def of(self, full: int, least: int = 100) -> int:
        """Scale a size, but not below `least`."""
        return max(least, round(full * self.factor))


@dataclass
class Work:
    """What one run did. Times are None where this process did all of the work itself: then the harness took them."""

    items: int
    wall_s: float | None = None
    cpu_s: float | None = None
    peak_mb: float | None = None


@dataclass
class Sample:
    """One timed run: per item in microseconds, and the machine's step around it."""

    items: int
    wall_us: float
    cpu_us: float
    step_us: float
    peak_mb: float


Case = Callable[[], Work]


def timed(case: Case) -> Sample:
    """Run a case once between two calibrations, with the collector quiet."""
    before = calibration.step_us()
    with quiet_gc():
        reset_peak()
        wall, cpu = time.perf_counter(), time.process_time()
        work = case()
        cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
        peak = peak_mb()
    step = (before + calibration.step_us()) / 2
    if work.cpu_s is not None:
        cpu = work.cpu_s
    if work.wall_s is not None:
        wall = work.wall_s
    if work.peak_mb is not None:
        peak = work.peak_mb
    return Sample(work.items, wall / work.items * 1e6, cpu / work.items * 1e6, step, peak)


def interleaved(
    cases: Mapping[str, Case], scale: Scale, unit: str, gated: bool = True, bases: Mapping[str, str] | None = None
) -> list[Row]:
    """Measure cases in turns (A B A B A B), so that a slow minute of the machine meets all of them.

    One round more than is counted is made, of which nothing is kept: it fills caches and the allocator. `bases`: with
    which case another is compared, where that is not the first.
    """
    samples: dict[str, list[Sample]] = {name: [] for name in cases}
    total, done = (scale.runs + 1) * len(cases), 0
    for turn in range(scale.runs + 1):
        for name, case in cases.items():
            scale.progress(done / total, name)
            sample = timed(case)
            done += 1
            if turn:
                samples[name].append(sample)
    first, bases = next(iter(samples)), bases or {}
    return [_row(name, unit, taken, samples[bases.get(name, first)], gated) for name, taken in samples.items()]


def _row(name: str, unit: str, taken: Sequence[Sample], first: Sequence[Sample], gated: bool) -> Row:
    costs = [sample.cpu_us for sample in taken]
    steps = [sample.cpu_us / sample.step_us for sample in taken]
    pairs = [mine / (base.cpu_us / base.step_us) for mine, base in zip(steps, first, strict=True)]
    row = Row(
        case=name,
        unit=unit,
        items=taken[0].items,
        runs=len(taken),
        cpu_us=statistics.median(costs),
        cpu_us_low=min(costs),
        cpu_us_high=max(costs),
        wall_us=statistics.median(sample.wall_us for sample in taken),
        steps=statistics.median(steps),
        peak_mb=max(sample.peak_mb for sample in taken),
    )
    if taken is not first:
        row.ratio, row.ratio_low, row.ratio_high = statistics.median(pairs), min(pairs), max(pairs)
    if gated:
        row.gated = row.steps
    return row


def quantile(values: Sequence[float], share: float) -> float:
    """Return the nearest-rank quantile of sorted values, e.g. `share` 0.99."""
    if not values:
        raise ValueError("quantile: no values")
    return values[min(len(values) - 1, int(share * len(values)))]


# ---------------------------------------------------------------- memory


def reset_peak() -> None:
    """Forget the peak of this process's memory, where the kernel can (Linux)."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak_mb() -> float:
    """Read the peak resident memory since `reset_peak`, MiB; of the process's whole life where it cannot be reset."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most / (1 << 20) if sys.platform == "darwin" else most / 1024


# ---------------------------------------------------------------- results


def describe_run(scale: float) -> Result:
    """Say on what and of which commit figures are being taken; without answers yet."""
    status = _git("status", "--porcelain")
    return Result(
        format=FORMAT,
        commit=_git("rev-parse", "HEAD") or "unknown",
        changed_files=len(status.splitlines()),
        started_at=datetime.now(UTC).isoformat(timespec="seconds"),
        scale=scale,
        machine=machine(),
        versions={"python": platform.python_version(), **{name: version(name) for name in LIBRARIES}},
        answers=[],
    )


def machine() -> dict[str, Any]:
    """Describe the machine: processor, cores, memory, system."""
    model = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                model = line.partition(":")[2].strip()
                break
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / (1 << 30)
    return {
        "cpu": model,
        "architecture": platform.machine(),
        "cores": os.cpu_count(),
        "memory_gib": round(memory, 1),
        "system": f"{platform.system()} {platform.release()}",
        "load_1m": round(os.getloadavg()[0], 2),
        "gc": GC_NOTE,
        "core": "compiled" if compiled.wanted() and compiled.built() else "pure Python",
    }


def _git(*words: str) -> str:
    try:
        done = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def write_result(result: Result, path: Path) -> None:
    """Write a result as JSON, indented, for people to compare."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(msgspec.json.format(msgspec.json.encode(result), indent=1) + b"\n")


def read_result(path: Path) -> Result:
    """Read a result.

    Raises:
        OperatorError: no such file, or not a result of this format.
    """
    try:
        result = msgspec.json.decode(path.read_bytes(), type=Result)
    except (OSError, msgspec.MsgspecError) as error:
        raise OperatorError(f"{path}: no result of the benchmarks (got {error}); name one of {RESULTS.name}/") from None
    if result.format != FORMAT:
        raise OperatorError(f"{path}: written in format {result.format}, this build reads {FORMAT}; measure again")
    return result


# ---------------------------------------------------------------- the gate


class Change(msgspec.Struct, frozen=True):
    """A gated figure beside the same one of an earlier result; `ratio` above 1 is worse."""

    name: str
    case: str
    before: float
    now: float

    @property
    def ratio(self) -> float:
        """Now as a multiple of before."""
        return self.now / self.before

    @property
    def fails(self) -> bool:
        """Tell whether the gate refuses it."""
        return self.ratio > GATE


def changes(now: Result, before: Result) -> list[Change]:
    """Pair the gated figures that both results have.

    Raises:
        OperatorError: they were taken at different scales, one of a compiled core, or have no figure in common.
    """
    if now.scale != before.scale:
        raise OperatorError(
            f"--compare: scales differ (got {now.scale} and {before.scale}); run with --scale {before.scale}"
        )
    cores = {str(one.machine["core"]) for one in (now, before) if "core" in one.machine}
    if len(cores) > 1:
        raise OperatorError(f"--compare: one of a compiled core, one not (got {sorted(cores)}); run 'make compiled'")
    old = dict(_gated(before))
    found = [Change(*place, old[place], figure) for place, figure in _gated(now) if place in old]
    if not found:
        raise OperatorError("--compare: the two results have no figure in common (got 0); compare the same questions")
    return found


def _gated(result: Result) -> Iterator[tuple[tuple[str, str], float]]:
    for answer in result.answers:
        for row in answer.rows:
            if row.gated:
                yield (answer.name, row.case), row.gated
