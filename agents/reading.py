"""Where each partition of `events` is read on, so that nothing between two deliveries is missing.

Faust drops records it has fetched: those of a partition that is not active at that moment, of a flow that was stopped
meanwhile, of another generation. The broker's client has moved on past them, and what it fetches next may be delivered
before Faust has sought back to the committed offsets. An epoch of that would let `applied` pass records that were never
applied. So the place is kept here, and only what was fetched from it is delivered.
"""

from collections.abc import Mapping

from faust.types import TP


class Reading:
    """Places by partition. A partition without one is closed: what is fetched of it is not for delivery.

    `turn` tells seeks apart: a fetch that began in another turn may hold records from before the seek.
    """

    def __init__(self) -> None:
        self.turn = 0
        self._next: dict[TP, int] = {}
        self._fetched: dict[TP, int] = {}

    def close(self) -> None:
        """Deliver nothing until `open`."""
        self.turn += 1
        self._next.clear()
        self._fetched.clear()

    def open(self, places: Mapping[TP, int]) -> None:
        """Deliver from these offsets on; the consumer has been sought to them."""
        self.turn += 1
        self._next.update(places)
        for tp in places:
            self._fetched.pop(tp, None)

    def place(self, tp: TP) -> int | None:
        """Return the offset to deliver next, or one in a hole before it; None while closed."""
        return self._next.get(tp)

    def fetched(self, tp: TP, last_offset: int) -> None:
        """Note what is about to be delivered."""
        self._fetched[tp] = last_offset + 1

    def delivered(self, tp: TP, last_offset: int) -> None:
        """Note a batch that was delivered."""
        if tp in self._next:
            self._next[tp] = last_offset + 1

    def missed(self) -> dict[TP, int]:
        """Name partitions of which something fetched was not delivered, and from where to fetch again."""
        found = {tp: place for tp, place in self._next.items() if self._fetched.get(tp, place) != place}
        for tp in found:
            del self._fetched[tp]
        return found
