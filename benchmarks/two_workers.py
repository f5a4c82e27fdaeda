"""What does a second engine worker bring, on the same machine?"""

import contextlib
import statistics
import sys
import tempfile
import time
from pathlib import Path

from confluent_kafka.cimpl import NewTopic

from agents.topics import ATTRIBUTIONS, BY_NAME, CHANGELOG, COMMANDS, DEAD_LETTERS, DECISIONS, EVENTS
from benchmarks import calibration
from benchmarks.beside_peers import PARTITIONS, SESSION_S, Log, Run, clear, create, fill, started, used, watch
from benchmarks.harness import Row, Scale
from benchmarks.replay_speed import PATTERN
from benchmarks.workload import w
from schemas.errors import StateError
from tidings.brokers import LocalBroker
from tidings.config import Settings

NAME = "two_workers"
QUESTION = "What does a second engine worker bring, on the same machine?"
METHOD = (
    "Apache Kafka 4, one node, 8 partitions; workload W and one registration per member lie in the topic, as in "
    "`beside_peers`. One worker process, or two that start together: the group gives each four partitions, with a "
    "rebalance when the second one joins. Taken is the time from the start until the last command is in the topic, "
    "less the same for a log of a hundredth; CPU is that of all workers, memory that of the largest. In turns, "
    "medians. The broker and whoever reads the commands run on the same cores, so two workers on two cores cannot be "
    "twice as fast. Commands are compared with the definition's."
)
EVENTS_COUNT, MEMBERS = 500_000, 50_000
HEAD_SHARE = 0.01
TOPICS = (COMMANDS, DECISIONS, ATTRIBUTIONS, DEAD_LETTERS, CHANGELOG)
CASES = {"one worker": 1, "two workers": 2}


def work_off(bootstrap: str, log: Log, workers: int) -> Run:
    """Have so many workers work off a log from nothing.

    Raises:
        StateError: other commands than by the definition.
    """
    clear(bootstrap, {EVENTS})
    compact = {CHANGELOG: dict(BY_NAME[CHANGELOG].config)}
    create(bootstrap, [NewTopic(name, PARTITIONS, 1, config=compact.get(name, {})) for name in TOPICS])
    with tempfile.TemporaryDirectory() as temporary, contextlib.ExitStack() as stack:
        began, processes = time.monotonic(), []
        for number in range(workers):
            place = Path(temporary) / str(number)
            place.mkdir()
            command = [sys.executable, "-m", "benchmarks.program", "worker_rate", bootstrap, str(place), PATTERN]
            command += ["0", str(SESSION_S)]
            processes.append(stack.enter_context(started(command, place)))
        found, last = watch(
            bootstrap, COMMANDS, len(log.due_bounded), processes[0], Path(temporary) / "0", "one of ours"
        )
        taken = [used(process.pid) for process in processes]
    if found != log.due_bounded:
        raise StateError(
            f"two_workers: other commands than by the definition (got {len(found ^ log.due_bounded)} differing with "
            f"{workers} workers); compare with replay"
        )
    return Run(last - began, sum(cpu for cpu, _ in taken), max(peak for _, peak in taken), 0)


def run(scale: Scale) -> list[Row]:
    """Measure."""
    members = scale.of(MEMBERS)
    few = max(1, round(members * HEAD_SHARE))
    events = list(w(5, scale.of(EVENTS_COUNT, 2_000), members))
    with tempfile.TemporaryDirectory() as temporary, contextlib.ExitStack() as stack:
        cache = Settings().cache_dir
        whole, short = (stack.enter_context(LocalBroker(Path(temporary) / name, cache)) for name in ("whole", "short"))
        scale.progress(0.02, "filling topics")
        full = fill(whole.bootstrap, EVENTS, events, members)
        head = fill(short.bootstrap, EVENTS, list(w(6, round(len(events) * HEAD_SHARE), few)), few)
        starts = {case: work_off(short.bootstrap, head, workers) for case, workers in CASES.items()}
        runs: dict[str, list[tuple[Run, float]]] = {case: [] for case in CASES}
        for turn in range(scale.runs):
            for number, (case, workers) in enumerate(CASES.items()):
                scale.progress(0.1 + 0.9 * (turn + number / len(CASES)) / scale.runs, case)
                step = calibration.step_us()
                big = work_off(whole.bootstrap, full, workers)
                runs[case].append((big, (step + calibration.step_us()) / 2))
    items = full.records - head.records
    walls = {
        case: [(big.wall_s - starts[case].wall_s) / items * 1e6 for big, _ in taken] for case, taken in runs.items()
    }
    rows = []
    for case, taken in runs.items():
        cpus = [(big.cpu_s - starts[case].cpu_s) / items * 1e6 for big, _ in taken]
        row = Row(case=case, unit="event", items=full.records, runs=len(taken))
        row.cpu_us, row.cpu_us_low, row.cpu_us_high = statistics.median(cpus), min(cpus), max(cpus)
        row.wall_us = statistics.median(walls[case])
        row.steps = statistics.median(cpu / step for cpu, (_, step) in zip(cpus, taken, strict=True))
        row.peak_mb = max(big.peak_mb for big, _ in taken)
        faster = [one / this for one, this in zip(walls["one worker"], walls[case], strict=True)]
        row.more = {
            "start-up s": round(starts[case].wall_s, 1),
            "commands": len(full.due_bounded),
            "times one worker's rate": f"{statistics.median(faster):.2f} ({min(faster):.2f} to {max(faster):.2f})",
        }
        rows.append(row)
    return rows
