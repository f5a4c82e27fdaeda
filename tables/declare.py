"""Where the engine's one table lives on disk. Its permanent name and topic: `agents/topics.py`."""

from pathlib import Path

from tables.codec import fire_at_of
from tables.rocks import DirectoryLock, RocksResources, RocksStore
from tables.store import FireAt

DIRECTORY = "engine"
TABLE_FILE = "members-{partition}.db"


class MemberStores:
    """The open partition stores of one process, under `{data_dir}/engine/members-{p}.db`; one process per directory.

    Args:
        data_dir: this worker's own data directory, created when missing.
        fire_at: how timer hints are derived from records read back from the changelog.

    Raises:
        StateError: another process uses the directory.
    """

    def __init__(self, data_dir: Path, resources: RocksResources | None = None, fire_at: FireAt = fire_at_of) -> None:
        self.directory = data_dir / DIRECTORY
        self._lock: DirectoryLock | None = DirectoryLock(self.directory)
        self._resources = resources or RocksResources()
        self._fire_at = fire_at
        self._open: dict[int, RocksStore] = {}

    def open(self, partition: int) -> RocksStore:
        """Return the store of a partition, opening it when it is not open yet."""
        store = self._open.get(partition)
        if store is None:
            path = self.directory / TABLE_FILE.format(partition=partition)
            store = self._open[partition] = RocksStore(path, self._resources, self._fire_at)
        return store

    def get(self, partition: int) -> RocksStore | None:
        """Return the store of a partition if it is open."""
        return self._open.get(partition)

    def partitions(self) -> list[int]:
        """List the partitions whose stores are open."""
        return sorted(self._open)

    def close(self, partition: int) -> None:
        """Close one store; nothing happens when it is not open."""
        store = self._open.pop(partition, None)
        if store is not None:
            store.close()

    def close_all(self) -> None:
        """Close every store and let another process use the directory. May be called twice."""
        for partition in self.partitions():
            self.close(partition)
        if self._lock is not None:
            self._lock.release()
            self._lock = None
