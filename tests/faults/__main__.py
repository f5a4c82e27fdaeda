"""python -m tests.faults: run schedules, one after the other or a few at a time, and say what came of them."""

import json
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from benchmarks.harness import describe_run
from tests.faults.report import markdown, problems, summary
from tidings.cli.simulate import read_seeds

SEED_S = 1_200.0  # a schedule that takes longer hangs


@click.command()
@click.option("--seeds", default="1..50,101,102", show_default=True, help="7, 1..50 or 3,9: one seed is one schedule.")
@click.option("--jobs", default=1, show_default=True, help="Schedules at a time; each has a Kafka of its own.")
@click.option("--keep", type=click.Path(path_type=Path), help="Where failed runs are kept. Default: a new directory.")
@click.option("--write", type=click.Path(path_type=Path), help="Write the results here, as NAME.json and NAME.md.")
@click.option("--long", is_flag=True, help="The broker is down for 90 s where it goes down, not for 8.")
@click.option("--only", help="For one seed: these faults instead of its own, by name, separated by commas.")
@click.option("--child", hidden=True, type=click.Path(path_type=Path))
def main(
    seeds: str, jobs: int, keep: Path | None, write: Path | None, long: bool, only: str | None, child: Path | None
) -> None:
    """Break the product on a real Kafka by seed, and compare what came of it with the oracle.

    \b
    Examples:
      python -m tests.faults --seeds 1..8
      python -m tests.faults --seeds 3 --only "engine freeze,broker kill -9"

    Exit codes: 0 all well, 1 something was lost, doubled, different or did not come to rest.
    """
    if child is not None:
        _child(int(seeds), long, only, child)
        return
    numbers = read_seeds(seeds)
    home = keep or Path(tempfile.mkdtemp(prefix="tidings-faults-"))
    home.mkdir(parents=True, exist_ok=True)
    out, err = Console(), Console(stderr=True)
    began = time.monotonic()
    results: list[dict[str, Any]] = []
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=err, disable=not err.is_terminal) as progress, ThreadPoolExecutor(jobs) as pool:
        bar = progress.add_task("schedules", total=len(numbers))
        running = [pool.submit(_one, seed, long, only, home / f"seed-{seed}") for seed in numbers]
        for done in as_completed(running):
            result = done.result()
            results.append(result)
            progress.advance(bar)
            (progress.console if err.is_terminal else err).print(
                problems(result, home), highlight=False, soft_wrap=True
            )
    results.sort(key=lambda result: int(result["seed"]))
    seconds = time.monotonic() - began
    out.print(summary(results, seconds))
    if write is not None:
        write.parent.mkdir(parents=True, exist_ok=True)
        run = describe_run(1.0)
        on = f"{run.machine['cores']} cores, {run.machine['memory_gib']} GiB, load {run.machine['load_1m']} at the end"
        taken = f"Commit {run.commit[:7]}, ended {run.started_at}, {jobs} at a time on {run.machine['cpu']}, {on}."
        write.with_suffix(".json").write_text(json.dumps(results, indent=1) + "\n")
        write.with_suffix(".md").write_text(markdown(results, seconds, taken))
    bad = [result for result in results if result["trouble"] or result["verdict"]["wrong"]]
    sys.exit(1 if bad else 0)


def _one(seed: int, long: bool, only: str | None, home: Path) -> dict[str, Any]:
    """Run a seed; once again if the laboratory itself spoilt it. What the product does wrong is never tried again."""
    result = _run(seed, long, only, home)
    if result.get("spoilt"):
        result = {**_run(seed, long, only, home), "begun_again": result["spoilt"]}
    return result


def _run(seed: int, long: bool, only: str | None, home: Path) -> dict[str, Any]:
    """Run a seed in a process of its own: chDB and whatever else it leaves behind go with it."""
    command = [sys.executable, "-m", "tests.faults", "--seeds", str(seed), "--child", str(home)]
    home.parent.mkdir(parents=True, exist_ok=True)
    log, found = home.with_suffix(".log"), home.with_suffix(".json")
    found.unlink(missing_ok=True)  # of a run before
    env = {name: value for name, value in os.environ.items() if name != "TIDINGS_REQUIRE_KAFKA"}
    with log.open("w") as output:
        try:
            subprocess.run(
                command + ["--long"] * long + (["--only", only] if only else []),
                stdout=output,
                stderr=output,
                timeout=SEED_S,
                env=env,
            )
        except subprocess.TimeoutExpired:
            output.write(f"killed after {SEED_S:.0f} s\n")
    if not found.exists():
        tail = log.read_text()[-2_000:]
        return {"seed": seed, "seconds": 0.0, "trouble": f"no result: {tail}", "own_ends": [], "starts_s": [],
                "changelog": [0, 0], "strikes": [], "verdict": {"wrong": {}, "counts": {}, "window": []}}  # fmt: skip
    result: dict[str, Any] = json.loads(found.read_text())
    if not result["trouble"] and not result["verdict"]["wrong"]:
        log.unlink()
    return result


def _child(seed: int, long: bool, only: str | None, home: Path) -> None:
    from dataclasses import replace

    from tests.faults.plan import schedule_of
    from tests.faults.run import run_schedule, spelled

    schedule = schedule_of(seed)
    if only:
        schedule = replace(schedule, faults=tuple((name.strip(), 1.0, True) for name in only.split(",")))
    home.with_suffix(".json").write_text(json.dumps(spelled(run_schedule(schedule, home, long)), indent=1))


if __name__ == "__main__":
    main()
