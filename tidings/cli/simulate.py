"""`simulate`: run seeds of the simulation, on all cores, and tell the story of those that fail."""

import contextlib
import importlib
import multiprocessing
import os
import signal
import sys
from collections import Counter
from collections.abc import Iterator
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from schemas.errors import OperatorError

if TYPE_CHECKING:
    from tidings.simulation.run import Outcome

ORACLE = "tests.oracle"
STORY_LINES = 40  # of a failing seed; --verbose prints all of it
TOLD = 3  # failing seeds whose story is printed
CHUNK = 8  # seeds handed to a process at a time
SEED_S = 300.0  # of CPU; a seed takes some hundredths of a second; beyond, something works on and on


def read_seeds(text: str) -> list[int]:
    """Read `7`, `1..2000` or `3,9,20..25`.

    Raises:
        OperatorError: it is neither.
    """
    seeds: list[int] = []
    for part in text.split(","):
        first, dots, last = part.strip().partition("..")
        if not first.isdecimal() or (dots and not last.isdecimal()):
            raise OperatorError(f"--seeds: not a seed or a range (got {part!r}); write 7, 1..2000 or 3,9,20..25")
        seeds.extend(range(int(first), int(last or first) + 1))
    if not seeds:
        raise OperatorError(f"--seeds: empty (got {text!r}); write the smaller number first, as in 1..2000")
    return seeds


def load_source() -> Any:
    """Find the oracle and its generator, which live with the tests and share no code with the engine.

    Raises:
        OperatorError: the checkout's `tests` folder is not there.
    """
    try:
        flows = importlib.import_module(f"{ORACLE}.flows")
        evaluate = importlib.import_module(f"{ORACLE}.evaluate")
        crowd = importlib.import_module(f"{ORACLE}.crowd")
        bounds = importlib.import_module(f"{ORACLE}.exceeded")
    except ModuleNotFoundError as error:
        if error.name is not None and not ORACLE.startswith(error.name.rsplit(".", 1)[0]):
            raise
        message = f"simulate: the oracle is not here (got no module {error.name!r}); run from a checkout with tests/"
        raise OperatorError(message, exit_code=3) from error
    return SimpleNamespace(
        case=flows.mixed_case, firings=evaluate.firings, journeys=crowd.crowd, exceeded=bounds.exceeded
    )


def _begin() -> None:
    import structlog

    structlog.configure(logger_factory=structlog.ReturnLoggerFactory(), processors=[lambda *_: ""])


class Endless(BaseException):
    """A seed did not end. No Exception: an engine goes on after a campaign that raises one."""


def _one(job: tuple[int, frozenset[str], bool]) -> "Outcome":
    from tidings.simulation.run import Outcome, run_seed
    from tidings.simulation.world import Violation

    seed, kinds, telling = job
    try:
        with _ending_after(SEED_S):
            return run_seed(seed, load_source(), kinds, telling=telling)
    except (Exception, Endless) as error:
        return Outcome(seed, [Violation("simulator", f"{type(error).__name__}: {error}")])


@contextlib.contextmanager
def _ending_after(seconds: float) -> Iterator[None]:
    """Raise `Endless` in a block that takes longer, each second anew: a task that is only one of many may eat it.

    Counted is CPU time, so that a machine that sleeps or is busy makes no seed endless.
    """
    if not hasattr(signal, "setitimer"):  # on Windows such a seed is ended by hand
        yield
        return

    def end(*_: object) -> None:
        raise Endless(f"did not end within {seconds:.0f} s of CPU")

    before = signal.signal(signal.SIGPROF, end)
    signal.setitimer(signal.ITIMER_PROF, seconds, 1.0)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def _outcomes(jobs: list[tuple[int, frozenset[str], bool]], processes: int) -> Iterator["Outcome"]:
    if processes == 1 or len(jobs) == 1:
        _begin()
        yield from map(_one, jobs)
        return
    context = multiprocessing.get_context("spawn")
    with context.Pool(min(processes, len(jobs)), initializer=_begin) as pool:
        yield from pool.imap_unordered(_one, jobs, chunksize=CHUNK)


@click.command()
@click.option("--seeds", default="1..200", show_default=True, help="Which runs: 7, 1..2000 or 3,9,20..25.")
@click.option("--faults", default="all", show_default=True, help="Troubles: all, none, names, or all,-name.")
@click.option("--processes", type=click.IntRange(1), default=os.cpu_count() or 1, help="Default: one per core.")
@click.option("--verbose", "-v", is_flag=True, help="Tell the whole story of each seed.")
def simulate(seeds: str, faults: str, processes: int, verbose: bool) -> None:
    """Prove the engine on made-up brokers, disks and clocks, with all their troubles.

    The real core, codec and worker run; what they say is compared with the oracle's firings, a pure replay of the
    same log and the invariants of docs/guarantees.md. One seed is one run, always the same one.

    \b
    Examples:
      python -m tidings simulate --seeds 1..2000
      python -m tidings simulate --seeds 182 --verbose
      python -m tidings simulate --seeds 1..500 --faults all,-edits
    """
    from tidings.simulation.faults import read_kinds

    chosen, kinds = read_seeds(seeds), read_kinds(faults)
    load_source()
    counts: Counter[str] = Counter()
    failed: list[Outcome] = []
    jobs = [(seed, kinds, verbose) for seed in chosen]
    columns = (TextColumn("seeds"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        bar = progress.add_task("seeds", total=len(jobs))
        for outcome in _outcomes(jobs, processes):
            counts.update(outcome.counts)
            if outcome.violations:
                failed.append(outcome)
            if verbose:
                _tell(outcome, len(outcome.story))
            progress.advance(bar)
    failed.sort(key=lambda outcome: outcome.seed)
    for outcome in failed[:TOLD] if not verbose else ():
        _tell(next(_outcomes([(outcome.seed, kinds, True)], 1)), STORY_LINES)
    _sum_up(len(chosen), counts, failed, faults)
    sys.exit(1 if failed else 0)


def _tell(outcome: "Outcome", lines: int) -> None:
    click.echo(f"--- seed {outcome.seed}: {outcome.counts}")
    for line in outcome.story[-lines:] if lines else ():
        click.echo(f"  {line[:400]}")
    for violation in outcome.violations:
        click.echo(f"  broken: {violation.rule}: {violation.text}")


def _sum_up(runs: int, counts: Counter[str], failed: list["Outcome"], faults: str) -> None:
    told = ", ".join(f"{value:,} {name}" for name, value in counts.items())
    click.echo(f"{runs:,} seeds: {told}; {len(failed):,} differing")
    for outcome in failed[:20]:
        rules = ", ".join(dict.fromkeys(violation.rule for violation in outcome.violations))
        chosen = "" if faults == "all" else f" --faults {faults}"
        click.echo(f"  {rules}: python -m tidings simulate --seeds {outcome.seed}{chosen} --verbose")
    if len(failed) > 20:
        click.echo(f"  and {len(failed) - 20} more")
