"""Run a case on the engine and say, in a marketer's words, where what came differs from what was expected."""

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from schemas.codec import encode_event
from schemas.commands import CancelMessage, SendMessage
from schemas.events import LIFE_TYPES, TICK, Event, Record
from schemas.findings import Finding
from schemas.ids import correlation_text
from schemas.records import Decision
from streams.case_times import show_time
from streams.cases import CAPS, DECISIONS, FIRST_MEMBER, REACHABLE, Case, CaseEvent, Denied, Expected
from streams.engine import PartitionEngine
from streams.epoch import Epoch
from streams.flows.check import about_messages
from streams.flows.plan import SEND_STEP
from streams.patterns.match import COMPLETED
from streams.patterns.nodes import Absent
from streams.patterns.plan import Plan
from tables.codec import encode_member
from tables.member_state import Instance, Member
from tables.store import MemoryStore

CASE_FAILED = "case-failed"
ENDS = {"exited": "left its flow", "completed": "completed its flow"}


class Conclusion(msgspec.Struct):
    """A match that completed: `eligible` (a message goes out, if the campaign sends one) or `suppressed`.

    Likewise each message of a journey, and its end: `exited` or `completed`.

    `shown_ms`: the end of the window for an absence, else the time of the event that completed it.
    """

    decision: Decision
    shown_ms: int
    data: dict[str, Any] | None = None
    called_back_by: str | None = None


class Ending(msgspec.Struct):
    """How an instance ended without completing, or `waiting` with its deadline in `until_ms`. `by`: an event id."""

    kind: str
    member: str
    anchor: str
    correlation: Any
    by: str | None
    until_ms: int | None = None


class Story(msgspec.Struct):
    """All that came of a case."""

    case: Case
    plan: Plan
    clock_ms: int = 0
    conclusions: list[Conclusion] = []
    endings: list[Ending] = []
    too_old: set[str] = set()
    duplicates: set[str] = set()
    refused: list[str] = []


def check_case(case: Case, plan: Plan, path: str) -> tuple[Finding, ...]:
    """Run a case and compare: one finding of code `case-failed` per difference; `path` names the cases file."""
    return compare(run_case(case, plan), path)


def run_case(case: Case, plan: Plan) -> Story:
    """Run a case's events, one record at a time, then its last tick."""
    store = MemoryStore()
    members = {FIRST_MEMBER, *case.profiles, *(event.member for event in case.events)}
    for name in sorted(members):
        member = Member(name)
        member.profile = _profile(name, case.profiles.get(name, {}))
        store.members[name.encode()] = encode_member(member, None)
    story = Story(case, plan)

    def note(kind: str, _: Plan, member: Member, instance: Instance, __: int, by: str | None) -> None:
        if kind != COMPLETED:
            story.endings.append(Ending(kind, member.member_id, instance.anchor, instance.correlation, by))

    engine = PartitionEngine(0, store, campaigns=[plan], observer=note)
    offset = 0
    for event in case.events:
        offset = _idle(story, engine, offset, event.append_ms)
        value = _event_of(story, event)
        _take(story, engine.run([Record(offset, event.append_ms, None, encode_event(value))]), event.id)
        offset += 1
    latest = case.events[-1].append_ms if case.events else 0
    if case.until_ms is not None:
        tick_ms = max(case.until_ms, latest)
        offset = _idle(story, engine, offset, tick_ms)
        _take(story, engine.run([Record(offset, tick_ms, None, encode_event(Event(TICK, tick_ms)))]), "until")
    story.clock_ms = engine.clock_ms
    for name in sorted(members):
        view = engine.member_view(name) or {"instances": [], "journeys": []}
        for found in [*view["instances"], *view["journeys"]]:
            deadline = found["due"] if found.get("due") is not None else found["until"]
            story.endings.append(Ending("waiting", name, found["anchor"], found["correlation"], None, deadline))
    return story


def _data(story: Story, event: CaseEvent) -> dict[str, Any]:
    """Return an event's attributes. A receipt is about the member's newest message, or that of its `step` or `channel`.

    So a case needs no ids: `{at: 10:05, type: delivery.delivered, step: news.push}`.
    """
    if not about_messages(event.type) or "command_id" in event.data or "instance_id" in event.data:
        return event.data
    for decision in (conclusion.decision for conclusion in reversed(story.conclusions)):
        step = decision.inputs.get("step") or SEND_STEP
        named = (event.member, event.data.get("step", step), event.data.get("channel", decision.channel))
        if decision.outcome == "eligible" and named == (decision.member_id, step, decision.channel):
            own = {"command_id": decision.command_id, "instance_id": decision.instance_id, "step": step}
            return {**own, "campaign": decision.campaign, "channel": decision.channel, **event.data}
    if "step" in event.data:
        story.refused.append(f"{event.id}: no message of step '{event.data['step']}' has gone out before it")
    return event.data


