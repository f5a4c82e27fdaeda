"""A log as its reader gets it: records, not yet events."""

from mypy_extensions import mypyc_attr


@mypyc_attr(acyclic=True)
class Record:
    """One record of a partition's log, as fetched: `append_ms` is the broker's append time (or its stand-in)."""

    __slots__ = ("offset", "append_ms", "key", "value")

    def __init__(self, offset: int, append_ms: int, key: bytes | None, value: bytes | None) -> None:
        self.offset = offset
        self.append_ms = append_ms
        self.key = key
        self.value = value
