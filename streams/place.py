"""Where in the log something is decided."""

from mypy_extensions import mypyc_attr


@mypyc_attr(acyclic=True, free_list_len=1)
class Place:
    """Where in the log a decision is taken: partition, offset, the record's append time and the clock after it."""

    __slots__ = ("partition", "offset", "append_ms", "clock_ms")

    def __init__(self, partition: int, offset: int, append_ms: int, clock_ms: int) -> None:
        self.partition = partition
        self.offset = offset
        self.append_ms = append_ms
        self.clock_ms = clock_ms
