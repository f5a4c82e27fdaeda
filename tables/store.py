"""The local store of one partition: member records, timer hints, meta. A protocol, and the store that forgets.

Hints are derived from member records (`fire_at_ms` is the second field of each record): never in the changelog.
"""

from bisect import insort
from collections.abc import Mapping, Sequence
from typing import Protocol

Hint = tuple[bytes, int | None, int | None]
"""(member key, hint to delete, hint to put); times in ms."""


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


class MemoryStore:
    """Keeps everything in memory and nothing after: for `replay`, tests and dry runs."""

    def __init__(self) -> None:
        self.members: dict[bytes, bytes] = {}
        self.metas: dict[bytes, bytes] = {}
        self.hints: list[tuple[int, bytes]] = []
        self.offset: int | None = None

    def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """See StateStore."""
        return [self.members.get(key) for key in keys]

    def meta(self) -> dict[bytes, bytes]:
        """See StateStore."""
        return dict(self.metas)

    def due(self, after: tuple[int, bytes] | None, limit: int) -> list[tuple[int, bytes]]:
        """See StateStore."""
        rest = self.hints if after is None else [h for h in self.hints if h > after]
        return rest[:limit]

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
            if old is not None and (old, key) in self.hints:
                self.hints.remove((old, key))
            if new is not None and (new, key) not in self.hints:
                insort(self.hints, (new, key))
        if changelog_offset is not None:
            self.offset = changelog_offset

    def changelog_offset(self) -> int | None:
        """See StateStore."""
        return self.offset

    def close(self) -> None:
        """See StateStore."""
