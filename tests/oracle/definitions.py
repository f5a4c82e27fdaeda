"""What the oracle's definitions say of events alone, without a walk over the log; numbers as in evaluate.py."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from tests.oracle.language import (
    DEFAULT_WITHIN_MS,
    Plan,
    Scope,
    Spec,
    Step,
    Term,
    attribute,
    compare,
    flat,
    value_text,
)

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Read:
    """One record as read: a and e settled, with the member's profile as of this record."""

    offset: int
    event_id: str
    type: str
    member_id: str
    e: int
    too_old: bool
    data: Any
    profile: Mapping[str, Any]


def step_span(plan: Plan, step: Step) -> float:
    """How long a positive step may take: its own `within`, else the whole match's, else 30d (27, e, f)."""
    if step.within_ms is not None:
        return step.within_ms
    return plan.whole_ms if plan.whole_ms is not None else DEFAULT_WITHIN_MS


def complete(
    plan: Plan, step: Step, seen: Sequence[Read], r: Read, window: float, bound: Mapping[str, Any]
) -> tuple[Read, ...] | None:
    """The events, in log order, by which r completes a positive step; None if it does not.

    Args:
        plan: whose step it is.
        step: the step.
        seen: every event that may take part, in log order.
        r: the record just read.
        window: the events must span less than this; infinite where `seen` is already cut to the step's window.
        bound: data of the steps matched so far, by name.
    """
    if r not in seen:
        return None
    events: tuple[Read, ...] = (r,)
    if step.kind == "count":
        if len(seen) < step.n:
            return None
        events = tuple(sorted(seen, key=lambda x: (x.e, x.offset))[-step.n :])
    elif step.kind == "every":
        pools = [[x for x in reversed(seen) if is_spec(plan, spec, x, bound)] for spec in step.term.specs]
        sets = (s for s in itertools.product(*pools) if r in s and spans(s) < window)
        events = next(sets, ())
    elif step.kind == "agg":
        greatest = max(x.e for x in seen)
        events = tuple(x for x in seen if greatest - x.e < window)
        if not compare(step.comparison, aggregate(step, events), step.number):
            return None
    if r not in events or spans(events) >= window:
        return None
    return tuple(sorted(events, key=lambda x: x.offset))


def spans(events: Sequence[Read]) -> int:
    """From the smallest e to the greatest."""
    return max(x.e for x in events) - min(x.e for x in events)


def aggregate(step: Step, events: Sequence[Read]) -> float:
    """The aggregate's value over events that all take part."""
    if step.function == "count":
        return len(events)
    values = [v for x in events for v in aggregate_values(step, x)]
    if step.function == "distinct":
        return len({value_text(v) for v in values})
    if step.function == "avg":
        return float(sum(values) / len(values))
    function: Any = {"sum": sum, "min": min, "max": max}[step.function]
    return float(function(values))


def aggregate_values(step: Step, x: Read) -> list[Any]:
    """An event's values under an aggregate's path: what follows the event's type in it."""
    values = flat(attribute(x.data, step.path[len(x.type) + 1 :]))
    if step.function in ("count", "distinct"):
        return values
    return [v for v in values if isinstance(v, int | float) and not isinstance(v, bool)]


def takes_part(plan: Plan, step: Step, x: Read, bound: Mapping[str, Any]) -> bool:
    """Say whether an event can be one of those that make a positive step."""
    if step.kind != "agg":
        return is_term(plan, step.term, x, bound)
    if step.path == x.type:
        return step.function == "count"
    return step.path.startswith(x.type + ".") and bool(aggregate_values(step, x))


def is_term(plan: Plan, term: Term, x: Read, bound: Mapping[str, Any]) -> bool:
    """Say whether an event is one of a term's."""
    return any(is_spec(plan, spec, x, bound) for spec in term.specs)


def is_spec(plan: Plan, spec: Spec, x: Read, bound: Mapping[str, Any]) -> bool:
    """Judge name and predicate, with the profile as it was when the event was read (26)."""
    return x.type == spec.name and Scope(x.data, plan.aliases, bound, x.profile).holds(spec.predicate)


def correlations(plan: Plan, x: Read) -> list[tuple[Any, ...]]:
    """Every correlation an event can start, in order of appearance; none if an attribute of `same` is missing."""
    choices = []
    for path in plan.same:
        distinct: dict[str, Any] = {}
        for value in flat(attribute(x.data, path)):
            distinct.setdefault(value_text(value), value)
        choices.append(list(distinct.values()))
    return list(itertools.product(*choices))


def has(plan: Plan, values: tuple[Any, ...], x: Read) -> bool:
    """Say whether an event carries the values of `same`; any item will do."""
    return key_of(values) in [key_of(own) for own in correlations(plan, x)]


def key_of(values: tuple[Any, ...]) -> str:
    """A correlation as text, so that it can be compared."""
    return value_text(list(values))


def fold(profile: Mapping[str, Any], event: Mapping[str, Any]) -> Mapping[str, Any]:
    """The profile after an event (45); consent is kept per channel, and per topic of it (docs/policies.md)."""
    data = event.get("data") or {}
    if event["type"] in ("member.registered", "member.updated"):
        return {**profile, **data}
    revokes = event["type"] in ("consent.revoked", "engagement.unsubscribed", "engagement.complained")
    channel = data.get("channel")
    if (revokes or event["type"] == "consent.granted") and channel and channel != "topics":
        known = profile.get("consent")
        consent = dict(known) if isinstance(known, dict) else {}
        topics = dict(consent.get("topics") or {})
        topic = data.get("topic") if event["type"] != "engagement.complained" else None
        if topic:
            said = {**topics.get(channel, {}), topic: not revokes}
            return {**profile, "consent": consent | {"topics": topics | {channel: said}}}
        if revokes and channel in topics:
            del topics[channel]
            consent["topics"] = topics
        return {**profile, "consent": consent | {channel: not revokes}}
    return profile


def time_ms(value: int | str) -> int:
    """Milliseconds, or RFC 3339 text, as milliseconds."""
    if isinstance(value, int):
        return value
    return (datetime.fromisoformat(value) - EPOCH) // timedelta(milliseconds=1)
