"""The key `flow` of a campaign file, with `goal`, `exit_on` and `on_edit`: read with every finding in its place.

Two passes: the steps are read in the order written, which gives each its name and binds the aliases of awaited events;
then they are linked, so that the ways of a branch meet again at the step behind it.
"""

import re
from typing import Any

import msgspec

from schemas.findings import ERROR, Finding
from schemas.flow import (
    ANY_KEY,
    DRAIN,
    DROP,
    MIGRATE,
    OWN_KEY,
    ActStep,
    Arm,
    Awaited,
    BranchStep,
    CascadeStep,
    Case,
    ExitStep,
    Flow,
    SendStep,
    SplitStep,
    Step,
    Variant,
    WaitStep,
)
from streams import marks
from streams.campaign_keys import TEMPLATE_NAME, Keys
from streams.flows.act_keys import ACTS, SHORT, read_act, spelled_out
from streams.flows.cascade_keys import CascadeReader
from streams.flows.check import (
    check_flow,
    check_outcomes,
    check_term,
    local_time,
    local_window,
    wait_problem,
    weekdays_of,
)
from streams.patterns.check_logic import meaning
from streams.patterns.check_names import NameCheck, step_types
from streams.patterns.conditions import parse_expression
from streams.patterns.grammar import PatternError, Problem
from streams.patterns.nodes import Expr, Pos, Positive
from streams.patterns.parser import Reading, read_pattern

FLOW_KEYS = ("flow", "goal", "exit_on", "on_edit")
KINDS = ("send", "cascade", "wait", "branch", "split", "exit", *ACTS, *SHORT)
STEP_KEYS = (*KINDS, "name", "variants")
WAIT_KEYS = ("until", "timeout", "key", "window", "weekday", "at")
MAX_STEPS = 64  # of one flow; the longest of the recipes has 12
MAX_WAYS = 16  # cases of a branch, arms of a split, variants of a message
MAX_WEIGHT = 1_000_000
TEXTS = frozenset({"test", "event", "data", "points"})  # these count by their meanings
OUTCOME = "outcome"  # the name under which a flow's conditions see what came of earlier steps

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,63}")
_WEIGHT = re.compile(r"[0-9]{1,7}")


class _Raw(msgspec.Struct):
    """A step as read: linked later. `ways`: (label, weight, condition, list of steps) of a branch or split."""

    kind: str
    name: str
    keys: Keys
    step: Any = None
    ways: list[tuple[str, int, str, list["_Raw"]]] = []
    otherwise: list["_Raw"] = []


