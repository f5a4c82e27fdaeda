"""The members an engine has in memory, and when each must be looked at again."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final

from schemas.events import Event
from streams.intake import Intake
from streams.timers import Timers
from tables.codec import decode_member
from tables.member_state import NEVER, Member, PlanState

BREATH: Final = 1_024  # members or timers between two breaths, some 20 ms


class Memory(Intake):
    """The part of an engine that brings members into memory and sets their timers."""

    __slots__ = ("breathe", "_work")
    _durable: bool
    _timers: Timers
    breathe: Callable[[], None]
    _work: int

    def _turn(self) -> None:
        """Count a piece of work, of which there may be a hundred thousand in one epoch."""
        self._work += 1
        if not self._work % BREATH:
            self.breathe()

    def _in_turns(self, members: Iterable[Member]) -> Iterator[Member]:
        for member in members:
            self._turn()
            yield member

    def _members_of(self, events: Sequence[Event | None]) -> list[Member | None]:
        """Find the member of each event; those not in memory are brought there together."""
        members = self._members
        found: list[Member | None] = []
        missing: dict[int, str] = {}
        for number, event in enumerate(events):
            member_id = None if event is None else event.member_id
            member = None if member_id is None else members.get(member_id)
            if member is None and member_id is not None:
                missing[number] = member_id
            found.append(member)
        if missing:
            self._load(set(missing.values()))
            for number, member_id in missing.items():
                found[number] = members[member_id]
        return found

    def _load(self, member_ids: Iterable[str]) -> None:
        """Bring members into memory that are not there."""
        missing = sorted(member_ids)
        if not self._durable:  # nothing is ever written, so nothing can be found
            self._members.update((member_id, Member(member_id)) for member_id in missing)
            return
        for start in range(0, len(missing), BREATH):
            part = missing[start : start + BREATH]
            for member_id, raw in zip(part, self._store.get_many([m.encode() for m in part]), strict=True):
                member = decode_member(member_id, raw) if raw is not None else Member(member_id)
                self._members.keep(member, len(raw or b""))
            if len(part) == BREATH:
                self.breathe()

    def _due_members(self, clock_ms: int) -> list[Member]:
        """Take the timers that are due; those of members not in memory bring them there together."""
        members, due_ids = self._members, self._timers.take(clock_ms)
        found = [members.get(member_id) for member_id in due_ids]
        missing = [member_id for number, member_id in enumerate(due_ids) if found[number] is None]
        if missing:
            self._load(missing)
            return [members[member_id] for member_id in due_ids]
        return [member for member in found if member is not None]

    def _schedule(self, member: Member, wake: int | None) -> None:
        if wake is not None and wake < member.scheduled:
            member.scheduled = wake
            self._timers.set(wake, member.member_id)

    def _wake_for(self, member: Member, state: PlanState) -> None:
        for instance in state.instances:
            if instance.wake != NEVER:
                self._schedule(member, instance.wake)


def unheard() -> None:
    """Breathe where nobody waits for it."""
