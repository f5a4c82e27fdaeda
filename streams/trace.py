"""Follow one member through a log: the real engine, one record at a time, and a note of whatever it does or leaves.

Offsets are doubled inside: before each of the member's own records a tick with the same append time fires what is due,
so that timers and the event itself are seen apart. All ids are made from the offsets of the log.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import msgspec

from schemas.events import CONTROL_TYPES, TICK, Event, Record
from schemas.ids import event_id_at, instance_id
from schemas.policy import Policy
from schemas.records import Decision
from streams.caps import cap_key
from streams.engine import PartitionEngine
from streams.life import LIVE, STOPPED
from streams.patterns.evidence import Evidence, judge
from streams.patterns.match import CANCELLED, COMPLETED, EVICTED, Moment
from streams.patterns.plan import MAX_AGE_MS, Plan
from streams.why import Before, Miss, Seen, breaker, gathered, gathered_first, matching, why_not_moved, why_not_started
from tables.member_state import Instance, Journey, Member
from tables.store import MemoryStore

MISSES_MAX = 20  # kept per instance and per campaign, the newest; the rest is counted


class StepMatch(msgspec.Struct):
    """One step reached at event time `e`; `seen` is None where time itself reached it. `ids`: of all its events."""

    index: int
    e: int
    clock_ms: int
    seen: Seen | None = None
    checks: list[Evidence] = []
    ids: list[str] = []


class Ending(msgspec.Struct):
    """How an instance ended: `kind` as the matcher says. `seen`: the event that did it. `facts`: caps, contact."""

    kind: str
    clock_ms: int
    by: str | None
    seen: Seen | None = None
    decision: Decision | None = None
    checks: list[Evidence] = []
    facts: dict[str, Any] = {}


class Life:
    """One instance from its start to its end, with what did not move it: the newest, and how many of each kind."""

    def __init__(self, plan: Plan, member_id: str, instance: Instance) -> None:
        self.plan = plan
        self.instance = instance
        self.instance_id = instance_id(plan.id, member_id, instance.correlation, instance.anchor)
        self.steps: list[StepMatch] = []
        self.misses: list[Miss] = []
        self.missed: Counter[str] = Counter()
        self.ending: Ending | None = None
        self.late: Seen | None = None
        self.journey: list[Decision] = []  # what its journey has said


class Followed:
    """What one campaign did with the member: instances in the order of their start, events that started none."""

    def __init__(self) -> None:
        self.lives: list[Life] = []
        self.misses: list[Miss] = []
        self.missed: Counter[str] = Counter()


class Tracer:
    """Follows one member.

    Args:
        member_id: whom to follow; records of others only move the clock.
        plans: campaigns to run; None: those the log publishes.
        campaign: the id of the one campaign to keep notes of; None: all. All are run, as they share bounds.
        partition: number of the partition, for ids of events that bring none.
        topic: name of the log, likewise.
        policy: policies to hold beside `plans`.
    """

    def __init__(
        self,
        member_id: str,
        plans: Sequence[Plan] | None,
        campaign: str | None = None,
        *,
        partition: int = 0,
        topic: str = "events",
        policy: Policy | None = None,
    ) -> None:
        self.member_id = member_id
        self.records = 0
        self.members: set[bytes] = set()
        self.events: list[Seen] = []
        self.campaigns: dict[str, Followed] = {}
        self._only = campaign
        self._place = (topic, partition)
        self._ahead_ms = 0
        self._lives: dict[int, Life] = {}
        self._by_offset: dict[int, str] = {}
        self._ended: list[Life] = []
        self._current: Seen | None = None
        self._engine = PartitionEngine(
            partition, MemoryStore(), topic=topic, campaigns=plans, durable=False, policy=policy,
            observer=self._note_end,
        )  # fmt: skip

    # ------------------------------------------------------------ what was found

    @property
    def clock_ms(self) -> int:
        """The largest append time read."""
        return max(self._ahead_ms, self._engine.clock_ms)

    @property
    def member(self) -> Member | None:
        """The member's state as it is now; None when nothing of it was read."""
        return self._engine.in_memory(self.member_id)

    @property
    def plans(self) -> dict[str, Plan]:
        """Live campaigns by id, those to be noted."""
        live = self._engine.registry.live
        return {name: plan for name, plan in live.items() if self._only in (None, name)}

    @property
    def suspended(self) -> dict[str, Plan]:
        """Campaigns by id that were stopped for failing, those to be noted."""
        stopped = self._engine.registry.suspended
        return {name: plan for name, plan in stopped.items() if self._only in (None, name)}

    def life_of(self, name: str) -> str:
        """Name the state that dates and operators give a campaign: `live`, `scheduled`, `paused` and so on."""
        registry = self._engine.registry
        plan = registry.live.get(name)
        if plan is None:
            return STOPPED if name in registry.life.stops else LIVE
        return registry.life.state_of(plan, self.clock_ms)

    @property
    def policy(self) -> Policy | None:
        """The policies in force."""
        return self._engine.registry.policy

    @property
    def known(self) -> list[str]:
        """Ids of all campaigns that run."""
        return sorted(self._engine.registry.live)

    def alive(self, life: Life) -> bool:
        """Tell whether an instance still waits; False for one without ending: its campaign was withdrawn."""
        state = self.member.plans.get(life.plan.id) if self.member is not None else None
        in_state = state is not None and life.instance in state.instances
        return in_state and self._engine.registry.plan_of(life.plan.id, life.plan.version) is not None

    # ------------------------------------------------------------ reading

    def take(self, record: Record, event: Event | None) -> None:
        """Read one record in log order. `event` None: no event, or one of another member; it moves the clock."""
        self.records += 1
        key = event.member_id.encode() if event is not None and event.member_id else record.key
        if key is not None:
            self.members.add(key)
        if event is not None and event.member_id == self.member_id:
            self._tick(record, always=True)
            self._read(record, event)
        elif event is not None and event.member_id is None and event.type in CONTROL_TYPES:
            self._tick(record, always=True)
            self._run(Record(2 * record.offset + 1, record.append_ms, None, record.value), event)
        else:
            self._tick(record, always=False)

    def _tick(self, record: Record, always: bool) -> None:
        """Move the clock; the engine is asked only when something is due, or the member's own record follows."""
        self._ahead_ms = max(self._ahead_ms, record.append_ms)
        due = self._engine.next_fire_ms
        if not always and (due is None or due > self._ahead_ms):
            return
        before = self._snapshot()
        armed = self._armed()
        self._current = None
        self._run(Record(2 * record.offset, self._ahead_ms, None, None), Event(TICK, 0))
        self._sync(before, None)
        self._note_dates(armed)
        self._ended = []

    def _read(self, record: Record, event: Event) -> None:
        offset = 2 * record.offset + 1
        if event.event_id is None:
            event.event_id = event_id_at(*self._place, record.offset)
        e = min(event.occurred_at_ms, record.append_ms)
        seen = Seen(record.offset, event.event_id, event.type, e, record.append_ms, self.clock_ms, event.data)
        self._by_offset[offset] = seen.event_id
        self._current = seen
        before = self._snapshot()
        counts = self._counts()
        epoch = self._run(Record(offset, record.append_ms, record.key, record.value), event)
        member = self.member
        if member is None:
            return  # refused: such an id cannot be a member's
        seen.profile = member.profile
        duplicate = bool(epoch.counters.get("events.duplicate"))
        too_old = e < record.append_ms - MAX_AGE_MS
        seen.fate = "duplicate" if duplicate else "too_old" if too_old else "read"
        moment = Moment(seen.event_id, seen.type, e, offset, seen.data, seen.profile, seen.clock_ms, too_old)
        self._sync(before, moment, counts)
        if duplicate:
            self._note_duplicate(seen, before)
        else:
            self._note_misses(moment, seen, before, counts, bool(epoch.counters.get("campaigns.failed")))
        self.events.append(seen)
        self._ended = []

    def _run(self, record: Record, event: Event) -> Any:
        epoch = self._engine.run([record], [event])
        ends = [life for life in self._ended if life.ending and life.ending.kind in (COMPLETED, EVICTED)]
        for decision in epoch.decisions:
            if decision.outcome == "late":
                self._note_late(decision)
            elif ends and (ending := ends[0].ending) and ends[0].instance_id == decision.instance_id:
                del ends[0]
                ending.decision = decision
                ending.facts = {**ending.facts, **decision.inputs}
            else:  # after the decision about its match, a journey speaks for itself
                self._note_journey(decision)
        return epoch

    def journey_of(self, life: Life) -> Journey | None:
        """Find the journey that an instance has begun, while it runs."""
        journeys = self.member.journeys if self.member is not None else ()
        return next((journey for journey in journeys if journey.instance_id == life.instance_id), None)

    def plan_of(self, journey: Journey) -> Plan | None:
        """Find the version on which a journey runs."""
        return self._engine.registry.after_edits(journey)[0]

    def _note_journey(self, decision: Decision) -> None:
        for life in reversed(self._followed(decision.campaign).lives):
            if life.instance_id == decision.instance_id and life.ending and life.ending.kind == COMPLETED:
                life.journey.append(decision)
                return

    # ------------------------------------------------------------ notes

    def _followed(self, plan_id: str) -> Followed:
        return self.campaigns.setdefault(plan_id, Followed())

    def _life(self, plan: Plan, instance: Instance) -> Life:
        life = self._lives.get(id(instance))
        if life is None:
            life = self._lives[id(instance)] = Life(plan, self.member_id, instance)
            self._followed(plan.id).lives.append(life)
        return life

    def _note_end(self, kind: str, plan: Plan, member: Member, instance: Instance, offset: int, by: str | None) -> None:
        """Keep how an instance ended, with what refused it; called by the engine."""
        if instance.version != plan.version:  # pushed out for another campaign's sake in the record that began it
            live = self._engine.registry.live.values()
            plan = next((own for own in live if own.version == instance.version), plan)
        life = self._life(plan, instance)
        ending = life.ending = Ending(kind, self._engine.clock_ms, by, self._current if by else None)
        self._ended.append(life)
        if kind != COMPLETED:
            return
        profile, clock = member.profile, self._engine.clock_ms
        if plan.if_still_expr is not None:
            ending.checks = [judge(plan.if_still_expr, instance.last, instance.aliases, profile, clock)]
        state = member.plans.get(plan.id)
        fired = list(state.fired.get(cap_key(plan.campaign, instance.key), ())) if state is not None else []
        ending.facts = {"fired": fired}

    def _note_late(self, decision: Decision) -> None:
        for life in reversed(self._followed(decision.campaign).lives):
            if life.instance_id == decision.instance_id and life.ending and life.ending.kind == COMPLETED:
                life.late = self._current
                return

    def _note_duplicate(self, seen: Seen, before: dict[int, Before]) -> None:
        for plan in self.plans.values():
            if seen.type in plan.start_types:
                self._miss(self._followed(plan.id), Miss(seen, "duplicate"))
        for number in before:
            life = self._lives[number]
            if seen.type in life.plan.types:
                self._miss(life, Miss(seen, "duplicate"))

    def _note_misses(
        self, moment: Moment, seen: Seen, before: dict[int, Before], counts: dict[str, Any], failed: bool
    ) -> None:
        moved: set[str] = set()
        for number, life in self._concerned(before).items():
            if life.steps and life.steps[-1].seen is seen:
                moved.add(life.plan.id)
            elif number in before and life.ending is None and self._only in (None, life.plan.id):
                miss = why_not_moved(life.plan, life.instance, before[number], moment, seen, self.events)
                if miss is not None:
                    self._miss(life, miss)
        for plan in self.plans.values():
            if moment.type in plan.start_types and plan.id not in moved:
                peers = [self._lives[n].instance for n in before if self._lives[n].plan.id == plan.id]
                miss = why_not_started(plan, counts.get(plan.id, {}), peers, moment, seen, self.events)
                self._miss(
                    self._followed(plan.id), miss if miss.why != "unknown" or not failed else Miss(seen, "failed")
                )

    def _miss(self, where: Life | Followed, miss: Miss) -> None:
        where.missed[miss.why] += 1
        where.misses.append(miss)
        del where.misses[:-MISSES_MAX]

    def _note_dates(self, armed: dict[str, tuple[int, str]]) -> None:
        """A date that came and completed nothing: `where` did not hold."""
        completed = {(life.plan.id, life.instance.anchor) for life in self._ended}
        member = self.member
        for plan_id, (due, label) in armed.items():
            plan = self.plans.get(plan_id)
            if plan is None or plan.where_expr is None or member is None or (plan_id, label) in completed:
                continue
            if due + plan.campaign.lateness_ms <= self.clock_ms:
                seen = Seen(-1, label, "", due, self.clock_ms, self.clock_ms, {}, member.profile)
                check = judge(plan.where_expr, {}, {}, member.profile, self.clock_ms)
                self._miss(self._followed(plan_id), Miss(seen, "where", [check]))

    # ------------------------------------------------------------ before and after a record

    def _snapshot(self) -> dict[int, Before]:
        """Note every live instance as it stands; ids of objects are safe as `_lives` holds them."""
        member = self.member
        found: dict[int, Before] = {}
        for plan_id, state in member.plans.items() if member is not None else ():
            for instance in state.instances:
                plan = self._engine.registry.plan_of(plan_id, instance.version)
                if plan is not None:
                    self._life(plan, instance)
                    found[id(instance)] = Before(instance)
        return found

    def _concerned(self, before: dict[int, Before]) -> dict[int, Life]:
        """List instances that lived before, live now, or began and ended with this record."""
        numbers = [*before, *self._snapshot(), *(id(life.instance) for life in self._ended)]
        return {number: self._lives[number] for number in dict.fromkeys(numbers)}

    def _counts(self) -> dict[str, dict[Any, list[Any]]]:
        """Copy what first steps have gathered, by campaign and key."""
        member = self.member
        states = member.plans.items() if member is not None else ()
        return {name: {k: [list(e) for e in v] for k, v in s.counts.items()} for name, s in states if s.counts}

    def _armed(self) -> dict[str, tuple[int, str]]:
        member = self.member
        return {n: s.armed[:2] for n, s in member.plans.items() if s.armed} if member is not None else {}

    def _sync(
        self, before: dict[int, Before], moment: Moment | None, counts: dict[str, dict[Any, list[Any]]] | None = None
    ) -> None:
        """Note the steps that instances have reached, and by what."""
        for number, life in self._concerned(before).items():
            for index, event_id, e in life.instance.matched[len(life.steps) :]:
                step = StepMatch(index, e, self.clock_ms)
                if event_id and moment is not None:
                    step.seen = self._current
                    known = before.get(number)
                    step.checks = matching(life.plan, index, known.aliases if known else {}, moment)
                    if known is not None:
                        found = gathered(life.plan.steps[index], known, moment)
                    else:
                        entries = (counts or {}).get(life.plan.id, {}).get(life.instance.key, [])
                        found = gathered_first(life.plan.steps[index], entries, moment)
                    step.ids = [self._by_offset[offset] for offset in found.offsets if offset in self._by_offset]
                life.steps.append(step)
        for life in self._ended:
            self._name_breaker(life)

    def _name_breaker(self, life: Life) -> None:
        """An absence broken by what was read before its anchor: the event that ended it is not the current one."""
        ending = life.ending
        if ending is None or ending.kind != CANCELLED:
            return
        step = life.plan.steps[life.instance.step]
        if life.steps and life.steps[-1].seen is self._current and ending.seen is self._current:
            ending.seen = breaker(life.plan, step.term, life.instance, self.events)
        if ending.seen is not None and step.term is not None:
            seen = ending.seen
            moment = Moment(seen.event_id, seen.type, seen.e, 0, seen.data, seen.profile, seen.clock_ms, False)
            ending.checks = matching(life.plan, life.instance.step, life.instance.aliases, moment)
