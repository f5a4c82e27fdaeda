"""The simulated disk of one worker: stores that survive a kill, lose a tail with the machine, or all with the disk."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from schemas.errors import StateError
from tables.store import Hint, MemoryStore
from tidings.simulation.world import World

Wrote = Callable[[int, "SimStore", Mapping[bytes, bytes | None]], None]

UNSYNCED_WRITES = 12  # the system syncs at the latest after so many


class SimStore(MemoryStore):
    """A store whose writes are atomic and, until synced, lost when the machine goes."""

    def __init__(self) -> None:
        super().__init__()
        self.exact = True  # False while its last write came with an unknown changelog offset
        self._synced = MemoryStore()
        self._tail: list[tuple[Any, ...]] = []

    def write(
        self,
        members: Mapping[bytes, bytes | None],
        meta: Mapping[bytes, bytes | None],
        hints: Sequence[Hint],
        changelog_offset: int | None,
    ) -> None:
        """See StateStore."""
        super().write(members, meta, hints, changelog_offset)
        self.exact = changelog_offset is not None
        self._tail.append((dict(members), dict(meta), list(hints), changelog_offset))
        if len(self._tail) > UNSYNCED_WRITES:
            self._synced.write(*self._tail.pop(0))

    def lose_tail(self, keep: int) -> None:
        """Lose the machine: all unsynced writes but the first `keep` are gone."""
        for write in self._tail[:keep]:
            self._synced.write(*write)
        self._tail = []
        self.exact = False
        self.members, self.metas = dict(self._synced.members), dict(self._synced.metas)
        self.hints, self.offset = list(self._synced.hints), self._synced.offset


class Handle:
    """An open store as one process holds it. Once closed it refuses, as RocksDB does; a write then breaks I4."""

    def __init__(self, store: SimStore, partition: int, world: World, wrote: Wrote) -> None:
        self.store = store
        self.closed = False
        self.get_many, self.meta, self.due = store.get_many, store.meta, store.due
        self.apply_changelog, self.changelog_offset = store.apply_changelog, store.changelog_offset
        self._partition = partition
        self._world = world
        self._wrote = wrote

    def write(
        self,
        members: Mapping[bytes, bytes | None],
        meta: Mapping[bytes, bytes | None],
        hints: Sequence[Hint],
        changelog_offset: int | None,
    ) -> None:
        """See StateStore."""
        if self.closed:
            self._world.accuse("I4", f"store of partition {self._partition}: written after it was given up")
            raise StateError(f"members-{self._partition}: closed")
        self.store.write(members, meta, hints, changelog_offset)
        self._wrote(self._partition, self.store, {**members, **meta})

    def close(self) -> None:
        """See StateStore."""
        self.closed = True


class Stores:
    """Stands in for tables.declare.MemberStores: the stores that one process has open on one disk."""

    def __init__(self, disk: dict[int, SimStore], world: World, wrote: Wrote) -> None:
        self._disk = disk
        self._world = world
        self._wrote = wrote
        self._open: dict[int, Handle] = {}

    def open(self, partition: int) -> Handle:
        """See MemberStores."""
        handle = self._open.get(partition)
        if handle is None:
            store = self._disk.setdefault(partition, SimStore())
            handle = self._open[partition] = Handle(store, partition, self._world, self._wrote)
        return handle

    def get(self, partition: int) -> Handle | None:
        """See MemberStores."""
        return self._open.get(partition)

    def partitions(self) -> list[int]:
        """See MemberStores."""
        return sorted(self._open)

    def close(self, partition: int) -> None:
        """See MemberStores."""
        handle = self._open.pop(partition, None)
        if handle is not None:
            handle.close()

    def close_all(self) -> None:
        """See MemberStores."""
        for partition in self.partitions():
            self.close(partition)


def lose(disk: dict[int, SimStore], world: World) -> None:
    """Lose the machine under a worker: a third of the time its disk too, else the unsynced tail of each store."""
    if world.chance(33):
        disk.clear()
        world.tell("disk lost")
        return
    for store in disk.values():
        store.lose_tail(world.rng.randrange(UNSYNCED_WRITES + 1))
    world.tell("unsynced writes lost")
