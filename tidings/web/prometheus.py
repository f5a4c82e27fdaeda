"""What Prometheus reads: metric families, and their text (exposition format 0.0.4). Times leave in seconds.

Names are an interface: dashboards and alerts stand on them. `docs/operating.md` lists each one.
"""

import os
import platform
import resource
import sys
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import TYPE_CHECKING

from agents.metrics import Histogram
from agents.records import Counters
from streams.registry import SUSPENDED
from tidings import VERSION
from tidings.compiled import spelled

if TYPE_CHECKING:  # Faust takes 0.7 s to import, and only engines need it
    from agents.wiring import EngineApp

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
COUNTER, GAUGE, HISTOGRAM = "counter", "gauge", "histogram"
SECOND_MS = 1000
# A mail may wait for its provider for hours.
DELAY_BOUNDS_MS = (50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 30_000, 60_000, 300_000, 1_800_000, 7_200_000)
_STARTED_S = time.time()

Labels = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Family:
    """One metric. `samples`: (suffix of the name, labels, value)."""

    name: str
    kind: str
    help: str
    samples: list[tuple[str, Labels, float]] = field(default_factory=list)


def counter(name: str, text: str, value: float | Iterable[tuple[Labels, float]]) -> Family:
    """Make a counter; its name ends in `_total`."""
    return Family(name, COUNTER, text, _samples(value))


def gauge(name: str, text: str, value: float | Iterable[tuple[Labels, float]]) -> Family:
    """Make a gauge."""
    return Family(name, GAUGE, text, _samples(value))


def histogram(name: str, text: str, filled: Histogram) -> Family:
    """Make a histogram in seconds from one in milliseconds."""
    rows = filled.cumulative()
    samples: list[tuple[str, Labels, float]] = [
        ("_bucket", {"le": _number(bound / SECOND_MS)}, count) for bound, count in rows
    ]
    samples += [("_sum", {}, filled.total / SECOND_MS), ("_count", {}, rows[-1][1])]
    return Family(name, HISTOGRAM, text, samples)


def render(families: Iterable[Family]) -> str:
    """Write families as text."""
    lines: list[str] = []
    for family in families:
        text = family.help.replace("\\", r"\\").replace("\n", r"\n")
        lines += [f"# HELP {family.name} {text}", f"# TYPE {family.name} {family.kind}"]
        for suffix, labels, value in family.samples:
            pairs = ",".join(f'{name}="{_escaped(text)}"' for name, text in labels.items())
            lines.append(f"{family.name}{suffix}{'{' + pairs + '}' if pairs else ''} {_number(value)}")
    return "\n".join(lines) + "\n"


def process_families(role: str, ready: bool) -> list[Family]:
    """What every role tells: the build, whether it is ready, memory, processor time."""
    build = {"version": VERSION, "python": platform.python_version(), "faust": version("faust-streaming"), "role": role}
    build["core"] = spelled()
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return [
        gauge("tidings_build_info", "Versions of this process; always 1.", [(build, 1)]),
        gauge("tidings_ready", "1 while /ready answers 200.", int(ready)),
        gauge("process_start_time_seconds", "Start of this process, seconds since the epoch.", _STARTED_S),
        counter("process_cpu_seconds_total", "Processor time used.", usage.ru_utime + usage.ru_stime),
        gauge("process_resident_memory_bytes", "Memory held.", _resident_bytes(usage.ru_maxrss)),
    ]


def engine_families(built: "EngineApp") -> list[Family]:
    """What an engine worker did since its start, and where each of its partitions stands."""
    metrics = built.metrics
    return [
        counter("tidings_records_total", "Records of events made durable.", metrics.records),
        counter("tidings_batches_total", "Fetched batches made durable.", metrics.batches),
        counter("tidings_epochs_total", "Epochs made durable.", metrics.epochs),
        counter("tidings_members_written_total", "Member records written.", metrics.members_written),
        counter("tidings_commands_total", "Commands acknowledged by the broker.", metrics.commands),
        counter("tidings_attributions_total", "Attributions made durable.", metrics.attributions),
        counter("tidings_ticks_total", "Ticks appended to idle partitions.", metrics.ticks),
        counter("tidings_rebalances_total", "Times the broker took partitions away.", metrics.rebalances),
        counter(
            "tidings_foreign_writes_total",
            "Late writes of another worker in our changelog, repaired.",
            metrics.foreign_writes,
        ),
        counter(
            "tidings_rewound_records_total",
            "Committed records read again, the state was behind.",
            metrics.rewound_records,
        ),
        counter("tidings_lost_records_total", "Records deleted before they were applied.", metrics.lost_records),
        counter("tidings_abandoned_batches_total", "Batches let go, to be read again.", metrics.abandoned_batches),
        counter(
            "tidings_decisions_total",
            "Decisions by outcome and reason.",
            [(_decision(name), count) for name, count in sorted(metrics.decisions.items())],
        ),
        counter("tidings_dead_letters_total", "Refused records by reason.", _by("reason", metrics.dead_letters)),
        counter("tidings_engine_total", "The engine's own counts by name.", _by("name", metrics.counters)),
        histogram("tidings_epoch_seconds", "From computing an epoch until it is durable.", metrics.epoch_ms),
        histogram(
            "tidings_command_latency_seconds",
            "From the append of the deciding record until the broker acknowledged the command.",
            metrics.command_latency_ms,
        ),
        gauge(
            "tidings_campaigns_suspended",
            "Partitions of this worker on which a campaign is stopped because it raised too often.",
            [({"campaign": name}, count) for name, count in sorted(_suspended(built).items())],
        ),
        *_memory_families(built),
        *_partition_families(built),
    ]


