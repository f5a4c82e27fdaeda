"""Run journeys: one begins at a match, moves by events and timers, asks the arbiter for each message, and ends.

Pure: it changes the overlay of the member it is given and appends to what the epoch says. The rules are in
docs/flows.md. Two times matter: the clock `C` (largest append time read) and the watermark `W` = C - lateness. A
wait ends when W reaches its due, as in patterns. When a journey moves, its time is the latest of the event or due that
moved it, of W and of its time before: so steps are never nearer to each other than the waits between them.
"""

from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any

from schemas.commands import Command, SendMessage
from schemas.flow import ActStep, BranchStep, CascadeStep, LegStep, SendStep, SplitStep, WaitStep
from schemas.ids import command_id, decision_id
from schemas.member_commands import MemberCommand
from schemas.records import Decision
from streams.arbiter import Defer
from streams.decide import Arbiter, Match, Place, note
from streams.epoch import Epoch
from streams.flows import acts, cascade
from streams.flows.awaited import concerns, keys_met
from streams.flows.plan import OUTCOME, FlowPlan, chosen
from streams.flows.receipts import DELIVERED, told
from streams.flows.times import wait_end
from streams.life import PAUSED, STOPPED, look_again
from streams.patterns.expressions import capture, scalars
from streams.patterns.match import Moment
from streams.patterns.plan import Plan
from streams.policies.contact import address_of
from streams.policies.verdict import Eligible, Held, MessageRequest, Suppressed
from streams.registry import Registry
from tables.member_state import JOURNEYS_MAX, NO_ROWS, Journey, Member

HAPPENED = "happened"
TIMEOUT, SENT = cascade.TIMEOUT, cascade.SENT
EXPIRED = Suppressed("expired")


class Cause:
    """What moves a journey: a timer's due, or an event's id; where in the log, and who is moved."""

    __slots__ = ("plan", "member", "journey", "at", "due", "by")

    def __init__(
        self, plan: Plan, member: Member, journey: Journey, at: Place, due: int | None, by: str | None
    ) -> None:
        self.plan = plan
        self.member = member
        self.journey = journey
        journey.packed = None  # whatever moves it makes a cause first
        member.journeys_moved()
        self.at = at
        self.due = due
        self.by = by


