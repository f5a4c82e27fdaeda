"""`python -m benchmarks`: measure, print tables, keep the figures as JSON, compare them with an earlier result."""

import contextlib
import importlib
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import msgspec
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from benchmarks import calibration
from benchmarks.harness import (
    GATE,
    RESULTS,
    ROOT,
    RUNS_MIN,
    Answer,
    Result,
    Row,
    Scale,
    changes,
    describe_run,
    read_result,
    write_result,
)
from benchmarks.plots import draw
from benchmarks.tables import console_table, write_pages
from schemas.errors import OperatorError
from tidings import compiled
from tidings.layout import require_own_packages

QUESTIONS = (
    "replay_speed",
    "campaigns_curve",
    "members_curve",
    "instances_curve",
    "journeys",
    "ingest",
    "member_bytes",
    "recovery",
    "sink_rate",
    "worker_rate",
    "delivery_rate",
)
# need Java, a gigabyte of peers, or minutes
ON_REQUEST = ("latency", "two_workers", "recovery_10m", "beside_peers", "soak", "lanes")
QUICK = 0.05
SECONDS_UNKNOWN = 20.0  # a question that was never measured here, for the bar


class Said(msgspec.Struct):
    """A line from a question's process: how far it is, or its answer."""

    share: float = 0.0
    note: str = ""
    answer: Answer | None = None


def answer_question(name: str, scale: Scale) -> Answer:
    """Measure one question in this process."""
    compiled.use(compiled.wanted())
    module = importlib.import_module(f"benchmarks.{name}")
    began = time.monotonic()
    rows: list[Row] = module.run(scale)
    took = time.monotonic() - began
    return Answer(
        name=name,
        question=module.QUESTION,
        method=module.METHOD,
        seconds=round(took, 1),
        step_us=calibration.step_us(),
        rows=rows,
    )


def say(said: Said) -> None:
    """Tell the process that asked."""
    sys.stdout.write(msgspec.json.encode(said).decode() + "\n")
    sys.stdout.flush()


def ask(name: str, scale: Scale, bar: "Bar") -> Answer:
    """Measure one question in a process of its own.

    Raises:
        OperatorError: it failed; its own message stands above.
    """
    command = [sys.executable, "-m", "benchmarks", "--child", "--only", name]
    command += ["--scale", str(scale.factor), "--runs", str(scale.runs)]
    answer: Answer | None = None
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        try:
            for line in process.stdout or ():
                try:
                    said = msgspec.json.decode(line, type=Said)
                except msgspec.MsgspecError:
                    click.echo(line, nl=False, err=True)  # a library's remark
                    continue
                answer = said.answer or answer
                bar.at(name, said.share, said.note)
        except BaseException:
            process.terminate()
            raise
    if process.returncode or answer is None:
        raise OperatorError(f"benchmarks: {name} failed (exit code {process.returncode}); see its message above")
    return answer


class Bar:
    """One bar over all questions, weighted by how long each took in the newest result at hand."""

    def __init__(self, names: tuple[str, ...], seconds: dict[str, float]) -> None:
        columns = (TextColumn("{task.description:<44}"), BarColumn(), TimeElapsedColumn(), TimeRemainingColumn())
        self._progress = Progress(*columns, console=Console(stderr=True), speed_estimate_period=120)
        self._weights = {name: seconds.get(name, SECONDS_UNKNOWN) for name in names}
        self._task = self._progress.add_task("", total=sum(self._weights.values()))
        self._before = 0.0

    def __enter__(self) -> "Bar":
        """Show it."""
        self._progress.start()
        return self

    def __exit__(self, *error: object) -> None:
        """Leave it standing."""
        self._progress.stop()

    def at(self, name: str, share: float, note: str) -> None:
        """Say how far one question is, 0..1."""
        done = self._before + self._weights[name] * share
        self._progress.update(self._task, completed=done, description=f"{name}: {note}")

    def done(self, name: str) -> None:
        """Say that one question is answered."""
        self._before += self._weights[name]
        self._progress.update(self._task, completed=self._before, description=f"{name}: done")


