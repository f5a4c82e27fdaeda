"""Counters and histograms of one engine worker: plain values, filled by the worker, rendered by the web side."""

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from operator import attrgetter

from schemas.commands import Command
from streams.epoch import Epoch

EPOCH_BOUNDS_MS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000)
LATENCY_BOUNDS_MS = (1, 2, 5, 10, 20, 30, 50, 75, 100, 150, 200, 300, 500, 1_000, 2_000, 5_000, 10_000, 60_000)

_CAUSED_AT = attrgetter("caused_at_ms")
_WHAT = attrgetter("outcome", "reason")


class Histogram:
    """Counts per bucket; `counts[i]` holds values <= `bounds[i]` and above the bound before, the last one the rest."""

    def __init__(self, bounds: tuple[int, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def add(self, value: float, times: int = 1) -> None:
        """Count a value `times` times."""
        self.counts[bisect_left(self.bounds, value)] += times
        self.total += value * times

    @property
    def count(self) -> int:
        """How many values were added."""
        return sum(self.counts)

    def cumulative(self) -> list[tuple[float, int]]:
        """List (upper bound, values up to it), the last bound infinite: what Prometheus calls buckets."""
        rows: list[tuple[float, int]] = []
        running = 0
        for bound, count in zip((*self.bounds, float("inf")), self.counts, strict=True):
            running += count
            rows.append((float(bound), running))
        return rows


@dataclass
class EngineMetrics:
    """What one engine worker did since it started.

    `foreign_writes`: late writes of another worker found in our changelog and repaired; `rewound_records`: committed
    records read again because the state was behind; `lost_records`: deleted from the log before they were applied.

    `decisions` counts by `outcome:reason`, `dead_letters` by reason, `counters` by the engine's own names. Per owned
    partition: `lag` is records appended but not yet applied, `stalled_ms` for how long there was lag and no progress (a
    probe should restart the worker when that grows beyond a minute), `next_fire_ms` the earliest pending timer's clock
    value. `epoch_ms` spans from the start of computing an epoch until it is durable, `command_latency_ms` from the
    append of the deciding record until the broker acked the command.
    """

    records: int = 0
    batches: int = 0
    epochs: int = 0
    ticks: int = 0
    commands: int = 0
    attributions: int = 0
    members_written: int = 0
    rebalances: int = 0
    abandoned_batches: int = 0
    foreign_writes: int = 0
    rewound_records: int = 0
    lost_records: int = 0
    decisions: Counter[str] = field(default_factory=Counter)
    dead_letters: Counter[str] = field(default_factory=Counter)
    counters: Counter[str] = field(default_factory=Counter)
    lag: dict[int, int] = field(default_factory=dict)
    stalled_ms: dict[int, int] = field(default_factory=dict)
    next_fire_ms: dict[int, int | None] = field(default_factory=dict)
    epoch_ms: Histogram = field(default_factory=lambda: Histogram(EPOCH_BOUNDS_MS))
    command_latency_ms: Histogram = field(default_factory=lambda: Histogram(LATENCY_BOUNDS_MS))

    def commands_acked(self, commands: Iterable[Command], now_ms: int) -> None:
        """Count commands whose acks have just arrived."""
        for caused, times in Counter(map(_CAUSED_AT, commands)).items():  # of one record there may be thousands
            self.commands += times
            self.command_latency_ms.add(max(0, now_ms - caused), times)

    def epoch_durable(self, epoch: Epoch, batches: int, took_ms: float) -> None:
        """Count an epoch whose records are applied for good."""
        self.records += epoch.record_count
        self.batches += batches
        self.epochs += 1
        self.attributions += len(epoch.attributions)
        self.members_written += len(epoch.members)
        for (outcome, reason), times in Counter(map(_WHAT, epoch.decisions)).items():
            self.decisions[f"{outcome}:{reason}"] += times
        self.dead_letters.update(letter.reason for letter in epoch.dead_letters)
        self.counters.update(epoch.counters)
        self.epoch_ms.add(took_ms)

    def release(self, partition: int) -> None:
        """Forget the gauges of a partition that is no longer ours."""
        self.lag.pop(partition, None)
        self.stalled_ms.pop(partition, None)
        self.next_fire_ms.pop(partition, None)
