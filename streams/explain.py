"""Explain: for one member and its campaigns, what matched, what is awaited until when, or why not.

The log is read through the real engine (`streams/trace.py`); here its notes become plain JSON values. The words of
`streams/narrate.py` are made from these values alone. Instants are RFC 3339 text in UTC.
"""

from collections.abc import Iterable, Sequence
from typing import Any

from schemas.instants import MAX_INSTANT_MS, instant_text
from schemas.policy import Policy
from schemas.records import Decision
from streams.flows.told import standing, taken
from streams.patterns.durations import format_duration
from streams.patterns.evidence import Evidence, spell, spell_step
from streams.patterns.match import CANCELLED, COMPLETED, KILLED
from streams.patterns.nodes import MemberDate
from streams.patterns.plan import Plan
from streams.patterns.windows import aggregate_of
from streams.registry import SUSPENDED
from streams.replay import Line
from streams.trace import Ending, Life, StepMatch, Tracer
from streams.why import Miss, Seen, same_values
from tables.member_state import Instance

LIVES_MAX = 20  # instances told per campaign, the newest; the rest is counted
NEVER_ENTERED, WAITING, WITHDRAWN = "never_entered", "waiting", "withdrawn"
FIRED, SUPPRESSED = "fired", "suppressed"
RECEIPTS = ("delivery.", "engagement.")


def explain(
    log: Iterable[Line],
    plans: Sequence[Plan] | None,
    member_id: str,
    *,
    campaign: str | None = None,
    at_ms: int | None = None,
    partition: int = 0,
    topic: str = "events",
    policy: Policy | None = None,
) -> dict[str, Any]:
    """Explain one member.

    Args:
        log: records of the member's partition in log order; without an event where it is none or another member's.
        plans: the campaigns; None: those the log publishes.
        member_id: the member.
        campaign: id of the one campaign to explain; None: all.
        at_ms: stop before the first record appended later than this; None: the end of the log.
        partition: number of the partition, for ids of events that bring none.
        topic: name of the log, likewise.
        policy: policies to hold beside `plans`.

    Returns:
        Plain JSON values; docs/explain.md describes them. `campaigns` is empty when nothing of the member was read.
    """
    tracer = Tracer(member_id, plans, campaign, partition=partition, topic=topic, policy=policy)
    for record, event in log:
        if at_ms is not None and record.append_ms > at_ms:
            break
        tracer.take(record, event)
    fates = [seen.fate for seen in tracer.events]
    begun = {name for name, followed in tracer.campaigns.items() if followed.lives and campaign in (None, name)}
    names = sorted({*tracer.plans, *tracer.suspended, *begun})
    return {
        "member_id": member_id,
        "known": bool(tracer.events),
        "as_of": _at(tracer.clock_ms) if tracer.records else None,
        "read": {
            "records": tracer.records,
            "members": len(tracer.members),
            "events": len(fates),
            "duplicates": fates.count("duplicate"),
            "too_old": fates.count("too_old"),
        },
        "known_campaigns": tracer.known,
        "policies": _policies(tracer),
        "campaigns": [_campaign(tracer, name) for name in names] if tracer.events else [],
    }


def _policies(tracer: Tracer) -> dict[str, Any] | None:
    """Name the policies in force, and which of them cannot be asked: one member's records do not tell of the others."""
    policy = tracer.policy
    if policy is None:
        return None
    unknown = ["budgets"] if policy.budgets else []
    return {"version": policy.version, "not_asked": [*unknown, *(["dedupe"] if policy.dedupe_address_ms else [])]}


def _at(at_ms: int | None) -> str | None:
    return None if at_ms is None else instant_text(min(max(at_ms, 0), MAX_INSTANT_MS))


# ---------------------------------------------------------------- one campaign


