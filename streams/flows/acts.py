"""Steps of a flow that issue a command about the member: points, tags, segments. Pure; `streams/flows/run.py` walks.

Tags and segments are part of the profile from the step on, for every condition that is judged later: `member.tags`,
`member.segments`. The command tells others.
"""

from typing import Any

from schemas.flow import AccrueStep, ActStep, MarkStep
from schemas.ids import command_id
from schemas.member_commands import AccruePoints, MemberCommand, UpdateSegments, UpdateTags
from streams.decide import Place
from streams.patterns.expressions import Values
from streams.patterns.plan import Plan
from tables.member_state import Journey, Member

DONE = "done"
NO_POINTS, MARKS_FULL = "no_points", "marks_full"
MARKS_MAX = 64  # tags of a member, and segments; as many as topics with a word of their own
POINTS_MAX = 1_000_000_000
ATTRIBUTE_OF = {"tag": "tags", "segment": "segments"}


def kind_of(step: ActStep) -> str:
    """Name the kind of a step as its author writes it."""
    return "accrue" if isinstance(step, AccrueStep) else step.what


def issue(
    step: ActStep, plan: Plan, member: Member, journey: Journey, at: Place, aliases: dict[str, Any]
) -> tuple[MemberCommand | None, str]:
    """Make the command of a step, and change the member's profile where it asks for that.

    Returns:
        The command, and `done`; or None and why there is none.
    """
    if isinstance(step, AccrueStep):
        points = _points(plan.flow.values[step.name]["points"], member, journey, at, aliases)
        if points is None:
            return None, NO_POINTS
        expires = None if step.expires_ms is None else at.clock_ms + step.expires_ms
        return AccruePoints(
            command_id(journey.instance_id, step.name), member.member_id, journey.campaign, journey.version,
            journey.instance_id, step.name, points, at.clock_ms, at.append_ms, journey.anchor, step.reason, expires,
        ), DONE  # fmt: skip
    attribute = ATTRIBUTE_OF[step.what]
    before = _known(member.profile.get(attribute))
    marks = _marked(before, step)
    if len(marks) > max(MARKS_MAX, len(before)):  # a profile event may have brought more: taking away needs no room
        return None, MARKS_FULL
    member.profile = {**member.profile, attribute: marks}
    kind = UpdateTags if step.what == "tag" else UpdateSegments
    return kind(
        command_id(journey.instance_id, step.name), member.member_id, journey.campaign, journey.version,
        journey.instance_id, step.name, at.clock_ms, at.append_ms, journey.anchor, list(step.add), list(step.remove),
    ), DONE  # fmt: skip


def _points(values: Values, member: Member, journey: Journey, at: Place, aliases: dict[str, Any]) -> float | None:
    found = values(journey.last, aliases, member.profile, at.clock_ms)
    value = found[0] if len(found) == 1 else None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if 0 < value <= POINTS_MAX else None


def _known(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [] if value is None else [value]


def _marked(before: list[Any], step: MarkStep) -> list[Any]:
    """Give the marks after a step: those known and not removed, then the new ones, in the order written."""
    kept = [mark for mark in before if mark not in step.remove]
    return [*kept, *(mark for mark in step.add if mark not in kept)]
