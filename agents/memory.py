"""How an engine worker's memory is dealt out, and how much of it is in use, by counting.

One bound for what grows with data. The process itself (Python, Faust, code) and what is on its way through it, the
objects of the epochs under way, come on top: docs/operating.md says how much.
"""

from dataclasses import dataclass

from agents.batching import HELD_BYTES_MAX
from tables.hot import HotBudget
from tables.rocks import RocksResources

MIB = 1 << 20
DEFAULT_MIB = 512
_MEMBERS_SHARE = 2  # half: a decoded member saves a read and a decode, the dearest thing an event can ask for
_FETCHED_SHARE = 8
_WRITE_BUFFERS_SHARE = 2  # of RocksDB's part: the rest of its cache is then never less than the other half


@dataclass(frozen=True)
class EngineMemory:
    """What the parts of one worker may take together, in bytes, over all its partitions.

    `members`: decoded members. `rocksdb`: blocks, and memtables, which are charged to the same cache. `fetched`:
    records fetched and not yet durable.
    """

    members: int
    rocksdb: int
    fetched: int

    @classmethod
    def of(cls, total_mib: int = DEFAULT_MIB) -> "EngineMemory":
        """Deal out a total."""
        total = total_mib * MIB
        members, fetched = total // _MEMBERS_SHARE, min(HELD_BYTES_MAX, total // _FETCHED_SHARE)
        return cls(members, total - members - fetched, fetched)


class WorkerMemory:
    """The parts themselves, and what is in use of each.

    Args:
        limits: their bounds.
    """

    def __init__(self, limits: EngineMemory) -> None:
        self.limits = limits
        self.hot = HotBudget(limits.members)
        self.resources = RocksResources(limits.rocksdb, limits.rocksdb // _WRITE_BUFFERS_SHARE)

    def used(self, fetched: int) -> dict[str, int]:
        """Return bytes in use by part; what is fetched and not yet durable is the consumer's to know."""
        return {"members": self.hot.held, "rocksdb": self.resources.used(), "fetched": fetched}

    def most(self) -> dict[str, int]:
        """Return the bound of each part."""
        return {"members": self.limits.members, "rocksdb": self.limits.rocksdb, "fetched": self.limits.fetched}
