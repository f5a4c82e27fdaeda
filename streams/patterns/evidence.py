"""Why a condition holds or not: the same verdict as `compile_judge`, with the values that were looked at.

Slow on purpose: nothing is compiled ahead and no part is skipped, so that all failing parts are named at once.
"""

from collections.abc import Mapping
from typing import Any

import msgspec

from streams.patterns.durations import format_duration
from streams.patterns.expressions import Aliases, Data, compile_judge, compile_values, leaves, paths_of
from streams.patterns.grammar import WEEKDAYS
from streams.patterns.nodes import (
    Absent,
    Aggregate,
    And,
    Calendar,
    Call,
    Compare,
    Delay,
    EventRef,
    Expr,
    In,
    IsNull,
    Literal,
    MemberDate,
    Not,
    Or,
    Path,
    Positive,
    Step,
    Term,
)

VALUES_MAX = 8  # values shown of one path; an order may have hundreds of items
TEXT_MAX = 120  # characters shown of one value


class Evidence(msgspec.Struct, frozen=True):
    """One condition, judged.

    `kind`: `and`, `or`, `not` (with `parts`) or `test` (a leaf, with `values`). `values`: by path as written, what it
    reached: one value, a list of several, None when missing or null. `note` says why values that are there do not
    compare.
    """

    kind: str
    text: str
    holds: bool
    values: dict[str, Any] = {}
    note: str = ""
    parts: tuple["Evidence", ...] = ()


def judge(expr: Expr, data: Data, aliases: Aliases, profile: Data, now: int) -> Evidence:
    """Judge a condition as `compile_judge` does and keep what was seen."""
    if isinstance(expr, And | Or):
        parts = tuple(judge(item, data, aliases, profile, now) for item in expr.items)
        holds = all(p.holds for p in parts) if isinstance(expr, And) else any(p.holds for p in parts)
        return Evidence("and" if isinstance(expr, And) else "or", spell(expr), holds, parts=parts)
    if isinstance(expr, Not):
        inner = judge(expr.item, data, aliases, profile, now)
        return Evidence("not", spell(expr), not inner.holds, parts=(inner,))
    values = {spell(path): shown(compile_values(path)(data, aliases, profile, now)) for path in paths_of(expr)}
    try:
        holds = bool(compile_judge(expr)(data, aliases, profile, now))
    except Exception as error:  # the engine drops the campaign for this event, and so it does not hold
        return Evidence("test", spell(expr), False, values, f"cannot be judged ({type(error).__name__})")
    return Evidence("test", spell(expr), holds, values, "" if holds else _note(expr, data, aliases, profile, now))


def failing(found: Evidence) -> tuple[Evidence, ...]:
    """List the leaves (or whole `not`s) to which a false condition is due."""
    if found.holds:
        return ()
    if found.kind in ("and", "or"):
        return tuple(leaf for part in found.parts for leaf in failing(part))
    return (found,)


def shown(found: list[Any]) -> Any:
    """Bring leaves into a form to show: None for nothing, one value as itself, more as a list that is cut off."""
    plain = [_clipped(v) for v in found]
    if not plain:
        return None
    if len(plain) == 1:
        return plain[0]
    return plain[:VALUES_MAX] + (["…"] if len(plain) > VALUES_MAX else [])


def value_at(data: Data, parts: tuple[str, ...]) -> Any:
    """Show what a path of an event reaches."""
    return shown(leaves(data, parts))


def _clipped(value: Any) -> Any:
    if isinstance(value, Mapping):
        return "{…}"
    if isinstance(value, list):
        return shown(value) if value else []
    return value[:TEXT_MAX] + "…" if isinstance(value, str) and len(value) > TEXT_MAX else value


def _note(expr: Expr, data: Data, aliases: Aliases, profile: Data, now: int) -> str:
    """Say that two sides are there but of kinds that never compare: text with a number, say."""
    if not isinstance(expr, Compare) or expr.op == "contains":
        return ""
    sides = [
        {_kind(v) for v in compile_values(side)(data, aliases, profile, now) if v is not None}
        for side in (expr.left, expr.right)
    ]
    if not all(sides) or sides[0] & sides[1]:
        return ""
    left, right = (" or ".join(sorted(side)) for side in sides)
    return f"{left} does not compare with {right}"


