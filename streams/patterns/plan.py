"""A campaign compiled: its steps as flat records of closures, and what it must remember of which events.

A leading `no X for T` is compiled as `X then no X for T` (SEMANTICS 20), so every plan starts with something that
happens: an event, a count, an aggregate, a set, or a date.
"""

from collections.abc import Callable, Iterable
from itertools import product
from typing import Any, Final

from schemas.campaign import Campaign, Repeat
from schemas.ids import h128
from streams.flows.plan import FlowPlan
from streams.patterns.expressions import (
    Data,
    Judge,
    Values,
    compile_judge,
    compile_values,
    conjuncts,
    leaves,
    paths_of,
    scalars,
)
from streams.patterns.nodes import (
    Absent,
    Aggregate,
    And,
    Compare,
    Delay,
    EventRef,
    Expr,
    IsNull,
    Literal,
    MemberDate,
    Or,
    Path,
    Pattern,
    Pos,
    Positive,
    Step,
    Term,
)
from streams.patterns.parser import parse_expression, parse_pattern
from streams.patterns.waiting import Wait

DEFAULT_WITHIN_MS: Final = 30 * 86_400_000  # SEMANTICS 27
MAX_AGE_MS: Final = 7 * 86_400_000  # DESIGN §3: older events move no pattern
KEEP_SLACK_MS: Final = 86_400_000  # append times may go back at a leader change; history outlives that by far

Names = tuple[str, ...]
KeyOf = Callable[[Data], list[tuple[Any, Any]]]


class Ref:
    """One event of a term. `judge` is the whole predicate, `late` the part that needs aliases, for captured values.

    `series` names the history in which occurrences read before are found; empty for references that need none.
    """

    __slots__ = ("type", "judge", "late", "series", "equals", "anchors")

    def __init__(self, ref: EventRef) -> None:
        self.type = ref.type
        self.judge: Judge | None = compile_judge(ref.predicate) if ref.predicate is not None else None
        self.late: Judge | None = None
        self.series = ""
        self.equals = _constant_equality(ref.predicate)
        self.anchors = False


class Series:
    """A history kept per member: occurrences of one event type that satisfied `local` when read.

    Plans that need the same history share it: `sid` is a hash of all that defines it. `data` and `profile` name what is
    captured for predicates that need aliases bound later. `keep_ms`: how long before the clock an entry still matters.
    """

    __slots__ = ("sid", "type", "local", "keys_of", "data", "profile", "keep_ms", "first_local", "first_alias")

    def __init__(
        self, sid: str, type_: str, local: Judge | None, keys_of: KeyOf | None, data: Names, profile: Names
    ) -> None:
        self.sid = sid
        self.type = type_
        self.local = local
        self.keys_of = keys_of
        self.data = data
        self.profile = profile
        self.keep_ms = MAX_AGE_MS + KEEP_SLACK_MS
        self.first_local: Judge | None = None
        self.first_alias = ""


class TermPlan:
    """A compiled term: `one`, `any` or `all` of `refs`; `by_type` finds the references an event may satisfy."""

    __slots__ = ("kind", "refs", "by_type")

    def __init__(self, term: Term) -> None:
        self.kind = term.kind
        self.refs = tuple(Ref(ref) for ref in term.events)
        grouped: dict[str, list[tuple[int, Ref]]] = {}
        for index, ref in enumerate(self.refs):
            grouped.setdefault(ref.type, []).append((index, ref))
        self.by_type = {name: tuple(found) for name, found in grouped.items()}


class StepPlan:
    """One compiled step. `kind`: event, count, all, aggregate, absent, delay, date or calendar.

    `window_ms`: of the step (positive), span (count, all, aggregate first) or wait (absent, delay).
    """

    __slots__ = (
        "kind",
        "term",
        "count",
        "alias",
        "window_ms",
        "without",
        "fn",
        "path",
        "test",
        "threshold",
        "node",
        "waits",
    )

    def __init__(self, kind: str, term: TermPlan | None, node: Step) -> None:
        self.kind = kind
        self.waits = kind in ("absent", "delay")
        self.term = term
        self.node = node
        self.count = 1
        self.alias: str | None = None
        self.window_ms = 0
        self.without: tuple[TermPlan, ...] = ()
        self.fn = ""
        self.path: tuple[str, ...] = ()
        self.test = ""
        self.threshold = 0.0


