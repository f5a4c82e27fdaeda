"""The tree of a pattern: what the parser makes and the compiler reads. Values only.

Spans are int milliseconds. Positions count lines and columns from 1 inside the pattern (or expression) text.
"""

from typing import Any

import msgspec


class Pos(msgspec.Struct, frozen=True):
    """A place in the text."""

    line: int
    column: int


class Node(msgspec.Struct, frozen=True):
    """Root of all nodes."""


# ---------------------------------------------------------------- expressions


class Literal(Node, frozen=True):
    """A constant: string, number, true, false, null, or a tuple of them (a list)."""

    value: Any
    pos: Pos


class Path(Node, frozen=True):
    """A dotted path, as written: `total`, `items.price`, `v.product_id`, `member.city`.

    `root` is settled by the parser: `member` for `member.…`, `alias` when the first part is an alias of the pattern
    (an alias wins over an attribute of the same name), else `event`. `parts` excludes `member` and the alias itself.
    """

    root: str
    parts: tuple[str, ...]
    pos: Pos
    alias: str | None = None


class Call(Node, frozen=True):
    """A function of values: see `streams.patterns.expressions.FUNCTIONS`."""

    name: str
    args: tuple["Expr", ...]
    pos: Pos


class Compare(Node, frozen=True):
    """`left op right`, op one of = != < <= > >= contains. False when an operand is missing or null."""

    op: str
    left: "Expr"
    right: "Expr"
    pos: Pos


class In(Node, frozen=True):
    """`left [not] in (a, b, …)`."""

    left: "Expr"
    options: tuple["Expr", ...]
    negated: bool
    pos: Pos


class IsNull(Node, frozen=True):
    """`operand is [not] null`; a missing attribute is null."""

    operand: "Expr"
    negated: bool
    pos: Pos


class And(Node, frozen=True):
    """All hold."""

    items: tuple["Expr", ...]
    pos: Pos


class Or(Node, frozen=True):
    """Any holds."""

    items: tuple["Expr", ...]
    pos: Pos


class Not(Node, frozen=True):
    """Two-valued: not (missing) is true."""

    item: "Expr"
    pos: Pos


Expr = Literal | Path | Call | Compare | In | IsNull | And | Or | Not


# ---------------------------------------------------------------- steps


class EventRef(Node, frozen=True):
    """`order.created[total > 100]`."""

    type: str
    predicate: Expr | None
    pos: Pos


class Term(Node, frozen=True):
    """`kind`: `one` (exactly one event), `any` or `all`."""

    kind: str
    events: tuple[EventRef, ...]
    pos: Pos


class Positive(Node, frozen=True):
    """`[n+] term [as name] [within dur] {without term}`; `count` is 1 without `n+`.

    `counted` tells `1+ x` from `x`: a counted event must be the latest by event time of those read.
    """

    term: Term
    count: int
    alias: str | None
    within_ms: int | None
    without: tuple[Term, ...]
    pos: Pos
    counted: bool = False


class Absent(Node, frozen=True):
    """`no term for dur`, first or last."""

    term: Term
    for_ms: int
    pos: Pos


class Aggregate(Node, frozen=True):
    """`fn(event.attribute) cmp number within dur`; fn: count sum avg min max distinct; no `path` for `count(event)`."""

    fn: str
    event: EventRef
    path: tuple[str, ...]
    op: str
    threshold: float
    within_ms: int
    pos: Pos
    alias: str | None = None


class Delay(Node, frozen=True):
    """`7d after order.created`: the event is the step before; the match completes `for_ms` after it. Last step only."""

    for_ms: int
    pos: Pos


class MemberDate(Node, frozen=True):
    """`3d before member.birth_date yearly at 10:00` in the member's zone; alone in its pattern.

    `offset_days` is negative for before, 0 for `on`. `at_minute` counts from local midnight.
    """

    offset_days: int
    path: tuple[str, ...]
    yearly: bool
    at_minute: int
    pos: Pos


class Calendar(Node, frozen=True):
    """`every monday at 09:00`, `every day at …`, `every month on 15 at …`, `on 2026-12-31 at …`; alone in its pattern.

    `unit`: `day`, `week` (with `weekday` 0 = Monday), `month` (with `day` 1..31; a month too short fires on its last
    day) or `once` (with `date` as ISO text). Local time of the member.
    """

    unit: str
    at_minute: int
    pos: Pos
    weekday: int | None = None
    day: int | None = None
    date: str | None = None


Step = Positive | Absent | Aggregate | Delay | MemberDate | Calendar


class Pattern(Node, frozen=True):
    """A whole pattern. `same`: correlation paths in the order written; `within_ms`: the whole-match limit."""

    steps: tuple[Step, ...]
    same: tuple[tuple[str, ...], ...]
    within_ms: int | None
    text: str
