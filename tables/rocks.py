"""The local store of one partition on RocksDB (rocksdict). Implements `tables.store.StateStore`.

Column families: `default` member records, `timers` hints (due_ms as 8 bytes big-endian, then the member key; empty
value), `meta` the engine's meta entries (keys start with a zero byte) and our own three (keys start with 0xff).
The write-ahead log is on, its fsync off: a crash of the process loses nothing, a crash of the machine falls back to
the changelog, whose last covered offset lies in the same write batch as the data it covers (invariant I6).

An empty store is filled from the changelog without hints, without a look at what was there, without write-ahead log
and next to no compaction; `index_hints` makes the hints at the end. A mark in `meta` stands from before the first
record of such a restore until all hints are there. The offset it has come to is written once what lies before it is in
files: after a crash the records from there on are read again, which changes nothing where they lie in files as well.
"""

import contextlib
import fcntl
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import rocksdict

from schemas.errors import StateError
from tables.codec import fire_at_of
from tables.store import META_PREFIX, Entries, FireAt, Hint, fold_changelog, split_entries

FORMAT = 1
REBUILD = "stop the worker and run: python -m tidings tables rebuild (it is rebuilt from the changelog)"
_OTHERS = ("timers", "meta")  # column families beside the default one
_FORMAT_KEY = b"\xffformat"
_OFFSET_KEY = b"\xffchangelog-offset"
_RESTORE_KEY = b"\xffrestore"  # present from the first record of a restore until all hints are made
_DUE_BYTES = 8
_DUE_LIMIT = 1 << 63

DEFAULT_CACHE_BYTES = 256 << 20  # shared by every partition of the process; stream.md §4
DEFAULT_WRITE_BUFFER_BYTES = 256 << 20  # charged to the cache above
_MEMTABLE_BYTES = 16 << 20
_ARENA_BYTES = 256 << 10  # each of three families of each partition takes one with its first write; RocksDB: 1 MiB
_MAX_OPEN_FILES = 256
_BLOOM_BITS = 10
# Measured on workload W, bytes per member on disk and CPU of a read: 4 KiB lz4 241 and 2.3 us, 8 KiB zstd 183 and 4.6,
# with a dictionary 175 and 5.2, 16 KiB with a dictionary 172; a larger block also means that a cold read caches more.
_BLOCK_BYTES = 8 << 10
_DICTIONARY_BYTES = 16 << 10
_TRAINING_BYTES = 100 * _DICTIONARY_BYTES  # what zstd's authors advise
_ZSTD_WINDOW_BITS, _ZSTD_LEVEL, _ZSTD_STRATEGY = -14, 3, 0  # RocksDB's own choices
_INDEX_CHUNK = 16_384
_LOOSE_BYTES = 64 << 20  # of records restored since the offset was written: what a crash has to read again
# Files that a restore leaves uncompacted must not make the first writes wait; reads ask each one's filter meanwhile.
_LEVEL0_FILES = 1_000
_FILLED_FILES = 64  # compacted together while a restore goes on: a standby may go on for days


def _passing() -> Any:
    """Read what is read once: without pushing out of the cache what is read again."""
    options: Any = rocksdict.ReadOptions()  # its stub knows fill_cache without an argument
    options.fill_cache(False)
    return options


def _without_log() -> Any:
    options: Any = rocksdict.WriteOptions()
    options.disable_wal = True
    return options


def _on_disk() -> Any:
    options: Any = rocksdict.WriteOptions()
    options.sync = True
    return options


_PASSING = _passing()
_WITHOUT_LOG = _without_log()
_ON_DISK = _on_disk()


class RocksResources:
    """What all partitions of one process share: a block cache and a budget for memtables inside it."""

    def __init__(
        self,
        cache_bytes: int = DEFAULT_CACHE_BYTES,
        write_buffer_bytes: int = DEFAULT_WRITE_BUFFER_BYTES,
    ) -> None:
        self.cache = rocksdict.Cache(cache_bytes)
        self.write_buffers = rocksdict.WriteBufferManager.new_write_buffer_manager_with_cache(
            write_buffer_bytes, False, self.cache
        )

    def used(self) -> int:
        """Return the bytes of blocks and memtables held now."""
        return int(self.cache.get_usage())


class DirectoryLock:
    """One process per data directory. Held by the kernel, so a killed process leaves no stale lock behind."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._path = directory / "LOCK"
        self._file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._file)
            self._file = -1
            raise StateError(
                f"{directory}: another worker uses this data directory; stop it, or give this worker its own"
            ) from error

    def release(self) -> None:
        """Let another process in. May be called twice."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1


