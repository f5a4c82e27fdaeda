"""What is wrong with a flow that can be read: steps nobody reaches, waits without end, events that cannot come."""

import re
from collections.abc import Collection, Mapping

from schemas.flow import OWN_KEY, Awaited, Flow, WaitStep, following
from schemas.taxonomy import EVENT_TYPES, is_known, known_attribute
from streams.patterns.check_logic import check_logic
from streams.patterns.check_names import NameCheck
from streams.patterns.durations import DAY_MS, format_duration
from streams.patterns.expressions import paths_of
from streams.patterns.grammar import WEEKDAYS, PatternError, Problem
from streams.patterns.nodes import Expr, Pattern, Pos, Positive
from streams.patterns.spell import nearest

MAX_WAIT_MS = 400 * DAY_MS  # as for windows of patterns: a year and a month
MESSAGE_ID = "instance_id"  # events that have it are about messages and belong to the journey that sent them
OUTCOME = "outcome"

_TIME = re.compile(r"([0-9]{1,2}):([0-9]{2})")
_WINDOW = re.compile(r"([0-9]{1,2}):([0-9]{2})\s*-\s*([0-9]{1,2}):([0-9]{2})")
_HERE = Pos(1, 1)
# What a wait may say, beside each other.
_FORMS = (
    frozenset({"until", "timeout"}),
    frozenset({"until", "timeout", "key"}),
    frozenset({"window"}),
    frozenset({"weekday"}),
    frozenset({"weekday", "at"}),
)


def about_messages(event_type: str) -> bool:
    """Tell whether events of a type are about one message, so that its own journey is told by the instance's id."""
    known = EVENT_TYPES.get(event_type)
    return known is not None and MESSAGE_ID in known.attributes


def wait_problem(keys: frozenset[str]) -> Problem | None:
    """Say what is wrong with the set of keys of a wait."""
    if keys in _FORMS:
        return None
    if keys == {"until"} or keys == {"until", "key"}:
        return Problem("missing-timeout", "a wait for an event has no end", _HERE, "add timeout: 7d")
    hint = "until with timeout; window; or weekday with at"
    return Problem("wait-kind", f"this is no wait (got {', '.join(sorted(keys)) or 'nothing'})", _HERE, hint)


def local_time(text: str) -> int:
    """Read `10:00` as a minute of the day.

    Raises:
        PatternError: it is none.
    """
    found = _TIME.fullmatch(text.strip())
    if found and int(found[1]) < 24 and int(found[2]) < 60:
        return int(found[1]) * 60 + int(found[2])
    raise PatternError(f"this is no time of day (got '{text[:20]}')", _HERE, "write 10:00")


def local_window(text: str) -> tuple[int, int]:
    """Read `09:00-21:00` as minutes of the day.

    Raises:
        PatternError: it is none.
    """
    found = _WINDOW.fullmatch(text.strip())
    if found:
        start, end = (int(found[i]) * 60 + int(found[i + 1]) for i in (1, 3))
        minutes = int(found[2]) < 60 and int(found[4]) < 60
        if minutes and start < 1440 and end <= 1440 and start != end and (start, end) != (0, 1440):
            return start, end
    raise PatternError(f"this is no window of a day (got '{text[:20]}')", _HERE, "write 09:00-21:00")


def weekdays_of(text: str) -> tuple[int, ...]:
    """Read `monday`, or `monday, thursday`, as numbers from 0.

    Raises:
        PatternError: a word is no weekday.
    """
    found: set[int] = set()
    for word in text.split(","):
        name = word.strip()
        if name not in WEEKDAYS:
            near = nearest(name, WEEKDAYS)
            hint = f"did you mean '{near}'?" if near else f"write {', '.join(WEEKDAYS)}"
            raise PatternError(f"there is no weekday '{name[:20]}'", _HERE, hint, "unknown-weekday")
        found.add(WEEKDAYS.index(name))
    return tuple(sorted(found))