def _memory_families(built: "EngineApp") -> list[Family]:
    memory = built.memory
    if memory is None:
        return []
    used = memory.used(built.worker.consumer.tracker.held_bytes)
    return [
        gauge("tidings_memory_bytes", "What data takes in memory, counted.", _by("part", used)),
        gauge("tidings_memory_limit_bytes", "How much of it there may be.", _by("part", memory.most())),
    ]


def _suspended(built: "EngineApp") -> Counter[str]:
    engines = [built.worker.engine_of(partition) for partition in built.worker.tasks]
    rows = [row for engine in engines if engine is not None for row in engine.campaigns_view()]
    return Counter(row["campaign"] for row in rows if row["state"] == SUSPENDED)


def _partition_families(built: "EngineApp") -> list[Family]:
    metrics = built.metrics
    engines = {p: engine for p in sorted(built.worker.tasks) if (engine := built.worker.engine_of(p)) is not None}
    stores = {p: store.estimates() for p in engines if (store := built.stores.get(p)) is not None}
    nexts = {p: due / SECOND_MS for p, due in sorted(metrics.next_fire_ms.items()) if due is not None}
    stalled = {p: waited / SECOND_MS for p, waited in metrics.stalled_ms.items()}
    clocks = {p: engine.clock_ms / SECOND_MS for p, engine in engines.items()}
    return [
        gauge("tidings_partitions", "Partitions that this worker runs.", len(engines)),
        gauge("tidings_lag_records", "Records appended and not yet applied.", _each(metrics.lag)),
        gauge("tidings_stalled_seconds", "For how long there was lag and no progress.", _each(stalled)),
        gauge(
            "tidings_applied_offset", "Last record applied.", _each({p: e.applied_offset for p, e in engines.items()})
        ),
        gauge("tidings_clock_timestamp_seconds", "The partition's clock, seconds since the epoch.", _each(clocks)),
        gauge("tidings_next_timer_timestamp_seconds", "Clock value at which the next timer fires.", _each(nexts)),
        gauge(
            "tidings_timers_pending",
            "Members with a pending timer (RocksDB's estimate).",
            _each({p: timers for p, (_, timers) in stores.items()}),
        ),
        gauge(
            "tidings_store_bytes",
            "Member records, timers and meta (RocksDB's estimate).",
            _each({p: size for p, (size, _) in stores.items()}),
        ),
    ]


def sink_families(counters: Counters | None) -> list[Family]:
    """What a sink did since its start; nothing before its database is open."""
    if counters is None:
        return []
    return [
        counter("tidings_sink_records_total", "Records inserted and committed.", counters.records),
        counter("tidings_sink_inserts_total", "Blocks inserted.", counters.inserts),
        counter("tidings_sink_rows_total", "Rows inserted by table.", _by("table", counters.rows)),
        counter(
            "tidings_sink_undecodable_total", "Records without a row by reason.", _by("reason", counters.undecodable)
        ),
        counter("tidings_sink_repeated_ranges_total", "Ranges of a predecessor done again.", counters.repeated_ranges),
        counter("tidings_sink_failures_total", "Failed attempts.", counters.failures),
        gauge(
            "tidings_sink_outage",
            "1 while ClickHouse or the broker does not take what is in hand.",
            int(counters.outage),
        ),
        gauge("tidings_sink_lag_records", "Records known to be behind.", counters.lag),
    ]


