"""What is wrong with a pattern that can be read: every finding at once, each with its place and a hint.

`check_pattern` judges the shape (this file), the names (`check_names`) and the logic (`check_logic`).
Numbers in brackets are the rules of SEMANTICS.
"""

from schemas.findings import WARNING
from streams.patterns.check_logic import check_logic, contradictions
from streams.patterns.check_names import NameCheck, step_types
from streams.patterns.durations import DAY_MS, format_duration
from streams.patterns.grammar import Problem
from streams.patterns.nodes import Absent, Aggregate, Calendar, Delay, Expr, MemberDate, Pattern, Positive, Step
from streams.patterns.parser import Reading

MAX_STEPS = 8  # DESIGN §4
MAX_COUNT = 1_000  # n+ keeps n entries per member
MAX_WINDOW_MS = 400 * DAY_MS  # a year and a month of history per member is the most we keep for counting
LONG_WAIT_MS = 400 * DAY_MS  # a wait costs one timer, so a longer one is only worth a word


def check_pattern(reading: Reading) -> list[Problem]:
    """List all problems of a pattern, those of reading included, in the order of the text.

    When a step could not be read, only what does not depend on the missing one is judged.
    """
    problems = list(reading.problems)
    if reading.pattern is not None:
        names = NameCheck(reading.pattern, reading.same_pos)
        problems += names.check_events()
        if reading.complete:
            problems += names.check_aliases()
            problems += _shape(reading.pattern)
            problems += _windows(reading.pattern)
        problems += check_logic(reading.pattern)
    return sorted(problems, key=_place)


def check_where(expr: Expr, pattern: Pattern) -> list[Problem]:
    """List the problems of a `where`: it is judged at every positive step, with that step's event (44)."""
    types = [name for step in pattern.steps if isinstance(step, Positive | Aggregate) for name in step_types(step)]
    return sorted([*NameCheck(pattern).check_where(expr), *contradictions(expr, types)], key=_place)


def check_at_firing(expr: Expr, pattern: Pattern, key: str) -> list[Problem]:
    """List the problems of an expression judged at the firing (`if still`, `send.data.x`).

    Bare names mean the event that matched last. `key` names the expression in messages.
    """
    return sorted(NameCheck(pattern).check_at_firing(expr, key), key=_place)


def _place(problem: Problem) -> tuple[int, int]:
    return (problem.pos.line, problem.pos.column)


def is_plain(step: Step) -> bool:
    """Whether the step is one event (or any of several) without a count."""
    return isinstance(step, Positive) and not step.counted and step.term.kind != "all"


# ---------------------------------------------------------------- shape


def _shape(pattern: Pattern) -> list[Problem]:
    problems: list[Problem] = []
    steps = pattern.steps
    if len(steps) > MAX_STEPS:
        problems.append(
            Problem(
                "too-many-steps",
                f"a pattern has at most {MAX_STEPS} steps (got {len(steps)})",
                steps[MAX_STEPS].pos,
                "split it into two campaigns",
            )
        )
    last = len(steps) - 1
    for index, step in enumerate(steps):
        if isinstance(step, Absent) and 0 < index < last:
            problems.append(
                Problem(
                    "absence-in-the-middle",
                    "an absence stands first or last only",
                    step.pos,
                    "between two steps, write … then order.created without cart.cleared",
                )
            )
        if isinstance(step, Delay) and index != last:
            problems.append(
                Problem(
                    "delay-not-last",
                    "nothing can follow 'after'",
                    step.pos,
                    "let it be the last step, or use within on the next one",
                )
            )
        if isinstance(step, MemberDate | Calendar) and (
            len(steps) > 1 or pattern.same or pattern.within_ms is not None
        ):
            problems.append(
                Problem(
                    "date-not-alone",
                    "a date stands alone in its pattern",
                    step.pos,
                    "put further conditions under 'if still'",
                )
            )
        if isinstance(step, Positive):
            problems += _positive(step, index)
        if isinstance(step, Aggregate):
            problems += _aggregate(step)
    return problems


