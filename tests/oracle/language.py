"""The oracle's own reader of campaigns: DESIGN §4 to plain values. It shares nothing with streams/.

A first step `no X for T` is rewritten as `X then no X for T` (SEMANTICS 20), so that every plan starts with a
positive step.
"""

import itertools
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

UNITS = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000, "w": 604_800_000}
DEFAULT_WITHIN_MS = 30 * UNITS["d"]
MIN_LATENESS_MS = 5_000
MAX_STEPS = 8
AGGREGATES = ("count", "sum", "avg", "min", "max", "distinct")
COMPARISONS = ("=", "!=", "<=", ">=", "<", ">")
TOKEN = re.compile(
    r"""\s*(?:(?P<text>'[^']*'|"[^"]*")|(?P<span>(?:\d+(?:ms|[smhdw]))+(?![A-Za-z0-9_]))|(?P<number>-?\d+(?:\.\d+)?)"""
    r"""|(?P<name>[A-Za-z_]\w*(?:\.\w+)*)|(?P<sign>!=|<=|>=|[=<>,()\[\]+]))"""
)


class PatternError(ValueError):
    """The text is not in the grammar, or it means nothing."""


@dataclass(frozen=True)
class Spec:
    """One event name with its predicate."""

    name: str
    predicate: Any = None


@dataclass(frozen=True)
class Term:
    """`any of` (a single event is an `any of` one) or `all of`."""

    every: bool
    specs: tuple[Spec, ...]


@dataclass(frozen=True)
class Step:
    """kind: one, count, every (`all of`), agg, none (`no … for`)."""

    kind: str
    term: Term = Term(False, ())
    n: int = 1
    alias: str | None = None
    within_ms: int | None = None
    without: tuple[Term, ...] = ()
    function: str = ""
    path: str = ""
    comparison: str = ""
    number: float = 0


@dataclass(frozen=True)
class Plan:
    """One campaign, ready to be evaluated."""

    campaign: str
    steps: tuple[Step, ...]
    same: tuple[str, ...] = ()
    whole_ms: int | None = None
    where: Any = None
    if_still: Any = None
    on_repeat: str = "keep"
    parallel: int = 1
    cooldown_ms: int | None = None
    limit: tuple[int, int] | None = None
    once: bool = False
    per_key: bool = False
    lateness_ms: int = MIN_LATENESS_MS
    starts_absent: bool = False
    aliases: frozenset[str] = field(default_factory=frozenset)


# --- text to values -------------------------------------------------------------------------------------------------


def span_ms(text: object) -> int:
    """Read `1h30m` as milliseconds."""
    if not isinstance(text, str) or not re.fullmatch(r"(?:\d+(?:ms|[smhdw]))+", text.strip()):
        raise PatternError(f"duration: not one (got {text!r}); write for example 1h30m")
    return sum(int(n) * UNITS[unit] for n, unit in re.findall(r"(\d+)(ms|[smhdw])", text))


class Reader:
    """Tokens of one text, read from left to right."""

    def __init__(self, text: str) -> None:
        """Split the text; raises PatternError where a character starts no token."""
        self.tokens: list[tuple[str, str]] = []
        at, text = 0, text.rstrip()
        while at < len(text):
            found = TOKEN.match(text, at)
            if found is None:
                raise PatternError(f"column {at + 1}: cannot read {text[at:]!r}")
            kind = found.lastgroup or ""
            self.tokens.append((kind, found[kind]))
            at = found.end()
        self.at = 0

    def peek(self, ahead: int = 0) -> tuple[str, str]:
        """Look at a token without taking it."""
        return self.tokens[self.at + ahead] if self.at + ahead < len(self.tokens) else ("end", "")

    def accept(self, *words: str) -> bool:
        """Take the given names or signs if they all come next."""
        if all(self.peek(i)[0] in ("name", "sign") and self.peek(i)[1] == word for i, word in enumerate(words)):
            self.at += len(words)
            return True
        return False

    def need(self, *words: str) -> None:
        """Take the given words or refuse."""
        if not self.accept(*words):
            raise PatternError(f"expected {' '.join(words)!r}, got {self.peek()[1]!r}")

    def take(self, kind: str) -> str:
        """Take one token of a kind or refuse."""
        if self.peek()[0] != kind:
            raise PatternError(f"expected a {kind}, got {self.peek()[1]!r}")
        self.at += 1
        return self.tokens[self.at - 1][1]

    def end(self) -> None:
        """Refuse what is left over."""
        if self.peek()[0] != "end":
            raise PatternError(f"nothing may follow here, got {self.peek()[1]!r}")


# --- expressions: nested tuples, first element the kind -------------------------------------------------------------


def read_expression(text: str) -> Any:
    """Parse `where`, `if still` or the inside of [ ]."""
    reader = Reader(text)
    tree = _either(reader)
    reader.end()
    return tree


def _either(reader: Reader) -> Any:
    tree = _both(reader)
    while reader.accept("or"):
        tree = ("or", tree, _both(reader))
    return tree


