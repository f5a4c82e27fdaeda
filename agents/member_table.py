"""The table `members` as Faust sees it: recovery in batches into the partition stores, and nothing else.

Reads and writes of the engine go to the partition stores directly; the mapping interface of a Faust table is refused.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, NoReturn

import faust
from faust.stores.base import Store
from faust.types import TP

from agents.audit import require_whole
from tables.declare import MemberStores

NOTHING_APPLIED = -1

Recovered = Callable[[set[int]], None]
"""Called with the partitions that are ours and whose stores are complete."""


class StoreAdapter(Store[Any, Any]):
    """Faust's view of the partition stores: where each one stands in the changelog."""

    def __init__(self, *args: Any, stores: MemberStores, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.stores = stores

    def persisted_offset(self, tp: TP) -> int:
        """Return the last changelog offset in the store; -1 for an empty one.

        Never None: Faust would then keep the offset it remembers from an earlier assignment of this partition.
        """
        offset = self.stores.open(tp.partition).changelog_offset()
        return NOTHING_APPLIED if offset is None else offset

    def set_persisted_offset(self, tp: TP, offset: int) -> NoReturn:
        """Refuse: the offset is written only together with its data (invariant I6)."""
        raise NotImplementedError(f"members-{tp.partition}: offset set apart from its data (got {offset})")

    async def need_active_standby_for(self, tp: TP) -> bool:
        """See Faust; it never asks."""
        return True

    def reset_state(self) -> None:
        """Do nothing: state is only ever deleted by an operator, as a directory."""

    def apply_changelog_batch(
        self, batch: Iterable[Any], to_key: Callable[[Any], Any], to_value: Callable[[Any], Any]
    ) -> None:
        """Apply events whose values are lists of changelog records, each partition's in one write."""
        entries: dict[int, list[tuple[bytes, bytes | None]]] = {}
        last: dict[int, int] = {}
        for event in batch:
            partition = event.message.partition
            store = self.stores.get(partition)
            if store is None:
                continue  # revoked meanwhile: its place is read from the store again at the next assignment
            if partition not in last:
                offset = store.changelog_offset()
                last[partition] = NOTHING_APPLIED if offset is None else offset
                entries[partition] = []
            for record in event.value:
                if record.offset > last[partition]:
                    entries[partition].append((record.key, record.value))
                    last[partition] = record.offset
        for partition, found in entries.items():
            store = self.stores.get(partition)
            if found and store is not None:
                store.apply_changelog(found, last[partition])

    async def backup_partition(self, tp: TP | int, flush: bool = True, purge: bool = False, keep: int = 1) -> NoReturn:
        """Refuse: the changelog is the backup."""
        raise NotImplementedError("backup: not offered here; the changelog topic is the backup")

    def restore_backup(self, tp: TP | int, latest: bool = True, backup_id: int = 0) -> NoReturn:
        """Refuse: the changelog is the backup."""
        raise NotImplementedError("backup: not offered here; delete the directory, it is rebuilt from the changelog")


def index_standbys(stores: MemberStores, ends: Mapping[TP, int]) -> None:
    """Let standbys that have read up to these offsets, the ends of their changelogs when they began, make timer hints.

    Some at each call, as they read on: whoever takes over from a dead worker has better things to do.
    """
    for tp, end in ends.items():
        store = stores.get(tp.partition)
        if store is not None and store.restoring and (store.changelog_offset() or 0) >= end:
            store.index_hints()


class StateTable(faust.Table[Any, Any]):
    """A Faust table over MemberStores. Its hooks tell the worker which partitions are ready, and when to let go."""

    def __init__(
        self,
        app: faust.App,
        *,
        stores: MemberStores,
        **kwargs: Any,
    ) -> None:
        super().__init__(app, **kwargs)
        self.stores = stores
        self.before_assignment: Callable[[], None] | None = None
        self.release: Callable[[int], None] | None = None
        self.prepare: Callable[[int], None] | None = None
        self.recovered: Recovered | None = None
        self.audit: Callable[[str], Awaitable[None]] | None = None
        self.stopping: Callable[[], Any] | None = None

    def _new_store(self) -> StoreAdapter:
        return StoreAdapter("memory://", self.app, self, table_name=self.name, loop=self.loop, stores=self.stores)

    def clone(self, **kwargs: Any) -> "StateTable":
        """Copy the declaration; the stores are shared."""
        return type(self)(**{**self.info(), "stores": self.stores, **kwargs})

    def persisted_offset(self, tp: TP) -> int | None:
        """See StoreAdapter.persisted_offset. A store that cannot be opened ends the worker."""
        try:
            offset: int | None = self.data.persisted_offset(tp)
        except Exception as error:
            self._crash_app(error)
            raise
        return offset

    def apply_changelog_batch(self, batch: Iterable[Any]) -> None:
        """Apply records read back. Faust would only log an error and go on without them, so the app is ended."""
        try:
            super().apply_changelog_batch(batch)
            recovery: Any = self.app.tables.recovery  # type: ignore[attr-defined]
            ends = recovery.standby_highwaters
            index_standbys(self.stores, {tp: ends[tp] for tp in recovery.standby_tps if tp in ends})
        except Exception as error:
            self._crash_app(error)
            raise

    async def on_rebalance(
        self, assigned: set[TP], revoked: set[TP], newly_assigned: set[TP], generation_id: int = 0
    ) -> None:
        """Start each assignment from closed stores; opening one may mean writing down what its last life left."""
        try:
            if self.release is not None:
                for partition in self.stores.partitions():
                    self.release(partition)
                    await asyncio.sleep(0)  # the loop's turn: no two of these lie together
            if self.before_assignment is not None:
                self.before_assignment()
            standbys: set[TP] = self.app.assignor.assigned_standbys()
            for partition in sorted({tp.partition for tp in assigned | standbys}):
                self.stores.open(partition)
                await asyncio.sleep(0)
        except Exception as error:
            self._crash_app(error)
            raise
        await super().on_rebalance(assigned, revoked, newly_assigned, generation_id)

    async def on_recovery_completed(self, active_tps: set[TP], standby_tps: set[TP]) -> None:
        """Hand the partitions over to the worker. Faust drops what is raised here, so the app is ended."""
        generation, active, standby = self.app.consumer_generation_id, set(active_tps), set(standby_tps)
        try:
            await super().on_recovery_completed(active_tps, standby_tps)
            await self._require_whole(active)
            await self._index_hints({tp.partition for tp in active | standby})
            for partition in sorted({tp.partition for tp in active}):
                if self.prepare is not None and generation == self.app.consumer_generation_id:
                    self.prepare(partition)
                    await asyncio.sleep(0)
            if generation != self.app.consumer_generation_id:
                return  # the group rebalanced meanwhile; a recovery for the new assignment follows
            if self.recovered is not None:
                self.recovered({tp.partition for tp in active})
            if self.audit is not None:
                await self.audit(self.changelog_topic.get_topic_name())
        except Exception as error:
            if generation == self.app.consumer_generation_id:
                self._crash_app(error)

    async def _require_whole(self, active: set[TP]) -> None:
        if not active:
            return
        ends = await self.app.consumer.highwaters(*active)
        recovery: Any = self.app.tables.recovery  # type: ignore[attr-defined]
        read: dict[TP, int | None] = {}
        for tp in active:
            # Faust's own place lies beyond the store's where the changelog's head was compacted away.
            places = (self.stores.open(tp.partition).changelog_offset(), recovery.active_offsets.get(tp))
            read[tp] = max((place for place in places if place is not None), default=None)
        require_whole(ends, read)

    async def _index_hints(self, partitions: set[int]) -> None:
        """Make the timer hints of stores that were filled from nothing, in turns with the loop's other work.

        A store closed by a rebalance meanwhile goes on where it is opened next.
        """
        for partition in sorted(partitions):
            while (store := self.stores.get(partition)) is not None and store.index_hints():
                await asyncio.sleep(0)
            await asyncio.sleep(0)  # the last piece closes and opens the store

    async def on_stop(self) -> None:
        """Let the worker finish, then close every store."""
        if self.stopping is not None:
            await self.stopping()
        self.stores.close_all()
        await super().on_stop()

    def _crash_app(self, error: Exception) -> None:
        self.app.loop.create_task(self.app.crash(error))

    def info(self) -> Mapping[str, Any]:
        """See Faust."""
        return {**super().info(), "stores": self.stores}