def check_outcomes(expr: Expr, names: Collection[str]) -> list[Problem]:
    """List steps that a condition names under `outcome` and that do not come before it."""
    found: list[Problem] = []
    for path in paths_of(expr):
        if path.root == "alias" and path.alias == OUTCOME and path.parts[0] not in names:
            near = nearest(path.parts[0], names)
            hint = f"did you mean '{near}'?" if near else "name a step before this one"
            found.append(Problem("unknown-step", f"no step before is named '{path.parts[0][:40]}'", path.pos, hint))
    return found


def check_term(
    pattern: Pattern, scope: Mapping[str, tuple[str, ...]], same: tuple[tuple[str, ...], ...], *, may_bind: bool
) -> list[Problem]:
    """List what is wrong with an event that a journey looks out for.

    Args:
        pattern: the term, read as a pattern of one step.
        scope: names its conditions may use, with the types of their events.
        same: the correlation paths it must carry; () where any key will do.
        may_bind: whether `as` means anything here.
    """
    step = pattern.steps[0]
    more = len(pattern.steps) > 1 or pattern.same or pattern.within_ms is not None
    if more or not isinstance(step, Positive) or step.counted or step.term.kind == "all":
        return [Problem("not-one-event", "one event is awaited here", step.pos, "order.created, or any of (…, …)")]
    found = NameCheck(pattern, outer=scope).check_events() + check_logic(pattern)
    if step.within_ms is not None or step.without:
        found.append(Problem("not-one-event", "within and without mean nothing here", step.pos, "remove them"))
    if step.alias is not None and not may_bind:
        found.append(Problem("no-effect", "a name means nothing here", step.pos, f"remove as {step.alias}"))
    for ref in step.term.events:
        if about_messages(ref.type) or not is_known(ref.type):
            continue
        lacking = [".".join(path) for path in same if not known_attribute(ref.type, ".".join(path))]
        if lacking:
            message = f"'{ref.type}' has no '{lacking[0][:40]}', by which it would be told whose it is"
            found.append(Problem("unknown-same", message, ref.pos, "write {event: …, key: any} to take it from any"))
    return found


def check_flow(flow: Flow, terms: Mapping[str, Positive], places: Mapping[str, Pos]) -> list[Problem]:
    """List steps that no way leads to, waits that are too long, and awaited events that end the journey first."""
    steps = {step.name: step for step in flow.steps}
    reached: set[str] = set()
    todo = [flow.steps[0].name]
    while todo:
        name = todo.pop()
        if name and name not in reached and name in steps:
            reached.add(name)
            todo += following(steps[name])
    found: list[Problem] = []
    for step in flow.steps:
        pos = places.get(step.name, _HERE)
        if step.name not in reached:
            message = f"no way leads to step '{step.name}'"
            found.append(Problem("unreachable-flow-step", message, pos, "remove it, or an exit before it"))
        if isinstance(step, WaitStep) and step.span_ms is not None and step.span_ms > MAX_WAIT_MS:
            message = f"a wait is at most 400d (got {format_duration(step.span_ms)})"
            found.append(Problem("long-wait", message, pos, "check the unit: s m h d w"))
        if isinstance(step, WaitStep) and step.until is not None and _ends_first(step.until, flow, terms):
            message = f"step '{step.name}' can never see its event: it ends the journey"
            found.append(Problem("never-true", message, pos, "drop it from goal and exit_on, or wait for another"))
    return found


def _ends_first(until: Awaited, flow: Flow, terms: Mapping[str, Positive]) -> bool:
    awaited = terms.get(until.event)
    if awaited is None:
        return False
    ending: set[str] = set()
    for exit_ in (*flow.goal, *flow.exit_on):
        term = terms.get(exit_.event)
        if term is not None and (exit_.key != OWN_KEY or until.key == OWN_KEY):
            ending |= {ref.type for ref in term.term.events if ref.predicate is None}
    return all(ref.type in ending for ref in awaited.term.events)
