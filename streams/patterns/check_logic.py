"""Conditions that can never hold, as far as constants show it, and steps that therefore can never be reached."""

import math
from collections.abc import Iterable

import msgspec

from schemas.attributes import ANY, ITEMS, LIST, OBJECT
from schemas.taxonomy import EVENT_TYPES
from streams.patterns.expressions import conjuncts
from streams.patterns.grammar import Problem
from streams.patterns.nodes import (
    Aggregate,
    Compare,
    EventRef,
    Expr,
    In,
    IsNull,
    Literal,
    Path,
    Pattern,
    Pos,
    Positive,
    Term,
)

_MIRROR = {"<": ">", "<=": ">=", ">": "<", ">=": "<=", "=": "="}
_Key = tuple[str, str | None, tuple[str, ...]]


class _Range(msgspec.Struct):
    """What literals leave possible for one attribute."""

    low: float = -math.inf
    high: float = math.inf
    low_open: bool = False
    high_open: bool = False
    allowed: set[object] | None = None
    null: bool = False
    compared: bool = False

    def empty(self) -> bool:
        if self.null and self.compared:
            return True
        if self.low > self.high or (self.low == self.high and (self.low_open or self.high_open)):
            return True
        return self.allowed is not None and not any(self._fits(value) for value in self.allowed)

    def _fits(self, value: object) -> bool:
        if not isinstance(value, int | float) or isinstance(value, bool):
            return self.low == -math.inf and self.high == math.inf
        above = value > self.low or (value == self.low and not self.low_open)
        return above and (value < self.high or (value == self.high and not self.high_open))


def check_logic(pattern: Pattern) -> list[Problem]:
    """List predicates that contradict themselves and steps whose own `without` forbids them."""
    found: list[Problem] = []
    for step in pattern.steps:
        if isinstance(step, Aggregate):
            found += contradictions(step.event.predicate, (step.event.type,))
        terms: tuple[Term, ...] = ()
        if isinstance(step, Positive):
            terms = (step.term, *step.without)
            found += _forbidden(step)
        elif not isinstance(step, Aggregate) and hasattr(step, "term"):
            terms = (step.term,)
        for term in terms:
            for ref in term.events:
                found += contradictions(ref.predicate, (ref.type,))
    return found


def contradictions(expr: Expr | None, types: Iterable[str]) -> list[Problem]:
    """List what makes an `and` of comparisons with constants impossible for one attribute that holds one value.

    Attributes of items, lists and anything the schemas do not know may hold several values and are left alone.
    """
    found: list[Problem] = []
    ranges: dict[_Key, _Range] = {}
    known = tuple(types)
    for part in conjuncts(expr):
        constant = _constant(part)
        if constant is not None:
            found.append(constant)
            continue
        key, pos = _narrow(part, ranges, known)
        if key is not None and ranges[key].empty():
            name = ".".join((*((key[1],) if key[1] else ()), *key[2]))
            found.append(
                Problem(
                    "never-true",
                    f"no '{name}' can satisfy all of these conditions",
                    pos,
                    "join alternatives with or, or correct a limit",
                )
            )
            ranges[key] = _Range()
    return found


def _constant(part: Expr) -> Problem | None:
    if isinstance(part, Literal) and not part.value:
        return Problem("never-true", "this condition is never true", part.pos, "remove it or compare an attribute")
    if isinstance(part, Compare):
        if any(isinstance(side, Literal) and side.value is None for side in (part.left, part.right)):
            return Problem(
                "compare-null", "a comparison with null is never true", part.pos, "write is null or is not null"
            )
        if isinstance(part.left, Literal) and isinstance(part.right, Literal):
            return Problem(
                "constant", "two constants are compared", part.pos, "name an attribute; text stands in quotes"
            )
    return None


def _narrow(part: Expr, ranges: dict[_Key, _Range], types: tuple[str, ...]) -> tuple[_Key | None, Pos]:
    if isinstance(part, Compare) and part.op in _MIRROR:
        path, value, op = part.left, part.right, part.op
        if isinstance(path, Literal):
            path, value, op = part.right, part.left, _MIRROR[op]
        if isinstance(path, Path) and isinstance(value, Literal) and _single(path, types):
            key = (path.root, path.alias, path.parts)
            _limit(ranges.setdefault(key, _Range()), op, value.value)
            return key, part.pos
    if isinstance(part, In) and not part.negated and isinstance(part.left, Path) and _single(part.left, types):
        values = [option.value for option in part.options if isinstance(option, Literal)]
        if len(values) == len(part.options):
            key = (part.left.root, part.left.alias, part.left.parts)
            span = ranges.setdefault(key, _Range())
            span.compared = True
            span.allowed = set(values) if span.allowed is None else span.allowed & set(values)
            return key, part.pos
    if (
        isinstance(part, IsNull)
        and not part.negated
        and isinstance(part.operand, Path)
        and _single(part.operand, types)
    ):
        key = (part.operand.root, part.operand.alias, part.operand.parts)
        ranges.setdefault(key, _Range()).null = True
        return key, part.pos
    return None, part.pos


def _limit(span: _Range, op: str, value: object) -> None:
    span.compared = True
    if op == "=":
        span.allowed = {value} if span.allowed is None else span.allowed & {value}
        return
    if isinstance(value, bool) or not isinstance(value, int | float):
        return
    is_open = op in ("<", ">")
    if op in (">", ">="):
        if value > span.low or (value == span.low and is_open):
            span.low, span.low_open = value, is_open
    elif value < span.high or (value == span.high and is_open):
        span.high, span.high_open = value, is_open


def _single(path: Path, types: tuple[str, ...]) -> bool:
    """Whether the schemas say that this attribute of the event itself holds one value."""
    if path.root != "event" or len(path.parts) != 1 or not types:
        return False
    for name in types:
        event = EVENT_TYPES.get(name)
        attribute = event.attributes.get(path.parts[0]) if event is not None else None
        if attribute is None or attribute.kind in (ANY, ITEMS, LIST, OBJECT):
            return False
    return True


# ---------------------------------------------------------------- a step that its own `without` forbids


def _forbidden(step: Positive) -> list[Problem]:
    """An event that both matches the step and is forbidden ends the instance (35)."""
    for term in step.without:
        if term.kind == "all":
            continue
        hits = [any(_covers(blocker, ref) for blocker in term.events) for ref in step.term.events]
        if all(hits) or (step.term.kind == "all" and any(hits)):
            return [
                Problem(
                    "unreachable-step",
                    f"the step can never match: '{term.events[0].type}' is what it waits for "
                    "and what it must be without",
                    term.pos,
                    "remove the without or give it a condition in [ ]",
                )
            ]
    return []


def _covers(blocker: EventRef, ref: EventRef) -> bool:
    if blocker.type != ref.type:
        return False
    return blocker.predicate is None or meaning(blocker.predicate) == meaning(ref.predicate)


def meaning(node: object) -> object:
    """Spell a node as plain JSON data without its places: equal meaning, equal data."""
    if isinstance(node, msgspec.Struct):
        fields = {name: meaning(getattr(node, name)) for name in node.__struct_fields__ if name not in ("pos", "text")}
        if isinstance(node, Positive) and (node.count > 1 or not node.counted):
            del fields["counted"]  # said by `count`; versions made before the field came stay as they are
        return {"node": type(node).__name__, **fields}
    if isinstance(node, tuple | list):
        return [meaning(item) for item in node]
    return node