def _both(reader: Reader) -> Any:
    tree = _negation(reader)
    while reader.accept("and"):
        tree = ("and", tree, _negation(reader))
    return tree


def _negation(reader: Reader) -> Any:
    if reader.accept("not"):
        return ("not", _negation(reader))
    if reader.accept("("):
        tree = _either(reader)
        reader.need(")")
        return tree
    return _comparison(reader)


def _comparison(reader: Reader) -> Any:
    left = _operand(reader)
    if reader.accept("is", "not", "null"):
        return ("not", ("null", left))
    if reader.accept("is", "null"):
        return ("null", left)
    if reader.accept("not", "in"):
        return ("not", ("in", left, _operand(reader)))
    for word in (*COMPARISONS, "in", "contains"):
        if reader.accept(word):
            return (word, left, _operand(reader))
    return ("truth", left)


def _operand(reader: Reader) -> Any:
    kind, text = reader.peek()
    for opening, closing in (("(", ")"), ("[", "]")):
        if reader.accept(opening):
            members = []
            while not reader.accept(closing):
                members.append(_operand(reader))
                reader.accept(",")
            return ("list", members)
    reader.at += 1
    if kind == "text":
        return ("literal", text[1:-1])
    if kind == "number":
        return ("literal", float(text) if "." in text else int(text))
    if kind != "name":
        raise PatternError(f"expected a value, got {text!r}")
    if text in ("true", "false", "null"):
        return ("literal", {"true": True, "false": False, "null": None}[text])
    if reader.accept("("):
        raise PatternError(f"function {text!r}: the design names none, so the oracle knows none")
    return ("path", text)


# --- patterns -------------------------------------------------------------------------------------------------------


def _term(reader: Reader) -> Term:
    for word in ("any", "all"):
        if reader.accept(word, "of", "("):
            specs = [_spec(reader)]
            while reader.accept(","):
                specs.append(_spec(reader))
            reader.need(")")
            return Term(word == "all", tuple(specs))
    return Term(False, (_spec(reader),))


def _spec(reader: Reader) -> Spec:
    name = reader.take("name")
    if not reader.accept("["):
        return Spec(name)
    tree = _either(reader)
    reader.need("]")
    return Spec(name, tree)


def _step(reader: Reader) -> Step:
    if reader.accept("no"):
        term = _term(reader)
        reader.need("for")
        return Step("none", term, within_ms=span_ms(reader.take("span")))
    if reader.peek()[1] in AGGREGATES and reader.peek(1)[1] == "(":
        function = reader.take("name")
        reader.need("(")
        path = reader.take("name")
        reader.need(")")
        comparison = next((sign for sign in COMPARISONS if reader.accept(sign)), "")
        if not comparison:
            raise PatternError(f"{function}(): expected a comparison, got {reader.peek()[1]!r}")
        number = float(reader.take("number"))
        reader.need("within")
        within = span_ms(reader.take("span"))
        return Step("agg", within_ms=within, function=function, path=path, comparison=comparison, number=number)
    n = None
    if reader.peek()[0] == "number":
        n = int(reader.take("number"))
        reader.need("+")
    term = _term(reader)
    if n is not None and (term.every or n < 1):
        raise PatternError("n+ counts one event or an `any of`, at least once")
    alias = reader.take("name") if reader.accept("as") else None
    within_ms = span_ms(reader.take("span")) if reader.accept("within") else None
    without: list[Term] = []
    while reader.accept("without"):
        without.append(_term(reader))
    if any(x.every for x in without):
        raise PatternError("`without all of` has no settled reading; list the events one by one")
    kind = "count" if n is not None else "every" if term.every else "one"
    return Step(kind, term, n or 1, alias, within_ms, tuple(without))


def read_pattern(text: str) -> Plan:
    """Parse the trigger line; the campaign's other keys are left at their defaults."""
    reader = Reader(text)
    steps = [_step(reader)]
    while reader.accept("then"):
        steps.append(_step(reader))
    same: list[str] = []
    whole_ms = None
    while reader.accept(","):
        if reader.accept("within"):
            whole_ms = span_ms(reader.take("span"))
        else:
            if not same:
                reader.need("same")
            same.append(reader.take("name"))
    reader.end()
    first = steps[0]
    if len(steps) > MAX_STEPS:
        raise PatternError(f"{len(steps)} steps; at most {MAX_STEPS}")
    if first.kind == "one" and (first.within_ms is not None or first.without):
        raise PatternError("`within` and `without` on a plain first step mean nothing (SEMANTICS 32, 36)")
    if any(step.kind == "none" for step in steps[1:-1]):
        raise PatternError("an absence stands first or last")
    absent = any(step.kind == "none" for step in steps)
    if first.kind == "none":
        steps.insert(0, Step("one", replace(first.term, every=False)))
    aliases = frozenset(step.alias for step in steps if step.alias)
    return Plan(
        "",
        tuple(steps),
        tuple(same),
        whole_ms,
        on_repeat="restart" if absent else "keep",
        starts_absent=first.kind == "none",
        aliases=aliases,
    )


