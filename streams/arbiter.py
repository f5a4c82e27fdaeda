"""The arbiter's place in a partition's engine: who competes with whom, and what the partition must not forget.

With policies in force the messages of one step of a record are judged together, at its end: those of the step's timers,
then those of the record itself. Those of one member compete; the highest priority is judged first, else the order they
came in. What a journey asks for once its message is judged follows at once.

After a crash the engine computes an epoch again of which some members' records are already durable. Those members skip
its records; what they had taken from the partition's share then comes from the rows of that epoch, in its old place.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from streams.decide import Match
from streams.life import PAUSED, hold_until
from streams.policies.contact import judge as judge_contact
from streams.policies.judge import count, judge
from streams.policies.share import Row, Share
from streams.policies.verdict import Eligible, Held, MessageRequest, Suppressed, Verdict
from streams.registry import Registry
from tables.codec import decode_member
from tables.member_state import Member
from tables.store import StateStore

TIMERS, OWN = 0, 1  # the two steps of a record
Place = tuple[Any, ...]
"""Where something comes in a record's order of judging; stored in rows."""
Judge = Callable[[MessageRequest, Member, int], Verdict]
Defer = Callable[[int, Place, Member, Callable[[], None]], bool]


class Arbiter:
    """Judges messages. Keeps those that wait for the end of their step, and the partition's share.

    `ahead`: by offset, the rows of members that are durable beyond the partition.

    Args:
        partition: its number.
        registry: holds the policies in force.
        store: where members were left.
        meta: its meta entries.
        applied: the offset up to which they count.
        kept: what `packed` gave, [] at first.
    """

    def __init__(
        self,
        partition: int,
        registry: Registry,
        store: StateStore,
        meta: Mapping[bytes, bytes],
        applied: int,
        kept: list[Any],
    ) -> None:
        self.asked: list[tuple[int, Place, Member, Callable[[], None]]] = []
        self.ahead: dict[int, list[Row]] = {}
        self._registry = registry
        self._winners: dict[str, list[tuple[int, int]]] = {}
        self._judging = False
        self._offset = applied
        self._place: Place = ()
        self._judged = 0  # messages at this place
        self._share = Share(partition)
        self._share.partitions = registry.partitions
        self._look_ahead(store, self._share.restore(kept[0] if kept else None, meta, applied))

    def _look_ahead(self, store: StateStore, rows: list[Row]) -> None:
        """Keep the rows of members that are durable beyond the partition: the others will be computed again."""
        for row in rows:
            raw = store.get_many([row[2].encode()])[0]
            if raw is not None and decode_member(row[2], raw).applied >= row[0]:
                self.ahead.setdefault(row[0], []).append(row)
        for found in self.ahead.values():
            found.sort(key=_place_of)

    def policies_changed(self) -> None:
        """Follow a control record."""
        self._share.partitions = self._registry.partitions
        self._share.follow(self._registry.policy)

    def __call__(self, request: MessageRequest, member: Member, clock_ms: int) -> Verdict:
        """Judge a message, and count it if it may go. A pause of its campaign comes before all else."""
        if self._registry.life.pauses(request.campaign):
            until_ms = hold_until(clock_ms, request.wanted_at_ms + request.lifetime_ms)
            return Held(until_ms, PAUSED) if until_ms > clock_ms else Suppressed("expired")
        policy = self._registry.policy
        if policy is None:
            return judge_contact(request, member, clock_ms)
        winners = self._winners.setdefault(member.member_id, [])
        rivals = {digest for priority, digest in winners if priority > request.priority}
        answer = judge(request, policy, member, clock_ms, self._share, rivals)
        if isinstance(answer, Eligible):
            place = (*self._place, self._judged) if self._judged else self._place
            self._judged += 1
            digest = count(request, policy, member, clock_ms, self._share, self._offset, place)
            winners.append((request.priority, digest))
        return answer

    # ------------------------------------------------------------ contests

    def defer(self, priority: int, place: Place, member: Member, ask: Callable[[], None]) -> bool:
        """Take a message to be asked for at the end of its step; False: ask now.

        `place`: among timers, where it comes by itself: due, member, campaign, start.
        """
        if self._judging or self._registry.policy is None:
            return False
        self.asked.append((priority, place, member, ask))
        return True

    def take(self, match: Match, finish: Callable[[], None]) -> bool:
        """Take a match that wants to send, as `defer` does."""
        send, instance = match.plan.campaign.send, match.instance
        place = (match.due or 0, match.member.member_id, match.plan.id, *instance.started)
        return send is not None and self.defer(send.priority, place, match.member, finish)

    def contest(self, offset: int, step: int) -> Iterator[Member]:
        """Ask for what a step of the record at `offset` wants; yields the member of each after its turn."""
        self._winners, self._offset, self._judging = {}, offset, True
        asked, self.asked = self.asked, []
        turns = [
            ((step, -priority, *place) if step == TIMERS else (step, -priority, number), member, ask)
            for number, (priority, place, member, ask) in enumerate(asked)
        ]
        for place, member, ask in sorted(turns, key=lambda turn: turn[0]):
            if self.ahead:
                self._catch_up(offset, place)
            self._place, self._judged = place, 0
            ask()
            yield member
        self._judging = False

    def pass_over(self, offset: int) -> None:
        """End a record: what members that are ahead took at it is taken now, if it was not before."""
        self._catch_up(offset, (OWN + 1,))
        del self.ahead[offset]

    def _catch_up(self, offset: int, place: Place) -> None:
        rows = self.ahead.get(offset, [])
        upto = bisect_left([_place_of(row) for row in rows], place)
        policy = self._registry.policy
        for row in rows[:upto]:
            self._share.apply(row, policy.dedupe_address_ms if policy is not None else None)
        del rows[:upto]

    # ------------------------------------------------------------ what must outlive the process

    def take_rows(self) -> dict[bytes, bytes | None]:
        """Hand over meta entries to be written before the epoch's members."""
        return self._share.take_rows(row for rows in self.ahead.values() for row in rows)

    def take_changes(self) -> dict[bytes, bytes | None]:
        """Hand over meta entries to be written after them."""
        return self._share.take_changes()

    def packed(self) -> list[Any]:
        """Give what stands in the epoch's last record."""
        return self._share.packed()


def _place_of(row: Row) -> Place:
    return tuple(row[1])
