"""A campaign's flow as a value: a graph without cycles of named steps. Expressions and event terms stay text here.

`then` names the step that follows; "" ends the journey. The first step of the tuple is where a journey begins.
"""

import msgspec

from schemas.campaign import Send

OWN_KEY, ANY_KEY = "own", "any"
DRAIN, DROP, MIGRATE = "drain", "drop", "migrate"


class Awaited(msgspec.Struct, frozen=True):
    """An event that a journey looks out for: `order.created[total > 10] as o`.

    `key`: `own`: only events of the journey's own correlation key (or, for receipts, of its own messages); `any`.
    """

    event: str
    key: str = OWN_KEY


class Variant(msgspec.Struct, frozen=True):
    """One of several texts of a message; `weight` says how often it is chosen, among the weights of its fellows."""

    name: str
    weight: int
    template: str


class SendStep(msgspec.Struct, frozen=True, tag="send"):
    """Send a message. Without `variants`, the template of `send` is used and the variant is ""."""

    name: str
    send: Send
    variants: tuple[Variant, ...] = ()
    then: str = ""


class WaitStep(msgspec.Struct, frozen=True, tag="wait"):
    """Wait: for `span_ms`; or until an event comes, at most `span_ms`; or until a local time.

    `window`: minutes of the local day, from and to. `weekdays`: 0 = Monday; with `at_minute` the wait ends at that
    local time of such a day, without it when such a day begins or is already there.
    """

    name: str
    span_ms: int | None = None
    until: Awaited | None = None
    window: tuple[int, int] | None = None
    weekdays: tuple[int, ...] = ()
    at_minute: int | None = None
    then: str = ""


class Case(msgspec.Struct, frozen=True):
    """One way of a branch: taken when `test`, an expression, is the first to hold."""

    test: str
    then: str


class BranchStep(msgspec.Struct, frozen=True, tag="branch"):
    """Go the way of the first case that holds, else on."""

    name: str
    cases: tuple[Case, ...]
    otherwise: str = ""


class Arm(msgspec.Struct, frozen=True):
    """One way of a split."""

    name: str
    weight: int
    then: str


class SplitStep(msgspec.Struct, frozen=True, tag="split"):
    """Go one of several ways, the same one for a member each time: chosen by a hash of campaign, member and step."""

    name: str
    arms: tuple[Arm, ...]


class ExitStep(msgspec.Struct, frozen=True, tag="exit"):
    """End the journey here, for the reason given."""

    name: str
    reason: str


class Leg(msgspec.Struct, frozen=True):
    """One leg of a cascade: a message, and how long it has to be delivered before the next leg follows."""

    send: Send
    span_ms: int


class CascadeStep(msgspec.Struct, frozen=True, tag="cascade"):
    """One message over channels in order, until one delivers it. No channel comes twice."""

    name: str
    legs: tuple[Leg, ...]
    then: str = ""


class LegStep(SendStep, frozen=True, tag="leg"):
    """A leg as a step of its own, at which a journey stands: made of a `CascadeStep`, never stored in a flow.

    `cascade`: the step it is part of; `then`: the next leg, "" for the last; `last`: there is none.
    """

    cascade: str = ""
    span_ms: int = 0
    last: bool = False


class AccrueStep(msgspec.Struct, frozen=True, tag="accrue"):
    """Ask for points. `points`: an expression, judged when the step is reached; `expires_ms`: a span from then."""

    name: str
    points: str
    reason: str = ""
    expires_ms: int | None = None
    then: str = ""


class MarkStep(msgspec.Struct, frozen=True, tag="mark"):
    """Add marks to the member and remove others. `what`: `tag` or `segment`."""

    name: str
    what: str
    add: tuple[str, ...] = ()
    remove: tuple[str, ...] = ()
    then: str = ""


ActStep = AccrueStep | MarkStep
Step = SendStep | WaitStep | BranchStep | SplitStep | ExitStep | CascadeStep | AccrueStep | MarkStep


def legs_of(step: CascadeStep) -> list[LegStep]:
    """Give the legs of a cascade as steps, each with a name of its own: `news.sms`. No other name has a dot."""
    names = [f"{step.name}.{leg.send.channel}" for leg in step.legs]
    return [
        LegStep(name, leg.send, then=then, cascade=step.name, span_ms=leg.span_ms, last=not then)
        for name, leg, then in zip(names, step.legs, [*names[1:], ""], strict=True)
    ]


class Flow(msgspec.Struct, frozen=True):
    """What follows a match. `goal` and `exit_on` end the journey at once, wherever it waits."""

    steps: tuple[Step, ...]
    goal: tuple[Awaited, ...] = ()
    exit_on: tuple[Awaited, ...] = ()


def following(step: Step) -> tuple[str, ...]:
    """Name the steps that may come next, "" for the end."""
    if isinstance(step, BranchStep):
        return (*(case.then for case in step.cases), step.otherwise)
    if isinstance(step, SplitStep):
        return tuple(arm.then for arm in step.arms)
    return () if isinstance(step, ExitStep) else (step.then,)