def _event_of(story: Story, event: CaseEvent) -> Event:
    """Make an event of a case's line; what an operator says is of no member, and of the case's campaign."""
    if event.type == TICK:
        return Event(TICK, event.at_ms, data=event.data)
    if event.type in LIFE_TYPES:
        return Event(event.type, event.at_ms, event.id, data={"campaign": story.plan.id})
    return Event(event.type, event.at_ms, event.id, event.member, data=_data(story, event))


def _idle(story: Story, engine: PartitionEngine, offset: int, until_ms: int) -> int:
    """Tick as the partition's owner does while nothing else moves the clock; returns the next offset.

    Only for flows, whose waits count from the clock, and where an operator has a say; cases of patterns say themselves
    when something is read.
    """
    idles = story.plan.flow.explicit or any(event.type in LIFE_TYPES for event in story.case.events)
    while idles and engine.next_fire_ms is not None and engine.clock_ms < engine.next_fire_ms < until_ms:
        tick_ms = engine.next_fire_ms
        _take(story, engine.run([Record(offset, tick_ms, None, encode_event(Event(TICK, tick_ms)))]), "tick")
        offset += 1
    return offset


def _profile(member: str, given: dict[str, Any]) -> dict[str, Any]:
    profile = {"email": f"{member}@shop.example", **REACHABLE, **given}
    if isinstance(given.get("consent"), dict):
        profile["consent"] = {**REACHABLE["consent"], **given["consent"]}
    return profile


def _take(story: Story, epoch: Epoch, event_id: str) -> None:
    if epoch.counters.get("events.too_old"):
        story.too_old.add(event_id)
    if epoch.counters.get("events.duplicate"):
        story.duplicates.add(event_id)
    story.refused += [f"{event_id}: {letter.message}" for letter in epoch.dead_letters]
    sends = {c.command_id: c.data for c in epoch.commands if isinstance(c, SendMessage)}
    for decision in epoch.decisions:
        if decision.outcome in DECISIONS:
            completer = story.case.event(decision.completed_by or "")
            shown = completer.at_ms if completer else decision.due_ms
            shown = decision.decided_at_ms if shown is None else shown
            story.conclusions.append(Conclusion(decision, shown, sends.get(decision.command_id)))
    for command in epoch.commands:
        if isinstance(command, CancelMessage):
            for conclusion in story.conclusions:
                if conclusion.decision.command_id == command.command_id:
                    conclusion.called_back_by = event_id


# ---------------------------------------------------------------- comparing


def compare(story: Story, path: str) -> tuple[Finding, ...]:
    """List the differences between what a case expects and what came."""
    case, found = story.case, []

    def differ(pos: Any, message: str) -> None:
        found.append(Finding(CASE_FAILED, path, pos.line, pos.column, f"case '{case.name}': {message}"))

    for refused in story.refused:
        differ(case.pos, f"an event cannot be read: {refused}")
    held = _pair(case.expect, story.conclusions)
    pool = [conclusion for index, conclusion in enumerate(story.conclusions) if index not in held.values()]
    missing = [wanted for index, wanted in enumerate(case.expect) if index not in held]
    for wanted in missing:
        near = next((c for c in pool if _names(wanted, c.decision)), None)
        if near is not None:
            pool.remove(near)
        differ(wanted.pos, f"expected {_wish(story, wanted)}, but {_instead(story, wanted, near)}")
    for denied in case.denied:
        message = _judge(story, denied)
        if message:
            differ(denied.pos, message)
        pool = [c for c in pool if not (message and _names(denied, c.decision))]
    for conclusion in pool:
        if conclusion.decision.outcome == "eligible" and not _allowed(case, conclusion):
            differ(case.pos, f"expected no message, but {_fired(story, conclusion)}")
    return tuple(sorted(found, key=lambda finding: (finding.line, finding.column)))


def _pair(expect: Sequence[Expected], came: Sequence[Conclusion]) -> dict[int, int]:
    """Pair as many expectations as possible with what came, each with one of its own: index to index.

    Augmenting paths (Kuhn): an expectation that says little gives way to one that says more, whatever their order.
    """
    holder: dict[int, int] = {}

    def place(wanted: int, tried: set[int]) -> bool:
        for index, conclusion in enumerate(came):
            if index in tried or not _meets(expect[wanted], conclusion):
                continue
            tried.add(index)
            if index not in holder or place(holder[index], tried):
                holder[index] = wanted
                return True
        return False

    for wanted in range(len(expect)):
        place(wanted, set())
    return {wanted: index for index, wanted in holder.items()}


def _same(left: Any, right: Any) -> bool:
    return correlation_text(left) == correlation_text(right)