class Journeys:
    """All journeys of one partition.

    Args:
        registry: the campaigns' versions.
        arbiter: judges every message.
        defer: takes a message to be asked for at the end of the step, where those of a member compete; False: ask now.
    """

    def __init__(self, registry: Registry, arbiter: Arbiter, defer: Defer) -> None:
        """Begin with nothing to say."""
        self._registry = registry
        self.arbiter = arbiter
        self._defer = defer
        self.commands: list[Command] = []
        self.member_commands: list[MemberCommand] = []
        self.decisions: list[Decision] = []
        self.counts: Counter[str] = Counter()
        self.failures: list[tuple[Plan, Exception]] = []

    def say_to(self, out: Epoch, counts: Counter[str]) -> None:
        """Append to this epoch's outputs and counts from now on."""
        self.commands, self.decisions, self.counts = out.commands, out.decisions, counts
        self.member_commands = out.member_commands

    def take_failures(self) -> list[tuple[Plan, Exception]]:
        """Hand over what raised since the last call, with its campaign."""
        found, self.failures = self.failures, []
        return found

    # ------------------------------------------------------------ the three ways in

    def begin(self, match: Match, held: Held | None) -> None:
        """Begin a journey at a match that fired. `held`: the arbiter's answer to a plain send, which waits for it."""
        member, instance, plan = match.member, match.instance, match.plan
        journey = Journey(plan.id, plan.version, match.instance_id, instance, match.at.offset)
        cause = Cause(plan, member, journey, match.at, match.due, match.completed_by)
        if len(member.journeys) >= JOURNEYS_MAX:
            self._say(cause, "suppressed", "journeys_full")
            return
        member.journeys = [*member.journeys, journey]
        self._move(cause, int(instance.matched[-1][2]))
        if held is None:
            self._guard(cause, lambda: self._walk(cause, plan.flow.first))
            return
        journey.step = plan.flow.first
        journey.wanted = match.at.clock_ms
        if held.reason == PAUSED:
            journey.outcomes = {journey.step: PAUSED}
        self._hold(cause, held)

    def show(self, member: Member, moment: Moment, at: Place) -> bool:
        """Show an event to a member's journeys, oldest first: goal, then exit_on, then what its step awaits.

        Returns:
            Whether one of them may have moved.
        """
        if moment.too_old:
            return False
        moved, settled = False, self._registry.settled
        seen: dict[str, Any] = {}  # by version: since where it runs, and keys of its journeys that may look up
        for journey in list(member.journeys):
            known = seen.get(journey.version)
            if known is not None and journey.joined >= known[0] and journey.key not in known[1]:
                continue  # most events of a member are about something else than most of its journeys
            own = settled(journey)
            plan = own or self._plan(member, journey, at)
            if plan is None:
                continue
            keys = keys_met(moment, plan)
            if own is not None and keys is not None:
                seen[journey.version] = (plan.since_offset, keys)
            if (keys is not None and journey.key not in keys) or moment.e < journey.e_anchor:
                continue
            cause = Cause(plan, member, journey, at, None, moment.event_id)
            self._guard(cause, partial(self._see, cause, moment))
            moved = True
        return moved

    def wake(self, member: Member, journey: Journey, at: Place) -> None:
        """A journey's wait has ended by the clock."""
        plan = self._plan(member, journey, at)
        if plan is None:
            return
        cause = Cause(plan, member, journey, at, journey.due, None)
        self._guard(cause, lambda: self._resume(cause))

    def call_back(self, member: Member, instance_id: str, at: Place) -> None:
        """A late event called back the message of a plain send that is still held (`on_late: cancel`)."""
        for journey in member.journeys:
            if journey.instance_id == instance_id:
                self._drop(member, journey, at, "late_event")

    # ------------------------------------------------------------ moving

    def _guard(self, cause: Cause, move: Callable[[], None]) -> None:
        """A flow that raises ends its own journey; it stops neither the partition nor the member's other journeys."""
        try:
            move()
        except Exception as error:
            self._drop(cause.member, cause.journey, cause.at, "failed")
            self.failures.append((cause.plan, error))

    def _resume(self, cause: Cause) -> None:
        journey = cause.journey
        step = cause.plan.flow.steps[journey.step]
        self._move(cause, journey.due)
        if isinstance(step, WaitStep):
            if step.until is not None:
                journey.outcomes = {**journey.outcomes, step.name: TIMEOUT}
            self._walk(cause, step.then)
        elif isinstance(step, LegStep) and journey.wanted is None:
            self._walk(cause, self._fall_back(cause, step, TIMEOUT))
        else:
            self._walk(cause, step.name)

    def _see(self, cause: Cause, moment: Moment) -> None:
        plan, journey, flow = cause.plan, cause.journey, cause.plan.flow
        aliases = _aliases(journey)
        for terms, reason in ((flow.goal, "goal"), (flow.exit_on, "exit_on")):
            if any(concerns(term, moment, plan, journey, aliases) for term in terms):
                self._end(cause, "exited", reason)
                return
        if not (flow.cascades and self._told(cause, moment)):
            self._meet(cause, flow, moment, aliases)

    def _meet(self, cause: Cause, flow: FlowPlan, moment: Moment, aliases: dict[str, Any]) -> None:
        journey = cause.journey
        term = flow.awaited.get(journey.step)
        if term is None or moment.e >= journey.due or not concerns(term, moment, cause.plan, journey, aliases):
            return
        journey.outcomes = {**journey.outcomes, journey.step: HAPPENED}
        if term.alias is not None and flow.names[term.alias]:
            journey.aliases = {**journey.aliases, term.alias: capture(moment.data, flow.names[term.alias])}
        self._move(cause, moment.e)
        step = flow.steps[journey.step]
        self._walk(cause, step.then if isinstance(step, WaitStep) else "")

    def _move(self, cause: Cause, nominal: int) -> None:
        watermark = cause.at.clock_ms - cause.plan.lateness_ms
        cause.journey.since = max(cause.journey.since, nominal, watermark)

    def _walk(self, cause: Cause, name: str) -> None:
        """Go on from a step until one waits or the flow ends. No way has a step twice, so this ends."""
        plan, journey = cause.plan, cause.journey
        flow = plan.flow
        while name:
            step = flow.steps[name]
            journey.step = name
            if isinstance(step, LegStep):
                fallen = self._leg(cause, step)
                if fallen is None:
                    return
                name = fallen
            elif isinstance(step, SendStep):
                if not self._send(cause, step):
                    return
                name = step.then
            elif isinstance(step, CascadeStep):
                name = flow.cascades[name][0].name
            elif isinstance(step, WaitStep):
                due = wait_end(step, journey.since, cause.member.profile, plan.campaign.timezone)
                if due is not None:
                    journey.due, journey.wake = due, due + plan.lateness_ms
                    return
                name = step.then
            elif isinstance(step, BranchStep):
                name = self._branch(cause, step)
            elif isinstance(step, SplitStep):
                name = self._split(cause, step)
            elif isinstance(step, ActStep):
                if not self._act(cause, step):
                    return
                name = step.then
            else:
                self._end(cause, "exited", step.reason)
                return
        self._end(cause, "completed", "end")

    def _branch(self, cause: Cause, step: BranchStep) -> str:
        journey, clock_ms = cause.journey, cause.at.clock_ms
        aliases = _aliases(journey)
        for judge, then in cause.plan.flow.tests[step.name]:
            if judge(journey.last, aliases, cause.member.profile, clock_ms):
                return then
        return step.otherwise

    def _split(self, cause: Cause, step: SplitStep) -> str:
        arm = step.arms[chosen(cause.plan.id, cause.member.member_id, step.name, [a.weight for a in step.arms])]
        cause.journey.outcomes = {**cause.journey.outcomes, step.name: arm.name}
        self._say(cause, "assigned", "split", inputs={"step": step.name, "variant": arm.name})
        return arm.then

    # ------------------------------------------------------------ cascades

    def _leg(self, cause: Cause, leg: LegStep) -> str | None:
        """Ask for a leg's message; None when the journey stands here: held, or until it is delivered."""
        journey = cause.journey
        if not self._send(cause, leg):
            return None
        if journey.outcomes[leg.name] != SENT:
            return self._fall_back(cause, leg, journey.outcomes[leg.name])
        journey.due = journey.since + leg.span_ms
        journey.wake = journey.due + cause.plan.lateness_ms
        return None

    def _fall_back(self, cause: Cause, leg: LegStep, why: str) -> str:
        """Name what follows a leg that delivered nothing: the next leg, or the cascade's end."""
        return self._close(cause, leg, why) if leg.last else leg.then

    def _close(self, cause: Cause, leg: LegStep, outcome: str) -> str:
        """End a cascade; returns the step behind it."""
        journey, step = cause.journey, cause.plan.flow.steps[leg.cascade]
        journey.outcomes = {**journey.outcomes, leg.cascade: outcome}
        self._say(cause, "assigned", "cascade", inputs={"step": leg.cascade, "variant": outcome})
        return step.then if isinstance(step, CascadeStep) else ""

    def _told(self, cause: Cause, moment: Moment) -> bool:
        """Take in what an event says of the delivery of a leg; True when it moved the journey."""
        journey, flow = cause.journey, cause.plan.flow
        word = told(moment.type, moment.data)
        leg = cascade.leg_of(flow, journey, moment.data.get("command_id")) if word else None
        if leg is None or not cascade.is_news(journey.outcomes[leg.name], word):
            return False
        step = flow.steps[journey.step]
        here = cascade.standing_in(journey, step, leg.cascade)
        journey.outcomes = {**journey.outcomes, leg.name: word}
        if word != DELIVERED:  # of an earlier leg it changes nothing: the next one is on its way
            if not here or step.name != leg.name:
                return False
            self._move(cause, moment.e)
            self._walk(cause, self._fall_back(cause, leg, word))
            return True
        others = cascade.other_deliveries(flow, journey, leg)
        if others:
            channels = [*others, leg.send.channel]
            self._say(cause, "noted", cascade.DOUBLE_DELIVERY, inputs={"step": leg.cascade, "channels": channels})
        if not here:
            return False
        member_id = cause.member.member_id
        for later in cascade.overtaken(flow, journey, leg):
            self.commands.append(cascade.call_back(journey, later, cause.at, member_id))
        journey.wanted = None
        self._move(cause, moment.e)
        self._walk(cause, self._close(cause, leg, leg.send.channel))
        return True

    def _act(self, cause: Cause, step: ActStep) -> bool:
        """Issue a command that is no message; False when the journey stands, for its campaign is paused."""
        journey, at = cause.journey, cause.at
        if self._registry.life.pauses(cause.plan.id):
            if journey.wanted is None:
                self._say(cause, "held", PAUSED, inputs={"step": step.name})
                journey.wanted = at.clock_ms
            self._hold(cause, Held(look_again(at.clock_ms, journey.wanted), PAUSED))
            return False
        journey.wanted = None
        command, came = acts.issue(step, cause.plan, cause.member, journey, at, _aliases(journey))
        journey.outcomes = {**journey.outcomes, step.name: came}
        if command is None:
            self._say(cause, "suppressed", came, inputs={"step": step.name})
        else:
            self.member_commands.append(command)
            self._say(cause, "issued", acts.kind_of(step), inputs={"step": step.name})
            self.decisions[-1].command_id = command.command_id
        return True

    # ------------------------------------------------------------ messages

    def _send(self, cause: Cause, step: SendStep) -> bool:
        """Ask for a message; False when the journey stands and asks again later."""
        plan, member, journey, at = cause.plan, cause.member, cause.journey, cause.at
        place = (cause.due or 0, member.member_id, plan.id, *journey.started)
        if self._defer(step.send.priority, place, member, partial(self._ask, cause, step)):
            return False
        variant, template = "", step.send.template
        if step.variants:
            weights = [v.weight for v in step.variants]
            taken = step.variants[chosen(plan.id, member.member_id, step.name, weights)]
            variant, template = taken.name, taken.template
        named = command_id(journey.instance_id, step.name, variant)
        wanted = at.clock_ms if journey.wanted is None else journey.wanted
        request = MessageRequest(
            member_id=member.member_id, campaign=plan.id, version=plan.version, instance_id=journey.instance_id,
            command_id=named, step=step.name, variant=variant, channel=step.send.channel, category=step.send.category,
            wanted_at_ms=wanted, lifetime_ms=step.send.lifetime_ms, timezone=plan.campaign.timezone,
            profile=member.profile, topic=step.send.topic, priority=step.send.priority,
            cascade=cascade.cascade_id(journey.instance_id, step.cascade) if isinstance(step, LegStep) else "",
        )  # fmt: skip
        answer = self.arbiter(request, member, at.clock_ms)
        if isinstance(answer, Held):
            if answer.until_ms < wanted + step.send.lifetime_ms:
                journey.wanted = wanted
                told = answer.reason == PAUSED and journey.outcomes.get(step.name) == PAUSED  # asked again: said once
                if answer.reason == PAUSED:
                    journey.outcomes = {**journey.outcomes, step.name: PAUSED}
                self._hold(cause, answer, None if told else request)
                return False
            answer = EXPIRED
        journey.wanted = None
        if isinstance(answer, Eligible):
            journey.outcomes = {**journey.outcomes, step.name: SENT}
            self._say(cause, "eligible", "sent_to_delivery", request, answer.inputs)
            self.commands.append(_message(cause, step, request, template))
        else:
            journey.outcomes = {**journey.outcomes, step.name: answer.reason}
            self._say(cause, "suppressed", answer.reason, request, answer.inputs)
        return True

    def _ask(self, cause: Cause, step: SendStep) -> None:
        """Ask for a message whose turn has come; meanwhile its journey may have ended."""
        if any(journey is cause.journey for journey in cause.member.journeys):
            self._guard(cause, partial(self._walk, cause, step.name))

    def _hold(self, cause: Cause, answer: Held, request: MessageRequest | None = None) -> None:
        """Stand at the send until the arbiter may be asked again; the hold ends on the clock, not on the watermark."""
        journey = cause.journey
        journey.wake = max(answer.until_ms, cause.at.clock_ms + 1)
        journey.due = journey.wake - cause.plan.lateness_ms
        if request is not None:
            self._say(cause, "held", answer.reason, request, {**answer.inputs, "until_ms": answer.until_ms})

    # ------------------------------------------------------------ ends and words

    def _plan(self, member: Member, journey: Journey, at: Place) -> Plan | None:
        """Find the version a journey runs on, moving it to a newer one or ending it as an edit asked."""
        plan, joined = self._registry.after_edits(journey)
        if plan is None or joined < plan.since_offset:
            edited = plan is None and self._registry.plan_of(journey.campaign, journey.version) is not None
            stopped = journey.joined <= self._registry.life.stops.get(journey.campaign, -1)
            self._drop(member, journey, at, STOPPED if stopped else "edited" if edited else "withdrawn")
            return None
        if joined != journey.joined:
            known = plan.flow.steps.get(journey.step)
            old = self._registry.plan_of(journey.campaign, journey.version)
            if known is None or (old is not None and type(old.flow.steps[journey.step]) is not type(known)):
                self._drop(member, journey, at, "edited")
                return None
            journey.version, journey.joined, journey.packed = plan.version, joined, None
            member.journeys_moved()
        return plan

    def _drop(self, member: Member, journey: Journey, at: Place, reason: str) -> None:
        _remove(member, journey)
        self.counts[f"journeys.{reason}"] += 1
        self.decisions.append(_decision(member, journey, at, "exited", reason, {"step": journey.step}))

    def _end(self, cause: Cause, outcome: str, reason: str) -> None:
        _remove(cause.member, cause.journey)
        self.counts[f"journeys.{outcome}"] += 1
        if cause.plan.flow.explicit:
            self._say(cause, outcome, reason, inputs={"step": cause.journey.step})

    def _say(
        self,
        cause: Cause,
        outcome: str,
        reason: str,
        request: MessageRequest | None = None,
        inputs: dict[str, Any] | None = None,
    ) -> None:
        facts = dict(inputs or {})
        if request is not None and cause.plan.flow.explicit:
            facts["step"] = request.step
            if request.variant:
                facts["variant"] = request.variant
        decision = _decision(cause.member, cause.journey, cause.at, outcome, reason, facts)
        decision.due_ms, decision.completed_by = cause.due, cause.by
        if request is not None:
            decision.command_id, decision.channel = request.command_id, request.channel
        self.decisions.append(decision)
        self.counts[f"decisions.{outcome}.{reason}"] += 1