def read_campaign(text: Mapping[str, Any]) -> Plan:
    """Turn a campaign's mapping, as YAML gives it, into a plan."""
    plan = read_pattern(text["pattern"])
    repeat = text.get("on_repeat") or plan.on_repeat
    limit = None
    if text.get("limit"):
        n, _, span = str(text["limit"]).partition(" per ")
        limit = (int(n), span_ms(span))
    return replace(
        plan,
        campaign=text["campaign"],
        where=read_expression(text["where"]) if text.get("where") else None,
        if_still=read_expression(text["if still"]) if text.get("if still") else None,
        on_repeat="parallel" if isinstance(repeat, Mapping) else repeat,
        parallel=int(repeat["parallel"]) if isinstance(repeat, Mapping) else 1,
        cooldown_ms=span_ms(text["cooldown"]) if text.get("cooldown") else None,
        limit=limit,
        once=bool(text.get("once")),
        per_key=text.get("per") == "key",
        lateness_ms=max(MIN_LATENESS_MS, span_ms(text["lateness"])) if text.get("lateness") else MIN_LATENESS_MS,
    )


# --- values of attributes -------------------------------------------------------------------------------------------


def leaves(value: Any, parts: Sequence[str]) -> list[Any]:
    """Follow a path; a list on the way means each of its elements. Null and missing give nothing."""
    if parts and isinstance(value, list):
        return [leaf for element in value for leaf in leaves(element, parts)]
    if parts:
        return leaves(value[parts[0]], parts[1:]) if isinstance(value, dict) and parts[0] in value else []
    return [] if value is None else [value]


def attribute(data: Any, path: str) -> list[Any]:
    """Values of a bare attribute: top level if present, else of every item (SEMANTICS 39). Lists are not opened."""
    parts = path.split(".")
    if isinstance(data, dict) and parts[0] in data:
        return leaves(data, parts)
    return leaves(data.get("items"), parts) if isinstance(data, dict) and isinstance(data.get("items"), list) else []


def flat(values: Sequence[Any]) -> list[Any]:
    """Open lists and drop nulls."""
    opened = itertools.chain.from_iterable(flat(v) if isinstance(v, list) else [v] for v in values)
    return [v for v in opened if v is not None]


def value_text(value: Any) -> str:
    """One spelling for each JSON value: 1 and 1.0 are one value; 1, "1" and true are three."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, list):
        return "[" + ",".join(value_text(v) for v in value) + "]"
    return json.dumps(value, sort_keys=True)


def compare(sign: str, left: Any, right: Any) -> bool:
    """Compare two values that are not null; order exists between two numbers or two strings."""
    if sign == "=":
        return value_text(left) == value_text(right)
    if sign == "!=":
        return value_text(left) != value_text(right)
    numbers = all(isinstance(v, int | float) and not isinstance(v, bool) for v in (left, right))
    if not numbers and not (isinstance(left, str) and isinstance(right, str)):
        return False
    return {"<": left < right, "<=": left <= right, ">": left > right, ">=": left >= right}[sign]


@dataclass(frozen=True)
class Scope:
    """What names mean: the event at hand, the plan's step names with their events, the profile."""

    data: Any
    names: frozenset[str]
    bound: Mapping[str, Any]
    profile: Mapping[str, Any]

    def raw(self, operand: Any) -> list[Any]:
        """Values of an operand with lists left whole."""
        kind, content = operand
        if kind == "literal":
            return [] if content is None else [content]
        if kind == "list":
            return [v for member in content for v in self.raw(member)]
        head, _, rest = content.partition(".")
        if head == "member":
            return leaves(self.profile, rest.split(".")) if rest else []
        if head in self.names:
            return attribute(self.bound[head], rest) if rest and head in self.bound else []
        return attribute(self.data, content)

    def holds(self, tree: Any) -> bool:
        """Judge an expression; each comparison holds if any pair of values does (SEMANTICS 41, 42)."""
        if tree is None:
            return True
        kind = tree[0]
        if kind == "or":
            return self.holds(tree[1]) or self.holds(tree[2])
        if kind == "and":
            return self.holds(tree[1]) and self.holds(tree[2])
        if kind == "not":
            return not self.holds(tree[1])
        left = self.raw(tree[1])
        if kind == "null":
            return not flat(left)
        if kind == "truth":
            return any(bool(v) for v in flat(left))
        right = flat(self.raw(tree[2]))
        if kind == "contains":
            return any(_contains(whole, part) for whole in left for part in right)
        sign = "=" if kind == "in" else kind
        return any(compare(sign, a, b) for a in flat(left) for b in right)


def _contains(whole: Any, part: Any) -> bool:
    if isinstance(whole, list):
        return any(compare("=", v, part) for v in flat(whole))
    return isinstance(whole, str) and isinstance(part, str) and part in whole