class RocksStore:
    """Member records, hints and meta of one partition under `path` (created when missing).

    Args:
        path: directory of this partition's database.
        resources: shared caches; None makes private ones of default size.
        fire_at: how hints are derived from records while the changelog is applied.

    Raises:
        StateError: locked by another process, corrupt, or written by a newer build.
    """

    def __init__(self, path: Path, resources: RocksResources | None = None, fire_at: FireAt = fire_at_of) -> None:
        self._path = path
        self._fire_at = fire_at
        self._low = b""  # no live hint lies below: a scan from the head need not walk deleted hints
        self._closed = True
        self._resources = resources or RocksResources()
        self._filling = False  # opened for a restore
        self._restored_to: int | None = None  # the changelog offset of what is written, and not yet in files
        self._loose_bytes = 0  # written since the offset was
        self._blank = False  # holds nothing yet: the next changelog records begin a restore
        self._restoring = False
        self._indexed: bytes | None = None  # hints are made for the members up to this key; None: not begun
        self._open()
        try:
            self._check_format()
            self._restoring = self._meta.get(_RESTORE_KEY) is not None
            self._blank = self.changelog_offset() is None and self._first_key(self._db) is None
        except BaseException:
            self.close()
            raise

    def _open(self, filling: bool = False) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        default, *others = (_options(self._resources, name, filling) for name in ("default", *_OTHERS))
        try:
            self._db: Any = rocksdict.Rdict(str(self._path), default, dict(zip(_OTHERS, others, strict=True)))
            self._timers: Any = self._db.get_column_family("timers")
            self._meta: Any = self._db.get_column_family("meta")
            self._timers_handle = self._db.get_column_family_handle("timers")
            self._meta_handle = self._db.get_column_family_handle("meta")
        except Exception as error:  # rocksdict raises bare Exception for every RocksDB status
            remedy = REBUILD
            if "lock" in str(error).lower():
                remedy = "another store has it open: stop that worker, or give this one its own data directory"
            raise StateError(f"{self._path}: cannot be opened (RocksDB says: {error}); {remedy}") from error
        self._closed, self._filling = False, filling

    def _reopen(self, filling: bool) -> None:
        self.close()
        self._open(filling)

    def _check_format(self) -> None:
        stored = self._meta.get(_FORMAT_KEY)
        if stored is None:
            if self._first_key(self._db) is not None or self._first_key(self._meta) is not None:
                raise StateError(f"{self._path}: holds data without a format marker (got none); {REBUILD}")
            self._commit(self._batch({}, {_FORMAT_KEY: b"%d" % FORMAT}))
            return
        if not stored.isdigit():
            raise StateError(f"{self._path}: unreadable format marker (got {stored!r}); {REBUILD}")
        if int(stored) > FORMAT:
            raise StateError(
                f"{self._path}: written by a newer build (format {int(stored)}, this build reads up to {FORMAT}); "
                f"run the newer build, or {REBUILD}"
            )

    @staticmethod
    def _first_key(family: Any) -> bytes | None:
        cursor = family.iter()
        cursor.seek_to_first()
        return bytes(cursor.key()) if cursor.valid() else None

    def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """See StateStore."""
        if not keys:
            return []
        return list(self._db.get(list(keys)))

    def meta(self) -> dict[bytes, bytes]:
        """See StateStore. Our own two entries are left out."""
        return {bytes(key): bytes(value) for key, value in self._meta.items() if key.startswith(META_PREFIX)}

    def due(self, after: tuple[int, bytes] | None, limit: int) -> list[tuple[int, bytes]]:
        """See StateStore."""
        self._end_restore()
        cursor = self._timers.iter()
        start = self._low if after is None else hint_key(*after)
        cursor.seek(start)
        if after is not None and cursor.valid() and cursor.key() == start:
            cursor.next()
        found: list[tuple[int, bytes]] = []
        while len(found) < limit and cursor.valid():
            key = bytes(cursor.key())
            if after is None and not found:
                self._low = key
            found.append((int.from_bytes(key[:_DUE_BYTES], "big"), key[_DUE_BYTES:]))
            cursor.next()
        return found

    def write(
        self,
        members: Mapping[bytes, bytes | None],
        meta: Mapping[bytes, bytes | None],
        hints: Sequence[Hint],
        changelog_offset: int | None,
    ) -> None:
        """See StateStore."""
        self._end_restore()
        self._write(members, meta, hints, changelog_offset)

    def _write(
        self,
        members: Mapping[bytes, bytes | None],
        meta: Mapping[bytes, bytes | None],
        hints: Sequence[Hint],
        changelog_offset: int | None,
    ) -> None:
        batch = self._batch(members, meta)
        put, delete = batch.put, batch.delete
        low = self._low
        for member, old, new in hints:
            if old is not None:
                delete(hint_key(old, member), self._timers_handle)
            if new is not None:
                key = hint_key(new, member)
                put(key, b"", self._timers_handle)
                low = min(low, key)
        if changelog_offset is not None:
            put(_OFFSET_KEY, b"%d" % changelog_offset, self._meta_handle)
        self._low = low  # lowered before the write: a failed write leaves it too low, which is only slower
        self._blank = False
        self._commit(batch)

    def _commit(self, batch: Any, options: Any = None) -> None:
        try:
            self._db.write(batch, options)
        except Exception as error:  # rocksdict raises bare Exception for every RocksDB status
            raise self._unwritable(error) from error

    def _flush(self, family: Any) -> None:
        try:
            family.flush()
        except Exception as error:  # as above
            raise self._unwritable(error) from error

    def _unwritable(self, error: Exception) -> StateError:
        return StateError(
            f"{self._path}: cannot be written (RocksDB says: {error}); check the disk's free space and rights, then"
            " start the worker again: nothing is half written, it goes on from what is durable"
        )

    def _batch(self, members: Mapping[bytes, bytes | None], meta: Mapping[bytes, bytes | None]) -> Any:
        batch = rocksdict.WriteBatch(raw_mode=True)
        put, delete = batch.put, batch.delete
        for key, value in members.items():
            if value is None:
                delete(key)
            else:
                put(key, value)
        for key, value in meta.items():
            if value is None:
                delete(key, self._meta_handle)
            else:
                put(key, value, self._meta_handle)
        return batch

    @property
    def restoring(self) -> bool:
        """Tell whether it was filled from nothing, and hints are still to be made."""
        return self._restoring

    def changelog_offset(self) -> int | None:
        """See StateStore."""
        if self._restored_to is not None:
            return self._restored_to
        stored = self._meta.get(_OFFSET_KEY)
        return None if stored is None else int(stored)

    def apply_changelog(self, entries: Entries, last_offset: int) -> None:
        """Take records read back from the changelog, in their order; `last_offset` is that of the last entry."""
        if self._indexed is not None or not (self._restoring or self._blank):
            # Also while hints are being made: what is changed before their cursor gets its hint here, what lies
            # behind it is read as it is by then.
            fold_changelog(self.get_many, self._write, entries, last_offset, self._fire_at)
            return
        members, meta = split_entries(entries)
        size = 0
        for value in members.values():
            if value is not None:
                self._fire_at(value)  # a torn record stops the restore here, where its offset is known
                size += len(value)
        if not self._filling:
            self._begin_filling()
        self._commit(self._batch(members, {}), _WITHOUT_LOG)
        self._commit(self._batch({}, meta))  # read by nobody before the mark is gone
        self._restored_to = last_offset
        self._loose_bytes += size
        if self._loose_bytes >= _LOOSE_BYTES:
            self._keep_place()

    def _begin_filling(self) -> None:
        if not self._restoring:  # before the first record: what has no mark has its hints
            self._commit(self._batch({}, {_RESTORE_KEY: b"1"}), _ON_DISK)
        self._restoring, self._blank = True, False
        self._reopen(filling=True)

    def _keep_place(self) -> None:
        """Bring what was restored into files, then write the offset it reaches."""
        if self._restored_to is None:
            return
        self._flush(self._db)
        self._commit(self._batch({}, {_OFFSET_KEY: b"%d" % self._restored_to}))
        self._restored_to, self._loose_bytes = None, 0

    def index_hints(self, most: int = _INDEX_CHUNK) -> bool:
        """Make the hints of up to `most` more members after a restore; False once none are left to make.

        For the caller to call in turns with other work; whoever asks for hints before that waits for all of them.
        """
        if not self._restoring:
            return False
        if self._indexed is None:
            self._keep_place()
            if self._first_key(self._timers) is not None:  # made by a run that was cut off, maybe of older records
                self._timers.delete_range(b"", b"\xff" * _DUE_BYTES)
            self._indexed = b""
        if self._make_hints(self._indexed, most):
            return True
        self._end_filling()
        return False

    def _make_hints(self, after: bytes, most: int) -> bool:
        batch = rocksdict.WriteBatch(raw_mode=True)
        fire_at, put, timers, key = self._fire_at, batch.put, self._timers_handle, after
        left = most
        for key, value in self._db.items(from_key=after + b"\x00", read_opt=_PASSING):
            due = fire_at(value)
            if due is not None:
                put(hint_key(due, key), b"", timers)
            left -= 1
            if not left:
                break
        self._commit(batch, _WITHOUT_LOG)
        self._indexed = key
        return left == 0

    def _end_filling(self) -> None:
        self._flush(self._timers)  # until the next line a crash makes all anew
        self._commit(self._batch({}, {_RESTORE_KEY: None}))
        self._restoring, self._indexed, self._low = False, None, b""
        if self._filling:
            self._reopen(filling=False)

    def _end_restore(self) -> None:
        while self._restoring:
            self.index_hints()

    def settle(self) -> None:
        """Write everything to files and compact them fully. For measurements: RocksDB does it in its own time."""
        options = rocksdict.CompactOptions()
        # Else a file that overlaps no other would only be moved down, as it is.
        options.set_bottommost_level_compaction(rocksdict.BottommostLevelCompaction.force())
        for family in (self._db, self._timers, self._meta):
            family.flush()
            family.compact_range(None, None, options)

    def dump(self) -> tuple[dict[bytes, bytes], dict[bytes, bytes], list[tuple[int, bytes]]]:
        """Read everything: members, meta, hints. For tests and inspection of small stores."""
        self._end_restore()
        members = {bytes(key): bytes(value) for key, value in self._db.items()}
        hints = [(int.from_bytes(key[:_DUE_BYTES], "big"), bytes(key[_DUE_BYTES:])) for key, _ in self._timers.items()]
        return members, self.meta(), hints

    def estimates(self) -> tuple[int, int]:
        """Return bytes in files and memtables, and pending timer hints; RocksDB's estimates, had in microseconds."""
        families = (self._db, self._timers, self._meta)
        names = ("rocksdb.live-sst-files-size", "rocksdb.size-all-mem-tables")
        size = sum(family.property_int_value(name) or 0 for family in families for name in names)
        return size, self._timers.property_int_value("rocksdb.estimate-num-keys") or 0

    def file_bytes(self) -> tuple[int, int]:
        """Return the bytes of data files: members, hints. Exact once settled."""
        name = "rocksdb.live-sst-files-size"
        return self._db.property_int_value(name) or 0, self._timers.property_int_value(name) or 0

    def close(self) -> None:
        """See StateStore. May be called twice."""
        if self._closed:
            return
        with contextlib.suppress(StateError):  # a place that is not kept is only read again
            self._keep_place()
        self._close()

    def _close(self) -> None:
        self._closed = True
        self._restored_to, self._loose_bytes = None, 0
        for family in (self._timers, self._meta, self._db):  # RocksDB wants its families closed before itself
            family.close()
        del self._timers_handle, self._meta_handle  # they too keep the database open, and locked


