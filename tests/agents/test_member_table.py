"""A standby that has caught up is ready to take over: its timer hints are made before it must."""

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from faust.types import TP

from agents.member_table import index_standbys
from agents.topics import CHANGELOG
from tables.declare import MemberStores
from tables.rocks import RocksResources


@pytest.fixture
def stores(tmp_path: Path) -> Iterator[MemberStores]:
    opened = MemberStores(tmp_path, RocksResources(8 << 20, 8 << 20))
    yield opened
    opened.close_all()


def test_standby_makes_its_timers_once_it_has_read_to_the_end_and_not_before(stores: MemberStores) -> None:
    store = stores.open(0)
    store.apply_changelog([(b"m%d" % n, msgspec.msgpack.encode([1, n + 1])) for n in range(10)], 9)
    index_standbys(stores, {TP(CHANGELOG, 0): 10, TP(CHANGELOG, 5): 0})
    assert store.restoring
    store.apply_changelog([(b"m0", msgspec.msgpack.encode([1, 99]))], 10)
    index_standbys(stores, {TP(CHANGELOG, 0): 10})
    assert not store.restoring
    store.apply_changelog([(b"m1", None)], 11)
    assert store.due(None, 20) == [*((n + 1, b"m%d" % n) for n in range(2, 10)), (99, b"m0")]
