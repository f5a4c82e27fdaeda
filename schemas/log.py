"""A log as its reader gets it: records, not yet events."""

from collections.abc import Iterable
from typing import Any, Final

from mypy_extensions import mypyc_attr

RECORDED_AT_HEADER: Final = "recorded-at"
LOG_APPEND_TIME: Final = 1  # Kafka's timestamp type: the broker's clock


@mypyc_attr(acyclic=True)
class Record:
    """One record of a partition's log, as fetched: `append_ms` is the broker's append time (or its stand-in)."""

    __slots__ = ("offset", "append_ms", "key", "value")

    def __init__(self, offset: int, append_ms: int, key: bytes | None, value: bytes | None) -> None:
        self.offset = offset
        self.append_ms = append_ms
        self.key = key
        self.value = value


def append_ms_of(broker_ms: int, headers: Any) -> tuple[int, bool]:
    """Return a record's append time, and whether it is one that was recorded earlier.

    A recorded log that is sent again says in the header `recorded-at` (ms, as text) when each record was appended at
    first; that is its append time, never above the broker's. So old data decide now what they decided, or would have
    decided, then. A header that is no number is ignored.

    Args:
        broker_ms: the broker's append time, or its stand-in.
        headers: (name, bytes) pairs as the Kafka clients give them, or None.
    """
    for name, value in headers or ():
        if name == RECORDED_AT_HEADER and isinstance(value, bytes) and value.isdigit() and len(value) <= 15:
            return min(int(value), broker_ms), True
    return broker_ms, False


def records_of(fetched: Iterable[Any], wall_ms: int, latest_ms: int) -> tuple[list[Record], int, bool]:
    """Turn aiokafka's records of a partition into ours.

    Without LogAppendTime a record's append time is the producer's, never ahead of the wall, never before `latest_ms`,
    the latest one given so before. Also returns the new `latest_ms`, and whether the last record was recorded earlier.
    """
    records: list[Record] = []
    recorded = False
    for raw in fetched:
        append_ms, headers = raw.timestamp, raw.headers
        recorded = False
        if headers:
            append_ms, recorded = append_ms_of(append_ms, headers)
        if raw.timestamp_type != LOG_APPEND_TIME and not recorded:
            append_ms = latest_ms = max(latest_ms, min(append_ms, wall_ms))
        records.append(Record(raw.offset, append_ms, raw.key, raw.value))
    return records, latest_ms, recorded
