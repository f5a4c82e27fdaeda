"""The campaigns of one partition as its log published them: live versions, and old ones that drain.

An instance stays on the version it started on. A new version takes over the starts; the old one is kept until its last
instance must have ended. What is published, withdrawn and retired is part of the partition's state (meta), so that a
replay of the log runs the same plans at the same offsets.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from schemas.campaign import Campaign
from schemas.events import CAMPAIGN_PUBLISHED, Event
from schemas.findings import errors
from streams.campaigns import load_campaign
from streams.patterns.plan import Plan
from streams.routes import Route, build_routes

META_CLOCK = b"\x00meta"
META_CAMPAIGN = b"\x00campaign/"
LIVE = "live"
DRAINING = "draining"

_pack = msgspec.msgpack.Encoder().encode
_unpack = msgspec.msgpack.Decoder(list[Any]).decode


class Registry:
    """Live and draining plans, and the routes made from them.

    Args:
        meta: the store's meta entries.
        fixed: plans that hold whatever the log says (replay); None: the log decides.
    """

    def __init__(self, meta: Mapping[bytes, bytes], fixed: Sequence[Plan] | None) -> None:
        self.fixed = fixed is not None
        self.live: dict[str, Plan] = {}
        self._versions: dict[tuple[str, str], Plan] = {}
        self._until: dict[tuple[str, str], int] = {}
        self._changes: dict[bytes, bytes | None] = {}
        for plan in fixed or ():
            self.live[plan.id] = self._versions[plan.id, plan.version] = plan
        for key in sorted(k for k in meta if k.startswith(META_CAMPAIGN)):
            state, path, text, until, since_offset, since_ms = _unpack(meta[key])
            campaign, _ = load_campaign(text, path)
            if campaign is not None:
                campaign.source.update({"path": path, "yaml": text})
                plan = Plan(campaign)
                plan.since_offset, plan.since_ms = since_offset, since_ms
                self._add(plan, state, until)
        self.routes: dict[str, Route] = {}
        self.dated: tuple[Plan, ...] = ()
        self._rebuild()

    def plan_of(self, plan_id: str, version: str) -> Plan | None:
        """Find the plan of an instance; None once its campaign is withdrawn or its version retired."""
        return self._versions.get((plan_id, version))

    def newest(self, plan_id: str) -> Plan | None:
        """Find any version of a campaign that still drains."""
        return next((plan for (name, _), plan in self._versions.items() if name == plan_id), None)

    def take_changes(self) -> dict[bytes, bytes | None]:
        """Hand over the meta entries changed since the last call."""
        changes, self._changes = self._changes, {}
        return changes

    def apply(self, event: Event, offset: int, clock_ms: int) -> str:
        """Apply a control record. Returns the findings as text if the campaign cannot be run, else ''."""
        if self.fixed:
            return ""
        name = event.data.get("campaign")
        self._retire(clock_ms)
        if event.type != CAMPAIGN_PUBLISHED:
            if isinstance(name, str):
                self._withdraw(name)
            return ""
        text, path = event.data.get("yaml"), event.data.get("path")
        if not isinstance(text, str):
            return "campaign.published: data.yaml must be the campaign's text; publish it with 'campaigns publish'"
        campaign, findings = load_campaign(text, path if isinstance(path, str) else "campaign.yaml")
        if campaign is None or errors(findings):
            return "; ".join(str(f) for f in errors(findings)) or "campaign.published: no campaign in data.yaml"
        self._publish(campaign, text, path if isinstance(path, str) else "", offset, clock_ms)
        return ""

    def view(self) -> list[dict[str, Any]]:
        """List every version: campaign, version, state, offset it was published at."""
        return [
            {
                "campaign": name,
                "version": version,
                "state": LIVE if self.live.get(name) is plan else DRAINING,
                "since_offset": plan.since_offset,
                "title": plan.campaign.title,
                "pattern": plan.campaign.pattern,
            }
            for (name, version), plan in sorted(self._versions.items(), key=lambda item: item[0])
        ]

    def _add(self, plan: Plan, state: str, until: int) -> None:
        ref = (plan.id, plan.version)
        self._versions[ref] = plan
        if state == LIVE:
            self.live[plan.id] = plan
        else:
            self._until[ref] = until

    def _publish(self, campaign: Campaign, text: str, path: str, offset: int, clock_ms: int) -> None:
        old = self.live.get(campaign.campaign)
        if old is not None and old.version == campaign.version:
            return
        if old is not None:
            self._drain(old, clock_ms)
        plan = self._versions.get((campaign.campaign, campaign.version))
        if plan is None:  # else it still drains: its instances are its own
            plan = Plan(campaign)
            plan.since_offset, plan.since_ms = offset, clock_ms
        plan.campaign.source.update({"path": path, "yaml": text})
        self._until.pop((plan.id, plan.version), None)
        self._add(plan, LIVE, 0)
        self._keep(plan, LIVE, 0)
        self._rebuild()

    def _drain(self, plan: Plan, clock_ms: int) -> None:
        until = self._until[plan.id, plan.version] = clock_ms + plan.horizon_ms()
        self._keep(plan, DRAINING, until)

    def _keep(self, plan: Plan, state: str, until: int) -> None:
        source = plan.campaign.source
        self._changes[_meta_key(plan.id, plan.version)] = _pack(
            [state, source.get("path", ""), source.get("yaml", ""), until, plan.since_offset, plan.since_ms]
        )

    def _withdraw(self, name: str) -> None:
        self.live.pop(name, None)
        self._forget(ref for ref in list(self._versions) if ref[0] == name)

    def _retire(self, clock_ms: int) -> None:
        self._forget([ref for ref, until in self._until.items() if until < clock_ms])

    def _forget(self, refs: Iterable[tuple[str, str]]) -> None:
        for name, version in list(refs):
            self._versions.pop((name, version), None)
            self._until.pop((name, version), None)
            self._changes[_meta_key(name, version)] = None
        self._rebuild()

    def _rebuild(self) -> None:
        live = sorted(self.live.values(), key=lambda plan: plan.id)
        draining = [plan for plan in self._versions.values() if self.live.get(plan.id) is not plan]
        self.routes = build_routes(live, draining)
        self.dated = tuple(plan for plan in live if plan.dated)


def _meta_key(name: str, version: str) -> bytes:
    return META_CAMPAIGN + f"{name}/{version}".encode()