def seconds_of_newest() -> dict[str, float]:
    """Look up how long each question took in the newest result that has it."""
    found: dict[str, float] = {}
    for path in sorted(RESULTS.glob("*.json")):
        with contextlib.suppress(OperatorError):  # another kind of result
            found |= {answer.name: answer.seconds for answer in read_result(path).answers}
    return found


def result_path(result: Result, only: Sequence[str]) -> Path:
    """Name the file of a result: day, commit, what was asked if not all, and the scale if not full."""
    size = () if result.scale == 1 else (f"scale-{result.scale:g}",)
    return RESULTS / f"{'-'.join((result.started_at[:10], result.commit[:7], *only, *size))}.json"


def measure(names: tuple[str, ...], scale: Scale) -> Result:
    """Ask all questions, one after the other; print each answer as it comes."""
    result = describe_run(scale.factor)
    console = Console(width=None if sys.stdout.isatty() else 200)
    with Bar(names, seconds_of_newest()) as bar:
        for name in names:
            answer = ask(name, scale, bar)
            result.answers.append(answer)
            bar.done(name)
            console.print(console_table(answer))
    return result


def gate(now: Result, before: Result) -> bool:
    """Print the gated figures beside the earlier ones; True when none is above the bound."""
    found = changes(now, before)
    for change in sorted(found, key=lambda change: -change.ratio):
        word = "WORSE" if change.fails else "ok"
        click.echo(
            f"{word:6}{change.ratio:6.2f} x  {change.name}: {change.case} ({change.before:.1f} -> {change.now:.1f})"
        )
    missing = {answer.name for answer in before.answers} - {answer.name for answer in now.answers}
    if missing:
        click.echo(f"not measured now: {', '.join(sorted(missing))}")
    return not any(change.fails for change in found)


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--only",
    multiple=True,
    type=click.Choice((*QUESTIONS, *ON_REQUEST)),
    help="Measure this question; may be repeated.",
)
@click.option("--quick", is_flag=True, help=f"A twentieth of the sizes (--scale {QUICK}): does it still run?")
@click.option("--scale", "factor", default=1.0, show_default=True, help="Multiply the sizes of a full run.")
@click.option("--runs", default=RUNS_MIN, show_default=True, help="Counted runs of each case.")
@click.option("--compare", type=click.Path(path_type=Path), help=f"Fail above {GATE} x of this result.")
@click.option("--save", type=click.Path(path_type=Path), help="Write the JSON here instead of benchmarks/results/.")
@click.option("--pages", type=click.Path(path_type=Path), help="Measure nothing: write this result into the documents.")
@click.option("--child", is_flag=True, hidden=True)
def main(
    only: tuple[str, ...],
    quick: bool,
    factor: float,
    runs: int,
    compare: Path | None,
    save: Path | None,
    pages: Path | None,
    child: bool,
) -> None:
    """Measure how fast this checkout is on this machine.

    \b
    Examples:
      make bench
      make bench ARGS="--quick --only replay_speed"
      make bench ARGS="--compare benchmarks/results/2026-11-21-1234567.json"

    Exit codes: 0 measured, 1 slower than the result compared with, 2 wrong usage, or a question failed.
    """  # noqa: D301 click wants the character itself
    scale = Scale(QUICK if quick else factor, runs)
    if child:
        scale.progress = lambda share, note: say(Said(share, note))
        for name in only:
            say(Said(1.0, "done", answer_question(name, scale)))
        return
    if pages is not None:
        found = read_result(pages)
        for page in (*write_pages(found, pages.name), *draw(found)):
            click.echo(f"written: {page}")
        return
    before = read_result(compare) if compare is not None else None
    if not only:
        click.echo(f"asked only by name: {', '.join(ON_REQUEST)} (--only NAME)", err=True)
    result = measure(only or QUESTIONS, scale)
    path = save or result_path(result, only)
    write_result(result, path)
    click.echo(f"written: {path.relative_to(ROOT) if path.is_relative_to(ROOT) else path}")
    if before is not None and not gate(result, before):
        sys.exit(1)


def run() -> Any:
    """Run; an error for the operator is one line."""
    require_own_packages()
    try:
        main(prog_name="python -m benchmarks")
    except OperatorError as error:
        click.echo(str(error), err=True)
        sys.exit(2)


if __name__ == "__main__":
    run()