class Plan:
    """One campaign version, ready to run. Immutable after construction."""

    __slots__ = (
        "campaign", "id", "version", "leads_with_absence", "pattern", "same", "keys_of", "whole_ms", "steps",
        "lateness_ms", "since_offset", "since_ms", "waits", "repeat", "aliases", "where_expr", "if_still_expr",
        "where", "if_still", "send_exprs", "send_values", "flow", "captures", "last_names", "capped", "series", "types",
        "start_types", "moving_types", "plain_starts", "last_absent_types", "wait", "dated", "shape",
    )  # fmt: skip

    def __init__(self, campaign: Campaign) -> None:
        self.campaign = campaign
        self.id = campaign.campaign
        self.version = campaign.version
        written = parse_pattern(campaign.pattern)
        self.leads_with_absence = isinstance(written.steps[0], Absent)
        pattern = _with_leading_event(written)
        self.pattern = pattern
        self.same = pattern.same
        self.keys_of = _key_function(pattern.same) if pattern.same else None
        self.whole_ms = pattern.within_ms
        self.steps = tuple(_compile_step(node, index, pattern) for index, node in enumerate(pattern.steps))
        self.lateness_ms = campaign.lateness_ms
        # Where and when this version was published: what started before belongs to one that was withdrawn meanwhile.
        self.since_offset = -1
        self.since_ms = 0
        self.waits = any(step.waits for step in self.steps)
        self.repeat = campaign.on_repeat or Repeat("restart" if self.waits else "keep")
        self.aliases = frozenset(step.alias for step in self.steps if step.alias)
        self.where_expr = parse_expression(campaign.where, self.aliases) if campaign.where else None
        self.if_still_expr = parse_expression(campaign.if_still, self.aliases) if campaign.if_still else None
        self.where = compile_judge(self.where_expr) if self.where_expr is not None else None
        self.if_still = compile_judge(self.if_still_expr) if self.if_still_expr is not None else None
        send_data = campaign.send.data if campaign.send else {}
        self.send_exprs = {name: parse_expression(text, self.aliases) for name, text in send_data.items()}
        self.send_values: dict[str, Values] = {name: compile_values(e) for name, e in self.send_exprs.items()}
        self.flow = FlowPlan(campaign, self.aliases)
        self.captures, self.last_names = self._captured_names()
        self.capped = campaign.once or campaign.limit is not None or campaign.cooldown_ms is not None
        self.series: dict[str, Series] = {}
        self._link_series()
        self.types = frozenset(_types_of(self.steps))
        first = self.steps[0].term
        self.start_types: frozenset[str] = frozenset(first.by_type) if first is not None else frozenset()
        self.moving_types = frozenset(_types_of(self.steps[1:]))
        # Types that match the first step whatever their data: no predicate and no `where` to ask.
        self.plain_starts = frozenset(
            type_
            for type_ in self.start_types
            if self.where is None and first is not None and any(ref.judge is None for _, ref in first.by_type[type_])
        )
        last = self.steps[-1].term if self.steps[-1].kind == "absent" else None
        self.last_absent_types = frozenset(last.by_type) if last is not None else frozenset()
        self.wait = _flat_wait(self)
        self.dated = self.steps[0].kind in ("date", "calendar")
        self.shape = h128(pattern.text, str(campaign.lateness_ms), str(self.repeat), campaign.where or "")

    def horizon_ms(self) -> int:
        """Bound how long an instance and its journey can live after its last record, for retiring old versions."""
        return (
            sum(step.window_ms for step in self.steps)
            + (self.whole_ms or 0)
            + MAX_AGE_MS
            + self.campaign.lateness_ms
            + self.flow.horizon_ms(self.campaign.lateness_ms)
        )

    def _captured_names(self) -> tuple[dict[str, Names], Names]:
        at_firing: list[Expr | None] = [self.if_still_expr, *self.send_exprs.values(), *self.flow.exprs]
        exprs: list[Expr | None] = [self.where_expr, *at_firing, *self.flow.term_exprs]
        for node in self.pattern.steps:
            exprs.extend(ref.predicate for term in _terms_of(node) for ref in term.events)
        by_alias: dict[str, dict[str, None]] = {alias: {} for alias in self.aliases}
        for expr in exprs:
            for path in paths_of(expr):
                if path.root == "alias" and path.alias in by_alias and path.parts:
                    by_alias[path.alias][path.parts[0]] = None
        last: dict[str, None] = {}
        for expr in at_firing:
            last.update({path.parts[0]: None for path in paths_of(expr) if path.root == "event"})
        return {alias: tuple(names) for alias, names in by_alias.items()}, tuple(last)

    def _link_series(self) -> None:
        first = self.pattern.steps[0]
        for step, node in zip(self.steps, self.pattern.steps, strict=True):
            span = step.window_ms if step is self.steps[0] else 0
            if isinstance(node, Absent) and step.term is not None:
                self._link_term(step.term, node.term, 0, first if step is self.steps[1] else None)
            elif isinstance(node, Positive) and (step is not self.steps[0] or step.kind != "event"):
                for compiled, term in zip(step.without, node.without, strict=True):
                    self._link_term(compiled, term, span, None)

    def _link_term(self, compiled: TermPlan, term: Term, span_ms: int, first: Step | None) -> None:
        for ref, node in zip(compiled.refs, term.events, strict=True):
            anchor = _anchoring(first, node.type) if first is not None else None
            if anchor is not None and self.steps[0].kind == "event" and self.where_expr is not None:
                anchor = (*anchor, self.where_expr)
            series, late = self._series_for(node, anchor)
            series = self.series.setdefault(series.sid, series)
            series.keep_ms = max(series.keep_ms, MAX_AGE_MS + KEEP_SLACK_MS + span_ms)
            ref.series = series.sid
            ref.late = late
            ref.anchors = anchor is not None

    def _series_for(self, ref: EventRef, anchor: tuple[Expr, ...] | None) -> tuple[Series, Judge | None]:
        local = tuple(part for part in conjuncts(ref.predicate) if not _needs_alias(part))
        late = tuple(part for part in conjuncts(ref.predicate) if _needs_alias(part))
        here = Pos(1, 1)
        late_expr: Expr | None = And(late, here) if late else None
        names = dict.fromkeys(p.parts[0] for p in paths_of(late_expr) if p.root == "event")
        profile = dict.fromkeys(p.parts[0] for p in paths_of(late_expr) if p.root == "member")
        alias = self.steps[0].alias or ""
        anchor_text = "-" if anchor is None else f"+{alias} " + " ".join(map(_spell, anchor))
        same = map(".".join, self.same)
        sid = h128(ref.type, *map(_spell, local), "|", *names, "|", *profile, "|", *same, "|", anchor_text)[:12]
        judge = compile_judge(And(local, here)) if local else None
        series = Series(sid, ref.type, judge, self.keys_of, tuple(names), tuple(profile))
        series.first_local = compile_judge(And(anchor, here)) if anchor else None
        series.first_alias = alias
        return series, compile_judge(late_expr) if late_expr is not None else None


