"""The campaigns of one partition as its log published them: live versions, and old ones that drain.

An instance stays on the version it started on. A new version takes over the starts; the old one is kept until its last
instance must have ended. What is published, withdrawn and retired is part of the partition's state (meta), so that a
replay of the log runs the same plans at the same offsets.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from schemas.campaign import Campaign
from schemas.errors import StateError
from schemas.events import (
    CAMPAIGN_PUBLISHED,
    CAMPAIGN_STOPPED,
    CAMPAIGN_SUSPENDED,
    LIFE_TYPES,
    POLICY_PUBLISHED,
    POLICY_WITHDRAWN,
    Event,
)
from schemas.findings import errors
from schemas.flow import DRAIN, MIGRATE
from schemas.policy import Policy
from streams.campaigns import load_campaign
from streams.life import DRAINING, ENDED, LIVE, PAUSED, STOPPED, Life, next_turn
from streams.patterns.plan import Plan
from streams.policies.load import load_policy
from streams.routes import Route, build_routes
from tables.member_state import NEVER, Journey

META_CLOCK = b"\x00meta"  # [format, applied offset, clock, list]: the last record of every epoch
META_LIST = (
    b"\x00campaigns/"  # + offset of its last control record: rows of id, version, state, until, since (offset, ms)
    # and, where an edit moves or drops its journeys, the next version, `on_edit` and the edit's offset
)
META_TEXT = b"\x00campaign/"  # + id/version: [path, text]
SUSPENDED = "suspended"  # stopped because it raised too often (streams/breaker.py); publishing it again closes that
HELD_BACK = "drained"  # a live version that its operator lets drain; `draining` are versions that were replaced
STOP = "stop"  # a row without a version: since when journeys of a campaign are over
HELD = "held"  # likewise: a span of the clock, until and since, in which a campaign was paused or drained
POLICY = "policy"  # the row of the policies in force, under POLICY_NAME, which no campaign can be called
POLICY_NAME = "policies.yaml"

_pack = msgspec.msgpack.Encoder().encode
_unpack = msgspec.msgpack.Decoder(list[Any]).decode


class Registry:
    """Live and draining plans, and the routes made from them.

    Args:
        meta: the store's meta entries.
        fixed: plans that hold whatever the log says (replay); None: the log decides.
        policy: likewise; only together with `fixed`.
    """

    def __init__(self, meta: Mapping[bytes, bytes], fixed: Sequence[Plan] | None, policy: Policy | None = None) -> None:
        self.fixed = fixed is not None
        self.policy = policy
        self.partitions = 1  # of the topic when the policies were published: budgets are dealt out over them
        self._policy_at = (-1, 0)
        self.live: dict[str, Plan] = {}
        self.suspended: dict[str, Plan] = {}  # by id; `since_offset` and `since_ms` say when it was stopped
        self.stopped: dict[str, Plan] = {}  # likewise, by its operator
        self.life = Life()
        self.turn_ms = NEVER  # the clock at which a campaign's date is reached
        self._clock_ms = 0
        self._versions: dict[tuple[str, str], Plan] = {}
        self._until: dict[tuple[str, str], int] = {}
        # Of a replaced version whose journeys do not drain: the new version, its `on_edit`, the edit's offset.
        self._edits: dict[tuple[str, str], tuple[str, str, int]] = {}
        self.generation = -1  # offset of the control record that made the present list; -1 before the first
        self._changed = False
        self._offset = -1
        self._texts: dict[bytes, bytes] = {}
        self._unnamed: list[bytes] = []
        self._known: set[bytes] = set()  # keys of the present list and of the texts it names
        for plan in fixed or ():
            self.live[plan.id] = self._versions[plan.id, plan.version] = plan
        if META_CLOCK in meta:
            _, _, self._clock_ms, self.generation, *_ = _unpack(meta[META_CLOCK])
            self._restore(meta)
        self.routes: dict[str, Route] = {}
        self.dated: tuple[Plan, ...] = ()
        self._rebuild()

    def plan_of(self, plan_id: str, version: str) -> Plan | None:
        """Find the plan of an instance; None once its campaign is withdrawn or its version retired."""
        return self._versions.get((plan_id, version))

    def after_edits(self, journey: Journey) -> tuple[Plan | None, int]:
        """Find the version a journey runs on now, and the offset from which it does; None: an edit ended it.

        An edit concerns the journeys that ran when it was published. It takes effect when they are looked at next.
        """
        version, joined = journey.version, journey.joined
        while True:
            edit = self._edits.get((journey.campaign, version))
            if edit is None or joined >= edit[2]:
                break
            version, mode, joined = edit
            if mode != MIGRATE:
                return None, joined
        return self.plan_of(journey.campaign, version), joined

    def settled(self, journey: Journey) -> Plan | None:
        """Find the plan of a journey that no edit and no end of its campaign can concern; None: `after_edits` knows."""
        plan = None if self._edits else self._versions.get((journey.campaign, journey.version))
        return plan if plan is not None and journey.joined >= plan.since_offset else None

    def newest(self, plan_id: str) -> Plan | None:
        """Find any version of a campaign that still drains."""
        return next((plan for (name, _), plan in self._versions.items() if name == plan_id), None)

    def take_changes(self) -> dict[bytes, bytes | None]:
        """Hand over the meta entries changed since the last call, in the order in which they must be written.

        A crash may cut an epoch's records anywhere. So a new list is written beside the old one and counts only once
        the epoch's last record, META_CLOCK, names it; what it no longer names is removed an epoch later.
        """
        changes: dict[bytes, bytes | None] = dict.fromkeys(self._unnamed)
        self._unnamed = []
        if self._changed:
            self._changed = False
            here = META_LIST + str(self.generation).encode()
            stopped = {(plan.id, plan.version) for plan in [*self.suspended.values(), *self.stopped.values()]}
            listed = {here} | {_text_key(name, version) for name, version in self._versions.keys() | stopped}
            if self.policy is not None:
                listed.add(_text_key(POLICY_NAME, self.policy.version))
            changes.update((key, text) for key, text in self._texts.items() if key in listed)
            self._unnamed = [key for key in self._known if key not in listed]
            self._known = listed
            self._texts = {}
            changes[here] = _pack(self._listed())
        return changes

    def _change(self) -> None:
        self._changed = True
        self.generation = self._offset

    def _listed(self) -> list[Any]:
        rows: list[Any] = [
            [p.id, p.version, state, self._until.get((p.id, p.version), 0), p.since_offset, p.since_ms,
             *self._edits.get((p.id, p.version), ())]
            for p, state in self._states()
        ]  # fmt: skip
        rows += [[name, "", STOP, 0, offset, 0] for name, offset in sorted(self.life.stops.items())]
        for name, spans in sorted(self.life.held.items()):
            rows += [[name, "", HELD, end_ms, 0, begin_ms] for begin_ms, end_ms in spans]
        if self.policy is not None:
            rows.append([POLICY_NAME, self.policy.version, POLICY, self.partitions, *self._policy_at])
        return rows

    def _states(self) -> list[tuple[Plan, str]]:
        stored = {PAUSED: PAUSED, DRAINING: HELD_BACK}
        found = [
            (p, stored.get(self.life.said.get(p.id, ""), LIVE) if self.live.get(p.id) is p else DRAINING)
            for p in self._versions.values()
        ]
        found += [(plan, SUSPENDED) for plan in self.suspended.values()]
        found += [(plan, STOPPED) for plan in self.stopped.values()]
        return sorted(found, key=lambda item: (item[0].id, item[0].version))

    def _restore(self, meta: Mapping[bytes, bytes]) -> None:
        if self.generation < 0:
            return
        here = META_LIST + str(self.generation).encode()
        if here not in meta:
            raise StateError(f"campaigns: the list of offset {self.generation} is missing; rebuild the store")
        self._known.add(here)
        listed = sorted(_unpack(meta[here]))
        for name, version, state, until, since_offset, since_ms, *edit in listed:
            if state == STOP:
                self.life.stops[name] = since_offset
                continue
            if state == HELD:
                self.life.held.setdefault(name, []).append((since_ms, until))
                continue
            if self.fixed:
                self._restore_given(name, state, since_offset, since_ms)
                continue
            key = _text_key(name, version)
            path, text = _unpack(meta[key])
            if state == POLICY:
                self._known.add(key)
                self.policy, self.partitions = load_policy(text, path)[0], until
                self._policy_at = since_offset, since_ms
                continue
            campaign, _ = load_campaign(text, path)
            if campaign is None:
                continue  # a later build refuses what an earlier one took: it drains no further
            campaign.source.update({"path": path, "yaml": text})
            plan = Plan(campaign)
            plan.since_offset, plan.since_ms = since_offset, since_ms
            self._known.add(key)
            if state in (SUSPENDED, STOPPED):
                (self.suspended if state == SUSPENDED else self.stopped)[name] = plan
            else:
                self._restore_version(plan, state, until)
            if edit:
                self._edits[name, version] = (edit[0], edit[1], edit[2])

    def _restore_given(self, name: str, state: str, since_offset: int, since_ms: int) -> None:
        if state == STOPPED and name in self.live:
            plan = self.live.pop(name)
            del self._versions[name, plan.version]
            self.stopped[name] = _since(plan, since_offset, since_ms)
        elif state in (LIVE, PAUSED, HELD_BACK) and name in self.live:
            if since_offset != self.live[name].since_offset:  # it was stopped, and began again
                self._add(_since(self.live[name], since_offset, since_ms), LIVE, 0)
            if state != LIVE:
                self.life.said[name] = PAUSED if state == PAUSED else DRAINING

    def _restore_version(self, plan: Plan, state: str, until: int) -> None:
        said = {PAUSED: PAUSED, HELD_BACK: DRAINING}.get(state)
        if said is not None:
            self.life.said[plan.id] = said
        self._add(plan, state if said is None else LIVE, until)

    def turn(self, clock_ms: int) -> None:
        """Learn that the clock has reached a campaign's date."""
        self._clock_ms = clock_ms
        self._rebuild()

    def apply(self, event: Event, offset: int, clock_ms: int) -> str:
        """Apply a control record. Returns the findings as text if the campaign cannot be run, else ''."""
        name = event.data.get("campaign")
        self._offset, self._clock_ms = offset, clock_ms
        if event.type in LIFE_TYPES:  # of campaigns that are given as well: a replay repeats what its operators did
            if isinstance(name, str):
                self._live_on(name, event.type, clock_ms)
            return ""
        if self.fixed:
            if event.type == CAMPAIGN_PUBLISHED and isinstance(name, str):
                self._begin_again(name, clock_ms)
            return ""
        self._retire(clock_ms)
        if event.type in (POLICY_PUBLISHED, POLICY_WITHDRAWN):
            return self._apply_policy(event, offset, clock_ms)
        if event.type != CAMPAIGN_PUBLISHED:
            if isinstance(name, str):
                self._stop(name, event, clock_ms)
            return ""
        text, path = event.data.get("yaml"), event.data.get("path")
        if not isinstance(text, str):
            return "campaign.published: data.yaml must be the campaign's text; publish it with 'campaigns publish'"
        campaign, findings = load_campaign(text, path if isinstance(path, str) else "campaign.yaml")
        if campaign is None or errors(findings):
            return "; ".join(str(f) for f in errors(findings)) or "campaign.published: no campaign in data.yaml"
        self._publish(campaign, text, path if isinstance(path, str) else "", offset, clock_ms)
        return ""

    def _live_on(self, name: str, type_: str, clock_ms: int) -> None:
        """Pause, resume, drain or stop a campaign."""
        plan = self.live.get(name)
        if type_ == CAMPAIGN_STOPPED:
            if plan is not None:
                self.stopped[name] = _since(plan, self._offset, clock_ms)
                self.life.forget(name)
            if plan is not None or self.newest(name) is not None:
                self.life.stops[name] = self._offset
                self._withdraw(name)
            return
        paused = self.life.pauses(name)
        if not self.life.follow(name, type_, clock_ms, runs=plan is not None):
            return
        for ref in [ref for ref in self._until if paused and ref[0] == name]:  # it stood still meanwhile
            self._until[ref] = clock_ms + self._versions[ref].horizon_ms()
        self._change()
        self._rebuild()

    def _begin_again(self, name: str, clock_ms: int) -> None:
        """A given campaign is published on the log: whatever its text is there, that ends its drain or its stop."""
        stopped = self.stopped.pop(name, None)
        if stopped is not None:
            self._add(_since(stopped, self._offset, clock_ms), LIVE, 0)
        elif self.life.said.get(name) == DRAINING:
            self.life.release(name, clock_ms)
        else:
            return
        self._change()
        self._rebuild()

    def _apply_policy(self, event: Event, offset: int, clock_ms: int) -> str:
        if event.type == POLICY_WITHDRAWN:
            if self.policy is not None:
                self.policy = None
                self._change()
            return ""
        text, path, partitions = (event.data.get(name) for name in ("yaml", "path", "partitions"))
        if not isinstance(text, str):
            return "policy.published: data.yaml must be the policies' text; publish them with 'campaigns publish'"
        path = path if isinstance(path, str) else POLICY_NAME
        policy, findings = load_policy(text, path)
        if policy is None:
            return "; ".join(map(str, errors(findings)))
        self.policy, self.partitions = policy, max(partitions, 1) if isinstance(partitions, int) else 1
        self._policy_at = offset, clock_ms
        self._texts[_text_key(POLICY_NAME, policy.version)] = _pack([path, text])
        self._change()
        return ""

    def view(self) -> list[dict[str, Any]]:
        """List every version: campaign, version, state, offset it was published at; the policies as one more."""
        rows = [
            {
                "campaign": plan.id,
                "version": plan.version,
                "state": self.life.state_of(plan, self._clock_ms) if self.live.get(plan.id) is plan else state,
                "since_offset": plan.since_offset,
                "title": plan.campaign.title,
                "pattern": plan.campaign.pattern,
            }
            for plan, state in self._states()
        ]
        if self.policy is not None:
            rows.append(
                {
                    "campaign": POLICY_NAME,
                    "version": self.policy.version,
                    "state": LIVE,
                    "since_offset": self._policy_at[0],
                    "title": "",
                    "pattern": "",
                }
            )
        return rows

    def _add(self, plan: Plan, state: str, until: int) -> None:
        ref = (plan.id, plan.version)
        self._versions[ref] = plan
        if state == LIVE:
            self.live[plan.id] = plan
        else:
            self._until[ref] = until

    def _publish(self, campaign: Campaign, text: str, path: str, offset: int, clock_ms: int) -> None:
        name = campaign.campaign
        if self.suspended.pop(name, None) is not None or self.stopped.pop(name, None) is not None:
            self._change()
        if self.life.said.get(name) == DRAINING:  # published again it begins again; a pause stays
            self.life.release(name, clock_ms)
            self._change()
            self._rebuild()
        old = self.live.get(name)
        if old is not None and old.version == campaign.version:
            return
        if old is not None:
            self._drain(old, clock_ms)
        plan = self._versions.get((name, campaign.version))
        if plan is None:  # else it still drains: its instances are its own
            plan = Plan(campaign)
            plan.since_offset, plan.since_ms = offset, clock_ms
        plan.campaign.source.update({"path": path, "yaml": text})
        self._texts[_text_key(plan.id, plan.version)] = _pack([path, text])
        self._until.pop((plan.id, plan.version), None)
        self._edits.pop((plan.id, plan.version), None)
        if old is not None and campaign.on_edit != DRAIN:
            self._edits[old.id, old.version] = (plan.version, campaign.on_edit, offset)
        self._add(plan, LIVE, 0)
        self._change()
        self._rebuild()

    def _drain(self, plan: Plan, clock_ms: int) -> None:
        self._until[plan.id, plan.version] = clock_ms + plan.horizon_ms()
        self._change()

    def _stop(self, name: str, event: Event, clock_ms: int) -> None:
        """Withdraw a campaign, or suspend it: the same, but that it is remembered as stopped, and until when it ran."""
        plan = self.live.get(name)
        if event.type == CAMPAIGN_SUSPENDED:
            if plan is None or plan.version != event.data.get("version"):
                return  # said twice, or of a version that was replaced meanwhile
            self.suspended[name] = _since(plan, self._offset, clock_ms)
            self._change()
        elif self.suspended.pop(name, None) is not None or self.stopped.pop(name, None) is not None:
            self._change()
        self.life.forget(name)
        self._withdraw(name)

    def _withdraw(self, name: str) -> None:
        self.live.pop(name, None)
        self._forget(ref for ref in list(self._versions) if ref[0] == name)

    def _retire(self, clock_ms: int) -> None:
        over = [ref for ref, until in self._until.items() if until < clock_ms]
        self._forget([ref for ref in over if not self.life.pauses(ref[0])])

    def _forget(self, refs: Iterable[tuple[str, str]]) -> None:
        for name, version in list(refs):
            self._versions.pop((name, version), None)
            self._until.pop((name, version), None)
            self._edits.pop((name, version), None)
            self._change()
        self._rebuild()

    def _rebuild(self) -> None:
        live = sorted(self.live.values(), key=lambda plan: plan.id)
        clock_ms = self._clock_ms
        states = {plan.id: self.life.state_of(plan, clock_ms) for plan in live}
        draining = [plan for plan in self._versions.values() if self.live.get(plan.id) is not plan]
        # What begins nothing now is like a version that drains: it keeps histories, and what runs goes on.
        idle = [plan for plan in live if states[plan.id] != LIVE]
        self.routes = build_routes([plan for plan in live if states[plan.id] == LIVE], [*idle, *draining])
        self.dated = tuple(plan for plan in live if plan.dated and states[plan.id] != ENDED)
        self.turn_ms = next_turn(live, clock_ms)


def named_meta(meta: Mapping[bytes, bytes]) -> dict[bytes, bytes]:
    """Keep what META_CLOCK names: of two stores of one log only that must be equal; older lists may lie about."""
    if META_CLOCK not in meta:
        return {}
    here = META_LIST + str(_unpack(meta[META_CLOCK])[3]).encode()
    rows = _unpack(meta[here]) if here in meta else []
    keys = [META_CLOCK, here, *(_text_key(row[0], row[1]) for row in rows)]
    return {key: meta[key] for key in keys if key in meta}


def _since(plan: Plan, offset: int, clock_ms: int) -> Plan:
    """Make the same plan with another place in the log; given ones are shared by partitions."""
    again = Plan(plan.campaign)
    again.since_offset, again.since_ms = offset, clock_ms
    return again


def _text_key(name: str, version: str) -> bytes:
    return META_TEXT + f"{name}/{version}".encode()
