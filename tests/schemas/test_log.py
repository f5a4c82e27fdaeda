"""Append times of fetched records: the broker's, the producer's held between bounds, or a recorded one."""

from dataclasses import dataclass, field

import pytest

from schemas.log import RECORDED_AT_HEADER, append_ms_of, records_of

CREATE_TIME, LOG_APPEND_TIME = 0, 1
WALL_MS = 10_000


@dataclass
class Fetched:
    """A record as aiokafka gives it, as far as it is read."""

    timestamp: int
    timestamp_type: int = LOG_APPEND_TIME
    headers: list[tuple[str, bytes]] = field(default_factory=list)
    offset: int = 7
    key: bytes | None = b"m1"
    value: bytes | None = b"{}"


def recorded_at(value: bytes) -> list[tuple[str, bytes]]:
    return [("trace", b"1"), (RECORDED_AT_HEADER, value)]


def times(*fetched: Fetched, latest_ms: int = 0) -> list[int]:
    return [record.append_ms for record in records_of(fetched, WALL_MS, latest_ms)[0]]


def test_a_record_keeps_its_place_key_and_value() -> None:
    (record,), _, _ = records_of([Fetched(5_000, offset=42, key=None, value=b"x")], WALL_MS, 0)
    assert (record.offset, record.append_ms, record.key, record.value) == (42, 5_000, None, b"x")


def test_the_brokers_time_is_taken_as_it_is() -> None:
    assert times(Fetched(5_000), Fetched(4_000), Fetched(WALL_MS + 1), latest_ms=6_000) == [5_000, 4_000, WALL_MS + 1]


def test_a_producers_time_never_goes_back_and_is_never_ahead_of_the_wall() -> None:
    fetched = [Fetched(at, CREATE_TIME) for at in (5_000, 4_000, WALL_MS + 1, 6_000)]
    records, latest_ms, recorded = records_of(fetched, WALL_MS, 4_500)
    assert [record.append_ms for record in records] == [5_000, 5_000, WALL_MS, WALL_MS]
    assert (latest_ms, recorded) == (WALL_MS, False)
    assert times(Fetched(5_000, CREATE_TIME), latest_ms=7_000) == [7_000]


@pytest.mark.parametrize("kind", [CREATE_TIME, LOG_APPEND_TIME])
def test_a_recorded_time_counts_below_the_brokers_and_moves_no_bound(kind: int) -> None:
    records, latest_ms, recorded = records_of([Fetched(9_000, kind, recorded_at(b"1000"))], WALL_MS, 8_000)
    assert ([record.append_ms for record in records], latest_ms, recorded) == ([1_000], 8_000, True)
    assert times(Fetched(9_000, kind, recorded_at(b"9500"))) == [9_000]


def test_whether_the_last_record_was_recorded_earlier() -> None:
    earlier, now = Fetched(5_000, headers=recorded_at(b"1000")), Fetched(5_001)
    assert records_of([earlier, now], WALL_MS, 0)[2] is False
    assert records_of([now, earlier], WALL_MS, 0)[2] is True
    assert records_of([], WALL_MS, 3) == ([], 3, False)


@pytest.mark.parametrize("value", [b"", b"-1", b"noon", b"1e3", b"1" * 16, None])
def test_a_recorded_time_that_is_no_number_is_ignored(value: bytes | None) -> None:
    assert append_ms_of(5_000, [(RECORDED_AT_HEADER, value)]) == (5_000, False)
    assert append_ms_of(5_000, None) == (5_000, False)