def _flat_wait(plan: Plan) -> Wait | None:
    if [step.kind for step in plan.steps] != ["event", "absent"] or len(plan.same) > 1:
        return None
    first, last = plan.steps
    if last.term is None or last.term.kind == "all" or any(len(parts) > 1 for parts in plan.same):
        return None
    alias = first.alias or ""
    return Wait(
        path=plan.same[0][0] if plan.same else None,
        span_ms=last.window_ms,
        alias=alias,
        captured=plan.captures.get(alias, ()),
        last_names=plan.last_names,
        broken_by=tuple(dict.fromkeys(ref.series for ref in last.term.refs)),
    )


def correlation_key(value: Any) -> Any:
    """Normalise a correlation value so that equal keys are equal JSON values: true is not 1, 1.0 is 1."""
    if isinstance(value, bool):
        return "\x00true" if value else "\x00false"
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value


def _key_function(same: tuple[tuple[str, ...], ...]) -> KeyOf:
    if len(same) == 1:
        parts = same[0]
        name = parts[0] if len(parts) == 1 else ""

        def one(data: Data) -> list[tuple[Any, Any]]:
            value = data.get(name) if name else None
            if type(value) is str:
                return [(value, value)]
            found: dict[Any, Any] = {}
            for v in scalars(leaves(data, parts)):
                found.setdefault(correlation_key(v), v)
            return list(found.items())

        return one

    def several(data: Data) -> list[tuple[Any, Any]]:
        columns: list[list[tuple[Any, Any]]] = []
        for parts in same:
            found: dict[Any, Any] = {}
            for v in scalars(leaves(data, parts)):
                found.setdefault(correlation_key(v), v)
            columns.append(list(found.items()))
        return [(tuple(k for k, _ in row), [v for _, v in row]) for row in product(*columns)]

    return several


