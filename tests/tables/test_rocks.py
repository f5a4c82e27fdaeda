"""The local store on real RocksDB: what is written, found again, refused."""

import os
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from schemas.errors import StateError
from tables.declare import MemberStores
from tables.rocks import DirectoryLock, RocksResources, RocksStore, hint_key
from tables.store import Hint, MemoryStore

ROOT = Path(__file__).parents[2]
SMALL = RocksResources(8 << 20, 8 << 20)


def record(fire_at: int | None, more: str = "x") -> bytes:
    return msgspec.msgpack.encode([1, fire_at, more])


@pytest.fixture
def store(tmp_path: Path) -> Iterator[RocksStore]:
    opened = RocksStore(tmp_path / "members-0.db", SMALL)
    yield opened
    opened.close()


def test_store_answers_like_the_store_in_memory_whatever_is_written(store: RocksStore) -> None:
    chance, memory = random.Random(11), MemoryStore()
    hints_of: dict[bytes, int | None] = {}
    for step in range(300):
        members: dict[bytes, bytes | None] = {}
        hints: list[Hint] = []
        for key in {b"m%d" % chance.randrange(40) for _ in range(chance.randrange(1, 6))}:
            due = chance.choice([None, chance.randrange(1_000)])
            members[key] = None if chance.random() < 0.2 else record(due)
            new = None if members[key] is None else due
            hints.append((key, hints_of.get(key), new))
            hints_of[key] = new
        meta: dict[bytes, bytes | None] = {b"\x00clock": b"%d" % step, b"\x00odd": b"1" if step % 2 else None}
        for one in (store, memory):
            one.write(members, meta, hints, step if step % 3 else None)
        after = chance.choice([None, (chance.randrange(1_000), b"m%d" % chance.randrange(40))])
        limit = chance.randrange(1, 50)
        assert store.due(after, limit) == memory.due(after, limit)
        asked = [b"m%d" % chance.randrange(45) for _ in range(5)]
        assert store.get_many(asked) == memory.get_many(asked)
        assert store.meta() == memory.meta()
        assert store.changelog_offset() == memory.changelog_offset()


def test_everything_is_found_again_after_closing(tmp_path: Path) -> None:
    path = tmp_path / "members-3.db"
    first = RocksStore(path, SMALL)
    first.write({b"a": record(5)}, {b"\x00clock": b"9"}, [(b"a", None, 5)], 41)
    first.close()
    second = RocksStore(path, SMALL)
    assert second.dump() == ({b"a": record(5)}, {b"\x00clock": b"9"}, [(5, b"a")])
    assert second.changelog_offset() == 41
    second.close()


def test_new_store_is_empty(store: RocksStore) -> None:
    assert store.dump() == ({}, {}, [])
    assert store.changelog_offset() is None
    assert store.due(None, 10) == []
    assert store.get_many([]) == []


def test_hint_set_below_all_former_ones_is_found_at_the_head(store: RocksStore) -> None:
    store.write({}, {}, [(b"a", None, 500)], None)
    assert store.due(None, 1) == [(500, b"a")]
    store.write({}, {}, [(b"b", None, 400), (b"a", 500, None)], None)
    assert store.due(None, 5) == [(400, b"b")]


def test_hints_come_in_order_of_due_then_member(store: RocksStore) -> None:
    store.write({}, {}, [(b"b", None, 256), (b"a", None, 256), (b"c", None, 255), (b"", None, 1 << 40)], None)
    assert store.due(None, 9) == [(255, b"c"), (256, b"a"), (256, b"b"), (1 << 40, b"")]
    assert store.due((256, b"a"), 1) == [(256, b"b")]


def test_hint_before_the_epoch_is_refused() -> None:
    with pytest.raises(StateError, match="out of range"):
        hint_key(-1, b"a")


def test_changelog_is_folded_with_the_hints_it_implies(store: RocksStore) -> None:
    store.apply_changelog([(b"a", record(5)), (b"b", record(None)), (b"a", record(7)), (b"\x00clock", b"1")], 3)
    assert store.dump() == ({b"a": record(7), b"b": record(None)}, {b"\x00clock": b"1"}, [(7, b"a")])
    store.apply_changelog([(b"a", None), (b"b", record(2)), (b"\x00clock", b"2")], 6)
    assert store.dump() == ({b"b": record(2)}, {b"\x00clock": b"2"}, [(2, b"b")])
    assert store.changelog_offset() == 6


