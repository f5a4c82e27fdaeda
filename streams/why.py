"""Why an event did not start or move an instance: the rules of the matcher, asked one by one, with what they saw.

It judges after the fact and decides nothing; `tests/streams/test_explain.py` holds it against the engine.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from streams.patterns.evidence import Evidence, judge, spell_ref, value_at
from streams.patterns.match import Moment
from streams.patterns.nodes import Absent, Aggregate, EventRef, Positive
from streams.patterns.plan import Plan, StepPlan, TermPlan
from streams.patterns.windows import (
    add_latest,
    add_to_aggregate,
    add_to_set,
    aggregate_holds,
    aggregate_of,
    aggregate_values,
    find_set,
)
from tables.member_state import Instance


class Seen(msgspec.Struct):
    """One event of the member: `e` its time, `profile` right after it. `fate`: read, duplicate or too_old."""

    offset: int
    event_id: str
    type: str
    e: int
    append_ms: int
    clock_ms: int
    data: dict[str, Any]
    profile: dict[str, Any] = {}
    fate: str = "read"


class Miss(msgspec.Struct):
    """An event that did nothing, and why: one word, what was judged, and facts to fill the sentence."""

    seen: Seen
    why: str
    checks: list[Evidence] = []
    facts: dict[str, Any] = {}


class Before:
    """An instance as it stood before a record."""

    __slots__ = ("step", "e_prev", "due", "end", "blocked_e", "aliases", "counted", "seen")

    def __init__(self, instance: Instance) -> None:
        self.step = instance.step
        self.e_prev = instance.e_prev
        self.due = instance.due
        self.end = instance.end
        self.blocked_e = instance.blocked_e
        self.aliases: dict[str, Any] = dict(instance.aliases)
        self.counted = list(instance.counted)
        self.seen = dict(instance.seen)


class Gathered(msgspec.Struct):
    """What a step that needs several events has. `offsets`: of those events; `missing`: indexes of references."""

    enough: bool
    offsets: list[int] = []
    facts: dict[str, Any] = {}


# ---------------------------------------------------------------- the first step


def why_not_started(
    plan: Plan,
    counts: Mapping[Any, list[Any]],
    peers: list[Instance],
    moment: Moment,
    seen: Seen,
    events: Iterable[Seen],
) -> Miss:
    """Say why an event of a type that the first step mentions started nothing.

    Args:
        plan: the campaign.
        counts: what its first step had gathered before, by key.
        peers: its live instances before.
        moment: the event as the matcher saw it.
        seen: the same, to be named.
        events: the member's earlier events.
    """
    step = plan.steps[0]
    checks = _predicates(step.term, plan, 0, {}, moment)
    if checks and not any(check.holds for check in checks):
        return Miss(seen, "predicate", checks)
    if moment.too_old:
        return Miss(seen, "too_old")
    keys = moment.keys_for(plan)
    if not keys:
        return _same_missing(plan, moment, seen)
    key = keys[0][0]
    if step.kind != "event":
        found = gathered_first(step, counts.get(key, []), moment)
        if not found.enough:
            return Miss(seen, "gathering", checks, found.facts)
    where = _where(plan, step, {}, moment)
    if where is not None and not where.holds:
        return Miss(seen, "where", [where])
    blocker = _earlier(plan, step.without, key, {}, events, None)
    if blocker is not None and step.kind != "event":
        return Miss(seen, "without", [], {"by": blocker})
    live = [peer for peer in peers if any(peer.key == k for k, _ in keys)]
    if live:
        return Miss(seen, "repeat", [], {"on_repeat": plan.repeat.kind, "anchor": live[0].anchor, "live": len(live)})
    return Miss(seen, "unknown")


def gathered_first(step: StepPlan, entries: list[Any], moment: Moment) -> Gathered:
    """Say how far a first step is with this event, which satisfies its predicate."""
    entries = [list(entry) for entry in entries]
    if step.kind == "count":
        inside = add_latest(entries, [moment.e, moment.offset, ""], step.count)
        near = [entry for entry in entries if entries[-1][0] - entry[0] < step.window_ms]
        facts = {"have": len(near), "need": step.count, "within_ms": step.window_ms}
        return Gathered(inside and len(near) >= step.count, [entry[1] for entry in near], facts)
    if step.kind == "aggregate":
        return _aggregate(step, entries, moment)
    if step.kind != "all" or step.term is None:
        return Gathered(True)
    hits = _hits(step.term, {}, moment)
    for index in hits:
        add_to_set(entries, [index, moment.e, moment.offset, ""])
    for index in hits:
        current = [index, moment.e, moment.offset, ""]
        chosen = find_set(entries, len(step.term.refs), current, step.window_ms)
        if chosen is not None:
            return Gathered(True, [entry[2] for entry in chosen])
    present = {entry[0] for entry in entries if abs(entry[1] - moment.e) < step.window_ms}
    return Gathered(False, [], _set_facts(step, present))


def _aggregate(step: StepPlan, entries: list[Any], moment: Moment) -> Gathered:
    values = aggregate_values(step, moment.data)
    facts: dict[str, Any] = {"fn": step.fn, "test": step.test, "threshold": step.threshold, "within_ms": step.window_ms}
    if not values:
        return Gathered(False, [], {**facts, "value": None, "missing": ".".join(step.path)})
    inside = add_to_aggregate(entries, step, (moment.e, moment.offset), values)
    facts["value"] = aggregate_of(entries, step.fn)
    return Gathered(inside and aggregate_holds(step, entries), [entry[1] for entry in entries], facts)


def _set_facts(step: StepPlan, have: Iterable[int]) -> dict[str, Any]:
    refs = _refs(step)
    present = set(have)
    return {
        "have": len(present),
        "need": len(refs),
        "missing": [spell_ref(ref) for index, ref in enumerate(refs) if index not in present],
        "within_ms": step.window_ms,
    }


# ---------------------------------------------------------------- a live instance


def why_not_moved(
    plan: Plan, instance: Instance, before: Before, moment: Moment, seen: Seen, events: Iterable[Seen]
) -> Miss | None:
    """Say why an event of a type that the awaited step mentions left a live instance where it was; None: no concern."""
    step = plan.steps[before.step]
    terms = [term for term in (step.term, *step.without) if term is not None and moment.type in term.by_type]
    if not terms or step.kind == "delay":
        return None
    if moment.too_old:
        return Miss(seen, "too_old")
    keys = moment.keys_for(plan)
    if plan.keys_of is not None and not any(key == instance.key for key, _ in keys):
        return _same_differs(plan, instance, keys, moment, seen)
    deadline = before.due if before.due is not None else before.end
    if moment.e < before.e_prev:
        return Miss(seen, "before_window", [], {"from": before.e_prev})
    if deadline is not None and moment.e >= deadline:
        return Miss(seen, "after_window", [], {"until": deadline})
    checks = _predicates(terms[0], plan, before.step, before.aliases, moment)
    if checks and not any(check.holds for check in checks):
        return Miss(seen, "predicate", checks)
    if terms[0] is not step.term:
        return None
    if step.term is not None and step.kind == "absent":
        have = {*before.seen, *_hits(step.term, before.aliases, moment)}
        return Miss(seen, "gathering", checks, _set_facts(step, have)) if step.term.kind == "all" else None
    found = gathered(step, before, moment)
    if not found.enough:
        return Miss(seen, "gathering", checks, found.facts)
    where = _where(plan, step, before.aliases, moment)
    if where is not None and not where.holds:
        return Miss(seen, "where", [where])
    if before.blocked_e is not None:
        by = _earlier(plan, step.without, instance.key, before.aliases, events, before.blocked_e)
        return Miss(seen, "without", [], {"by": by} if by is not None else {})
    return Miss(seen, "unknown")


def gathered(step: StepPlan, before: Before, moment: Moment) -> Gathered:
    """Say how far a later step is with this event, which satisfies its predicate."""
    if step.kind == "count":
        entries = [list(entry) for entry in before.counted]
        inside = add_latest(entries, [moment.e, moment.offset], step.count)
        facts = {"have": len(entries), "need": step.count, "within_ms": step.window_ms}
        return Gathered(inside and len(entries) == step.count, [entry[1] for entry in entries], facts)
    if step.kind == "aggregate":
        return _aggregate(step, [[entry[0], *entry[1]] for entry in before.counted], moment)
    if step.kind != "all" or step.term is None:
        return Gathered(True)
    have = {index: offset for index, (_, offset) in before.seen.items()}
    have.update(dict.fromkeys(_hits(step.term, before.aliases, moment), moment.offset))
    enough = len(have) == len(step.term.refs)
    return Gathered(enough, list(have.values()), {} if enough else _set_facts(step, have))


def matching(plan: Plan, index: int, aliases: dict[str, Any], moment: Moment) -> list[Evidence]:
    """Give the evidence of an event that did match a step: its predicate and, of a positive step, `where`."""
    step = plan.steps[index]
    checks = [check for check in _predicates(step.term, plan, index, aliases, moment) if check.holds][:1]
    where = _where(plan, step, aliases, moment) if step.kind != "absent" else None
    return [*checks, where] if where is not None else checks


def breaker(plan: Plan, term: TermPlan | None, instance: Instance, events: Iterable[Seen]) -> Seen | None:
    """Find the event, read before, that breaks the absence an instance had just begun to await."""
    if term is None or instance.due is None:
        return None
    own = {step[1] for step in instance.matched}
    found = None
    for seen in events:
        inside = instance.e_prev <= seen.e < instance.due and seen.event_id not in own
        if inside and _satisfies(plan, term, instance.key, instance.aliases, seen):
            found = seen
    return found


# ---------------------------------------------------------------- parts


def _earlier(
    plan: Plan,
    without: tuple[TermPlan, ...],
    key: Any,
    aliases: dict[str, Any],
    events: Iterable[Seen],
    at: int | None,
) -> Seen | None:
    """Find a `without` event read before, at event time `at` if that is known; else the last one."""
    found = None
    for seen in events:
        if (at is None or seen.e == at) and any(_satisfies(plan, term, key, aliases, seen) for term in without):
            found = seen
    return found


def _satisfies(plan: Plan, term: TermPlan, key: Any, aliases: dict[str, Any], seen: Seen) -> bool:
    if seen.fate != "read" or seen.type not in term.by_type:
        return False
    if plan.keys_of is not None and not any(k == key for k, _ in plan.keys_of(seen.data)):
        return False
    moment = Moment(seen.event_id, seen.type, seen.e, 0, seen.data, seen.profile, seen.clock_ms, False)
    return bool(_hits(term, aliases, moment))


def _hits(term: TermPlan, aliases: dict[str, Any], moment: Moment) -> list[int]:
    refs = term.by_type.get(moment.type, ())
    judged = ((i, r.judge) for i, r in refs)
    return [i for i, test in judged if test is None or test(moment.data, aliases, moment.profile, moment.clock)]


def _refs(step: StepPlan) -> tuple[EventRef, ...]:
    node = step.node
    if isinstance(node, Aggregate):
        return (node.event,)
    return node.term.events if isinstance(node, Positive | Absent) else ()


def _predicates(
    term: TermPlan | None, plan: Plan, index: int, aliases: dict[str, Any], moment: Moment
) -> list[Evidence]:
    """Judge the predicates of a term for this event; empty when one of its references asks nothing."""
    if term is None:
        return []
    step = plan.steps[index]
    nodes = _refs(step)
    if term is not step.term and isinstance(step.node, Positive):
        nodes = step.node.without[step.without.index(term)].events
    expressions = [nodes[number].predicate for number, _ in term.by_type.get(moment.type, ())]
    if None in expressions:
        return []
    return [judge(expr, moment.data, aliases, moment.profile, moment.clock) for expr in expressions if expr is not None]


def _where(plan: Plan, step: StepPlan, aliases: dict[str, Any], moment: Moment) -> Evidence | None:
    if plan.where_expr is None:
        return None
    bound = {**aliases, step.alias: moment.data} if step.alias else aliases
    return judge(plan.where_expr, moment.data, bound, moment.profile, moment.clock)


def _same_missing(plan: Plan, moment: Moment, seen: Seen) -> Miss:
    names = {".".join(path): value_at(moment.data, path) for path in plan.same}
    return Miss(seen, "same_missing", [], {"missing": [name for name, value in names.items() if value is None]})


def _same_differs(plan: Plan, instance: Instance, keys: list[Any], moment: Moment, seen: Seen) -> Miss:
    if not keys:
        return _same_missing(plan, moment, seen)
    values = {".".join(path): value_at(moment.data, path) for path in plan.same}
    return Miss(seen, "same_differs", [], {"values": values, "wanted": same_values(plan, instance)})


def same_values(plan: Plan, instance: Instance) -> dict[str, Any]:
    """Name the correlation of an instance: path -> value."""
    paths = [".".join(path) for path in plan.same]
    values = instance.correlation if len(paths) > 1 else [instance.correlation]
    return dict(zip(paths, values, strict=False))