def _kind(value: Any) -> str:
    if isinstance(value, bool):
        return "true or false"
    if isinstance(value, str):
        return "text"
    if isinstance(value, int | float):
        return "a number"
    return "a list" if isinstance(value, list) else "an object"


# ---------------------------------------------------------------- spelling


def spell(expr: Expr) -> str:
    """Write a condition in the language it was read from."""
    if isinstance(expr, Literal):
        return _literal(expr.value)
    if isinstance(expr, Path):
        root = {"member": ("member",), "alias": (expr.alias or "",)}.get(expr.root, ())
        return ".".join((*root, *expr.parts))
    if isinstance(expr, Call):
        return f"{expr.name}({', '.join(spell(arg) for arg in expr.args)})"
    if isinstance(expr, Compare):
        return f"{_inside(expr.left)} {expr.op} {_inside(expr.right)}"
    if isinstance(expr, In):
        options = ", ".join(spell(option) for option in expr.options)
        single = len(expr.options) == 1 and isinstance(expr.options[0], Path)
        return f"{_inside(expr.left)} {'not ' if expr.negated else ''}in {options if single else f'({options})'}"
    if isinstance(expr, IsNull):
        return f"{_inside(expr.operand)} is {'not ' if expr.negated else ''}null"
    if isinstance(expr, Not):
        return f"not {_inside(expr.item)}"
    if isinstance(expr, And):
        return " and ".join(_inside(item) if isinstance(item, And | Or) else spell(item) for item in expr.items)
    return " or ".join(_inside(item) if isinstance(item, Or) else spell(item) for item in expr.items)


def _inside(expr: Expr) -> str:
    return f"({spell(expr)})" if isinstance(expr, And | Or) else spell(expr)


def _literal(value: Any) -> str:
    if isinstance(value, tuple):
        return f"({', '.join(_literal(v) for v in value)})"
    if isinstance(value, str):
        escaped = value.replace("\\", "\\\\").replace("'", "\\'")
        return f"'{escaped}'"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return f"{value:.15g}" if isinstance(value, float) and value.is_integer() and abs(value) < 1e15 else repr(value)


def spell_ref(ref: EventRef) -> str:
    """Write an event with its predicate."""
    return ref.type if ref.predicate is None else f"{ref.type}[{spell(ref.predicate)}]"


def spell_term(term: Term) -> str:
    """Write an event, `any of (…)` or `all of (…)`."""
    events = ", ".join(spell_ref(ref) for ref in term.events)
    return events if term.kind == "one" else f"{term.kind} of ({events})"


def spell_step(step: Step) -> str:
    """Write one step of a pattern."""
    if isinstance(step, Positive):
        return _spell_positive(step)
    if isinstance(step, Absent):
        return f"no {spell_term(step.term)} for {format_duration(step.for_ms)}"
    if isinstance(step, Aggregate):
        path = "".join(f".{part}" for part in step.path)
        predicate = f"[{spell(step.event.predicate)}]" if step.event.predicate is not None else ""
        window = f"within {format_duration(step.within_ms)}"
        return f"{step.fn}({step.event.type}{predicate}{path}) {step.op} {step.threshold:g} {window}"
    if isinstance(step, Delay):
        return f"wait {format_duration(step.for_ms)}"
    at = f"at {step.at_minute // 60:02d}:{step.at_minute % 60:02d}"
    if isinstance(step, MemberDate):
        days, path = step.offset_days, "member." + ".".join(step.path)
        where = f"on {path}" if not days else f"{abs(days)}d {'before' if days < 0 else 'after'} {path}"
        return f"{where}{' yearly' if step.yearly else ''} {at}"
    return f"{_spell_days(step)} {at}"


def _spell_positive(step: Positive) -> str:
    parts = [f"{step.count}+ " if step.counted else "", spell_term(step.term)]
    if step.alias:
        parts.append(f" as {step.alias}")
    if step.within_ms is not None:
        parts.append(f" within {format_duration(step.within_ms)}")
    parts.extend(f" without {spell_term(term)}" for term in step.without)
    return "".join(parts)


def _spell_days(step: Calendar) -> str:
    if step.unit == "once":
        return f"on {step.date}"
    if step.unit == "week":
        return f"every {WEEKDAYS[step.weekday or 0]}"
    return "every day" if step.unit == "day" else f"every month on {step.day}"
