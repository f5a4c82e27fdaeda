"""A cascade on its way: what a receipt does to it, and which leg comes next. Pure; `streams/flows/run.py` walks.

Nothing is remembered but the journey's own stand and outcomes. A leg's outcome, under its own name, is the reason why
it was not asked for, `sent`, `delivered`, or the word of its failure; the cascade's is the channel that delivered it,
or what came of its last leg.
"""

from schemas.commands import CancelMessage
from schemas.flow import LegStep, Step
from schemas.ids import command_id, h128
from streams.decide import Place, lane_of_send
from streams.flows.plan import FlowPlan
from streams.flows.receipts import DELIVERED
from tables.member_state import Journey

SENT, TIMEOUT = "sent", "timeout"
LATE_DELIVERY, DOUBLE_DELIVERY = "late_delivery", "double_delivery"


def cascade_id(instance_id: str, cascade: str) -> str:
    """Name one cascade of one journey: what caps count once."""
    return h128(instance_id, cascade)


def leg_of(flow: FlowPlan, journey: Journey, named: object) -> LegStep | None:
    """Find the leg whose message a receipt names."""
    for legs in flow.cascades.values():
        for leg in legs:
            if leg.name in journey.outcomes and command_id(journey.instance_id, leg.name) == named:
                return leg
    return None


def is_news(known: str, word: str) -> bool:
    """Tell whether a receipt's word changes a leg's outcome: delivery ends all, failure what was only sent."""
    return known != DELIVERED if word == DELIVERED else known == SENT


def standing_in(journey: Journey, step: Step | LegStep | None, cascade: str) -> bool:
    """Tell whether a journey stands at a leg of this cascade, waiting or held."""
    return isinstance(step, LegStep) and step.cascade == cascade and cascade not in journey.outcomes


def other_deliveries(flow: FlowPlan, journey: Journey, leg: LegStep) -> list[str]:
    """Name the channels of the cascade's other legs that were delivered."""
    others = (known for known in flow.cascades[leg.cascade] if known.name != leg.name)
    return [known.send.channel for known in others if journey.outcomes.get(known.name) == DELIVERED]


def overtaken(flow: FlowPlan, journey: Journey, leg: LegStep) -> list[LegStep]:
    """List the legs behind this one whose messages have gone out and did not fail: they are to be called back."""
    legs = flow.cascades[leg.cascade]
    later = legs[[known.name for known in legs].index(leg.name) + 1 :]
    return [known for known in later if journey.outcomes.get(known.name) == SENT]


def call_back(journey: Journey, leg: LegStep, at: Place, member_id: str) -> CancelMessage:
    """Make the command that calls a leg's message back, if it has not left."""
    return CancelMessage(
        command_id=command_id(journey.instance_id, leg.name),
        member_id=member_id,
        campaign=journey.campaign,
        instance_id=journey.instance_id,
        reason=LATE_DELIVERY,
        decided_at_ms=at.clock_ms,
        caused_at_ms=at.append_ms,
        lane=lane_of_send(leg.send),
    )
