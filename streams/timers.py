"""When members must be looked at again: timers in order of the clock, cheap to set and to take.

A heap of all members would cost a dozen comparisons per timer. So timers lie unsorted in buckets of about a second;
only the bucket that the clock has reached is sorted. Memory holds the nearest: what is written to the
store as a hint is let go when there are many, and read again, page by page, as the clock comes near.
"""

from bisect import insort
from collections.abc import Callable, Mapping
from heapq import heapify, heappop, heappush
from typing import Final

from tables.member_state import NEVER, Member

# 1,024 ms: with 10,000 timers a second that many are sorted, with one a second no wider than needed
BUCKET_BITS: Final = 10

Timer = tuple[int, str]
"""(clock value, member id)."""
ReadHints = Callable[[tuple[int, bytes] | None, int], list[tuple[int, bytes]]]


class Timers:
    """Timers of one partition: those set here, and the store's hints, read page by page as the clock comes near.

    `first`: no timer is due before this clock value; `NEVER` when there is none.

    Args:
        read: lists hints after a given one, in order, at most so many (`StateStore.due`).
        page: how many hints to read at a time.
    """

    __slots__ = (
        "first",
        "_read",
        "_page",
        "_last",
        "_known_ms",
        "_near",
        "_taken",
        "_far",
        "_edges",
        "_reached",
        "_set",
    )

    def __init__(self, read: ReadHints, page: int) -> None:
        self.first = NEVER
        self._read = read
        self._page = page
        self._last: tuple[int, bytes] | None = None
        self._known_ms = 0  # hints beyond this clock value are still in the store
        self._near: list[Timer] = []  # sorted; those before `_taken` were taken
        self._taken = 0
        self._far: dict[int, list[Timer]] = {}  # by bucket
        self._edges: list[int] = []  # a heap of the buckets in `_far`
        self._set = 0  # since they were counted last
        self._reached = -1  # timers of this bucket and of those before it belong to `_near`
        self._read_page()

    def set(self, at_ms: int, member_id: str) -> None:
        """Have a member looked at once the clock reaches `at_ms`."""
        self._set += 1
        bucket = at_ms >> BUCKET_BITS
        if bucket <= self._reached:
            insort(self._near, (at_ms, member_id), self._taken)
        else:
            far = self._far.get(bucket)
            if far is None:
                far = self._far[bucket] = []
                heappush(self._edges, bucket)
            far.append((at_ms, member_id))
        if at_ms < self.first:
            self.first = at_ms

    def take(self, clock_ms: int) -> list[str]:
        """Remove and list the members whose time has come, each once."""
        due: list[str] = []
        edges = self._edges
        while True:
            near, taken = self._near, self._taken
            while taken < len(near) and near[taken][0] <= clock_ms:
                due.append(near[taken][1])
                taken += 1
            self._taken = taken
            if edges and taken == len(near) and edges[0] << BUCKET_BITS <= clock_ms:
                self._reached = heappop(edges)
                self._near, self._taken = sorted(self._far.pop(self._reached)), 0
            elif clock_ms >= self._known_ms:
                self._read_page()
            else:
                break
        self.first = self._lower_bound()
        return due if len(due) < 2 else list(dict.fromkeys(due))

    def __len__(self) -> int:
        return len(self._near) - self._taken + sum(map(len, self._far.values()))

    def let_go(self, members: Mapping[str, Member], written: int) -> None:
        """When many were set, let go of all but about the nearest page: their hints are in the store.

        Except those of members whom an epoch after `written` changed: their hints are not there yet.

        Args:
            members: those in memory; one whose next timer is let go is no longer scheduled here.
            written: number of the last epoch that is in the store.
        """
        if self._set < self._page:
            return
        self._set = 0
        edges, kept, place = sorted(self._edges), len(self._near) - self._taken, 0
        while place < len(edges) and kept < self._page:
            kept += len(self._far[edges[place]])
            place += 1
        if place == len(edges):
            return
        known = (edges[place] << BUCKET_BITS) - 1
        if known < self._known_ms:  # else the store is still to be read from an earlier place on
            self._known_ms, self._last = known, (known, b"")
        known = self._known_ms
        waiting = {member_id for member_id, member in members.items() if member.epoch > written}
        for bucket in edges[place:]:
            if bucket << BUCKET_BITS <= known:
                continue
            left = [timer for timer in self._far.pop(bucket) if timer[1] in waiting]
            if left:
                self._far[bucket] = left
        self._edges = list(self._far)
        heapify(self._edges)
        for member_id, member in members.items():
            if known < member.scheduled < NEVER and member_id not in waiting:
                member.scheduled = NEVER

    def earliest(self) -> int | None:
        """Return the clock value of the earliest timer, or from which the store must be read again; None for neither.

        Nobody else moves the clock of an idle partition: without the latter, what was let go would wait for an event.
        """
        found = self._known_ms
        if self._taken < len(self._near):
            found = min(found, self._near[self._taken][0])
        elif self._edges:
            found = min(found, min(self._far[self._edges[0]])[0])
        return None if found == NEVER else found

    def _lower_bound(self) -> int:
        if self._taken < len(self._near):
            return min(self._near[self._taken][0], self._known_ms)
        return min(self._edges[0] << BUCKET_BITS, self._known_ms) if self._edges else self._known_ms

    def _read_page(self) -> None:
        """Read one page of hints; a stale one costs a look at its member and dies."""
        page = self._read(self._last, self._page)
        self._known_ms = page[-1][0] if len(page) == self._page else NEVER
        if page:
            self._last = page[-1]
        for at_ms, key in page:
            self.set(at_ms, key.decode())