def _aliases(journey: Journey) -> dict[str, Any]:
    return {**journey.aliases, OUTCOME: journey.outcomes}


def _remove(member: Member, journey: Journey) -> None:
    member.journeys = [kept for kept in member.journeys if kept is not journey] or NO_ROWS
    member.journeys_moved()


def _decision(
    member: Member, journey: Journey, at: Place, outcome: str, reason: str, inputs: dict[str, Any]
) -> Decision:
    note(member, at, journey.campaign, outcome, reason, journey.instance_id)
    place = f"{at.partition}/{at.offset}"
    return Decision(
        decision_id=decision_id(journey.instance_id, outcome, f"{journey.step}/{reason}", place),
        member_id=member.member_id,
        campaign=journey.campaign,
        version=journey.version,
        instance_id=journey.instance_id,
        command_id="",
        outcome=outcome,
        reason=reason,
        decided_at_ms=at.clock_ms,
        caused_at_ms=at.append_ms,
        anchor=journey.anchor,
        correlation=journey.correlation,
        inputs=inputs,
    )


def _message(cause: Cause, step: SendStep, request: MessageRequest, template: str) -> SendMessage:
    plan, journey, at, profile = cause.plan, cause.journey, cause.at, cause.member.profile
    values = plan.flow.values.get(step.name, plan.send_values)
    aliases = _aliases(journey)
    data: dict[str, Any] = {}
    for name, value in values.items():
        found = scalars(value(journey.last, aliases, profile, at.clock_ms))
        data[name] = None if not found else found[0] if len(found) == 1 else found
    expires_ms = request.wanted_at_ms + step.send.lifetime_ms
    if isinstance(step, LegStep) and not step.last:  # the next leg follows: whoever still has this one must not send it
        expires_ms = min(expires_ms, at.clock_ms + step.span_ms)
    return SendMessage(
        command_id=request.command_id,
        member_id=request.member_id,
        campaign=plan.id,
        version=plan.version,
        instance_id=journey.instance_id,
        step=step.name,
        channel=step.send.channel,
        template=template,
        address=address_of(request.member_id, profile, step.send.channel),
        decided_at_ms=at.clock_ms,
        caused_at_ms=at.append_ms,
        expires_at_ms=expires_ms,
        anchor=journey.anchor,
        category=step.send.category,
        attribution_window_ms=plan.campaign.attribution_window_ms,
        data=data,
        member=dict(profile),
        lane=step.send.lane,
        variant=request.variant,
    )
