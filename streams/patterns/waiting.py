"""The commonest plan, flat: what `streams.patterns.wait` needs to know of it."""

import msgspec


class Wait(msgspec.Struct, frozen=True):
    """A plan `A then no B for T` with at most one plain `same` path, flat, for `streams.patterns.wait`.

    `path`: the attribute that is the key, None without `same`. `alias`, `captured`: what of A is kept, and as what.
    `broken_by`: histories of B.
    """

    path: str | None
    span_ms: int
    alias: str
    captured: tuple[str, ...]
    last_names: tuple[str, ...]
    broken_by: tuple[str, ...]