def _with_leading_event(pattern: Pattern) -> Pattern:
    first = pattern.steps[0]
    if not isinstance(first, Absent):
        return pattern
    anchor = Term("any" if len(first.term.events) > 1 else "one", first.term.events, first.pos)
    lead = Positive(anchor, 1, None, None, (), first.pos)
    return Pattern((lead, *pattern.steps), pattern.same, pattern.within_ms, pattern.text)


def _terms_of(node: Step) -> list[Term]:
    if isinstance(node, Positive):
        return [node.term, *node.without]
    if isinstance(node, Absent):
        return [node.term]
    if isinstance(node, Aggregate):
        return [Term("one", (node.event,), node.pos)]
    return []


def _types_of(steps: Iterable[StepPlan]) -> Iterable[str]:
    for step in steps:
        for term in (step.term, *step.without):
            if term is not None:
                yield from term.by_type


def _compile_step(node: Step, index: int, pattern: Pattern) -> StepPlan:
    if isinstance(node, Positive):
        kind = "all" if node.term.kind == "all" else "count" if node.counted else "event"
        step = StepPlan(kind, TermPlan(node.term), node)
        step.count, step.alias = node.count, node.alias
        step.without = tuple(TermPlan(term) for term in node.without)
        plain_first = index == 0 and kind == "event"
        step.window_ms = 0 if plain_first else node.within_ms or pattern.within_ms or DEFAULT_WITHIN_MS
        if index == 0 and pattern.within_ms and not plain_first:
            step.window_ms = min(step.window_ms, pattern.within_ms)
        return step
    if isinstance(node, Absent):
        step = StepPlan("absent", TermPlan(node.term), node)
        step.window_ms = node.for_ms
        return step
    if isinstance(node, Aggregate):
        step = StepPlan("aggregate", TermPlan(Term("one", (node.event,), node.pos)), node)
        step.fn, step.path, step.test, step.threshold = node.fn, node.path, node.op, node.threshold
        step.window_ms, step.alias = node.within_ms, node.alias
        return step
    if isinstance(node, Delay):
        step = StepPlan("delay", None, node)
        step.window_ms = node.for_ms
        return step
    return StepPlan("date" if isinstance(node, MemberDate) else "calendar", None, node)


def _constant_equality(expr: Expr | None) -> tuple[str, Any] | None:
    """Find a conjunct `attribute = "text"` on a top-level attribute, by which the router can skip the plan."""
    for part in conjuncts(expr):
        if not (isinstance(part, Compare) and part.op == "=" and isinstance(part.left, Path)):
            continue
        if part.left.root != "event" or len(part.left.parts) != 1 or not isinstance(part.right, Literal):
            continue
        if isinstance(part.right.value, str):
            return part.left.parts[0], part.right.value
    return None


def _needs_alias(expr: Expr) -> bool:
    return any(path.root == "alias" for path in paths_of(expr))


def _anchoring(first: Step, type_: str) -> tuple[Expr, ...] | None:
    """Say when an event of this type is itself an anchor of the plan (SEMANTICS 17, 18): None never, () always."""
    here = Pos(1, 1)
    if isinstance(first, Aggregate):
        if first.event.type != type_:
            return None
        present = (IsNull(Path("event", first.path, here), True, here),) if first.path else ()
        return (*present, first.event.predicate) if first.event.predicate is not None else present
    if not isinstance(first, Positive):
        return None
    predicates = [ref.predicate for ref in first.term.events if ref.type == type_]
    if not predicates:
        return None
    conditions = tuple(p for p in predicates if p is not None)
    return (Or(conditions, here),) if len(conditions) == len(predicates) else ()


def _spell(expr: Expr | None) -> str:
    """Spell an expression without its positions, for signatures."""
    if expr is None:
        return ""
    fields = [expr.__class__.__name__]
    for name in expr.__struct_fields__:
        value = getattr(expr, name)
        if name == "pos":
            continue
        if isinstance(value, tuple):
            fields.append(
                "(" + ",".join(_spell(v) if hasattr(v, "__struct_fields__") else repr(v) for v in value) + ")"
            )
        else:
            fields.append(_spell(value) if hasattr(value, "__struct_fields__") else repr(value))
    return "[" + " ".join(fields) + "]"
