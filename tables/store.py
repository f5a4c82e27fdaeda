"""The local store of one partition: member records, timer hints, meta. A protocol, and the store that forgets.

Hints are derived from member records (`fire_at_ms` is the second field of each record): never in the changelog.
"""

from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from tables.codec import fire_at_of

META_PREFIX = b"\x00"  # of meta keys; a member key never begins with it

Hint = tuple[bytes, int | None, int | None]
"""(member key, hint to delete, hint to put); times in ms."""

FireAt = Callable[[bytes], int | None]
"""A member record -> when its earliest timer fires (ms), None for never."""

Entries = Sequence[tuple[bytes, bytes | None]]
"""Changelog records in their order; None deletes."""


class StateStore(Protocol):
    """What the engine needs of a store. All calls are synchronous and local."""

    def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """Read member records, in the order of `keys`."""

    def meta(self) -> dict[bytes, bytes]:
        """Read every meta entry: the partition's clock and applied offset, its campaigns."""

    def due(self, after: tuple[int, bytes] | None, limit: int) -> list[tuple[int, bytes]]:
        """List up to `limit` hints (fire_at_ms, member key) in order, those greater than `after`."""

    def write(
        self,
        members: Mapping[bytes, bytes | None],
        meta: Mapping[bytes, bytes | None],
        hints: Sequence[Hint],
        changelog_offset: int | None,
    ) -> None:
        """Write all of it atomically; None deletes. `changelog_offset`: last changelog offset this batch covers."""

    def changelog_offset(self) -> int | None:
        """Return the last changelog offset whose effect is in the store; None when empty."""

    def close(self) -> None:
        """Release files and locks."""


def fold_changelog(
    get_many: Callable[[Sequence[bytes]], list[bytes | None]],
    write: Callable[[Mapping[bytes, bytes | None], Mapping[bytes, bytes | None], Sequence[Hint], int], None],
    entries: Entries,
    last_offset: int,
    fire_at: FireAt,
) -> None:
    """Write records read back from the changelog, in their order, with the hints derived from them.

    `last_offset` is the offset of the last entry. The old records are read first so that no hint of a former
    value stays behind: afterwards the store equals the fold of the changelog, hints included (invariant I7).
    """
    members, meta = split_entries(entries)
    hints: list[Hint] = []
    for (key, value), old in zip(members.items(), get_many(list(members)), strict=True):
        before = None if old is None else fire_at(old)
        after = None if value is None else fire_at(value)
        if before != after:
            hints.append((key, before, after))
    write(members, meta, hints, last_offset)


def split_entries(entries: Entries) -> tuple[dict[bytes, bytes | None], dict[bytes, bytes | None]]:
    """Return the latest value of each member key, and of each meta key."""
    members = dict(entries)
    meta = {key: members.pop(key) for key in [key for key in members if key.startswith(META_PREFIX)]}
    return members, meta


class MemoryStore:
    """Keeps everything in memory and nothing after: for `replay`, simulation, tests and dry runs."""

    def __init__(self) -> None:
        self.members: dict[bytes, bytes] = {}
        self.metas: dict[bytes, bytes] = {}
        self.offset: int | None = None
        self._hints: set[tuple[int, bytes]] = set()
        self._sorted: list[tuple[int, bytes]] | None = []  # the hints in order; None: a write came since

    @property
    def hints(self) -> list[tuple[int, bytes]]:
        """All hints in order."""
        if self._sorted is None:
            self._sorted = sorted(self._hints)
        return self._sorted

    @hints.setter
    def hints(self, hints: Sequence[tuple[int, bytes]]) -> None:
        self._hints, self._sorted = set(hints), None

    def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """See StateStore."""
        return [self.members.get(key) for key in keys]

    def meta(self) -> dict[bytes, bytes]:
        """See StateStore."""
        return dict(self.metas)

    def due(self, after: tuple[int, bytes] | None, limit: int) -> list[tuple[int, bytes]]:
        """See StateStore."""
        start = 0 if after is None else bisect_right(self.hints, after)
        return self.hints[start : start + limit]

    def write(
        self,
        members: Mapping[bytes, bytes | None],
        meta: Mapping[bytes, bytes | None],
        hints: Sequence[Hint],
        changelog_offset: int | None,
    ) -> None:
        """See StateStore."""
        for table, changes in ((self.members, members), (self.metas, meta)):
            for key, value in changes.items():
                if value is None:
                    table.pop(key, None)
                else:
                    table[key] = value
        for key, old, new in hints:
            if old is not None:
                self._hints.discard((old, key))
            if new is not None:
                self._hints.add((new, key))
        if hints:
            self._sorted = None
        if changelog_offset is not None:
            self.offset = changelog_offset

    def apply_changelog(self, entries: Entries, last_offset: int) -> None:
        """Take records read back from the changelog: see fold_changelog."""
        fold_changelog(self.get_many, self.write, entries, last_offset, fire_at_of)

    def changelog_offset(self) -> int | None:
        """See StateStore."""
        return self.offset

    def close(self) -> None:
        """See StateStore."""
