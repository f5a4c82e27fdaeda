"""How many bytes does one member take?"""

import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from benchmarks.harness import Row, Scale, quantile
from benchmarks.replay_speed import PATTERN, plan_of
from benchmarks.workload import w
from schemas.codec import encode_event
from schemas.errors import StateError
from schemas.events import Record
from streams.engine import PartitionEngine
from tables.codec import decode_member, encode_member
from tables.rocks import RocksStore
from tables.store import Hint, MemoryStore
from tidings.collector import quiet_gc

NAME = "member_bytes"
QUESTION = "How many bytes does a member's record take after 4 h of workload W, encoded and on disk?"
METHOD = (
    "Workload W through the engine with all outputs, epochs of 4,096 records. Encoded: the record's bytes as the last "
    "epoch that touched it wrote them, without its key; then the share of each field. On disk: all records, hints and "
    "meta in one RocksDB as the worker opens it, data files after compaction. These sizes are the same at every run. "
    "Codec: CPU of one decode and one encode, the best of five."
)
EVENTS, MEMBERS = 1_000_000, 100_000
BATCH = 4_096


# Fields of a record in their order; those of a campaign follow `plans`, of which they are parts.
FIELDS = ("format", "fire_at_ms", "applied", "base_ms", "places", "recent", "plans", "history", "profile", "notes",
          "touches")  # fmt: skip
PLAN_FIELDS = ("plans: instances", "plans: late", "plans: fired_ids", "plans: fired", "plans: counts")


def state_of_w(
    members: int,
    events_each: int = EVENTS // MEMBERS,
    progress: Callable[[float], None] = lambda share: None,
    later_ms: int = 0,
) -> MemoryStore:
    """Run workload W through the engine, so much later than it is written down."""
    count = members * events_each
    store = MemoryStore()
    engine = PartitionEngine(0, store, campaigns=[plan_of("browse_abandon", PATTERN)])
    batch: list[Record] = []
    with quiet_gc():
        for offset, event in enumerate(w(1, count, members)):
            event.occurred_at_ms += later_ms
            batch.append(Record(offset, event.occurred_at_ms, None, encode_event(event)))
            if len(batch) == BATCH or offset == count - 1:
                epoch = engine.run(batch)
                store.write(epoch.members, epoch.meta, epoch.hints, offset)
                engine.written(epoch)
                batch = []
                progress(offset / count)
    return store


def by_field(records: Iterable[bytes]) -> dict[str, int]:
    """Add up the bytes of each field, those of campaigns apart."""
    pack, unpack = msgspec.msgpack.Encoder().encode, msgspec.msgpack.Decoder(list[Any]).decode
    found: Counter[str] = Counter()
    for record in records:
        fields = dict(zip(FIELDS, unpack(record), strict=False))
        for state in fields.pop("plans", {}).values():
            found.update({name: len(pack(part)) for name, part in zip(PLAN_FIELDS, state, strict=False)})
        found.update({name: len(pack(field)) for name, field in fields.items()})
    return dict(found)


def on_disk(store: MemoryStore) -> tuple[int, int]:
    """Write it all to a RocksDB in a directory that is deleted afterwards; bytes of its files, settled and not."""
    with tempfile.TemporaryDirectory() as place:
        rocks = RocksStore(Path(place) / "members.db")
        keys, due = list(store.members), {key: at for at, key in store.hints}
        for start in range(0, len(keys), BATCH):
            chunk = keys[start : start + BATCH]
            hints: list[Hint] = [(key, None, due.get(key)) for key in chunk]
            rocks.write({key: store.members[key] for key in chunk}, store.metas, hints, start)
        rocks.close()
        as_written = files_bytes(Path(place))
        rocks = RocksStore(Path(place) / "members.db")
        rocks.settle()
        settled = sum(rocks.file_bytes())
        rocks.close()
        return settled, as_written


def files_bytes(place: Path) -> int:
    """Add up the sizes of all files below a directory."""
    return sum(path.stat().st_size for path in place.rglob("*") if path.is_file())


def microseconds(records: Mapping[bytes, bytes]) -> tuple[float, float]:
    """Measure CPU per decode and per encode: the best of five, for the lowest is the least disturbed."""
    chosen = [(key.decode(), record) for key, record in list(records.items())[:4_000]]
    best = [float("inf"), float("inf")]
    with quiet_gc():
        for _ in range(5):
            began = time.process_time()
            members = [decode_member(member_id, record) for member_id, record in chosen]
            between = time.process_time()
            again = [encode_member(member, member.hint) for member in members]
            best = [min(best[0], between - began), min(best[1], time.process_time() - between)]
            if again != [record for _, record in chosen]:
                raise StateError("member_bytes: a record decoded and encoded is another one")
    return best[0] / len(chosen) * 1e6, best[1] / len(chosen) * 1e6


def run(scale: Scale) -> list[Row]:
    """Measure."""
    store = state_of_w(scale.of(MEMBERS), progress=lambda share: scale.progress(share * 0.9, "applying"))
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
    }
    fields = Row(case="by field", unit="member", items=members)
    fields.more = {name: round(size / members, 1) for name, size in sorted(by_field(store.members.values()).items())}
    settled, as_written = (size / members for size in on_disk(store))
    disk = Row(case="on disk", unit="member", items=members, gated=settled)
    disk.more = {"compacted": round(settled, 1), "right after writing, log included": round(as_written, 1)}
    decode_us, encode_us = microseconds(store.members)
    speed = Row(case="codec", unit="member", items=members)
    speed.more = {"decode CPU us": round(decode_us, 1), "encode CPU us": round(encode_us, 1)}
    return [encoded, fields, disk, speed]