def hint_key(due_ms: int, member: bytes) -> bytes:
    """Spell one hint so that byte order is (due, member) order. `due_ms` counts from the epoch, not negative."""
    if not 0 <= due_ms < _DUE_LIMIT:
        raise StateError(f"timer hint: due_ms out of range (got {due_ms}); it must be 0 or more ms since the epoch")
    return due_ms.to_bytes(_DUE_BYTES, "big") + member


def _options(resources: RocksResources, family: str, filling: bool) -> Any:
    """Choose what RocksDB does with a family; `filling`: much is written at once, and hardly anything read."""
    options = rocksdict.Options(raw_mode=True)
    options.create_if_missing(True)
    options.create_missing_column_families(True)
    options.set_write_buffer_manager(resources.write_buffers)
    options.set_write_buffer_size(_MEMTABLE_BYTES)
    options.set_arena_block_size(_ARENA_BYTES)
    options.set_max_write_buffer_number(3)
    options.set_level_compaction_dynamic_level_bytes(True)
    options.set_max_open_files(_MAX_OPEN_FILES)
    options.set_max_background_jobs(2)
    options.set_keep_log_file_num(2)
    options.set_compression_type(rocksdict.DBCompressionType.lz4())
    options.set_bottommost_compression_type(rocksdict.DBCompressionType.zstd())
    if family == "default":
        options.set_bottommost_compression_options(
            _ZSTD_WINDOW_BITS, _ZSTD_LEVEL, _ZSTD_STRATEGY, _DICTIONARY_BYTES, True
        )
        options.set_bottommost_zstd_max_train_bytes(_TRAINING_BYTES, True)
    options.set_level_zero_slowdown_writes_trigger(_LEVEL0_FILES)
    options.set_level_zero_stop_writes_trigger(_LEVEL0_FILES)
    if filling:
        options.set_level_zero_file_num_compaction_trigger(_FILLED_FILES)
        options.set_allow_concurrent_memtable_write(False)  # of the next line's kind; there is one writer only
        if family != "meta":
            options.set_memtable_factory(rocksdict.MemtableFactory.vector())  # sorted once, when it goes to a file
    table = rocksdict.BlockBasedOptions()
    table.set_block_size(_BLOCK_BYTES)
    table.set_block_cache(resources.cache)
    table.set_cache_index_and_filter_blocks(True)
    table.set_pin_l0_filter_and_index_blocks_in_cache(True)
    if family == "default":
        table.set_bloom_filter(_BLOOM_BITS, False)
    options.set_block_based_table_factory(table)
    if family == "timers":
        # a queue: its head is all deletions; compact a file once half of any 1,024 entries are
        options.add_compact_on_deletion_collector_factory(1024, 512, 0.5)
    return options
