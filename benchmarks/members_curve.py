"""What does an event cost, and what do disk and memory hold, with ten thousand to ten million members?

As a program (`python -m benchmarks.members_curve MEMBERS DISTINCT EVENTS`) it is a worker without Kafka: it fills its
stores, says what they take, then runs the next EVENTS events for each line of its input, and answers with JSON.
"""

import contextlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from agents.memory import DEFAULT_MIB, EngineMemory, WorkerMemory
from benchmarks.harness import ROOT, Case, Row, Scale, Work, interleaved, peak_mb, reset_peak
from benchmarks.member_bytes import state_of_w
from benchmarks.replay_speed import PATTERN, expected, plan_of
from benchmarks.workload import START_MS, W_SPAN_MS, w
from schemas.codec import encode_event
from schemas.errors import StateError
from schemas.events import Event, Record
from streams.engine import PartitionEngine
from tables.rocks import RocksStore
from tables.store import MemoryStore
from tidings.collector import quiet_gc

NAME = "members_curve"
QUESTION = "What does an event cost, and what do disk and memory hold, with 10,000 to 10 million members?"
PARTITIONS, EVENTS_EACH, DISTINCT = 8, 10, 20_000
METHOD = (
    f"Workload W after its 4 h: {EVENTS_EACH} events of each member. The engine makes the records of up to "
    f"{DISTINCT:,} members; they are written under all keys into {PARTITIONS} RocksDB stores, as recovery writes them, "
    "and compacted. Then W goes on at its rate, which is so much a member: the more there are, the more events a "
    "second, and the less often the same member comes. Per run 100,000 events in epochs of up to 2,048 of a partition, "
    "with decisions, written to the stores after each. CPU is that of all threads, compaction included, less the "
    "making of the events. A process for each size, which holds what a worker may "
    f"({DEFAULT_MIB} MiB of members, blocks, memtables), without Faust and Kafka. The core is compiled where `make "
    "compiled` was run. `peak`: resident memory during the runs. Where every member has a record of its own, firings "
    "are compared with the definition's. Ratio: beside the fewest members."
)
EVENTS = 100_000  # of one run
SIZES = (10_000, 100_000, 1_000_000, 10_000_000)
LEAST = 1_000
BATCH, FILL_BATCH = 2_048, 16_384
BASE_MS = START_MS + W_SPAN_MS


class Built(msgspec.Struct):
    """What the stores take before the first event."""

    seconds: float
    disk_bytes: int


class Ran(msgspec.Struct):
    """What one run took."""

    items: int
    wall_s: float
    cpu_s: float
    peak_mb: float
    fired: int
    counted_mb: float
    disk_bytes: int


def going_on(members: int, first: int, count: int) -> Iterator[Event]:
    """Yield W's events after its 4 h, from number `first` on; one seed for each thousand."""
    step = W_SPAN_MS / (members * EVENTS_EACH)
    for number, event in enumerate(w(first + 11, count, members), first):
        event.event_id, event.occurred_at_ms = f"n{number}", BASE_MS + int(number * step)
        if "order_id" in event.data:
            event.data["order_id"] = f"n{number}"
        yield event


class Bench:
    """The engines of one worker and their stores."""

    def __init__(self, members: int, distinct: int, place: Path) -> None:
        """Fill the stores."""
        began = time.monotonic()
        self.members, self.distinct, self._first = members, min(members, distinct), 0
        memory = self._memory = WorkerMemory(EngineMemory.of())
        base = state_of_w(self.distinct, EVENTS_EACH)
        self.stores = [RocksStore(place / f"members-{n}.db", memory.resources) for n in range(PARTITIONS)]
        for partition, store in enumerate(self.stores):
            self._fill(partition, store, base)
        plan = plan_of("browse_abandon", PATTERN)
        self.engines = [
            PartitionEngine(n, store, campaigns=[plan], hot_bytes=memory.hot) for n, store in enumerate(self.stores)
        ]
        self._offset = self.engines[0].applied_offset
        self.fired: set[tuple[str, str]] = set()
        self.built = Built(time.monotonic() - began, self.disk_bytes())

    def _fill(self, partition: int, store: RocksStore, base: MemoryStore) -> None:
        # One in twenty thousand has had no event yet: no record.
        values = [base.members.get(b"m%d" % number, b"") for number in range(self.distinct)]
        entries: list[tuple[bytes, bytes | None]] = list(base.metas.items())
        offset = 0
        for number in range(partition, self.members, PARTITIONS):
            if value := values[number % self.distinct]:
                entries.append((b"m%d" % number, value))
            if len(entries) >= FILL_BATCH:
                offset += len(entries)
                store.apply_changelog(entries, offset)
                entries = []
        store.apply_changelog(entries, offset + len(entries))
        while store.index_hints():
            pass
        store.settle()

    def disk_bytes(self) -> int:
        """Add up the data files."""
        return sum(sum(store.file_bytes()) for store in self.stores)

    def run(self, count: int) -> Ran:
        """Run the next events."""
        making, cpu, wall, fired = 0.0, time.process_time(), time.perf_counter(), 0
        waiting: list[list[Record]] = [[] for _ in range(PARTITIONS)]
        paused = 0.0
        began, ticked = time.perf_counter(), time.thread_time()
        for event in going_on(self.members, self._first, count):
            self._offset += 1
            partition = int((event.member_id or "m0")[1:]) % PARTITIONS
            record = Record(self._offset, event.occurred_at_ms, None, encode_event(event))
            waiting[partition].append(record)
            if len(waiting[partition]) == BATCH:
                making += time.thread_time() - ticked
                paused += time.perf_counter() - began
                fired += self._epoch(partition, waiting[partition])
                waiting[partition] = []
                began, ticked = time.perf_counter(), time.thread_time()
        making += time.thread_time() - ticked
        paused += time.perf_counter() - began
        for partition, records in enumerate(waiting):
            fired += self._epoch(partition, records) if records else 0
        self._first += count
        cpu, wall = time.process_time() - cpu - making, time.perf_counter() - wall - paused
        counted = sum(self._memory.used(0).values()) / (1 << 20)
        return Ran(count, wall, cpu, peak_mb(), fired, counted, self.disk_bytes())

    def _epoch(self, partition: int, records: list[Record]) -> int:
        engine = self.engines[partition]
        epoch = engine.run(records)
        self.stores[partition].write(epoch.members, epoch.meta, epoch.hints, records[-1].offset)
        engine.written(epoch)
        if self.members == self.distinct:
            self.fired.update((firing.member_id, firing.anchor) for firing in epoch.firings)
        return len(epoch.firings)

    def require_right(self, runs: int, count: int) -> None:
        """Compare all firings with the definition's, where every record was made by its own member's events.

        Raises:
            StateError: they differ.
        """
        if self.members > self.distinct:
            return
        before = list(w(1, self.members * EVENTS_EACH, self.members))
        after = [event for number in range(runs) for event in going_on(self.members, number * count, count)]
        due = self._due(before, after)
        if self.fired != due:
            raise StateError(f"members_curve: {len(self.fired)} firings, not the {len(due)} of the definition")

    def _due(self, before: list[Event], after: list[Event]) -> set[tuple[str, str]]:
        """Compute what fires; each partition's clock stands at its own last record."""
        found: set[tuple[str, str]] = set()
        for partition in range(PARTITIONS):
            mine = [e for e in after if int((e.member_id or "m0")[1:]) % PARTITIONS == partition]
            old = [e for e in before if int((e.member_id or "m0")[1:]) % PARTITIONS == partition]
            found |= expected([*old, *mine])[0] - expected(old, before[-1].occurred_at_ms)[0]
        return found