def test_changelog_applied_twice_changes_nothing(store: RocksStore) -> None:
    entries = [(b"a", record(5)), (b"b", record(9)), (b"a", record(6))]
    store.apply_changelog(entries, 2)
    once = store.dump()
    store.apply_changelog(entries, 2)
    assert store.dump() == once


def test_torn_record_in_the_changelog_is_an_error_not_a_loss(store: RocksStore) -> None:
    with pytest.raises(StateError, match="member record"):
        store.apply_changelog([(b"a", b"\xc1torn")], 0)


def test_store_of_a_newer_format_is_refused_with_a_remedy(tmp_path: Path) -> None:
    path = tmp_path / "members-0.db"
    first = RocksStore(path, SMALL)
    first._meta.put(b"\xffformat", b"2")
    first.close()
    with pytest.raises(StateError, match="newer build .format 2.*run the newer build"):
        RocksStore(path, SMALL)
    with pytest.raises(StateError, match="newer build"):  # the refusal left no lock behind
        RocksStore(path, SMALL)


def test_store_without_a_format_marker_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "members-0.db"
    first = RocksStore(path, SMALL)
    first.write({b"a": record(None)}, {}, [], 1)
    first._meta.delete(b"\xffformat")
    first.close()
    with pytest.raises(StateError, match="without a format marker"):
        RocksStore(path, SMALL)


def test_corrupt_store_is_refused_with_a_remedy(tmp_path: Path) -> None:
    path = tmp_path / "members-0.db"
    first = RocksStore(path, SMALL)
    first.write({b"a": record(None)}, {}, [], 1)
    first.close()
    next(path.glob("MANIFEST-*")).write_bytes(b"nonsense")
    with pytest.raises(StateError, match="cannot be opened.*rebuilt from the changelog"):
        RocksStore(path, SMALL)


def test_open_store_is_not_opened_twice(tmp_path: Path, store: RocksStore) -> None:
    with pytest.raises(StateError, match="give this one its own data directory"):
        RocksStore(tmp_path / "members-0.db", SMALL)


def test_closing_twice_is_harmless_and_frees_the_files(tmp_path: Path) -> None:
    path = tmp_path / "members-0.db"
    first = RocksStore(path, SMALL)
    first.close()
    first.close()
    RocksStore(path, SMALL).close()


def test_one_process_per_data_directory(tmp_path: Path) -> None:
    held = DirectoryLock(tmp_path)
    with pytest.raises(StateError, match="another worker uses this data directory"):
        DirectoryLock(tmp_path)
    held.release()
    DirectoryLock(tmp_path).release()


def test_stores_lie_where_operators_are_told(tmp_path: Path) -> None:
    stores = MemberStores(tmp_path, SMALL)
    assert stores.get(2) is None
    assert stores.open(2) is stores.open(2)
    assert stores.partitions() == [2]
    assert (tmp_path / "engine" / "members-2.db").is_dir()
    stores.close_all()
    stores.close_all()
    assert stores.partitions() == []
    MemberStores(tmp_path, SMALL).close_all()


def changelog(count: int) -> list[tuple[bytes, bytes | None]]:
    """Records of 40 members in a log of changes, some deleted, with a meta entry now and then."""
    chance = random.Random(5)
    entries: list[tuple[bytes, bytes | None]] = []
    for number in range(count):
        if number % 10 == 9:
            entries.append((b"\x00clock", b"%d" % number))
        else:
            due = chance.choice([None, chance.randrange(1_000)])
            entries.append((b"m%d" % chance.randrange(40), None if chance.random() < 0.1 else record(due, str(number))))
    return entries


def fold(entries: list[tuple[bytes, bytes | None]]) -> tuple[Any, Any, Any]:
    memory = MemoryStore()
    memory.apply_changelog(entries, len(entries) - 1)
    return memory.members, memory.metas, memory.hints


def restore(store: RocksStore, entries: list[tuple[bytes, bytes | None]], start: int, end: int) -> None:
    for at in range(start, end, 7):
        last = min(at + 7, end)
        store.apply_changelog(entries[at:last], last - 1)


def test_restore_gives_what_the_changelog_folds_to(store: RocksStore) -> None:
    entries = changelog(400)
    restore(store, entries, 0, 400)
    assert store.changelog_offset() == 399
    assert store.dump() == fold(entries)