def _campaign(tracer: Tracer, name: str) -> dict[str, Any]:
    followed = tracer.campaigns.get(name)
    lives = followed.lives if followed else []
    stopped = tracer.suspended.get(name)
    plan = tracer.plans.get(name) or stopped or lives[-1].plan
    told = [_life(tracer, life) for life in lives[-LIVES_MAX:]]
    date = _next_date(tracer, plan)
    return {
        "campaign": name,
        "version": plan.version,
        "title": plan.campaign.title,
        "pattern": " ".join(plan.campaign.pattern.split()),
        "state": SUSPENDED if stopped else _state(told, date),
        "life": tracer.life_of(name),
        "suspended_at": _at(stopped.since_ms) if stopped else None,
        "caps": _caps(plan),
        "instances": told,
        "earlier_instances": len(lives) - len(told),
        "next_date": date,
        "did_not_start": [_miss(miss) for miss in followed.misses] if followed else [],
        "did_not_start_counts": dict(followed.missed) if followed else {},
        "never_read": _never_read(tracer, plan),
    }


def _state(told: list[dict[str, Any]], date: dict[str, Any] | None) -> str:
    """Sum up: what waits, else how the newest instance ended."""
    running = any(life["journey"] and life["journey"]["stands_at"] for life in told)
    if running or (date and date["fires_at"]) or any(life["result"] == WAITING for life in told):
        return WAITING
    return str(told[-1]["result"]) if told else NEVER_ENTERED


def _caps(plan: Plan) -> dict[str, Any]:
    campaign = plan.campaign
    return {
        "cooldown": None if campaign.cooldown_ms is None else format_duration(campaign.cooldown_ms),
        "limit": None
        if campaign.limit is None
        else {"count": campaign.limit.count, "per": format_duration(campaign.limit.per_ms)},
        "once": campaign.once,
        "per": campaign.per,
    }


def _next_date(tracer: Tracer, plan: Plan) -> dict[str, Any] | None:
    """Say which date a campaign of dates waits for; None for other campaigns."""
    if not plan.dated:
        return None
    node = plan.steps[0].node
    state = tracer.member.plans.get(plan.id) if tracer.member is not None else None
    armed = state.armed if state is not None and plan.id in tracer.plans else None
    path = ".".join(node.path) if isinstance(node, MemberDate) else None
    return {
        "step": spell_step(node),
        "attribute": None if path is None else f"member.{path}",
        "date": armed[1] if armed else None,
        "due": _at(armed[0]) if armed else None,
        "fires_at": _at(max(armed[3], armed[0] + plan.campaign.lateness_ms)) if armed else None,
    }


def _never_read(tracer: Tracer, plan: Plan) -> list[str]:
    """List event types that the first step mentions and of which this member has none."""
    read = {seen.type for seen in tracer.events}
    return sorted(plan.start_types - read)


# ---------------------------------------------------------------- one instance


def _life(tracer: Tracer, life: Life) -> dict[str, Any]:
    plan, instance, ending = life.plan, life.instance, life.ending
    alive = ending is None and tracer.alive(life)
    return {
        "instance_id": life.instance_id,
        "version": plan.version,
        "anchor": instance.anchor,
        "correlation": same_values(plan, instance) if plan.same else None,
        "result": _result(ending, alive),
        "steps": [_step(plan, step) for step in life.steps],
        "step_count": len(plan.steps),
        "awaits": _awaits(plan, instance) if alive else None,
        "ended": None if ending is None else _ended(life, ending),
        "command": _command(tracer, ending.decision if ending is not None else None),
        "journey": _journey(tracer, life),
        "late": _late(life),
        "did_not_count": [_miss(miss) for miss in life.misses],
        "did_not_count_counts": dict(life.missed),
    }


def _result(ending: Ending | None, alive: bool) -> str:
    if ending is None:
        return WAITING if alive else WITHDRAWN
    if ending.kind != COMPLETED or ending.decision is None:
        return ending.kind
    return SUPPRESSED if ending.decision.outcome == "suppressed" else FIRED


def _step(plan: Plan, step: StepMatch) -> dict[str, Any]:
    more = [event_id for event_id in step.ids if step.seen is None or event_id != step.seen.event_id]
    return {
        "number": step.index + 1,
        "step": spell_step(plan.steps[step.index].node),
        "kind": _kind(plan.steps[step.index].kind),
        "event": None if step.seen is None else _event(step.seen),
        "at": _at(step.e),
        "known_at": _at(step.clock_ms),
        "values": {path: value for check in step.checks for path, value in _values(check).items()},
        "with": more,
    }


