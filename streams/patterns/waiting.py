"""The commonest plan, flat: what `streams.patterns.wait` needs to know of it."""


class Wait:
    """A plan `A then no B for T` with at most one plain `same` path, flat, for `streams.patterns.wait`.

    `path`: the attribute that is the key, None without `same`. `alias`, `captured`: what of A is kept, and as what.
    `broken_by`: histories of B.
    """

    __slots__ = ("path", "span_ms", "alias", "captured", "last_names", "broken_by")

    def __init__(
        self,
        path: str | None,
        span_ms: int,
        alias: str,
        captured: tuple[str, ...],
        last_names: tuple[str, ...],
        broken_by: tuple[str, ...],
    ) -> None:
        self.path = path
        self.span_ms = span_ms
        self.alias = alias
        self.captured = captured
        self.last_names = last_names
        self.broken_by = broken_by
