"""What is asked of the arbiter and what it answers. Values only.

Every message of every campaign is one `MessageRequest`; the arbiter's `judge(request, policy_state, clock_ms)` answers
with one of the three verdicts of VOCABULARY §5. Each carries the facts it was taken on, for the decision record.
"""

from typing import Any

import msgspec


class MessageRequest(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """One message that a campaign wants to send to one member.

    `step` is the name of the flow's step, `variant` the one chosen, both part of `command_id`. `wanted_at_ms`: clock
    value at which the step was reached first; a held message asks again with the same one, so that its lifetime counts
    from there. `profile` is the member's as it stands; the arbiter changes nothing in it. `timezone`: the campaign's,
    for members that have none. `topic` None: the campaign names none. `cascade`: an id that the legs of one cascade
    share, for caps count them once; "" for a message by itself.
    """

    member_id: str
    campaign: str
    version: str
    instance_id: str
    command_id: str
    step: str
    variant: str
    channel: str
    category: str
    wanted_at_ms: int
    lifetime_ms: int
    timezone: str
    profile: dict[str, Any]
    topic: str | None = None
    priority: int = 0
    cascade: str = ""


class Eligible(msgspec.Struct, frozen=True, gc=False):
    """It may go now. The arbiter has counted it."""

    inputs: dict[str, Any] = {}


class Held(msgspec.Struct, frozen=True, gc=False):
    """Not before `until_ms` on the clock, which is above the clock at which it was asked; ask again then."""

    until_ms: int
    reason: str
    inputs: dict[str, Any] = {}


class Suppressed(msgspec.Struct, frozen=True, gc=False):
    """It will not go; `reason` is a word of VOCABULARY §5."""

    reason: str
    inputs: dict[str, Any] = {}


Verdict = Eligible | Held | Suppressed