def _kind(kind: str) -> str:
    """Name what a step is about: an `event` (or several), an `absence`, a `wait` or a `date`."""
    return {"absent": "absence", "delay": "wait", "date": "date", "calendar": "date"}.get(kind, "event")


def _awaits(plan: Plan, instance: Instance) -> dict[str, Any]:
    """Say what an instance waits for. `by`: the end of the step's window; `decided_at`: that plus lateness."""
    step = plan.steps[instance.step]
    deadline = instance.deadline
    have: Any = None
    if step.kind == "count":
        have = {"have": len(instance.counted), "need": step.count}
    elif step.kind == "all" and step.term is not None:
        have = {"have": len(instance.seen), "need": len(step.term.refs)}
    elif step.kind == "aggregate" and instance.counted:
        entries = [[entry[0], *entry[1]] for entry in instance.counted]
        have = {"value": aggregate_of(entries, step.fn), "test": step.test, "threshold": step.threshold}
    return {
        "number": instance.step + 1,
        "step": spell_step(step.node),
        "kind": _kind(step.kind),
        "since": _at(instance.e_prev),
        "by": _at(deadline),
        "decided_at": None if deadline is None else _at(deadline + plan.campaign.lateness_ms),
        "last": instance.step + 1 == len(plan.steps),
        "have": have,
    }


def _ended(life: Life, ending: Ending) -> dict[str, Any]:
    plan, instance, decision = life.plan, life.instance, ending.decision
    awaited = ending.kind not in (COMPLETED,)
    found: dict[str, Any] = {
        "at": _at(ending.clock_ms),
        "how": ending.kind,
        "reason": decision.reason if decision is not None else None,
        "step": spell_step(plan.steps[instance.step].node) if awaited else None,
        "by": None if ending.seen is None or ending.kind == COMPLETED else _event(ending.seen),
        "due": _at(instance.deadline if awaited else decision.due_ms if decision is not None else None),
        "checks": [_evidence(check) for check in ending.checks],
    }
    if ending.kind in (CANCELLED, KILLED) and ending.by and found["by"] is None:
        found["by"] = {"event_id": ending.by, "type": None, "at": None}
    if decision is not None and ending.kind == COMPLETED:
        found["cap"] = _cap(plan, decision.reason, ending)
        found["contact"] = _contact(decision.reason, decision.channel, ending.facts)
        found["arbiter"] = _arbiter(decision.inputs)
        found["if_still"] = spell(plan.if_still_expr) if plan.if_still_expr is not None else None
    return found


def _cap(plan: Plan, reason: str, ending: Ending) -> dict[str, Any] | None:
    """Say which earlier firings forbid this one, and when it would have been free again."""
    campaign, fired = plan.campaign, ending.facts.get("fired") or []
    if reason == "once" and fired:
        return {"fired_at": [_at(fired[0])], "free_again_at": None}
    if reason == "cooldown" and fired and campaign.cooldown_ms is not None:
        return {"fired_at": [_at(fired[-1])], "free_again_at": _at(fired[-1] + campaign.cooldown_ms)}
    if reason == "limit" and campaign.limit is not None:
        inside = [at for at in fired if ending.clock_ms - at < campaign.limit.per_ms]
        first = inside[len(inside) - campaign.limit.count] if len(inside) >= campaign.limit.count else ending.clock_ms
        return {"fired_at": [_at(at) for at in inside], "free_again_at": _at(first + campaign.limit.per_ms)}
    return None


def _contact(reason: str, channel: str | None, facts: dict[str, Any]) -> dict[str, Any] | None:
    if reason not in ("no_consent", "topic_off", "no_address", "invalid_address"):
        return None
    return {
        "channel": channel,
        "consent": facts.get("consent"),
        "topic": facts.get("topic"),
        "attribute": facts.get("attribute"),
        "because": facts.get("because"),
        "since": _at(facts.get("since")),
    }