def test_hints_of_a_restore_are_made_in_turns_while_records_still_come(store: RocksStore) -> None:
    entries = changelog(600)
    restore(store, entries, 0, 400)
    at = 400
    while store.index_hints(3):
        restore(store, entries, at, at + 9)
        at += 9
    assert at < 600
    restore(store, entries, at, 600)
    assert store.changelog_offset() == 599
    assert store.dump() == fold(entries)
    assert not store.index_hints()


def test_whoever_asks_for_timers_after_a_restore_sees_all(store: RocksStore) -> None:
    entries = changelog(200)
    restore(store, entries, 0, 200)
    assert store.due(None, 1_000) == fold(entries)[2]


def test_write_after_a_restore_finds_the_hints_it_replaces(store: RocksStore) -> None:
    store.apply_changelog([(b"a", record(5))], 0)
    store.write({b"a": record(9)}, {}, [(b"a", 5, 9)], 1)
    assert store.dump() == ({b"a": record(9)}, {}, [(9, b"a")])


def test_restore_goes_on_after_closing(tmp_path: Path) -> None:
    entries = changelog(300)
    first = RocksStore(tmp_path / "members-0.db", SMALL)
    restore(first, entries, 0, 100)
    first.close()
    second = RocksStore(tmp_path / "members-0.db", SMALL)
    assert second.changelog_offset() == 99
    restore(second, entries, 100, 300)
    while second.index_hints(5):
        second.close()
        second = RocksStore(tmp_path / "members-0.db", SMALL)  # hints half made are made anew
        break
    assert second.dump() == fold(entries)
    second.close()
    third = RocksStore(tmp_path / "members-0.db", SMALL)
    assert third.due(None, 1_000) == fold(entries)[2]
    third.close()


KILLED = """
import os, sys
from pathlib import Path
import tables.rocks as rocks
from tests.tables.test_rocks import SMALL, changelog, restore
read, indexed, rocks._LOOSE_BYTES = map(int, sys.argv[2:])
store = rocks.RocksStore(Path(sys.argv[1]), SMALL)
entries = changelog(300)
restore(store, entries, 0, read)
for _ in range(indexed):
    store.index_hints(5)
os._exit(9)
"""


@pytest.mark.parametrize("loose", [1, 500, 1 << 30])
@pytest.mark.parametrize(("read", "indexed"), [(7, 0), (250, 0), (250, 1), (250, 3), (250, 99)])
def test_process_killed_in_a_restore_goes_on_from_what_is_in_files(
    tmp_path: Path, read: int, indexed: int, loose: int
) -> None:
    path, entries = tmp_path / "members-0.db", changelog(300)
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, str(path), str(read), str(indexed), str(loose)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": "."},
    )
    assert killed.returncode == 9
    store = RocksStore(path, SMALL)
    reached = store.changelog_offset()
    assert reached == read - 1 if indexed or loose == 1 else reached is None or reached < read
    restore(store, entries, 0 if reached is None else reached + 1, 300)
    assert store.dump() == fold(entries)
    store.close()


def test_timers_are_made_anew_when_the_last_of_a_restore_were_lost(tmp_path: Path) -> None:
    path, entries = tmp_path / "members-0.db", changelog(300)
    first = RocksStore(path, SMALL)
    restore(first, entries, 0, 300)
    first.index_hints(5)
    first.close()
    second = RocksStore(path, SMALL)  # the mark stands: what hints there are do not count
    assert second.due(None, 1_000) == fold(entries)[2]
    second.close()
    third = RocksStore(path, SMALL)
    assert not third.index_hints()
    third.close()


def test_store_filled_from_the_changelog_is_a_store_like_any_other(tmp_path: Path) -> None:
    entries = changelog(300)
    store = RocksStore(tmp_path / "members-0.db", SMALL)
    restore(store, entries, 0, 300)
    while store.index_hints():
        pass
    assert not store._filling
    store.write({b"new": record(3)}, {b"\x00clock": b"9"}, [(b"new", None, 3)], 300)
    members, meta, hints = store.dump()
    store.close()
    again = RocksStore(tmp_path / "members-0.db", SMALL)
    assert again.dump() == (members, meta, hints)
    assert (members[b"new"], meta[b"\x00clock"], again.changelog_offset()) == (record(3), b"9", 300)
    again.close()
