"""Where in the log something is decided."""

import msgspec


class Place(msgspec.Struct, gc=False):
    """Where in the log a decision is taken: partition, offset, the record's append time and the clock after it."""

    partition: int
    offset: int
    append_ms: int
    clock_ms: int
