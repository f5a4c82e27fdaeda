"""What operators see of a member, as plain JSON values. Reads, changes nothing."""

from typing import Any

from schemas.ids import instance_id
from streams.flows.told import standing
from streams.registry import Registry
from tables.codec import decode_member
from tables.hot import HotMembers
from tables.member_state import Member
from tables.store import StateStore


def view_of(member: Member, registry: Registry) -> dict[str, Any]:
    """Describe a member as plain JSON values."""
    instances = []
    for plan_id, state in member.plans.items():
        for instance in state.instances:
            plan = registry.plan_of(plan_id, instance.version)
            lateness = plan.campaign.lateness_ms if plan else 0
            deadline = instance.deadline
            instances.append(
                {
                    "campaign": plan_id,
                    "version": instance.version,
                    "correlation": instance.correlation,
                    "anchor": instance.anchor,
                    "step": instance.step,
                    "due": instance.due,
                    "until": instance.end,
                    "fires_at": None if deadline is None else deadline + lateness,
                    "matched": [{"step": s, "event_id": i, "e": e} for s, i, e in instance.matched],
                }
            )
    noted = [(at, plan_id, outcome, reason, named.hex()) for at, plan_id, outcome, reason, named in member.notes]
    noted += [
        (f.clock_ms, plan_id, f.outcome, f.reason, instance_id(plan_id, member.member_id, f.correlation, f.anchor))
        for plan_id, state in member.plans.items()
        for f in state.late
        if f.outcome
    ]
    notes = [
        {"at": at, "campaign": plan_id, "outcome": outcome, "reason": reason, "instance_id": named}
        for at, plan_id, outcome, reason, named in sorted(noted)
    ]
    dates = [{"campaign": c, "due": s.armed[0], "date": s.armed[1]} for c, s in member.plans.items() if s.armed]
    journeys = [
        {
            "campaign": journey.campaign,
            "version": journey.version,
            "instance_id": journey.instance_id,
            "correlation": journey.correlation,
            "anchor": journey.anchor,
            "outcomes": journey.outcomes,
            **standing(journey, registry.after_edits(journey)[0], lambda at: at),
        }
        for journey in member.journeys
    ]
    return {
        "member_id": member.member_id,
        "profile": member.profile,
        "instances": instances,
        "journeys": journeys,
        "dates": dates,
        "decisions": notes,
        "touches": [{"at": t[0], "command_id": t[1], "campaign": t[2]} for t in member.touches],
    }


class Views:
    """What an engine tells operators. It reads, and changes nothing."""

    __slots__ = ()
    registry: Registry
    _members: HotMembers
    _store: StateStore

    def member_view(self, member_id: str) -> dict[str, Any] | None:
        """Describe one member for operators; None if nothing is known."""
        member = self._members.get(member_id)
        if member is None:
            raw = self._store.get_many([member_id.encode()])[0]
            if raw is None:
                return None
            member = decode_member(member_id, raw)
        return view_of(member, self.registry)

    def in_memory(self, member_id: str) -> Member | None:
        """Give one member as it is in memory; None if it is not."""
        return self._members.get(member_id)

    def campaigns_view(self) -> list[dict[str, Any]]:
        """List campaigns of this partition: id, version, state, since when."""
        return self.registry.view()