DELIVERY_HELP: Mapping[str, str] = {  # by the name under which delivery counts
    "delivery_outcomes": "Receipts written by status and reason.",
    "delivery_repeated": "Commands read again that were already done.",
    "delivery_uncertain": "Attempts whose outcome was not known for certain.",
    "delivery_cancel_late": "Cancels that came after the message was sent.",
    "delivery_dead_letters": "Commands that could not be read, by reason.",
    "unsubscribe_requests": "Requests to unsubscribe links by status.",
    "receipt_requests": "Requests of providers that tell what came of a message, by status.",
    "receipts_told": "What providers told, by type of the event.",
    "tracking_requests": "Clicks and opens by kind and status.",
    "sms_ids_lost": "Ids of text messages that could not be noted: their receipts find nothing.",
    "tracking_lost": "Clicks and opens that could not be written.",
    "call_requests": "Requests of operators by kind and status.",
    "inbox_requests": "Requests to inboxes by kind and status.",
    "inbox_streams": "Streams of inboxes that are open.",
    "delivery_under_way": "Commands between reading and the end.",
    "delivery_parked": "Commands put aside because their provider has its share of the lane in hand.",
    "delivery_provider_up": "0 while the provider does not answer.",
    "delivery_delay_ms": "From the append of the deciding record until the provider took the message.",
}


class DeliveryRecorder:
    """Where delivery counts (see `agents.send_one.Metrics`), and what Prometheus reads of it."""

    def __init__(self) -> None:
        # There from the start: an alert on a series that does not exist yet never fires.
        self._counts: dict[str, dict[tuple[tuple[str, str], ...], int]] = {
            "delivery_outcomes": {},
            "delivery_dead_letters": {},
            "unsubscribe_requests": {},
            "receipt_requests": {},
            "receipts_told": {},
            "tracking_requests": {},
            "inbox_requests": {},
            "call_requests": {},
            **{
                name: {(): 0}
                for name in (
                    "delivery_repeated",
                    "delivery_uncertain",
                    "delivery_cancel_late",
                    "sms_ids_lost",
                    "tracking_lost",
                )
            },
        }
        self._gauges: dict[str, dict[tuple[tuple[str, str], ...], float]] = {
            "delivery_under_way": {},
            "delivery_parked": {},
            "delivery_provider_up": {},
            "inbox_streams": {},
        }
        self._histograms = {"delivery_delay_ms": Histogram(DELAY_BOUNDS_MS)}

    def count(self, name: str, by: int = 1, **labels: str) -> None:
        """Add to a counter."""
        series = self._counts.setdefault(name, {})
        key = tuple(sorted(labels.items()))
        series[key] = series.get(key, 0) + by

    def gauge(self, name: str, value: float, **labels: str) -> None:
        """Set a gauge."""
        self._gauges.setdefault(name, {})[tuple(sorted(labels.items()))] = value

    def observe(self, name: str, value: float) -> None:
        """Add to a histogram; milliseconds."""
        if name not in self._histograms:
            self._histograms[name] = Histogram(DELAY_BOUNDS_MS)
        self._histograms[name].add(value)

    def families(self) -> list[Family]:
        """List what was counted; a name that `DELIVERY_HELP` does not know is its own help."""
        found = [
            counter(f"tidings_{name}_total", _help(name), [(dict(key), value) for key, value in sorted(series.items())])
            for name, series in sorted(self._counts.items())
        ]
        found += [
            gauge(f"tidings_{name}", _help(name), [(dict(key), value) for key, value in sorted(series.items())])
            for name, series in sorted(self._gauges.items())
        ]
        found += [
            histogram(f"tidings_{name.removesuffix('_ms')}_seconds", _help(name), filled)
            for name, filled in sorted(self._histograms.items())
        ]
        return found


def _help(name: str) -> str:
    return DELIVERY_HELP.get(name, name.replace("_", " "))


def _samples(value: float | Iterable[tuple[Labels, float]]) -> list[tuple[str, Labels, float]]:
    if isinstance(value, int | float):
        return [("", {}, value)]
    return [("", labels, number) for labels, number in value]


def _each(values: Mapping[int, float]) -> list[tuple[Labels, float]]:
    return [({"partition": str(partition)}, value) for partition, value in sorted(values.items())]


def _by(label: str, counts: Mapping[str, int]) -> list[tuple[Labels, float]]:
    return [({label: name}, count) for name, count in sorted(dict(counts).items())]


def _decision(name: str) -> Labels:
    outcome, _, reason = name.partition(":")
    return {"outcome": outcome, "reason": reason}


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")


def _number(value: float) -> str:
    if value == float("inf"):
        return "+Inf"
    return str(value) if isinstance(value, int) else repr(float(value))


def _resident_bytes(peak: int) -> int:
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:  # no Linux: the peak, which macOS counts in bytes and others in KiB
        return peak if sys.platform == "darwin" else peak * 1024