def _positive(step: Positive, index: int) -> list[Problem]:
    found: list[Problem] = []
    if step.count < 1:
        found.append(
            Problem("count", f"a count starts at 1 (got {step.count}+)", step.pos, "write no … for 2h for none")
        )
    elif step.count > MAX_COUNT:
        found.append(
            Problem(
                "unbounded-state",
                f"a count is at most {MAX_COUNT} (got {step.count}+)",
                step.pos,
                f"write count({step.term.events[0].type}) >= {step.count} within …",
            )
        )
    if step.counted and step.term.kind == "all":
        found.append(Problem("count-of-all", "a set cannot be counted", step.pos, "drop the count, or use any of (…)"))
    if index == 0 and is_plain(step):
        if step.within_ms is not None:
            found.append(
                Problem(
                    "within-first",
                    "the first step has nothing before it to be within of",
                    step.pos,
                    "write within on a later step, or count: 2+ … within 1h",
                )
            )
        if step.without:
            found.append(
                Problem(
                    "without-first",
                    "the first step has nothing before it that could be without",
                    step.without[0].pos,
                    "write without on a later step",
                )
            )
    seen: set[str] = set()
    for ref in step.term.events:
        if ref.predicate is None and ref.type in seen:
            found.append(Problem("repeated-event", f"'{ref.type}' is listed twice", ref.pos, "remove one", WARNING))
        if ref.predicate is None:
            seen.add(ref.type)
    return found


def _aggregate(step: Aggregate) -> list[Problem]:
    """What is judged contains the event just read: a count or a number of distinct values is a whole number from 1."""
    if step.fn not in ("count", "distinct"):
        return []
    limit = step.threshold
    text = f"{step.fn} {step.op} {limit:g}"
    never = (
        (step.op == "<" and limit <= 1)
        or (step.op == "<=" and limit < 1)
        or (step.op == "=" and (limit < 1 or not limit.is_integer()))
    )
    always = (
        (step.op == ">=" and limit <= 1)
        or (step.op == ">" and limit < 1)
        or (step.op == "!=" and (limit < 1 or not limit.is_integer()))
    )
    if never:
        return [
            Problem(
                "never-true",
                f"this can never hold ({text}): an event is there when it is judged",
                step.pos,
                f"write no {step.event.type} for … for none",
            )
        ]
    if always:
        return [
            Problem(
                "always-true",
                f"this holds at every event ({text})",
                step.pos,
                f"write {step.event.type} for each event",
                WARNING,
            )
        ]
    if step.fn == "distinct" and limit > MAX_COUNT:
        return [
            Problem(
                "unbounded-state",
                f"at most {MAX_COUNT} distinct values are kept (got {limit:g})",
                step.pos,
                "ask for fewer",
            )
        ]
    return []


# ---------------------------------------------------------------- windows


def _windows(pattern: Pattern) -> list[Problem]:
    found: list[Problem] = []
    for index, step in enumerate(pattern.steps):
        window = _window(step)
        if window is None:
            if pattern.within_ms is None and isinstance(step, Positive) and (index > 0 or not is_plain(step)):
                found.append(
                    Problem(
                        "default-window",
                        "no time limit is given: within 30d is used",
                        step.pos,
                        "add within 30d, or the limit you mean",
                        WARNING,
                    )
                )
        elif window > MAX_WINDOW_MS:
            found.append(
                Problem(
                    "unbounded-state",
                    f"a window is at most 400d (got {format_duration(window)})",
                    step.pos,
                    "for longer memory, compare an attribute of the profile",
                )
            )
        elif pattern.within_ms is not None and isinstance(step, Positive) and window >= pattern.within_ms:
            found.append(
                Problem(
                    "contradictory-windows",
                    f"within {format_duration(window)} has no effect: the whole match is within "
                    f"{format_duration(pattern.within_ms)}",
                    step.pos,
                    "shorten it or remove one of the two",
                    WARNING,
                )
            )
        if isinstance(step, Absent | Delay) and step.for_ms > LONG_WAIT_MS:
            found.append(
                Problem(
                    "long-wait",
                    f"this waits for {format_duration(step.for_ms)}",
                    step.pos,
                    "check the unit: s m h d w",
                    WARNING,
                )
            )
    return found + _whole(pattern)


def _window(step: Step) -> int | None:
    return step.within_ms if isinstance(step, Positive | Aggregate) else None


def _whole(pattern: Pattern) -> list[Problem]:
    """The limit of the whole match counts from the first positive event to the last one (37)."""
    whole, steps = pattern.within_ms, pattern.steps
    if whole is None or any(isinstance(step, MemberDate | Calendar) for step in steps):
        return []
    if whole > MAX_WINDOW_MS:
        return [
            Problem(
                "unbounded-state",
                f"a window is at most 400d (got {format_duration(whole)})",
                steps[0].pos,
                "for longer memory, compare an attribute of the profile",
            )
        ]
    positive = [step for step in steps if isinstance(step, Positive | Aggregate)]
    if len(positive) <= 1 and all(is_plain(step) for step in positive):
        return [
            Problem(
                "within-without-effect",
                f"the limit of {format_duration(whole)} has no effect: it counts from the "
                "first event to the last, and there is only one",
                steps[0].pos,
                "remove it",
                WARNING,
            )
        ]
    return []
