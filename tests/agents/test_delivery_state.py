"""The local store of what was sent: a fold of its topic, bounded in time, refused when it cannot be read."""

from pathlib import Path

import msgspec
import pytest

from agents.delivery_state import FORMAT, DeliveryState, Entry, decode_entry, encode_entry
from schemas.errors import OperatorError, StateError


def entry(status: str = "sent", first_ms: int = 1_000, offset: int = 7) -> Entry:
    return Entry(FORMAT, status, 1, 2_000, offset, first_ms)


def test_what_is_put_is_there_after_reopening(tmp_path: Path) -> None:
    state = DeliveryState(tmp_path, "cluster")
    state.put(3, "a", entry(), 0)
    state.close()
    state = DeliveryState(tmp_path, "cluster")
    assert state.get(3, "a") == entry() and state.get(2, "a") is None and state.get(3, "b") is None
    state.close()


def test_the_place_to_read_on_moves_only_without_a_gap(tmp_path: Path) -> None:
    state = DeliveryState(tmp_path, "cluster")
    state.put(0, "a", entry(), 0)
    assert state.next_offset(0) is None
    state.load(0, [("a", entry())], 5)
    state.put(0, "b", entry(), 5)
    state.put(0, "c", entry(), 7)
    assert state.next_offset(0) == 6 and state.get(0, "c") == entry()
    state.close()


def test_a_step_read_again_does_not_forget_that_its_receipt_is_written(tmp_path: Path) -> None:
    state = DeliveryState(tmp_path, "cluster")
    told = msgspec.structs.replace(entry(), told=True)
    state.put(0, "a", told, 4)
    state.load(0, [("a", entry())], 5)
    assert state.get(0, "a") == told
    later = entry("bounced")
    state.load(0, [("a", later)], 6)
    assert state.get(0, "a") == later
    state.close()


def test_another_cluster_empties_the_store(tmp_path: Path) -> None:
    state = DeliveryState(tmp_path, "one")
    state.load(0, [("a", entry())], 5)
    state.close()
    state = DeliveryState(tmp_path, "two")
    assert state.get(0, "a") is None and state.next_offset(0) is None
    state.close()


def test_wiping_a_partition_leaves_the_others(tmp_path: Path) -> None:
    state = DeliveryState(tmp_path, "c")
    for partition in (0, 1, 255, 256):
        state.load(partition, [("a", entry())], 5)
    state.wipe(255)
    assert [state.get(p, "a") is None for p in (0, 1, 255, 256)] == [False, False, True, False]
    assert [state.next_offset(p) for p in (1, 255, 256)] == [5, None, 5]
    state.close()


def test_old_commands_are_dropped_and_younger_ones_stay(tmp_path: Path) -> None:
    state = DeliveryState(tmp_path, "c")
    for n in range(100):
        state.put(n % 4, f"{n}", entry("sending", first_ms=n), n)
        state.put(n % 4, f"{n}", entry("sent", first_ms=n), n)
    assert state.purge(50, limit=30) == 30 and state.purge(50) == 20 and state.purge(50) == 0
    assert [n for n in range(100) if state.get(n % 4, f"{n}")] == list(range(50, 100))
    state.close()


def test_a_store_in_use_is_refused_with_a_remedy(tmp_path: Path) -> None:
    state = DeliveryState(tmp_path, "c")
    with pytest.raises(OperatorError, match="delete the directory"):
        DeliveryState(tmp_path, "c")
    state.close()


def test_bytes_written_by_the_first_version_are_read() -> None:
    assert decode_entry(msgspec.msgpack.encode([1, "sent", 2, 3, 4, 5])) == Entry(1, "sent", 2, 3, 4, 5)
    assert decode_entry(encode_entry(entry())) == entry()


@pytest.mark.parametrize(
    "raw", [b"", b"\xc1", msgspec.msgpack.encode([2, "sent", 1, 1, 1, 1]), msgspec.msgpack.encode([1])]
)
def test_torn_and_newer_entries_are_refused(raw: bytes) -> None:
    with pytest.raises(StateError):
        decode_entry(raw)
