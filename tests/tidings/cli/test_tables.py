"""`tables rebuild` deletes what the changelog gives back, and nothing under a running worker."""

from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from schemas.errors import OperatorError, StateError
from tables.declare import MemberStores
from tables.rocks import DirectoryLock, RocksResources
from tidings.cli.tables import tables

SMALL = RocksResources(8 << 20, 8 << 20)


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TIDINGS_DATA_DIR", str(tmp_path))
    for instance in (0, 1):
        stores = MemberStores(tmp_path / f"engine-{instance}", SMALL)
        for partition in (0, 1):
            stores.open(partition).write({b"m": b"\x92\x01\xc0"}, {}, [], 7)
        stores.close_all()
    (tmp_path / "delivery-0").mkdir()
    return tmp_path


def left(data: Path) -> list[str]:
    return sorted(str(path.relative_to(data)) for path in data.glob("engine-*/engine/members-*"))


def rebuild(*words: str, answer: str | None = None) -> Result:
    return CliRunner().invoke(tables, ["rebuild", *words], input=answer)


def test_all_stores_of_all_engines_are_deleted_and_begin_empty(data: Path) -> None:
    result = rebuild("--yes")
    assert result.exit_code == 0, result.output
    assert left(data) == []
    assert (data / "delivery-0").exists()
    stores = MemberStores(data / "engine-0", SMALL)
    assert stores.open(1).changelog_offset() is None
    stores.close_all()


def test_one_partition_of_one_worker_can_be_named(data: Path) -> None:
    assert rebuild("--partition", "1", "--instance", "0", "--yes").exit_code == 0
    assert left(data) == [
        "engine-0/engine/members-0.db",
        "engine-1/engine/members-0.db",
        "engine-1/engine/members-1.db",
    ]


def test_without_yes_it_asks_and_no_deletes_nothing(data: Path) -> None:
    result = rebuild(answer="n\n")
    assert result.exit_code == 1
    assert "Delete 4" in result.output
    assert len(left(data)) == 4


def test_under_a_running_worker_nothing_is_deleted(data: Path) -> None:
    lock = DirectoryLock(data / "engine-1")
    try:
        result = rebuild("--instance", "1", "--yes")
        assert isinstance(result.exception, OperatorError)
        assert "another worker uses this data directory" in str(result.exception)
        assert len(left(data)) == 4
    finally:
        lock.release()


def test_nothing_there_is_said(data: Path) -> None:
    result = rebuild("--partition", "9", "--yes")
    assert isinstance(result.exception, OperatorError)
    assert result.exception.exit_code == 1


@pytest.mark.parametrize("damage", ["corrupt", "newer"])
def test_store_that_cannot_be_used_names_this_command_and_is_usable_after_it(data: Path, damage: str) -> None:
    path = data / "engine-0" / "engine" / "members-0.db"
    if damage == "corrupt":
        (path / "CURRENT").write_bytes(b"nonsense\n")
    else:
        stores = MemberStores(data / "engine-0", SMALL)
        stores.open(0)._meta.put(b"\xffformat", b"99")
        stores.close_all()
    stores = MemberStores(data / "engine-0", SMALL)
    with pytest.raises(StateError, match="tidings tables rebuild"):
        stores.open(0)
    stores.close_all()
    assert rebuild("--partition", "0", "--yes").exit_code == 0
    stores = MemberStores(data / "engine-0", SMALL)
    assert stores.open(0).changelog_offset() is None
    stores.close_all()


def test_help_names_examples_and_exit_codes() -> None:
    told = rebuild("--help").output
    assert "Examples:" in told
    assert "Exit codes:" in told
