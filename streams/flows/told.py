"""What operators see of journeys, as plain JSON values. Instants stay ms; `spell` makes text of them where wanted."""

from collections.abc import Callable, Sequence
from typing import Any

from schemas.flow import ActStep, LegStep, SendStep, WaitStep
from schemas.records import Decision
from streams.patterns.durations import format_duration
from streams.patterns.grammar import WEEKDAYS
from streams.patterns.plan import Plan
from tables.member_state import Journey

Spell = Callable[[int | None], Any]


def standing(journey: Journey, plan: Plan | None, spell: Spell) -> dict[str, Any]:
    """Say where a journey stands: its step, what it waits for, until when, and when that is judged."""
    awaited = plan.flow.awaited.get(journey.step) if plan is not None else None
    step = plan.flow.steps.get(journey.step) if plan is not None else None
    return {
        "step": journey.step,
        "waits_for": waits_for(plan, journey.step, held=journey.wanted is not None),
        "since": spell(journey.since),
        "until": spell(journey.due if journey.wanted is None else journey.wake),
        "decided_at": spell(journey.wake),
        "event": bool(awaited) or (isinstance(step, LegStep) and journey.wanted is None),
        "held": journey.wanted is not None,
    }


def waits_for(plan: Plan | None, name: str, *, held: bool = False) -> str:
    """Spell what a step waits for; `held`: its message may not go yet."""
    step = plan.flow.steps.get(name) if plan is not None else None
    if isinstance(step, LegStep) and not held:
        return f"the {step.send.channel} message to be delivered"
    if isinstance(step, SendStep):
        return f"the {step.send.channel} message may go"
    if isinstance(step, ActStep):
        return "the campaign to go on"
    if not isinstance(step, WaitStep):
        return ""
    if step.until is not None:
        return step.until.event
    if step.window is not None:
        return "local time " + "-".join(f"{minute // 60:02}:{minute % 60:02}" for minute in step.window)
    if step.weekdays:
        at = "" if step.at_minute is None else f" at {step.at_minute // 60:02}:{step.at_minute % 60:02}"
        return " or ".join(WEEKDAYS[day] for day in step.weekdays) + at
    return format_duration(step.span_ms or 0)


def taken(decisions: Sequence[Decision], spell: Spell) -> list[dict[str, Any]]:
    """List what a journey has said, in order: messages, ways taken, its end."""
    return [
        {
            "at": spell(decision.decided_at_ms),
            "step": decision.inputs.get("step"),
            "outcome": decision.outcome,
            "reason": decision.reason,
            "variant": decision.inputs.get("variant"),
            "channel": decision.channel,
            "command_id": decision.command_id or None,
            "due": spell(decision.due_ms),
            "by": decision.completed_by,
            "inputs": {k: v for k, v in decision.inputs.items() if k not in ("step", "variant")},
        }
        for decision in decisions
    ]
