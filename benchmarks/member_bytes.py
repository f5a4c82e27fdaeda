"""How many bytes does one member take?"""

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.harness import Row, Scale, quantile
from benchmarks.replay_speed import PATTERN, plan_of
from benchmarks.workload import w
from schemas.codec import encode_event
from schemas.events import Record
from streams.engine import PartitionEngine
from tables.rocks import RocksStore
from tables.store import Hint
from tidings.collector import quiet_gc

NAME = "member_bytes"
QUESTION = "How many bytes does a member's record take after 4 h of workload W, encoded and on disk?"
METHOD = (
    "Workload W through the engine with all outputs, epochs of 4,096 records. Encoded: the record's bytes as the last "
    "epoch that touched it wrote them, without its key. On disk: all records, hints and meta in one RocksDB as the "
    "worker opens it, files after close, log included. No timing; the same at every run."
)
EVENTS, MEMBERS = 1_000_000, 100_000
BATCH = 4_096


class KeptBytes:
    """A store of members' newest bytes and their hints, fast enough for any number; asked for nothing else."""

    def __init__(self) -> None:
        self.members: dict[bytes, bytes] = {}
        self.hints: dict[bytes, int | None] = {}
        self.metas: dict[bytes, bytes | None] = {}

    def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """See StateStore."""
        return [self.members.get(key) for key in keys]

    def meta(self) -> dict[bytes, bytes]:
        """See StateStore: begins empty."""
        return {}

    def due(self, after: tuple[int, bytes] | None, limit: int) -> list[tuple[int, bytes]]:
        """See StateStore: begins empty, and the engine keeps its own queue from then on."""
        return []

    def write(
        self,
        members: Mapping[bytes, bytes | None],
        meta: Mapping[bytes, bytes | None],
        hints: Sequence[Hint],
        changelog_offset: int | None,
    ) -> None:
        """See StateStore."""
        for key, value in members.items():
            if value is None:
                self.members.pop(key, None)
            else:
                self.members[key] = value
        self.metas.update(meta)
        self.hints.update((key, new) for key, _, new in hints)

    def changelog_offset(self) -> int | None:
        """See StateStore."""
        return None

    def close(self) -> None:
        """See StateStore."""


def on_disk(store: KeptBytes) -> int:
    """Write it all to a RocksDB in a directory that is deleted afterwards; bytes of its files."""
    with tempfile.TemporaryDirectory() as place:
        rocks = RocksStore(Path(place) / "members.db")
        keys = list(store.members)
        for start in range(0, len(keys), BATCH):
            chunk = keys[start : start + BATCH]
            hints: list[Hint] = [(key, None, store.hints.get(key)) for key in chunk]
            rocks.write({key: store.members[key] for key in chunk}, store.metas, hints, start)
        rocks.close()
        return sum(path.stat().st_size for path in Path(place).rglob("*") if path.is_file())


def run(scale: Scale) -> list[Row]:
    """Measure."""
    count = scale.of(EVENTS)
    store = KeptBytes()
    engine = PartitionEngine(0, store, campaigns=[plan_of("browse_abandon", PATTERN)])
    batch: list[Record] = []
    written = 0
    with quiet_gc():
        for offset, event in enumerate(w(1, count, scale.of(MEMBERS))):
            batch.append(Record(offset, event.occurred_at_ms, None, encode_event(event)))
            if len(batch) == BATCH or offset == count - 1:
                epoch = engine.run(batch)
                written += sum(len(value) for value in epoch.members.values() if value is not None)
                store.write(epoch.members, epoch.meta, epoch.hints, None)
                engine.written(epoch)
                batch = []
                scale.progress(offset / count * 0.9, "applying")
    sizes = sorted(len(value) for value in store.members.values())
    members = len(sizes)
    mean = sum(sizes) / members
    encoded = Row(case="encoded", unit="member", items=members, gated=mean)
    encoded.more = {
        "mean": round(mean, 1),
        "p50": quantile(sizes, 0.5),
        "p99": quantile(sizes, 0.99),
        "most": sizes[-1],
        "key": round(sum(map(len, store.members)) / members, 1),
        "changelog bytes per event": round(written / count, 1),
    }
    disk = on_disk(store) / members
    return [encoded, Row(case="on disk", unit="member", items=members, gated=disk, more={"mean": round(disk, 1)})]