def _names(said: Expected | Denied, decision: Decision) -> bool:
    """Tell whether an entry of the case speaks of this decision's instance."""
    return (
        (said.member is None or said.member == decision.member_id)
        and (said.anchor is None or said.anchor == decision.anchor)
        and (not said.correlated or _same(said.correlation, decision.correlation))
    )


def _meets(wanted: Expected, conclusion: Conclusion) -> bool:
    decision, data = conclusion.decision, conclusion.data or {}
    return (
        _names(wanted, decision)
        and wanted.decision == decision.outcome
        and (wanted.reason is None or wanted.reason == decision.reason)
        and (wanted.fires is None or wanted.fires.covers(conclusion.shown_ms))
        and (wanted.completed_by is None or wanted.completed_by == decision.completed_by)
        and (wanted.step is None or wanted.step == (decision.inputs.get("step") or SEND_STEP))
        and wanted.called_back == (conclusion.called_back_by is not None)
        and all(name in data and _same(data[name], value) for name, value in (wanted.data or {}).items())
    )


def _allowed(case: Case, conclusion: Conclusion) -> bool:
    """A message that was called back in time is allowed where the case says that it came to nothing."""
    return conclusion.called_back_by is not None and any(
        denied.because == "late" and _names(denied, conclusion.decision) for denied in case.denied
    )


# ---------------------------------------------------------------- not:


def _judge(story: Story, denied: Denied) -> str:
    """Return what is wrong with a `not` entry, "" if it holds."""
    subject = _subject(denied.member, denied.anchor, denied.correlation if denied.correlated else None)
    fired = [
        c
        for c in story.conclusions
        if c.decision.outcome == "eligible" and c.called_back_by is None and _names(denied, c.decision)
    ]
    if fired:
        return f"expected no message for {subject} ({denied.because}), but {_fired(story, fired[0])}"
    happened = _happened(story, denied)
    for reason, by, _ in happened:
        if _is_reason(denied.because, reason) and (denied.by is None or _is_by(story, denied, by)):
            return ""
    wanted = denied.because + (f" by {denied.by}" if denied.by else "")
    return f"expected no message for {subject} because '{wanted}', but {'; '.join(text for _, _, text in happened)}"


def _is_reason(wanted: str, actual: str) -> bool:
    return wanted == actual or (wanted == "cap" and actual in CAPS) or (wanted == "late" and actual == "too_old")


def _is_by(story: Story, denied: Denied, by: str | None) -> bool:
    """An instance broken at its birth names its own anchor: what broke it was read before, and is in the case."""
    return denied.by == by or (by is not None and by == denied.anchor and denied.because in ("cancelled", "killed"))


def _happened(story: Story, said: Expected | Denied) -> list[tuple[str, str | None, str]]:
    """List (reason, by, in words) of all that came of the instances an entry speaks of, but for messages sent."""
    found: list[tuple[str, str | None, str]] = []
    for ending in story.endings:
        if (
            (said.member is None or said.member == ending.member)
            and (said.anchor is None or said.anchor == ending.anchor)
            and (not said.correlated or _same(said.correlation, ending.correlation))
        ):
            found.append((ending.kind, ending.by, _ended(story, ending)))
    for conclusion in story.conclusions:
        decision = conclusion.decision
        if not _names(said, decision):
            continue
        if decision.outcome == "suppressed":
            text = f"it was suppressed at {show_time(conclusion.shown_ms)} for {decision.anchor} ({decision.reason})"
            found.append((decision.reason, None, text))
        elif decision.outcome == "held":
            text = f"its message for {decision.anchor} was held at {show_time(conclusion.shown_ms)} ({decision.reason})"
            found.append((decision.reason, None, text))
        elif conclusion.called_back_by is not None:
            by = conclusion.called_back_by
            text = f"its message for {decision.anchor} was called back because of {_event(story, by)}"
            found.append(("late", by, text))
        elif decision.outcome in ENDS:
            text = f"{decision.anchor} {ENDS[decision.outcome]} at {show_time(conclusion.shown_ms)} ({decision.reason})"
            found.append((decision.reason, decision.completed_by, text))
    started = bool(found) or any(_names(said, conclusion.decision) for conclusion in story.conclusions)
    for event in story.case.events:
        if said.anchor not in (None, event.id) or said.member not in (None, event.member):
            continue
        if event.id in story.too_old:
            found.append(("too_old", event.id, f"{event.id} was read more than 7 days after it happened"))
        if event.id in story.duplicates:
            found.append(("duplicate", event.id, f"the id {event.id} had been read before"))
    if not started:
        found.append(("never_entered", None, f"{said.anchor or 'no event'} started nothing"))
    return found


# ---------------------------------------------------------------- words


def _subject(member: str | None, anchor: str | None, correlation: Any) -> str:
    parts = [anchor or "anything"]
    if correlation is not None:
        parts.append(f"with {correlation}")
    if member is not None:
        parts.append(f"of member {member}")
    return " ".join(parts)


