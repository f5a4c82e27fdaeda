"""Expressions to closures: `judge(data, aliases, profile, now_ms) -> bool` and `values(...) -> list`.

A path yields every leaf it reaches: one for a plain attribute, one per item for `items.price` (and for a bare `price`
that is no top-level attribute: SEMANTICS 39). A comparison holds if any pair of leaves satisfies it, and is false when
an operand is missing or null (41, 42). Numbers compare with numbers, text with text, truth values with truth values.
"""

from collections.abc import Callable
from typing import Any, Final

from streams.patterns.nodes import And, Call, Compare, Expr, In, IsNull, Literal, Not, Or, Path

Data = dict[str, Any]
Aliases = dict[str, Data]
Values = Callable[[Data, Aliases, Data, int], list[Any]]
Judge = Callable[[Data, Aliases, Data, int], bool]

ITEMS: Final = "items"
PAIRS_MAX: Final = 64  # of leaves compared one by one; above, in another way with the same answer
CONTAINS_MAX: Final = 64  # values that one `contains` looks for: the first ones


def _length(value: Any) -> Any:
    return len(value) if isinstance(value, str | list) else None


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _rounded(value: Any, places: int | None) -> Any:
    try:
        return round(value, places)
    except (OverflowError, ValueError):  # beyond the largest number: missing, for no event may make a campaign fail
        return None


FUNCTIONS: Final[dict[str, tuple[int, int]]] = {
    # name: (fewest, most arguments)
    "lower": (1, 1),
    "upper": (1, 1),
    "length": (1, 1),
    "abs": (1, 1),
    "round": (1, 2),
    "coalesce": (1, 8),
    "hour": (1, 1),
    "weekday": (1, 1),
    "now": (0, 0),
}
_DAY_MS: Final = 86_400_000