class FlowLoader:
    """Reads the flow of one campaign file.

    Args:
        keys: the file's own keys; findings go where theirs go.
        reading: the pattern as read; None or incomplete: names are not judged.
    """

    def __init__(self, keys: Keys, reading: Reading | None) -> None:
        """Remember what may be named."""
        self.keys = keys
        self.path = keys.path
        whole = reading if reading is not None and reading.pattern is not None and reading.complete else None
        self.pattern = whole.pattern if whole is not None else None
        self.types: dict[str, tuple[str, ...]] = {}
        if self.pattern is not None:
            self.types = dict(NameCheck(self.pattern).types_of)
        self.own = frozenset(self.types) | (reading.aliases if reading is not None else frozenset())
        self.bound: dict[str, tuple[str, ...]] = {OUTCOME: ()}  # in the order written
        self.raws: list[_Raw] = []
        self.names: dict[str, int] = {}
        self.meanings: list[Any] = []
        self.terms: dict[str, Positive] = {}

    def load(self) -> tuple[Flow | None, str]:
        """Take the keys of a flow: the flow, None where there is none or it cannot be read, and `on_edit`."""
        on_edit = self.keys.choice("on_edit", (DRAIN, DROP, MIGRATE))
        if "flow" not in self.keys.found:
            for key in FLOW_KEYS[1:]:
                if key in self.keys.found:
                    self.keys.add("no-effect", key, f"'{key}' has no effect without a flow", "add flow: …")
            return None, on_edit
        if "send" in self.keys.found:
            self.keys.add("flow-and-send", "send", "a campaign has a send or a flow", "make it the flow's first step")
        roots = self._steps(self.keys, "flow")
        goal, exit_on = self._awaited_list("goal"), self._awaited_list("exit_on")
        steps: list[Step] = []
        self._link(roots, "", steps)
        if not steps:
            return None, on_edit
        steps.sort(key=lambda step: self.names[step.name])
        flow = Flow(tuple(steps), goal, exit_on)
        places = {raw.name: raw.keys.pos for raw in self.raws}
        for problem in check_flow(flow, self.terms, places):
            self._problem(problem)
        return flow, on_edit

    def facts(self, flow: Flow) -> Any:
        """Spell what a flow means, for the version: texts by their meanings, so that formatting does not count."""
        return [_without_texts(msgspec.to_builtins(flow)), self.meanings]

    # ------------------------------------------------------------ steps

    def _steps(self, keys: Keys, key: str) -> list[_Raw]:
        value = keys.found.get(key)
        if not isinstance(value, marks.Sequence):
            keys.add("wrong-kind", key, f"'{key}' is a list of steps", "begin each step with -: - wait: 1d")
            return []
        if not value.items:
            keys.add("empty", key, f"'{key}' holds no step", "add a step: - send: …")
        found: list[_Raw] = []
        for item in value.items:
            if not isinstance(item, marks.Mapping):
                self._at("wrong-kind", item.pos, "a step holds keys of its own", "write - wait: 1d, or - send: …")
                continue
            raw = self._step(Keys(item, self.path, STEP_KEYS, self.keys.findings))
            if raw is not None:
                found.append(raw)
        return found

    def _step(self, keys: Keys) -> _Raw | None:
        kinds = [kind for kind in KINDS if kind in keys.found]
        if len(kinds) != 1:
            got = " and ".join(kinds) if kinds else "none"
            self._at("step-kind", keys.pos, f"a step is one of {', '.join(KINDS)} (got {got})", "one kind per step")
            return None
        kind = spelled_out(keys, kinds[0])
        if "variants" in keys.found and kind != "send":
            keys.add("no-effect", "variants", f"'variants' has no effect on {kind}", "only send has them")
        raw = _Raw(kind, self._name(keys, kinds[0]), keys)
        if len(self.raws) == MAX_STEPS:
            self._at("too-many-steps", keys.pos, f"a flow has at most {MAX_STEPS} steps", "split the campaign")
        self.raws.append(raw)
        if kind == "send":
            raw.step = self._send(keys, raw.name)
        elif kind == "cascade":
            raw.step = self._cascade(keys, raw.name)
        elif kind == "wait":
            raw.step = self._wait(keys, raw.name)
        elif kind in ACTS:
            raw.step = read_act(keys, kind, raw.name, self._expression)
        elif kind == "exit":
            reason = keys.scalar("exit")
            if reason is not None and not _NAME.fullmatch(reason.text):
                keys.add("bad-name", "exit", f"this is no reason (got '{reason.text[:40]}')", "write one word")
            raw.step = ExitStep(raw.name, reason.text if reason is not None else "exit")
        elif kind == "branch":
            self._branch(raw)
        else:
            self._split(raw)
        return raw

    def _name(self, keys: Keys, kind: str) -> str:
        """Take a step's name, or give it one: its kind, with a number from the second on."""
        given = keys.scalar("name")
        if given is not None and _NAME.fullmatch(given.text):
            name = given.text
            if name in self.names:
                keys.add("duplicate-step", "name", f"another step is named '{name}'", "rename one")
        else:
            if given is not None:
                keys.add("bad-name", "name", f"this is no name (got '{given.text[:40]}')", "letters, digits, - and _")
            name, number = kind, 1
            while name in self.names:
                number += 1
                name = f"{kind}-{number}"
        self.names.setdefault(name, len(self.names))
        return name

    def _send(self, keys: Keys, name: str) -> SendStep | None:
        variants = self._variants(keys)
        send = keys.send(templated=bool(variants))
        if send is None:
            return None
        data = self._data(keys.send_data)
        if variants and not send.template:
            send = msgspec.structs.replace(send, template=variants[0].template)
        return SendStep(name, msgspec.structs.replace(send, data=data), variants)

    def _cascade(self, keys: Keys, name: str) -> CascadeStep | None:
        step, texts = CascadeReader(keys, name).read()
        data = self._data(texts)
        if step is None:
            return None
        replace = msgspec.structs.replace
        return replace(step, legs=tuple(replace(leg, send=replace(leg.send, data=data)) for leg in step.legs))

    def _data(self, texts: dict[str, marks.Scalar]) -> dict[str, str]:
        """Keep the expressions of a message's data that can be read."""
        return {
            field: scalar.text.strip()
            for field, scalar in texts.items()
            if self._expression(scalar, f"data.{field}") is not None
        }

    def _variants(self, keys: Keys) -> tuple[Variant, ...]:
        inner = keys.inner("variants", ())
        found: list[Variant] = []
        for label in inner.found if inner is not None else ():
            if inner is None:
                break
            self._label(inner, label)
            weight, template = 1, inner.found[label]
            if isinstance(template, marks.Mapping):
                more = inner.inner(label, ("template", "weight"))
                scalar = more.scalar("template", required=True) if more is not None else None
                weight = self._weight(more) if more is not None else 1
            else:
                scalar = inner.scalar(label)
            if scalar is None:
                continue
            if not TEMPLATE_NAME.fullmatch(scalar.text):
                inner.add("bad-template", label, f"this is no name of a template (got '{scalar.text[:40]}')")
            found.append(Variant(label, weight, scalar.text))
        if inner is not None and len(found) < 2:
            self._at("too-few", inner.pos, "variants are at least two", "add another, or use send.template alone")
        return tuple(found[:MAX_WAYS])

    def _wait(self, keys: Keys, name: str) -> WaitStep | None:
        if not isinstance(keys.found["wait"], marks.Mapping):
            span = keys.duration("wait")
            return WaitStep(name, span) if span is not None else None
        inner = keys.inner("wait", WAIT_KEYS)
        if inner is None:
            return None
        problem = wait_problem(frozenset(inner.found))
        if problem is not None:
            self._at(problem.code, inner.pos, problem.message, problem.hint)
            return None
        until = self._awaited(inner, "until") if "until" in inner.found else None
        window: tuple[int, int] | None = None
        days: tuple[int, ...] = ()
        minute: int | None = None
        try:
            if (scalar := inner.scalar("window")) is not None:
                window = local_window(scalar.text)
            if (scalar := inner.scalar("weekday")) is not None:
                days = weekdays_of(scalar.text)
            if (scalar := inner.scalar("at")) is not None:
                minute = local_time(scalar.text)
        except PatternError as error:
            self._problem(error.problem(), scalar)
            return None
        return WaitStep(name, inner.duration("timeout"), until, window, days, minute)

    def _branch(self, raw: _Raw) -> None:
        value = raw.keys.found["branch"]
        items = value.items if isinstance(value, marks.Sequence) else []
        if not items:
            raw.keys.add(
                "wrong-kind", "branch", "'branch' is a list of cases", "write - if: …, then: [steps]; - else: …"
            )
        for index, item in enumerate(items):
            if not isinstance(item, marks.Mapping):
                self._at("wrong-kind", item.pos, "a case holds keys of its own", "write - if: … and then: below it")
                continue
            keys = Keys(item, self.path, ("if", "then", "else"), self.keys.findings)
            if "else" in keys.found:
                if index + 1 < len(items) or "if" in keys.found:
                    keys.add("else-not-last", "else", "'else' stands alone and last", "move it to the end")
                raw.otherwise = self._steps(keys, "else")
                continue
            scalar = keys.scalar("if", required=True)
            test = scalar.text.strip() if scalar is not None else ""
            if scalar is not None and self._expression(scalar, "if") is None:
                test = ""
            if "then" not in keys.found:
                self._at("missing-key", keys.pos, "the key 'then' is missing", "add then: and a list of steps")
                continue
            raw.ways.append(("", 1, test, self._steps(keys, "then")))
        self._at_most(len(raw.ways), raw)

    def _split(self, raw: _Raw) -> None:
        inner = raw.keys.inner("split", ())
        for label in inner.found if inner is not None else ():
            if inner is None:
                break
            self._label(inner, label)
            more = inner.inner(label, ("weight", "then"))
            if more is not None:
                steps = self._steps(more, "then") if "then" in more.found else []
                raw.ways.append((label, self._weight(more), "", steps))
        if inner is not None and len(raw.ways) < 2:
            self._at("too-few", inner.pos, "a split has at least two ways", "write a: {weight: 50, then: […]} and b: …")
        self._at_most(len(raw.ways), raw)

    def _at_most(self, ways: int, raw: _Raw) -> None:
        if ways > MAX_WAYS:
            raw.keys.add("too-many-ways", raw.kind, f"at most {MAX_WAYS} ways (got {ways})", "split the campaign")

    def _label(self, keys: Keys, label: str) -> None:
        if not _NAME.fullmatch(label):
            keys.add("bad-name", label, f"this is no name (got '{label[:40]}')", "letters, digits, - and _")

    def _weight(self, keys: Keys) -> int:
        scalar = keys.scalar("weight")
        if scalar is None:
            return 1
        if not _WEIGHT.fullmatch(scalar.text) or not 1 <= int(scalar.text) <= MAX_WEIGHT:
            message = f"a weight is a number from 1 to {MAX_WEIGHT:,} (got '{scalar.text[:40]}')"
            keys.add("wrong-number", "weight", message, "leave the way out for none")
            return 1
        return int(scalar.text)

    # ------------------------------------------------------------ texts

    def _scope(self) -> dict[str, tuple[str, ...]]:
        return {**self.types, **self.bound}

    def _expression(self, scalar: marks.Scalar, key: str) -> Expr | None:
        try:
            expr = parse_expression(scalar.text, self.own | frozenset(self.bound))
        except PatternError as error:
            self._problem(error.problem(), scalar)
            return None
        if self.pattern is not None:
            for problem in NameCheck(self.pattern, outer=self.bound).check_at_firing(expr, key):
                self._problem(problem, scalar)
        for problem in check_outcomes(expr, self.names):
            self._problem(problem, scalar)
        self.meanings.append(meaning(expr))
        return expr

    def _awaited_list(self, key: str) -> tuple[Awaited, ...]:
        """Take one event term, or a list of them; each a text or `{event: …, key: any}`."""
        value = self.keys.found.get(key)
        if value is None:
            return ()
        items = value.items if isinstance(value, marks.Sequence) else [value]
        found: list[Awaited] = []
        for item in items:
            if isinstance(item, marks.Mapping):
                inner = Keys(item, self.path, ("event", "key"), self.keys.findings)
                one = self._awaited(inner, "event", may_bind=False)
            elif isinstance(item, marks.Scalar):
                one = self._term(item, OWN_KEY, may_bind=False)
            else:
                self._at("wrong-kind", item.pos, "an event is a text", "write order.created")
                one = None
            if one is not None:
                found.append(one)
        return tuple(found)

    def _awaited(self, keys: Keys, key: str, *, may_bind: bool = True) -> Awaited | None:
        scalar = keys.scalar(key, required=True)
        which = keys.choice("key", (OWN_KEY, ANY_KEY))
        return self._term(scalar, which, may_bind=may_bind) if scalar is not None else None

    def _term(self, scalar: marks.Scalar, key: str, *, may_bind: bool) -> Awaited | None:
        reading = read_pattern(scalar.text, self.own | frozenset(self.bound))
        problems = list(reading.problems)
        step = reading.pattern.steps[0] if reading.pattern is not None else None
        if reading.pattern is not None:
            same = self.pattern.same if self.pattern is not None else ()
            problems += check_term(reading.pattern, self._scope(), same if key == OWN_KEY else (), may_bind=may_bind)
        for problem in problems:
            self._problem(problem, scalar)
        if not isinstance(step, Positive) or not reading.complete:
            return None
        text = " ".join(scalar.text.split())
        self.terms[text] = step
        self.meanings.append(meaning(reading.pattern))
        if step.alias is not None:
            if step.alias in self.types or step.alias in self.bound:
                self._problem(Problem("duplicate-alias", f"'{step.alias}' is taken", step.pos, "rename it"), scalar)
            self.bound[step.alias] = step_types(step)
        return Awaited(text, key)

    # ------------------------------------------------------------ linking

    def _link(self, raws: list[_Raw], then: str, out: list[Step]) -> str:
        """Link a list of steps, the last one to `then`; returns the name of its first."""
        following = then
        for raw in reversed(raws):
            step = self._linked(raw, following, out)
            if step is not None:
                out.append(step)
                following = step.name
        return following

    def _linked(self, raw: _Raw, then: str, out: list[Step]) -> Step | None:
        if raw.kind == "branch":
            cases = tuple(Case(test, self._link(steps, then, out)) for _, _, test, steps in raw.ways)
            return BranchStep(raw.name, cases, self._link(raw.otherwise, then, out))
        if raw.kind == "split":
            arms = tuple(Arm(label, weight, self._link(steps, then, out)) for label, weight, _, steps in raw.ways)
            return SplitStep(raw.name, arms)
        if isinstance(raw.step, SendStep | WaitStep | CascadeStep | ActStep):
            return msgspec.structs.replace(raw.step, then=then)
        return raw.step if isinstance(raw.step, ExitStep) else None

    # ------------------------------------------------------------ findings

    def _problem(self, problem: Problem, scalar: marks.Scalar | None = None) -> None:
        pos = scalar.place(problem.pos) if scalar is not None else problem.pos
        self._at(problem.code, pos, problem.message, problem.hint, problem.severity)

    def _at(self, code: str, pos: Pos, message: str, hint: str = "", severity: str = ERROR) -> None:
        self.keys.findings.append(Finding(code, self.path, pos.line, pos.column, message, hint, severity))


def _without_texts(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: None if name in TEXTS else _without_texts(inner) for name, inner in value.items()}
    return [_without_texts(inner) for inner in value] if isinstance(value, list | tuple) else value
