"""A flow compiled: closures for its conditions, and what must be remembered for them.

A plain `send` is a flow of one step named `send`.
"""

from schemas.campaign import Campaign
from schemas.flow import (
    OWN_KEY,
    AccrueStep,
    Awaited,
    BranchStep,
    CascadeStep,
    Flow,
    LegStep,
    MarkStep,
    SendStep,
    Step,
    WaitStep,
    legs_of,
)
from schemas.ids import h128
from streams.flows.check import about_messages
from streams.flows.receipts import TELLING
from streams.patterns.conditions import parse_expression
from streams.patterns.durations import DAY_MS
from streams.patterns.expressions import Judge, Values, compile_judge, compile_values, paths_of
from streams.patterns.nodes import Expr, Positive
from streams.patterns.parser import parse_pattern

SEND_STEP = "send"  # the name of a plain send's only step; part of its command id
OUTCOME = "outcome"
LONGEST_LOCAL_WAIT_MS = 9 * DAY_MS  # until a weekday: a week, and a day for zones and their shifts

Names = tuple[str, ...]


class AwaitedPlan:
    """A compiled event term. `judges` by event type: the predicates, None for none; any of them may hold."""

    __slots__ = ("own", "alias", "judges", "exprs")

    def __init__(self, awaited: Awaited, aliases: frozenset[str]) -> None:
        step = parse_pattern(awaited.event, aliases).steps[0]
        if not isinstance(step, Positive):
            raise ValueError(f"flow: '{awaited.event}' is no event; load the campaign through the loader")
        self.own = awaited.key == OWN_KEY
        self.alias = step.alias
        self.exprs = [ref.predicate for ref in step.term.events if ref.predicate is not None]
        self.judges: dict[str, list[Judge | None]] = {}
        for ref in step.term.events:
            judge = compile_judge(ref.predicate) if ref.predicate is not None else None
            self.judges.setdefault(ref.type, []).append(judge)


class FlowPlan:
    """One version's flow, ready to run. Immutable after construction.

    `names`: per alias bound by a wait, the attributes that later steps name. `types`: events that can concern it.
    """

    def __init__(self, campaign: Campaign, aliases: frozenset[str]) -> None:
        flow = campaign.flow
        if flow is None:
            steps = (SendStep(SEND_STEP, campaign.send),) if campaign.send is not None else ()
            flow = Flow(steps)
        self.explicit = campaign.flow is not None
        self.campaign = campaign.campaign
        self.steps: dict[str, Step | LegStep] = {step.name: step for step in flow.steps}
        # Legs of cascades stand beside the steps, each under its own name.
        self.cascades = {step.name: legs_of(step) for step in flow.steps if isinstance(step, CascadeStep)}
        self.steps |= {leg.name: leg for legs in self.cascades.values() for leg in legs}
        self.marks = any(isinstance(step, MarkStep) for step in flow.steps)  # it changes the profile
        self.first = flow.steps[0].name if flow.steps else ""
        bound = {OUTCOME: True} | {alias: True for step in flow.steps for alias in _aliases_of(step)}
        known = aliases | frozenset(bound)
        self.goal = tuple(AwaitedPlan(awaited, known) for awaited in flow.goal)
        self.exit_on = tuple(AwaitedPlan(awaited, known) for awaited in flow.exit_on)
        self.awaited: dict[str, AwaitedPlan] = {}
        self.tests: dict[str, list[tuple[Judge, str]]] = {}
        self.values: dict[str, dict[str, Values]] = {}
        self.exprs: list[Expr] = []  # those whose bare names are the match's last event
        for step in self.steps.values():
            self._compile(step, known)
        awaited = [*self.goal, *self.exit_on, *self.awaited.values()]
        self.term_exprs: list[Expr] = [expr for term in awaited for expr in term.exprs]  # bare names: the event's own
        self.types = frozenset(type_ for term in awaited for type_ in term.judges)
        if self.cascades:
            self.types |= TELLING
        self.message_types = frozenset(type_ for type_ in self.types if about_messages(type_))
        # Of these types only events of its own key concern a journey, whatever its step.
        keyed = {type_ for type_ in self.types - self.message_types if all(t.own for t in awaited if type_ in t.judges)}
        self.keyed_types = frozenset(keyed - TELLING if self.cascades else keyed)
        self.names = {alias: self._named(alias) for alias in bound if alias != OUTCOME}

    def horizon_ms(self, lateness_ms: int) -> int:
        """Bound how long a journey can last; no way through the flow has a step twice."""
        spans = 0
        for step in self.steps.values():
            if isinstance(step, WaitStep):
                spans += (LONGEST_LOCAL_WAIT_MS if step.span_ms is None else step.span_ms) + lateness_ms
            elif isinstance(step, SendStep):
                spans += step.send.lifetime_ms
                spans += step.span_ms + lateness_ms if isinstance(step, LegStep) else 0
        return spans

    def _compile(self, step: Step, known: frozenset[str]) -> None:
        if isinstance(step, WaitStep) and step.until is not None:
            self.awaited[step.name] = AwaitedPlan(step.until, known)
        elif isinstance(step, BranchStep):
            tests = []
            for case in step.cases:
                expr = parse_expression(case.test, known)
                self.exprs.append(expr)
                tests.append((compile_judge(expr), case.then))
            self.tests[step.name] = tests
        elif isinstance(step, AccrueStep):
            expr = parse_expression(step.points, known)
            self.exprs.append(expr)
            self.values[step.name] = {"points": compile_values(expr)}
        elif isinstance(step, SendStep) and self.explicit:
            exprs = {name: parse_expression(text, known) for name, text in step.send.data.items()}
            self.exprs += exprs.values()
            self.values[step.name] = {name: compile_values(expr) for name, expr in exprs.items()}

    def _named(self, alias: str) -> Names:
        exprs = [*self.exprs, *self.term_exprs]
        paths = [path for expr in exprs for path in paths_of(expr)]
        return tuple(dict.fromkeys(path.parts[0] for path in paths if path.root == "alias" and path.alias == alias))


def _aliases_of(step: Step) -> list[str]:
    if not isinstance(step, WaitStep) or step.until is None:
        return []
    term = parse_pattern(step.until.event, frozenset()).steps[0]
    return [term.alias] if isinstance(term, Positive) and term.alias is not None else []


def chosen(campaign: str, member_id: str, step: str, weights: list[int]) -> int:
    """Choose a way by weight: the same for a member as long as the weights stay, whatever else changes."""
    place = int(h128("split", campaign, member_id, step)[:12], 16) % sum(weights)
    for index, weight in enumerate(weights):
        place -= weight
        if place < 0:
            return index
    raise ValueError(f"split: no way among weights {weights}")
