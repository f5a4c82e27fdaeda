"""One partition's engine: records in, an epoch out. The log is its only clock (DESIGN §3).

For each record, in log order: advance the clock, fire what is due, apply the record. Where a batch ends never changes a
result. Members live in an overlay that runs ahead of the store; the caller makes each epoch durable and says `written`.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from heapq import heappush
from typing import Any, Final

import msgspec

from schemas.codec import decode_event
from schemas.events import CONTROL_TYPES, POLICY_PUBLISHED, TICK, Event, Record
from schemas.ids import event_id_at
from schemas.policy import Policy
from streams.arbiter import OWN, TIMERS, Arbiter, Judge
from streams.attribution import CONVERSION_TYPES, TOUCH_TYPES, credit, forget_stale_touches, record_touch
from streams.breaker import Breaker
from streams.decide import Match, Place, conclude, conclude_firing, describe, lane_of_send, note, remember_fired
from streams.epoch import Epoch
from streams.flows.run import Journeys
from streams.history import FOLDED_TYPES, PROFILE_BYTES_MAX, ProfileFull, fold_profile, remember
from streams.late import cancel_of, forget_firing, meets_firing, note_firing
from streams.memory import Memory, unheard
from streams.patterns.match import COMPLETED, COUNTED_AS, SILENT, Outcome, advance_instances, reach_deadline
from streams.patterns.moment import Moment
from streams.patterns.plan import MAX_AGE_MS, Plan
from streams.patterns.start import try_start
from streams.patterns.wait import begin_wait
from streams.registry import META_CLOCK, Registry
from streams.routes import Route
from streams.schedule import arm_dates, drop, fire_date, in_turn, next_wake, queue_timers
from streams.timers import Timers
from tables.codec import encode_member
from tables.digests import add, digest_of, holds
from tables.hot import HOT_BYTES, HotBudget, HotMembers
from tables.member_state import NEVER, NO_MAP, RECENT_IDS_MAX, Instance, Journey, Member, PlanState
from tables.store import StateStore

HINTS_PAGE: Final = 65_536
META_FORMAT: Final = 1
SPECIAL_TYPES: Final = FOLDED_TYPES | TOUCH_TYPES | CONVERSION_TYPES
Observer = Callable[[str, Plan, Member, Instance, int, str | None], None]

_pack: Final = msgspec.msgpack.Encoder().encode
_unpack: Final = msgspec.msgpack.Decoder(list[Any]).decode


class PartitionEngine(Memory):
    """The pure core of one partition.

    Args:
        partition: its number, for ids of events that bring none.
        store: where members, hints and meta were left by the last durable epoch.
        topic: name of the log, likewise for ids.
        campaigns: plans to run whatever the log says (replay); None: those published on the log.
        hot_bytes: what decoded members may take between epochs, by estimate; or the budget that partitions share.
        durable: False when nobody will write the epochs (replay): members then stay in memory and are not encoded.
        decisions: False when only firings are wanted: no decisions, commands and notes.
        decode: reads a record's value; another one where producers write Avro.
        policy: policies to hold beside `campaigns`; those published on the log otherwise.
        arbiter: judges every message instead of the one that knows policies.
        observer: told of every instance that ends: (kind, plan, member, instance, offset, event id that did it).
    """

    __slots__ = (
        "partition", "topic", "applied_offset", "clock_ms", "_durable", "_decisions", "_decode", "_observer",
        "_store", "_members", "_timers", "_epoch_number", "_written_number", "_epochs", "_out", "_changed",
        "_counts", "_event_count", "_completed_count", "_fired", "breaker", "registry", "_arbiter", "_journeys",
    )  # fmt: skip

    def __init__(
        self,
        partition: int,
        store: StateStore,
        *,
        topic: str = "events",
        campaigns: Sequence[Plan] | None = None,
        hot_bytes: int | HotBudget = HOT_BYTES,
        durable: bool = True,
        decisions: bool = True,
        decode: Callable[[bytes | None], Event] = decode_event,
        policy: Policy | None = None,
        arbiter: Judge | None = None,
        observer: Observer | None = None,
    ) -> None:
        self.partition, self.topic = partition, topic
        self._durable, self._decisions = durable, decisions
        self.breathe, self._work = unheard, 0
        self._decode, self._observer = decode, observer
        self._store = store
        self._members = HotMembers(hot_bytes)
        self._timers = Timers(store.due, HINTS_PAGE)
        self._epoch_number = self._written_number = self._event_count = self._completed_count = 0
        self._epochs: dict[int, int] = {}
        self._out: Epoch
        self.breaker = Breaker()
        self._changed: dict[str, Member] = {}
        self._counts: Counter[str] = Counter()
        self._fired: list[Member] = []
        meta = store.meta()
        self.registry = Registry(meta, campaigns, policy)
        head = _unpack(meta[META_CLOCK]) if META_CLOCK in meta else [META_FORMAT, -1, 0, -1]
        self.applied_offset, self.clock_ms = int(head[1]), int(head[2])
        self._arbiter = Arbiter(partition, self.registry, store, meta, self.applied_offset, head[4:])
        self._journeys = Journeys(self.registry, arbiter or self._arbiter, self._arbiter.defer)

    @property
    def next_fire_ms(self) -> int | None:
        """The clock value at which the earliest pending timer fires; None when none is pending."""
        return self._timers.earliest()

    # ------------------------------------------------------------ one epoch

    def run(self, records: Sequence[Record], events: Sequence[Event | None] | None = None) -> Epoch:
        """Apply records in log order; those at or below `applied_offset` are skipped (a replay after a crash).

        `events`: the records decoded already, in the same order, None where decoding is left to the engine.
        """
        self._epoch_number += 1
        first = records[0].offset if records else self.applied_offset + 1
        self._out = Epoch(
            self.partition, first, self.applied_offset, len(records), 0, None, [], [], [], [], [], {}, {}, [], {}
        )
        self._changed, self._counts, self._event_count, self._completed_count = {}, Counter(), 0, 0
        self._journeys.say_to(self._out, self._counts)
        given, log = events is not None, list(records)
        read = list(events) if events is not None else self._read_all(log)
        timers, ahead = self._timers, self._arbiter.ahead
        for number, member in enumerate(self._members_of(read)):
            record, event = log[number], read[number]
            offset, append_ms = record.offset, record.append_ms
            if offset <= self.applied_offset:
                continue
            if append_ms > self.clock_ms:
                self.clock_ms = append_ms
                if append_ms >= self.registry.turn_ms:
                    self.registry.turn(append_ms)
            if timers.first <= self.clock_ms:
                self._fire_due(record)
            if member is not None and event is not None:
                self._apply(record, event, member, offset, append_ms)
            elif event is None:
                if given:
                    self._read(record)  # a line of a recorded log that is no event: refused here, at its place
            elif event.type in CONTROL_TYPES:
                self._control(record, event)
            elif event.type != TICK:
                self._counts["events.anonymous"] += 1
            while self._fired:  # only now: a member's timers and its own event may share a record
                self._fired.pop().applied = offset
            if ahead and offset in ahead:
                self._arbiter.pass_over(offset)
            self.applied_offset = offset
        return self._close()

    def written(self, epoch: Epoch) -> None:
        """Learn that an epoch and all before it are in the store; their members may leave memory."""
        self._written_number = max(self._written_number, self._epochs.pop(epoch.last_offset, 0))
        self._timers.let_go(self._members, self._written_number)
        self._members.evict(self._written_number)

    def _close(self) -> Epoch:
        out = self._out
        for member in self._changed.values() if self._durable else ():
            wake = next_wake(member)
            key = member.member_id.encode()
            if wake != member.hint:
                out.hints.append((key, member.hint, wake))
                member.hint = wake
            self._schedule(member, wake)
            encoded = out.members[key] = encode_member(member, wake)
            member.epoch = self._epoch_number
            self._members.keep(member, len(encoded))
            self._turn()
        out.meta_first = self._arbiter.take_rows()
        out.meta.update(self.registry.take_changes() | out.meta_first | self._arbiter.take_changes())
        clock = [META_FORMAT, self.applied_offset, self.clock_ms, self.registry.generation, *self._arbiter.packed()]
        out.meta[META_CLOCK] = _pack(clock)
        out.last_offset, out.clock_ms, out.next_fire_ms = self.applied_offset, self.clock_ms, self.next_fire_ms
        if self._event_count:
            self._counts["events"] = self._event_count
        if self._completed_count:
            self._counts[COUNTED_AS[COMPLETED]] = self._completed_count
        out.counters = dict(self._counts)
        self._epochs[out.last_offset] = self._epoch_number
        return out

    # ------------------------------------------------------------ applying a record

    def _apply(self, record: Record, event: Event, member: Member, offset: int, append_ms: int) -> None:
        if offset <= member.applied:
            return
        self._event_count += 1
        event_id = event.event_id or event_id_at(self.topic, self.partition, offset)
        digest = digest_of(event_id)
        if holds(member.recent, digest):
            self._counts["events.duplicate"] += 1
            return
        member.recent = add(member.recent, digest, RECENT_IDS_MAX)
        member.applied = offset
        if self._durable:
            self._changed[member.member_id] = member
        e: int = event.occurred_at_ms
        if e > append_ms:
            e = append_ms
        too_old = e < append_ms - MAX_AGE_MS
        if too_old:
            self._counts["events.too_old"] += 1
        registry, type_ = self.registry, event.type
        special = type_ in SPECIAL_TYPES
        changed = special and type_ in FOLDED_TYPES and self._fold(record, member, event, e)
        if registry.dated and arm_dates(registry.dated, member, self.clock_ms, changed):
            self._schedule(member, next_wake(member))
        if special:
            self._touch(member, event, event_id, e, append_ms)
        route, data = registry.routes.get(type_), event.data
        plain = not (too_old or member.journeys or self.breaker.watched)
        if plain and route is not None and route.begins_only:
            starts = route.starts(data)
            if not starts or (len(starts) == 1 and self._begin(starts[0], member, event_id, type_, e, offset, data)):
                return
        if route is not None or member.journeys:
            moment = Moment(event_id, type_, e, offset, data, member.profile, self.clock_ms, too_old)
            if member.journeys and self._journeys.show(member, moment, self._place(record)):  # what it begins: not yet
                self._journeys_moved(member, record)
            if route is not None:
                self._match(route, member, moment, record)
            if self._arbiter.asked:
                self._hold_contest(record, OWN)

    def _fold(self, record: Record, member: Member, event: Event, e: int) -> bool:
        try:
            return fold_profile(member, event, e)
        except ProfileFull:
            message = f"{event.type}: the profile would be larger than {PROFILE_BYTES_MAX} bytes; it stays as it was"
            self._refuse(record, "profile-full", message)
            return False

    def _touch(self, member: Member, event: Event, event_id: str, e: int, append_ms: int) -> None:
        """Remember a message that may earn an order, or credit an order to one."""
        if event.type in TOUCH_TYPES:
            forget_stale_touches(member, self.clock_ms, MAX_AGE_MS)
            record_touch(member, event, e)
        elif event.type in CONVERSION_TYPES and member.touches:
            forget_stale_touches(member, self.clock_ms, MAX_AGE_MS)
            self._out.attributions += credit(member, event, event_id, e, append_ms)

    def _begin(
        self, plan: Plan, member: Member, event_id: str, type_: str, e: int, offset: int, data: dict[str, Any]
    ) -> bool:
        """Go the short way where an event can do no more than begin this campaign; tell whether it was enough."""
        wait = plan.wait
        if wait is None or type_ not in plan.plain_starts:
            return False
        known = member.plans.get(plan.id)
        state = PlanState() if known is None else known
        begun = begin_wait(plan, wait, state, member, event_id, e, (offset, 1), data)
        if begun is None:
            return False
        if known is None:
            member.plans[plan.id] = state
        self._wake_for(member, state) if member.scheduled == NEVER else self._schedule(member, begun.wake)
        return True

    def _match(self, route: Route, member: Member, moment: Moment, record: Record) -> None:
        if route.series and not moment.too_old:
            for series in route.series:
                try:
                    if remember(member, series, moment):
                        self._counts["bounds.history"] += 1
                except Exception as error:  # as in _match_plan; campaigns share histories, so none is to blame
                    self._failed(f"history of {series.type}", record, error)
        starts = route.starts(moment.data)
        if not route.moves or not member.plans:
            for plan in starts:
                self._match_plan(plan, True, False, member, moment, record)
            return
        concerned = {plan.id: True for plan in starts}
        for plan_id, state in member.plans.items():
            if plan_id in route.moves and (state.instances or state.late):
                concerned.setdefault(plan_id, False)
        for plan_id in sorted(concerned) if len(concerned) > 1 else concerned:
            live = self.registry.live.get(plan_id) or self.registry.newest(plan_id)
            if live is None:
                self._withdraw(member, plan_id)
            else:
                self._match_plan(live, concerned[plan_id], plan_id in route.moves, member, moment, record)

    def _match_plan(
        self, plan: Plan, starts: bool, moves: bool, member: Member, moment: Moment, record: Record
    ) -> None:
        """Show the event to one campaign: late firings, live instances, then the first step (SEMANTICS 66)."""
        state = member.plans.get(plan.id)
        fresh = state is None
        if state is None:
            state = member.plans[plan.id] = PlanState()
        wait = plan.wait
        if wait is not None and starts and moment.type in plan.plain_starts and not moment.too_old:
            general = self.breaker.watched or (moves and (state.instances or state.late))
            place = (moment.offset, moment.begun + 1)
            begun = (
                None
                if general
                else begin_wait(plan, wait, state, member, moment.event_id, moment.e, place, moment.data)
            )
            if begun is not None:
                moment.begun += 1
                self._wake_for(member, state) if member.scheduled == NEVER else self._schedule(member, begun.wake)
                return
        out: list[Outcome] = []
        advanced: dict[Any, bool] = {}
        try:
            if state.late and moves and not moment.too_old:
                self._late(plan, state, member, moment, record)
            if state.instances and moves:
                advanced = advance_instances(plan, self.registry.plan_of, state, member, moment, out)
                if out:
                    self._settle(member, out, record)
                    out = []
            if starts:
                try_start(plan, state, member, moment, advanced, out)
        except Exception as error:  # a campaign that raises must not stop the partition, nor the other campaigns
            self._campaign_failed(plan, record, error)
        else:
            if self.breaker.watched:
                self.breaker.passed((plan.id, plan.version))
        if out:
            self._settle(member, out, record)
        if state.instances:
            self._wake_for(member, state)
        elif fresh and state.empty():
            del member.plans[plan.id]

    def _withdraw(self, member: Member, plan_id: str) -> None:
        """Drop what a withdrawn campaign remembers, but its caps: published again, `once` still holds."""
        state = member.plans[plan_id]
        self._counts["instances.withdrawn"] += len(state.instances)
        for fired in state.late:
            forget_firing(plan_id, member.member_id, state, fired)
        state.instances, state.counts, state.armed = [], NO_MAP, None
        if state.empty():
            del member.plans[plan_id]

    # ------------------------------------------------------------ outcomes

    def _settle(self, member: Member, out: list[Outcome], record: Record) -> None:
        """Say what came of instances that ended: firings, decisions, commands, counts."""
        for kind, plan, state, instance, due, by in out:
            if kind == COMPLETED:
                self._completed_count += 1
                match = Match(plan, member, instance, self._place(record), due, by if due is None else None)
                if self.registry.policy is None or not self._arbiter.take(
                    match, partial(self._finish, match, state, record)
                ):
                    self._finish(match, state, record)
                continue
            self._counts[COUNTED_AS[kind]] += 1
            if self._decisions and kind not in SILENT:  # evicted
                owner = next((name for name, s in member.plans.items() if s is state), plan.id)
                evicted = self.registry.plan_of(owner, instance.version) or plan
                match = Match(evicted, member, instance, self._place(record))
                self._out.decisions.append(describe(match, "evicted", "instances_full"))
            if self._observer is not None:
                self._observer(kind, plan, member, instance, record.offset, by)

    def _finish(self, match: Match, state: PlanState, record: Record) -> None:
        """Conclude a match, at once or when its turn comes at the end of the step."""
        match.member.plans.setdefault(match.plan.id, state)  # gone if it had nothing to remember but what comes now
        try:
            self._complete(match, state, record)
        except Exception as error:  # as in _match_plan
            self._campaign_failed(match.plan, record, error)
            if self._decisions:
                self._out.decisions.append(describe(match, "suppressed", "campaign_failed"))
        if self._observer is not None:
            self._observer(COMPLETED, match.plan, match.member, match.instance, record.offset, match.completed_by)

    def _hold_contest(self, record: Record, step: int) -> None:
        for member in self._arbiter.contest(record.offset, step):
            self._journeys_moved(member, record)

    def _place(self, record: Record) -> Place:
        return Place(self.partition, record.offset, record.append_ms, self.clock_ms)

    def _complete(self, match: Match, state: PlanState, record: Record) -> None:
        if not self._decisions:
            fired = conclude_firing(match, state)
            if fired is not None:
                self._out.firings.append(fired)
            return
        verdict = conclude(match, state, self._journeys.arbiter)
        decision, firing = verdict.decision, verdict.firing
        outcome, reason = decision.outcome, decision.reason
        self._out.decisions.append(decision)
        self._counts[f"decisions.{outcome}.{reason}"] += 1
        if firing is not None and match.due is not None and match.plan.steps[-1].kind == "absent":
            note_firing(match, state, verdict.command is not None, outcome, reason)
        else:
            note(match.member, match.at, match.plan.id, outcome, reason, match.instance_id)
            if firing is not None:
                remember_fired(match, state)
        if firing is not None:
            self._out.firings.append(firing)
        if verdict.command is not None:
            self._out.commands.append(verdict.command)
        if verdict.begins:
            self._journeys.begin(match, verdict.held)
            self._journeys_moved(match.member, record)

    def _journeys_moved(self, member: Member, record: Record) -> None:
        for plan, error in self._journeys.take_failures():
            self._campaign_failed(plan, record, error)
        for journey in member.journeys:
            self._schedule(member, journey.wake)

    def _late(self, plan: Plan, state: PlanState, member: Member, moment: Moment, record: Record) -> None:
        """Meet firings whose absence this event would have broken had it come in time (SEMANTICS 25)."""
        for version, fired, due, sent in meets_firing(plan, self.registry.plan_of, state, member, moment):
            own = self.registry.plan_of(plan.id, version) or plan
            decision = describe(Match(own, member, fired, self._place(record), due), "late", "cancelled_after_firing")
            self._out.decisions.append(decision)
            self._counts["decisions.late.cancelled_after_firing"] += 1
            if own.campaign.on_late == "cancel":
                self._out.commands += [cancel_of(decision, lane_of_send(own.campaign.send))] if sent else []
                self._journeys.call_back(member, decision.instance_id, self._place(record))

    def _campaign_failed(self, plan: Plan, record: Record, error: Exception) -> None:
        self.breaker.failed((plan.id, plan.version))
        self._failed(f"campaign {plan.id!r}", record, error)

    def _failed(self, place: str, record: Record, error: Exception) -> None:
        self._counts["campaigns.failed"] += 1
        self._refuse(record, "campaign-failed", f"{place}: {type(error).__name__} while matching")

    # ------------------------------------------------------------ timers

    def _fire_due(self, record: Record) -> None:
        """Fire every timer with due + lateness <= clock, in the order (due, member, campaign, start)."""
        due = self._due_members(self.clock_ms)
        later: list[tuple[Any, ...]] = []
        for entry in in_turn(queue_timers(self._in_turns(due), record.offset, self.registry, self.clock_ms), later):
            self._fire_one(later, entry, record)
        if self._arbiter.asked:
            self._hold_contest(record, TIMERS)
        for member in self._in_turns(due):
            wake = next_wake(member)
            if self._durable and wake != member.hint:  # also if a date was only looked at, or moved by an edit: the
                self._changed[member.member_id] = member  # store must be able to give every timer again
            self._schedule(member, wake)

    def _fire_one(self, later: list[tuple[Any, ...]], entry: tuple[Any, ...], record: Record) -> None:
        plan_id: str = entry[2]
        member: Member = entry[5]
        self._turn()
        self._fired.append(member)
        if self._durable:
            self._changed[member.member_id] = member
        if isinstance(entry[7], Journey):
            self._journeys.wake(member, entry[7], self._place(record))
            self._journeys_moved(member, record)
            return
        state: PlanState = entry[6]
        instance: Instance | None = entry[7]
        version = instance.version if instance is not None else state.armed[2] if state.armed is not None else ""
        plan = self.registry.plan_of(plan_id, version)
        if plan is None and self.registry.newest(plan_id) is None:
            if plan_id in member.plans:
                self._withdraw(member, plan_id)
            return
        if plan is None or (instance is not None and instance.started[0] < plan.since_offset):
            drop(state, instance)  # its version ended; what began with another one goes on
            return
        out: list[Outcome] = []
        try:
            if instance is None:
                fire_date(plan, state, member, record.offset, self.clock_ms, out, self.registry)
            elif instance in state.instances:
                reach_deadline(plan, state, member, instance, record.offset, out)
        except Exception as error:  # as in _match_plan
            self._campaign_failed(plan, record, error)
        if out:
            self._settle(member, out, record)
        elif instance in state.instances and instance.wake <= self.clock_ms:
            heappush(later, (instance.deadline, *entry[1:]))  # its next step's deadline has passed as well

    # ------------------------------------------------------------ campaigns

    def _control(self, record: Record, event: Event) -> None:
        findings = self.registry.apply(event, record.offset, self.clock_ms)
        self.breaker.forget(str(event.data.get("campaign")))
        if findings and event.type == POLICY_PUBLISHED:
            self._refuse(record, "bad-policy", findings)
        elif findings:
            self._refuse(record, "bad-campaign", findings)
        self._arbiter.policies_changed()
        self._counts["control"] += 1