def _event(story: Story, event_id: str | None) -> str:
    event = story.case.event(event_id or "")
    return f"{event.id} ({event.type}) at {show_time(event.at_ms)}" if event else str(event_id)


def _wish(story: Story, wanted: Expected) -> str:
    subject = _subject(wanted.member, wanted.anchor, wanted.correlation if wanted.correlated else None)
    why = wanted.reason or "any reason"
    verbs = {
        "eligible": "fire",
        "suppressed": f"be suppressed ({why})",
        "held": f"be held ({why})",
        "exited": f"have left its flow ({why})",
    }
    verb = verbs.get(wanted.decision, "have completed its flow")
    parts = [f"'{story.plan.id}' to {verb}"]
    if wanted.step is not None:
        parts.append(f"at step {wanted.step}")
    if wanted.fires is not None:
        parts.append(f"at {show_time(wanted.fires.ms)}")
    parts.append(f"for {subject}")
    if wanted.completed_by is not None:
        parts.append(f"by {wanted.completed_by}")
    if wanted.data:
        parts.append("with " + ", ".join(f"{name} {value}" for name, value in wanted.data.items()))
    if wanted.called_back:
        parts.append("and to be called back")
    return " ".join(parts)


def _instead(story: Story, wanted: Expected, near: Conclusion | None) -> str:
    if near is None:
        return "; ".join(text for _, _, text in _happened(story, wanted))
    if near.decision.outcome in ("suppressed", "held"):
        return f"it was {near.decision.outcome} at {show_time(near.shown_ms)} ({near.decision.reason})"
    if near.decision.outcome in ENDS:
        return f"it {ENDS[near.decision.outcome]} at {show_time(near.shown_ms)} ({near.decision.reason})"
    text = _fired(story, near)
    if wanted.data is not None:
        text += "; its message has " + (", ".join(f"{k} {v}" for k, v in (near.data or {}).items()) or "no data")
    return text


def _ended(story: Story, ending: Ending) -> str:
    by = _event(story, ending.by)
    if ending.kind == "waiting":
        until = ending.until_ms or 0
        clock = until + story.plan.campaign.lateness_ms
        return (
            f"{ending.anchor} was still waiting when the case's log ended at {show_time(story.clock_ms)}: its window"
            f" ends at {show_time(until)} and is judged when the clock reads {show_time(clock)}; add until: for then"
        )
    if ending.by == ending.anchor:
        return f"{ending.anchor} was {ending.kind} at once by an event read before it"
    words = {
        "cancelled": f"{ending.anchor} was cancelled by {by}",
        "killed": f"{ending.anchor} was killed by {by}, which the pattern must be without",
        "expired": f"{ending.anchor} expired: the next step did not come in time",
        "replaced": f"{ending.anchor} was replaced by a later start, {by}",
        "evicted": f"{ending.anchor} was evicted: too many live instances",
    }
    return words.get(ending.kind, f"{ending.anchor}: {ending.kind}")


def _fired(story: Story, conclusion: Conclusion) -> str:
    decision = conclusion.decision
    values = _key_words(story.plan, decision.correlation)
    anchor = story.case.event(decision.anchor)
    named = ", ".join([anchor.type, *values] if anchor else values)
    subject = f"{decision.anchor} ({named})" if named else decision.anchor
    member = f" of member {decision.member_id}" if decision.member_id != FIRST_MEMBER else ""
    text = f"'{decision.campaign}' fired at {show_time(conclusion.shown_ms)} for {subject}{member}"
    why = _why(story, conclusion, values)
    return f"{text}: {why}" if why else text


def _why(story: Story, conclusion: Conclusion, values: Iterable[str]) -> str:
    decision = conclusion.decision
    step = decision.inputs.get("step")
    if step is not None and decision.completed_by is None:
        return f"step {step} of its flow"
    last = story.plan.pattern.steps[-1]
    if decision.due_ms is not None and isinstance(last, Absent):
        types = (" and " if last.term.kind == "all" else " or ").join(ref.type for ref in last.term.events)
        key = f" with {', '.join(values)}" if values else ""
        clock = show_time(decision.due_ms + story.plan.campaign.lateness_ms)
        qualified = " that qualifies" if any(ref.predicate is not None for ref in last.term.events) else ""
        return f"no {types}{qualified}{key} was read before {clock}"
    if decision.completed_by is not None:
        return (
            f"completed by {_event(story, decision.completed_by)}" if decision.completed_by != decision.anchor else ""
        )
    return "its time had come"


def _key_words(plan: Plan, correlation: Any) -> list[str]:
    values = correlation if len(plan.same) > 1 else [correlation]
    return [f"{'.'.join(path)} {value}" for path, value in zip(plan.same, values, strict=False)]