def main(members: int, distinct: int, count: int) -> None:
    """Answer until standard input ends."""
    with tempfile.TemporaryDirectory() as place, quiet_gc():
        bench = Bench(members, distinct, Path(place))
        say(bench.built)
        runs = 0
        for _ in sys.stdin:
            if runs == 0:
                reset_peak()
            ran = bench.run(count)
            runs += 1
            say(ran)
        bench.require_right(runs, count)


def say(what: msgspec.Struct) -> None:
    """Answer."""
    sys.stdout.write(msgspec.json.encode(what).decode() + "\n")
    sys.stdout.flush()


# ---------------------------------------------------------------- in turns


@contextlib.contextmanager
def child(members: int, distinct: int, count: int) -> Iterator[subprocess.Popen[str]]:
    """Run one such process.

    Raises:
        StateError: it failed; its message stands above.
    """
    command = [sys.executable, "-m", "benchmarks.program", "members_curve", str(members), str(distinct), str(count)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=ROOT, stdin=pipe, stdout=pipe, text=True) as process:
        try:
            yield process
        except BaseException:
            process.terminate()
            raise
        process.communicate()
        if process.returncode:
            raise StateError(f"members_curve: the process with {members:,} members failed; see its message above")


def answer(process: subprocess.Popen[str], kind: Any) -> Any:
    """Read one answer."""
    line = process.stdout.readline() if process.stdout is not None else ""
    if not line:
        raise StateError("members_curve: its process ended; see its message above")
    return msgspec.json.decode(line, type=kind)


def run(scale: Scale) -> list[Row]:
    """Measure."""
    count, distinct = scale.of(EVENTS, LEAST), scale.of(DISTINCT, LEAST)
    sizes = sorted({scale.of(size, LEAST) for size in SIZES})
    half = 0.5
    last: dict[str, Ran] = {}
    built: dict[str, Built] = {}
    with contextlib.ExitStack() as stack:
        cases: dict[str, Case] = {}
        for number, size in enumerate(sizes):
            name = f"{size:,}"
            scale.progress(half * number / len(sizes), f"filling {name}")
            process = stack.enter_context(child(size, distinct, count))
            built[name] = answer(process, Built)

            def case(name: str = name, process: subprocess.Popen[str] = process) -> Work:
                if process.stdin is None:
                    raise StateError("members_curve: its process has no input")
                process.stdin.write("\n")
                process.stdin.flush()
                ran = last[name] = answer(process, Ran)
                return Work(ran.items, ran.wall_s, ran.cpu_s, ran.peak_mb)

            cases[name] = case
        inner = Scale(scale.factor, scale.runs, lambda share, note: scale.progress(half + (1 - half) * share, note))
        rows = interleaved(cases, inner, "event")
    for row, size in zip(rows, sizes, strict=True):
        row.more = {
            "disk MiB": round(built[row.case].disk_bytes / (1 << 20), 1),
            "bytes per member": round(built[row.case].disk_bytes / size, 1),
            "disk MiB after the runs": round(last[row.case].disk_bytes / (1 << 20), 1),
            "counted MiB": round(last[row.case].counted_mb),
            "firings per event": round(last[row.case].fired / last[row.case].items, 2),
            "seconds to fill": round(built[row.case].seconds, 1),
        }
    return rows


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
