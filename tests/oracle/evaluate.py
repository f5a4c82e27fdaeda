"""The oracle: which messages a complete log asks for, straight from DESIGN §3-5 and SEMANTICS; quadratic and obvious.

The log is walked once in order, because restart, keep, spent and caps are about order. What is remembered between
records is only which instances live, how far each got, what fired. Everything else is computed anew, from the list of
all events read so far, whenever asked.

Readings settled by the lead: (a) a later `n+ … within D` or aggregate counts events read after the instance entered
the step, with e in [e_prev, e_prev + D); it completes when the n latest by e include the record just read. (b) `no
all of (X, Y) for T` first: any listed event anchors. (c) before a ninth instance per campaign and member (65th per
member) is added, the one with the earliest due goes; if none has a due, the oldest. (d) several `same` paths with
lists: cartesian product in order of appearance. (e) a first `n+` or `all of` without `within`: 30d. (f) a whole-match
`within` is the window of a first `n+`/`all of` that has none of its own. (g) `without X` obeys `same`. (h) sets for
`all of`: latest-read first per listed event in the order written; the first set that spans less than the window wins.

Choices of the oracle where all of that is silent (compare before you blame the engine):
 c1 (45) too-old member.updated/consent events are merged into the profile ("updates history").
 c2 (6) a duplicate takes no place among the last 16; records without an id do, too-old ones do.
 c3 (68) `appended_at` absent: a = max(occurred_at, C).
 c4 a record without member (or of type tick) only moves the clock.
 c5 (17, 48) no event of the set that made a match cancels or kills that instance, not just the anchor.
 c6 (18) holds where the absence follows the first step directly; "is an A" includes `where` for a plain first step.
 c7 (54, 55) "window contains e_A2" is e_A2 < end of the current wait: an A2 older than A1 is in, and so ignored.
     Under restart a single newer live one (by e of its anchor) makes A2 ignored; else all those in are ended.
 c8 (56, c) an instance dead at birth evicts nobody; a re-anchored one is a new instance: youngest in "oldest first".
 c9 (37) `e_first` is the smallest e of the first step's set; after `no X for T` first it is the due. With an own
     `within` on a first n+/all of as well, both hold.
 c10 (9, 33) a too-old X neither kills nor blocks.
 c11 (44) `where` sees the names bound so far and that of the step at hand; a name not bound yet is missing. An
     event's own [ ] does not see its own name.
 c12 a name on `n+`/`all of` means the completing record. Bare names in `if still`: last matched record.
 c13 (66) campaigns are taken in the order of their ids.
 c14 (64) a second firing of one instance_id counts for caps but is not printed.
 c15 (51) an aggregate's event is any whose type is the path, or the path up to a dot; sum/avg/min/max take numbers
     only; count(event.attr) counts events that have it.
 c16 (52) one record may stand for two listed events.
 c17 (39) a top-level attribute that is null hides the items.
 c18 (42) `is null`: no value but null anywhere.
 c19 (33, 36) for a set, B's e is its greatest; `all of` first is blocked as `n+` is.
 c20 (18, 36) `without` may not name `all of`.
 c21 (16, 29) an instance whose window is over when it starts lives until the next record's step (2).
 c22 (31) an event that moves an instance into an absence that is already broken has advanced it; an event merely
     counted by a later `n+` has not.
 c23 (59) equal dues: the oldest started goes. (60) several keys of one record fire in order of appearance.
 c24 (21, 33) `without` on the step after `no X for T` blocks by an X read before the firing position with e >= due.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from schemas.ids import command_id, instance_id
from tests.oracle.definitions import (
    Read,
    complete,
    correlations,
    fold,
    has,
    is_spec,
    is_term,
    key_of,
    step_span,
    takes_part,
    time_ms,
)
from tests.oracle.language import (
    Plan,
    Scope,
    Step,
    read_campaign,
)

MAX_AGE_MS = 7 * 86_400_000
REMEMBERED_IDS = 16
PER_CAMPAIGN, PER_MEMBER = 8, 64


@dataclass
class Instance:
    """One live match of a plan: what it is about and how far it got."""

    plan: Plan
    member_id: str
    key: str
    correlation: Any
    values: tuple[Any, ...]
    anchor: str
    order: int
    e_anchor: int
    e_first: int
    e_prev: int
    entered: int
    last: Read
    matched: dict[int, Read]
    bound: dict[str, Any]
    at: int = 1

    @property
    def step(self) -> Step:
        """The step it waits for."""
        return self.plan.steps[self.at]

    def end(self) -> float:
        """Where the window of its wait ends: the due of an absence, else the last e that is too late to match."""
        if self.step.kind == "none":
            return self.e_prev + (self.step.within_ms or 0)
        whole = math.inf if self.plan.whole_ms is None else self.e_first + self.plan.whole_ms
        return min(whole, self.e_prev + step_span(self.plan, self.step))


@dataclass(frozen=True)
class Match:
    """A completed first step: one correlation key and the events that made it, in log order."""

    values: tuple[Any, ...]
    events: tuple[Read, ...]
    anchor: str


@dataclass
class Walk:
    """The walk over one log."""

    plans: Sequence[Plan]
    bounds: bool
    clock: int = 0
    live: list[Instance] = field(default_factory=list)
    history: dict[str, list[Read]] = field(default_factory=dict)
    fired: list[tuple[Plan, str, str, int]] = field(default_factory=list)
    spent: dict[tuple[str, str, str], int] = field(default_factory=dict)
    started: int = 0
    output: list[dict[str, Any]] = field(default_factory=list)

    # --- DESIGN §3: clock, timers, record ---------------------------------------------------------------------------

    def read(self, offset: int, event: Mapping[str, Any]) -> None:
        """Process one line of the log."""
        occurred = time_ms(event["occurred_at"])
        appended = event.get("appended_at")
        a = max(occurred, self.clock) if appended is None else time_ms(appended)
        self.clock = max(self.clock, a)
        self._timers(offset)
        member_id = event.get("member_id")
        if event["type"] == "tick" or member_id is None:
            return
        past = self.history.setdefault(member_id, [])
        event_id = event.get("event_id") or f"events/0/{offset}"
        if event_id in [x.event_id for x in past[-REMEMBERED_IDS:]]:
            return
        e = min(occurred, a)
        profile = fold(past[-1].profile if past else {}, event)
        data = event.get("data") or {}
        r = Read(offset, event_id, event["type"], member_id, e, e < a - MAX_AGE_MS, data, profile)
        past.append(r)
        if not r.too_old:
            for plan in self.plans:
                self._apply(plan, r)

    def _timers(self, offset: int) -> None:
        """Let everything that ended by W end, in the order (due, member, campaign, start)."""
        while True:
            ready = [i for i in self.live if i.end() + i.plan.lateness_ms <= self.clock]
            if not ready:
                return
            due = min(ready, key=lambda i: (i.end(), i.member_id, i.plan.campaign, i.order))
            if due.step.kind != "none":
                self.live.remove(due)
            elif due.at == len(due.plan.steps) - 1:
                self._complete(due, offset - 1, int(due.end()), None)
            else:
                due.e_prev = due.e_first = int(due.end())
                due.entered, due.at = offset - 1, due.at + 1
                if self._cancelled(due):
                    self.live.remove(due)

    def _apply(self, plan: Plan, r: Read) -> None:
        """SEMANTICS 66: the live instances, oldest first, then the start."""
        advanced = [i.key for i in self._living(plan, r.member_id) if self._move(i, r)]
        for match in list(self._first(plan, r)):
            if key_of(match.values) not in advanced:
                self._start(plan, r, match)

    def _living(self, plan: Plan, member_id: str) -> list[Instance]:
        return [i for i in self.live if i.plan is plan and i.member_id == member_id]

    def _past(self, member_id: str) -> list[Read]:
        return self.history[member_id]

    def _begins(self, plan: Plan, x: Read) -> bool:
        """Say whether the campaign began something when x was read; `life` knows of dates and operators."""
        return True

    # --- first step -------------------------------------------------------------------------------------------------

    def _first(self, plan: Plan, r: Read) -> Iterator[Match]:
        """Every match of the first step that r completes, one per correlation key."""
        step = plan.steps[0]
        if not takes_part(plan, step, r, {}) or not self._begins(plan, r):
            return
        bound = {step.alias: r.data} if step.alias else {}
        if not Scope(r.data, plan.aliases, bound, r.profile).holds(plan.where):
            return
        for values in correlations(plan, r):
            unspent_after = self.spent.get((plan.campaign, r.member_id, key_of(values)), -1)
            seen = [
                x
                for x in self._past(r.member_id)
                if x.offset > unspent_after
                and has(plan, values, x)
                and takes_part(plan, step, x, {})
                and self._begins(plan, x)
            ]
            window = step_span(plan, step)
            if step.kind != "agg" and plan.whole_ms is not None:
                window = min(window, plan.whole_ms)
            events = complete(plan, step, seen, r, window, {})
            if events is None:
                continue
            low, high = min(x.e for x in events), max(x.e for x in events)
            if step.kind != "one" and self._blocked(plan, step, values, {}, events, r.offset, low, high):
                continue
            anchor = events[0].event_id if step.kind == "every" else r.event_id
            yield Match(values, events, anchor)

    def _start(self, plan: Plan, r: Read, match: Match) -> None:
        e_first, e = min(x.e for x in match.events), max(x.e for x in match.events)
        key = key_of(match.values)
        inside = [i for i in self._living(plan, r.member_id) if i.key == key and e < i.end()]
        if plan.on_repeat == "keep" and inside:
            return
        if plan.on_repeat == "parallel" and len(inside) >= plan.parallel:
            return
        if plan.on_repeat == "restart":
            if any(i.e_anchor > e for i in inside):
                return
            for i in inside:
                self.live.remove(i)
        self.started += 1
        step = plan.steps[0]
        instance = Instance(
            plan,
            r.member_id,
            key,
            None if not plan.same else match.values[0] if len(plan.same) == 1 else list(match.values),
            match.values,
            match.anchor,
            self.started,
            e_anchor=e,
            e_first=e_first,
            e_prev=e,
            entered=r.offset,
            last=r,
            matched={x.offset: x for x in match.events},
            bound={step.alias: r.data} if step.alias else {},
        )
        if len(plan.steps) == 1:
            self._complete(instance, r.offset, None, r.event_id)
        elif not self._cancelled(instance):
            self._make_room(instance)
            self.live.append(instance)

    def _make_room(self, new: Instance) -> None:
        if not self.bounds:
            return
        for most, plan in ((PER_CAMPAIGN, new.plan), (PER_MEMBER, None)):
            while True:
                among = [i for i in self.live if i.member_id == new.member_id and (plan is None or i.plan is plan)]
                if len(among) < most:
                    break
                with_due = [i for i in among if i.step.kind == "none"]
                self.live.remove(min(with_due, key=lambda i: (i.end(), i.order)) if with_due else among[0])

    # --- later steps ------------------------------------------------------------------------------------------------

    def _move(self, i: Instance, r: Read) -> bool:
        """Show r to a live instance; say whether it moved on by a positive step."""
        if i.step.kind == "none":
            if self._cancelled(i):
                self.live.remove(i)
            return False
        if not i.e_prev <= r.e < i.end():
            return False
        if has(i.plan, i.values, r) and any(is_term(i.plan, x, r, i.bound) for x in i.step.without):
            self.live.remove(i)
            return False
        seen = [
            x
            for x in self._past(r.member_id)
            if x.offset > i.entered
            and i.e_prev <= x.e < i.end()
            and has(i.plan, i.values, x)
            and takes_part(i.plan, i.step, x, i.bound)
        ]
        events = complete(i.plan, i.step, seen, r, math.inf, i.bound)
        if events is None:
            return False
        e = max(x.e for x in events)
        if self._blocked(i.plan, i.step, i.values, i.bound, tuple(i.matched.values()), i.entered + 1, i.e_prev, e):
            return False
        bound = i.bound | ({i.step.alias: r.data} if i.step.alias else {})
        if not Scope(r.data, i.plan.aliases, bound, r.profile).holds(i.plan.where):
            return False
        i.bound, i.last, i.e_prev, i.entered = bound, r, e, r.offset
        i.matched |= {x.offset: x for x in events}
        i.at += 1
        if i.at == len(i.plan.steps):
            self._complete(i, r.offset, None, r.event_id)
        elif self._cancelled(i):
            self.live.remove(i)
        return True

    def _blocked(
        self,
        plan: Plan,
        step: Step,
        values: tuple[Any, ...],
        bound: Mapping[str, Any],
        exempt: Sequence[Read],
        before: int,
        low: int,
        high: int,
    ) -> bool:
        """Say whether an X of `without`, read before an offset, has its e in [low, high)."""
        return any(
            x.offset < before and low <= x.e < high and not x.too_old and x not in exempt and has(plan, values, x)
            for x in self._past(exempt[0].member_id)
            if any(is_term(plan, term, x, bound) for term in step.without)
        )

    def _cancelled(self, i: Instance) -> bool:
        """Say whether the absence awaited is broken by what was read so far."""
        if i.step.kind != "none":
            return False
        term, plan = i.step.term, i.plan
        broken = [
            any(
                i.e_prev <= b.e < i.end()
                and not b.too_old
                and b.offset not in i.matched
                and has(plan, i.values, b)
                and is_spec(plan, spec, b, i.bound)
                and not self._mutual(i, b)
                for b in self._past(i.member_id)
            )
            for spec in term.specs
        ]
        return all(broken) if term.every else any(broken)

    def _mutual(self, i: Instance, b: Read) -> bool:
        """SEMANTICS 18: of two events that are both A and B with equal e, only the later read cancels."""
        first = i.plan.steps[0]
        if i.at != 1 or b.e != i.e_prev or b.offset > i.entered or not takes_part(i.plan, first, b, {}):
            return False
        named = {first.alias: b.data} if first.alias else {}
        if first.kind == "one" and not Scope(b.data, i.plan.aliases, named, b.profile).holds(i.plan.where):
            return False
        return any(
            x.e == i.e_prev and any(is_spec(i.plan, spec, x, i.bound) for spec in i.step.term.specs)
            for x in i.matched.values()
        )

    # --- the end of an instance -------------------------------------------------------------------------------------

    def _complete(self, i: Instance, read_up_to: int, due: int | None, completed_by: str | None) -> None:
        """The match is whole: spend its events, then ask `if still` and the caps."""
        if i in self.live:
            self.live.remove(i)
        self.spent[(i.plan.campaign, i.member_id, i.key)] = read_up_to
        profile = self._past(i.member_id)[-1].profile
        if not Scope(i.last.data, i.plan.aliases, i.bound, profile).holds(i.plan.if_still):
            return
        if self._capped(i):
            return
        self.fired.append((i.plan, i.member_id, i.key, self.clock))
        name = instance_id(i.plan.campaign, i.member_id, i.correlation, i.anchor)
        if name in [x["instance_id"] for x in self.output]:
            return
        self.output.append(
            {
                "campaign": i.plan.campaign,
                "member_id": i.member_id,
                "anchor": i.anchor,
                "correlation": i.correlation,
                "due": due,
                "completed_by": completed_by,
                "fired_at": self.clock,
                "instance_id": name,
                "command_id": command_id(name, "send", ""),
            }
        )

    def _capped(self, i: Instance) -> bool:
        """SEMANTICS 60-63."""
        before = [
            at
            for plan, member_id, key, at in self.fired
            if plan is i.plan and member_id == i.member_id and (key == i.key or not plan.per_key)
        ]
        if i.plan.once and before:
            return True
        if i.plan.cooldown_ms is not None and before and self.clock - before[-1] < i.plan.cooldown_ms:
            return True
        return i.plan.limit is not None and sum(self.clock - at < i.plan.limit[1] for at in before) >= i.plan.limit[0]


def firings(
    campaigns: Sequence[Mapping[str, Any]], events: Sequence[Mapping[str, Any]], bounds: bool = True
) -> list[dict[str, Any]]:
    """Every firing that the log asks for, in firing order.

    Args:
        campaigns: campaign files as parsed from YAML.
        events: the lines of one partition's log; the offset is the index.
        bounds: whether the bounds on live instances (8 and 64) bite.

    Returns:
        Objects with exactly the fields of `replay --output ndjson`.

    Raises:
        PatternError: a campaign is not in the language.
    """
    plans = sorted((read_campaign(c) for c in campaigns), key=lambda plan: plan.campaign)
    walk = Walk(plans, bounds)
    for offset, event in enumerate(events):
        walk.read(offset, event)
    return walk.output