_UNARY: Final[dict[str, Callable[[Any], Any]]] = {
    "lower": lambda v: v.lower() if isinstance(v, str) else None,
    "upper": lambda v: v.upper() if isinstance(v, str) else None,
    "length": _length,
    "abs": lambda v: abs(v) if _number(v) else None,
    "hour": lambda v: int(v) % _DAY_MS // 3_600_000 if _number(v) else None,  # of ms since the epoch, UTC
    "weekday": lambda v: (int(v) // _DAY_MS + 3) % 7 if _number(v) else None,  # 0 = Monday; 1970-01-01 was a Thursday
}


def leaves(data: Any, parts: tuple[str, ...]) -> list[Any]:
    """List what a path reaches in plain JSON data; missing attributes yield nothing, null yields None."""
    first = parts[0]
    if isinstance(data, dict) and first not in data and isinstance(data.get(ITEMS), list):
        return _walk(data[ITEMS], parts)
    return _walk(data, parts)


def _walk(value: Any, parts: tuple[str, ...]) -> list[Any]:
    found = [value]
    for part in parts:
        following: list[Any] = []
        for node in found:
            if isinstance(node, dict):
                if part in node:
                    following.append(node[part])
            elif isinstance(node, list):
                following.extend(item[part] for item in node if isinstance(item, dict) and part in item)
        found = following
    return found


def scalars(found: list[Any]) -> list[Any]:
    """Spread lists of plain values among the leaves and drop null and objects."""
    plain: list[Any] = []
    for value in found:
        if isinstance(value, list):
            plain.extend(v for v in value if v is not None and not isinstance(v, dict | list))
        elif value is not None and not isinstance(value, dict):
            plain.append(value)
    return plain


def equal(left: Any, right: Any) -> bool:
    """Tell whether two JSON scalars have the same type and value; 1 and 1.0 do, 1 and true do not."""
    if isinstance(left, bool) or isinstance(right, bool):
        return left is right
    return bool(left == right)


def _ordered(left: Any, right: Any) -> bool:
    if isinstance(left, bool) or isinstance(right, bool):
        return False
    if isinstance(left, str):
        return isinstance(right, str)
    return isinstance(left, int | float) and isinstance(right, int | float)


_COMPARE: Final[dict[str, Callable[[Any, Any], bool]]] = {
    "=": equal,
    "!=": lambda a, b: not equal(a, b),
    "<": lambda a, b: _ordered(a, b) and a < b,
    "<=": lambda a, b: _ordered(a, b) and a <= b,
    ">": lambda a, b: _ordered(a, b) and a > b,
    ">=": lambda a, b: _ordered(a, b) and a >= b,
}


def compile_values(expr: Expr) -> Values:
    """Compile an operand to a function that lists its leaves (null and missing may both come as an empty list)."""
    if isinstance(expr, Literal):
        constant = list(expr.value) if isinstance(expr.value, tuple) else [expr.value]
        return lambda data, aliases, profile, now: constant
    if isinstance(expr, Path):
        return _path_values(expr)
    if isinstance(expr, Call):
        return _call_values(expr)
    judge = compile_judge(expr)
    return lambda data, aliases, profile, now: [judge(data, aliases, profile, now)]


def _path_values(path: Path) -> Values:
    parts, alias = path.parts, path.alias
    if path.root == "member":
        return lambda data, aliases, profile, now: _walk(profile, parts)
    if path.root == "alias":
        name = alias or ""

        def of_alias(data: Data, aliases: Aliases, profile: Data, now: int) -> list[Any]:
            bound = aliases.get(name)
            return [] if bound is None else leaves(bound, parts)

        return of_alias
    return lambda data, aliases, profile, now: leaves(data, parts)


def _call_values(call: Call) -> Values:
    arguments = [compile_values(arg) for arg in call.args]
    if call.name == "now":
        return lambda data, aliases, profile, now: [now]
    if call.name == "coalesce":

        def first_present(data: Data, aliases: Aliases, profile: Data, now: int) -> list[Any]:
            for argument in arguments:
                found = scalars(argument(data, aliases, profile, now))
                if found:
                    return found
            return []

        return first_present
    if call.name == "round":
        digits = arguments[1] if len(arguments) > 1 else None

        def rounded(data: Data, aliases: Aliases, profile: Data, now: int) -> list[Any]:
            places = digits(data, aliases, profile, now) if digits else []
            count = int(places[0]) if places and _number(places[0]) else None
            numbers = [v for v in arguments[0](data, aliases, profile, now) if _number(v)]
            return [found for v in numbers if (found := _rounded(v, count)) is not None]

        return rounded
    function = _UNARY[call.name]

    def applied(data: Data, aliases: Aliases, profile: Data, now: int) -> list[Any]:
        return [function(v) for v in arguments[0](data, aliases, profile, now) if v is not None]

    return applied


def compile_judge(expr: Expr) -> Judge:
    """Compile a condition to a two-valued function."""
    if isinstance(expr, Compare):
        return _contains(expr) if expr.op == "contains" else _compare(expr)
    if isinstance(expr, In):
        return _in(expr)
    if isinstance(expr, IsNull):
        operand, negated = compile_values(expr.operand), expr.negated
        return lambda data, aliases, profile, now: (
            any(v is not None for v in operand(data, aliases, profile, now)) is negated
        )
    if isinstance(expr, And):
        judges = [compile_judge(item) for item in expr.items]
        return lambda data, aliases, profile, now: all(judge(data, aliases, profile, now) for judge in judges)
    if isinstance(expr, Or):
        judges = [compile_judge(item) for item in expr.items]
        return lambda data, aliases, profile, now: any(judge(data, aliases, profile, now) for judge in judges)
    if isinstance(expr, Not):
        inner = compile_judge(expr.item)
        return lambda data, aliases, profile, now: not inner(data, aliases, profile, now)
    bare = compile_values(expr)
    return lambda data, aliases, profile, now: any(bare(data, aliases, profile, now))


def _compare(expr: Compare) -> Judge:
    test = _COMPARE[expr.op]
    left, right = compile_values(expr.left), compile_values(expr.right)
    if isinstance(expr.right, Literal) and not isinstance(expr.right.value, tuple) and expr.right.value is not None:
        constant = expr.right.value
        if isinstance(expr.left, Path) and expr.left.root == "event" and len(expr.left.parts) == 1:
            return _compare_attribute(expr.left.parts, test, constant)
        return lambda data, aliases, profile, now: any(
            test(a, constant) for a in scalars(left(data, aliases, profile, now))
        )

    def judge(data: Data, aliases: Aliases, profile: Data, now: int) -> bool:
        options = scalars(right(data, aliases, profile, now))
        if not options:
            return False
        found = scalars(left(data, aliases, profile, now))
        if len(found) * len(options) > PAIRS_MAX:
            return _any_pair(expr.op, test, found, options)
        return any(test(a, b) for a in found for b in options)

    return judge


def _any_pair(op: str, test: Callable[[Any, Any], bool], found: list[Any], options: list[Any]) -> bool:
    """Tell whether any pair satisfies a comparison, in linear time: an event full of items must not cost the square."""
    if op == "=":
        return not _keyed(found).isdisjoint(_keyed(options))
    return any(test(a, b) for a in _extremes(op, found) for b in _extremes(op, options))


def _keyed(values: list[Any]) -> set[tuple[bool, Any]]:
    """Make values comparable as `equal` compares them: true is not 1."""
    return {(isinstance(value, bool), value) for value in values}


def _extremes(op: str, values: list[Any]) -> list[Any]:
    """Keep those on which a comparison depends: two that differ, or the least and the greatest number and text."""
    if op == "!=":
        return [value for _, value in list(dict.fromkeys((isinstance(v, bool), v) for v in values))[:2]]
    numbers = [value for value in values if _number(value)]
    texts = [value for value in values if isinstance(value, str)]
    return [extreme for kind in (numbers, texts) if kind for extreme in (min(kind), max(kind))]


def _compare_attribute(parts: tuple[str, ...], test: Callable[[Any, Any], bool], constant: Any) -> Judge:
    """Compare one top-level attribute with a constant, the common case, without building lists."""
    name = parts[0]

    def judge(data: Data, aliases: Aliases, profile: Data, now: int) -> bool:
        value = data.get(name)
        if isinstance(value, str | int | float):
            return test(value, constant)
        return any(test(a, constant) for a in scalars(leaves(data, parts)))

    return judge


def _contains(expr: Compare) -> Judge:
    left, right = compile_values(expr.left), compile_values(expr.right)

    def judge(data: Data, aliases: Aliases, profile: Data, now: int) -> bool:
        wanted = scalars(right(data, aliases, profile, now))[:CONTAINS_MAX]
        for value in left(data, aliases, profile, now):
            for part in wanted:
                if isinstance(value, list):
                    if any(equal(v, part) for v in value):
                        return True
                elif isinstance(value, str) and isinstance(part, str) and part in value:
                    return True
        return False

    return judge


def _in(expr: In) -> Judge:
    left, negated = compile_values(expr.left), expr.negated
    options = [compile_values(option) for option in expr.options]

    def judge(data: Data, aliases: Aliases, profile: Data, now: int) -> bool:
        allowed = [v for option in options for v in scalars(option(data, aliases, profile, now))]
        found = scalars(left(data, aliases, profile, now))
        if len(found) * len(allowed) > PAIRS_MAX:
            keys = _keyed(allowed)
            return any(((isinstance(v, bool), v) in keys) is not negated for v in found)
        return any(any(equal(v, option) for option in allowed) is not negated for v in found)

    return judge


def paths_of(expr: Expr | None) -> list[Path]:
    """List every path in an expression, in the order written."""
    if expr is None or isinstance(expr, Literal):
        return []
    if isinstance(expr, Path):
        return [expr]
    if isinstance(expr, Call):
        children: tuple[Expr, ...] = expr.args
    elif isinstance(expr, Compare):
        children = (expr.left, expr.right)
    elif isinstance(expr, In):
        children = (expr.left, *expr.options)
    elif isinstance(expr, IsNull):
        children = (expr.operand,)
    elif isinstance(expr, Not):
        children = (expr.item,)
    else:
        children = expr.items
    return [path for child in children for path in paths_of(child)]


def conjuncts(expr: Expr | None) -> tuple[Expr, ...]:
    """Split at the top-level `and`s."""
    if expr is None:
        return ()
    if isinstance(expr, And):
        return tuple(part for item in expr.items for part in conjuncts(item))
    return (expr,)


def capture(data: Data, names: tuple[str, ...]) -> dict[str, Any]:
    """Copy the named attributes of an event, from its items where they are not top-level."""
    kept: dict[str, Any] = {name: data[name] for name in names if name in data}
    missing = [name for name in names if name not in data]
    items = data.get(ITEMS)
    if missing and ITEMS not in kept and isinstance(items, list):
        slots = [
            {name: item[name] for name in missing if name in item} if isinstance(item, dict) else {} for item in items
        ]
        if any(slots):
            kept[ITEMS] = slots
    return kept