def _arbiter(inputs: dict[str, Any]) -> dict[str, Any] | None:
    """Give what the arbiter looked at under policies: caps, quiet hours, control group; None when it asked nothing."""
    names = ("zone", "priority", "control_group", "quiet_hours", "caps", "expires_at", "wanted_at")
    found = {name: inputs[name] for name in names if name in inputs}
    for name in ("expires_at", "wanted_at"):
        if name in found:
            found[name] = _at(found[name])
    if "quiet_hours" in found:
        found["quiet_hours"] = {**found["quiet_hours"], "free_at": _at(found["quiet_hours"].get("free_at"))}
    if "caps" in found:
        found["caps"] = [
            {**row, **({"sent_at": [_at(at) for at in row["sent_at"]], "free_at": _at(row["free_at"])}
                       if "sent_at" in row else {})}
            for row in found["caps"]
        ]  # fmt: skip
    return found or None


def _late(life: Life) -> dict[str, Any] | None:
    """Name an event that would have stopped a firing had it been read in time, and whether a cancel followed it."""
    if life.late is None:
        return None
    decision = life.ending.decision if life.ending is not None else None
    sent = decision is not None and decision.outcome == "eligible" and decision.reason != "no_send"
    return {**_event(life.late), "cancel_sent": sent and life.plan.campaign.on_late == "cancel"}


def _journey(tracer: Tracer, life: Life) -> dict[str, Any] | None:
    """Tell what a journey has said, and where it stands; None where the match began none."""
    journey = tracer.journey_of(life)
    if journey is None and not life.journey:
        return None
    steps = taken(life.journey, _at)
    for step in steps:
        step["arbiter"] = _arbiter(step["inputs"])
    for step, decision in zip(steps, life.journey, strict=True):
        command = _command(tracer, decision) if decision.outcome == "eligible" else None
        step["receipts"] = command["receipts"] if command is not None else []
    return {
        "steps": steps,
        "stands_at": None if journey is None else standing(journey, tracer.plan_of(journey), _at),
        "outcomes": None if journey is None else journey.outcomes,
    }


def _command(tracer: Tracer, decision: Decision | None) -> dict[str, Any] | None:
    """Name the command of a decision, with the receipts that the log holds for it."""
    if decision is None or decision.outcome != "eligible" or decision.reason == "no_send":
        return None
    receipts = [
        {
            "event_id": seen.event_id,
            "axis": seen.type.partition(".")[0],
            "status": seen.type.partition(".")[2],
            "machine": seen.data.get("machine") is True or seen.data.get("bot") is True,
            "at": _at(seen.e),
            "attempt": seen.data.get("attempt"),
            "code": seen.data.get("code") or None,
            "reason": seen.data.get("reason") or None,
        }
        for seen in tracer.events
        if seen.type.startswith(RECEIPTS)
        and seen.data.get("command_id") == decision.command_id
        and seen.fate != "duplicate"
    ]
    return {"command_id": decision.command_id, "channel": decision.channel, "receipts": receipts}


# ---------------------------------------------------------------- events and conditions


def _event(seen: Seen) -> dict[str, Any]:
    return {"event_id": seen.event_id, "type": seen.type, "at": _at(seen.e), "read_at": _at(seen.append_ms)}


def _miss(miss: Miss) -> dict[str, Any]:
    facts = dict(miss.facts)
    for name in ("from", "until"):
        if name in facts:
            facts[name] = _at(facts[name])
    if "within_ms" in facts:
        facts["within"] = format_duration(facts.pop("within_ms"))
    if isinstance(facts.get("by"), Seen):
        facts["by"] = _event(facts["by"])
    return {
        "event": _event(miss.seen),
        "why": miss.why,
        "checks": [_evidence(check) for check in miss.checks],
        "facts": facts,
    }


def _evidence(found: Evidence) -> dict[str, Any]:
    """Spell a judged condition; `failing` are the leaves to which a false one is due."""
    spelled: dict[str, Any] = {"kind": found.kind, "text": found.text, "holds": found.holds}
    if found.kind == "test":
        spelled["values"] = found.values
        if found.note:
            spelled["note"] = found.note
    else:
        spelled["parts"] = [_evidence(part) for part in found.parts]
    return spelled


def _values(found: Evidence) -> dict[str, Any]:
    values = dict(found.values)
    for part in found.parts:
        values.update(_values(part))
    return values
