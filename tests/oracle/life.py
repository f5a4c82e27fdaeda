"""The oracle of a campaign's life: dates, and what operators said, straight from docs/campaigns.md.

begins   an event is a campaign's first step only if it was read while start <= C < end, and while the campaign was
         neither paused nor draining nor stopped
pause    a journey that comes to a message stands and asks again every 15 minutes of the clock, and 1 ms before the
         message is of no use; at a command about the member every 15 minutes, or an eighth of what it has waited, or
         a day: the longest but for the day, which is the most
stop     instances are gone; a journey is over when it is looked at next: by an event of its member, or by its timer
"""

import contextlib
import math
import random
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from schemas.ids import command_id
from tests.oracle.cascade_cases import cascade_case
from tests.oracle.cascades import Cascade
from tests.oracle.definitions import Read, time_ms
from tests.oracle.evaluate import Instance, Match
from tests.oracle.flows import flow_case
from tests.oracle.generate import ATTRIBUTES
from tests.oracle.journeys import Entry, EntryWalk, Follower, chosen, named, walk_steps
from tests.oracle.language import Plan, read_campaign, span_ms

STEP_MS = 15 * 60_000
KINDS = ("campaign.paused", "campaign.resumed", "campaign.drained", "campaign.stopped")
Said = tuple[int, str, str]  # offset, campaign, type


class LifeWalk(EntryWalk):
    """The walk, in which campaigns may begin nothing for a while."""

    dates: dict[str, tuple[float, float]]
    state: dict[str, str]
    begun: dict[int, set[str]]
    said: list[Said]
    began: dict[int, int]  # by an instance's number: the offset at which it began

    def _start(self, plan: Plan, r: Read, match: Match) -> None:
        self.began[self.started + 1] = r.offset
        super()._start(plan, r, match)

    def _timers(self, offset: int) -> None:
        self.begun[offset] = {
            plan.campaign
            for plan in self.plans
            if self.dates[plan.campaign][0] <= self.clock < self.dates[plan.campaign][1]
            and self.state.get(plan.campaign, KINDS[1]) == KINDS[1]
        }
        super()._timers(offset)

    def _begins(self, plan: Plan, x: Read) -> bool:
        return plan.campaign in self.begun[x.offset]

    def broken(self, i: Instance) -> bool:
        """Say whether the absence that fired is broken by what was read since (SEMANTICS 25)."""
        return self._cancelled(i)

    def read(self, offset: int, event: Mapping[str, Any]) -> None:
        """Process one line; a control record says something of a campaign."""
        super().read(offset, event)
        if event["type"] not in KINDS:
            return
        name = event["data"]["campaign"]
        if self.state.get(name) == KINDS[3]:
            return
        self.state[name] = event["type"]
        self.said.append((offset, name, event["type"]))
        if event["type"] == KINDS[3]:
            self.live: list[Instance] = [i for i in self.live if i.plan.campaign != name]


class LifeFollower(Follower):
    """One journey; `at` is the offset at which it moves."""

    at: int
    said: Sequence[Said]
    held: int | None
    wanted: int | None
    told: bool
    leg: Cascade | None
    resuming: bool

    def paused(self) -> bool:
        """Say whether the campaign is paused before the record at hand."""
        mine = [kind for offset, name, kind in self.said if name == self.plan.campaign and offset < self.at]
        return bool(mine) and mine[-1] == KINDS[0]

    def walk(self) -> None:
        """Do what is next until a step waits, a message is held, or nothing is left."""
        if not self.resuming:
            self.wanted, self.told = None, False
        self.held, self.leg, self.resuming = None, None, False
        with contextlib.suppress(Stands):
            super().walk()

    def resume(self) -> None:
        """Ask again for what is held."""
        self.held, leg = None, self.leg
        self.leg, self.resuming = None, leg is None
        if leg is not None:
            leg.leg -= 1
            with contextlib.suppress(Stands):
                if not leg.go_on(self, ""):
                    return
            if self.held is not None:
                return
        self.walk()

    def see(self, r: Read, clock: int) -> None:
        """Read an event of the member."""
        with contextlib.suppress(Stands):
            super().see(r, clock)

    def act(self, step: Any) -> None:
        """Issue a command; in a pause stand, however long."""
        if not self.paused():
            self.wanted, self.told = None, False
            super().act(step)
            return
        if not self.told:
            self.say("held", "paused")
            self.wanted = self.clock
        waited = self.clock - (self.wanted or 0)
        self.told, self.held = (
            True,
            self.clock + (STEP_MS if waited < 8 * STEP_MS else min(waited // 8, 3_600_000)),
        )
        self.stack[-1].insert(0, step)
        self.waiting = {"wait": ""}
        raise Stands

    def send(self, name: str, send: Mapping[str, Any], variants: Mapping[str, Any] | None = None) -> None:
        """Send a message; in a pause stand, as long as it is of use."""
        wanted = self.clock if self.wanted is None else self.wanted
        steps = [step for step in walk_steps(self.campaign["flow"]) if self.names[id(step)] == name]
        shared = {} if steps else self.cascades[-1].shared
        until = min(self.clock + STEP_MS, wanted + span_ms(shared.get("lifetime", "1d")) - 1)
        if not self.paused():
            self.wanted, self.told = None, False
            super().send(name, send, variants)
        elif until > self.clock:
            if not self.told:
                self.say("held", "paused")
            self.told, self.wanted, self.held = True, wanted, until
            self.outcomes = self.outcomes | {name: "paused"}
            self.leg = None if steps else self.cascades[-1]
            self.stack[-1][:0] = steps
            self.waiting = {"wait": ""}
            raise Stands
        else:
            self.wanted, self.told = None, False
            self.outcomes = self.outcomes | {name: "expired"}
            texts = {k: v if isinstance(v, Mapping) else {} for k, v in (variants or {}).items()}
            variant = chosen(self, name, [(k, texts[k].get("weight", 1)) for k in texts]) if texts else ""
            self.say("suppressed", "expired", step=name, variant=variant, command=command_id(self.id, name, variant))


class Stands(Exception):
    """A journey stands at a message that is held."""


def walk_of(campaigns: Sequence[Mapping[str, Any]], plans: Sequence[Plan]) -> LifeWalk:
    """Begin a walk that knows the campaigns' dates."""
    walk = LifeWalk(plans, True)
    walk.entries, walk.state, walk.begun, walk.said, walk.began = [], {}, {}, [], {}
    walk.dates = {
        c["campaign"]: (time_ms(c["start"]) if "start" in c else 0, time_ms(c["end"]) if "end" in c else math.inf)
        for c in campaigns
    }
    return walk


def life(
    campaigns: Sequence[Mapping[str, Any]], events: Sequence[Mapping[str, Any]]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """What the journeys of a log say, and all firings, where campaigns have dates and operators.

    Args:
        campaigns: campaign files; `start` and `end`, if any, are RFC 3339 texts.
        events: the lines of one partition's log; the offset is the index.
    """
    plans = sorted((read_campaign(c) for c in campaigns), key=lambda plan: plan.campaign)
    walk = walk_of(campaigns, plans)
    clocks: list[int] = []
    for offset, event in enumerate(events):
        walk.read(offset, event)
        clocks.append(walk.clock)
    texts = {c["campaign"]: c for c in campaigns if "flow" in c}
    lines: list[dict[str, Any]] = []
    for entry in walk.entries:
        campaign = texts.get(entry.instance.plan.campaign)
        if campaign is not None:
            lines += follow(entry, campaign, walk.history[entry.instance.member_id], clocks, walk.said)
    return lines, walk.output


def follow(
    entry: Entry, campaign: Mapping[str, Any], own: Sequence[Read], clocks: Sequence[int], said: Sequence[Said]
) -> list[dict[str, Any]]:
    """Follow one journey to its end or the log's."""
    reads = {r.offset: r for r in own}
    profile: Mapping[str, Any] = next((r.profile for r in reversed(own) if r.offset <= entry.read_up_to), {})
    plan = entry.instance.plan
    stops = [offset for offset, name, kind in said if name == plan.campaign and kind == KINDS[3]]
    stop = stops[0] if stops else len(clocks)
    f = LifeFollower(entry, campaign, plan, named(campaign["flow"]), 0, 0, profile, entry.due, entry.by)
    f.stack, f.said, f.wanted, f.told = [list(campaign["flow"])], said, None, False
    f.held, f.leg, f.resuming = None, None, False
    f.at = entry.read_up_to + (entry.due is not None)
    f.move(entry.e, entry.clock, entry.due, entry.by, profile)
    f.walk()
    for offset in range(entry.read_up_to + 1, len(clocks)):
        clock, r = clocks[offset], reads.get(offset)
        wakes = f.until + plan.lateness_ms if f.held is None else f.held
        if f.over:
            break
        f.at = offset
        if offset > stop and (clock >= wakes or (r is not None and not r.too_old)):
            f.move(0, clock, None, None, profile)
            f.end("exited", "stopped")
        elif clock >= wakes:
            wait, held, due = f.waiting.get("wait"), f.held is not None, wakes - plan.lateness_ms
            if not held and isinstance(wait, Mapping) and "until" in wait:
                f.outcomes = f.outcomes | {f.names[id(f.waiting)]: "timeout"}
            f.move(due, clock, due, None, profile)
            with contextlib.suppress(Stands):
                if held:
                    f.resume()
                elif wait is not None or f.cascades[-1].go_on(f, "timeout"):
                    f.walk()
        if r is not None:
            profile = r.profile
            if not f.over:
                f.see(r, clock)
    return f.lines


def lists_of(steps: list[Any]) -> list[list[Any]]:
    """List all lists of steps of a flow, inner ones too."""
    found = [steps]
    for step in steps:
        inner = [case.get("then", case.get("else")) for case in step.get("branch", [])]
        inner += [arm["then"] for arm in (step.get("split") or {}).values() if "then" in (arm or {})]
        for more in inner:
            found += lists_of(more)
    return found


def act_of(rng: random.Random, campaign: Mapping[str, Any]) -> dict[str, Any]:
    """Make a step that issues a command about the member. No condition of `generate` looks at these marks."""
    kind = rng.choice(["accrue", "tag", "segment"])
    if kind != "accrue":
        return {kind: {"add": [f"z{rng.randrange(3)}"]} | ({"remove": ["zz"]} if rng.random() < 0.4 else {})}
    named = {s.alias: s.term.specs[0].name for s in read_campaign(campaign).steps if s.alias and s.kind == "one"}
    points = str(rng.choice([5, 0.5, 1_000_000_000]))
    if named and rng.random() < 0.6:
        alias = rng.choice(sorted(named))
        points = f"{alias}.{rng.choice(list(ATTRIBUTES[named[alias]]))}"
    return {"accrue": {"points": points} | ({"expires": "30d"} if rng.random() < 0.5 else {})}


def life_case(seed: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Make a case of flows whose campaigns have dates, on a log in which operators have their say."""
    campaigns, events = cascade_case(seed) if seed % 3 == 2 else flow_case(seed)
    rng = random.Random(f"life {seed}")
    marks = sorted({event["appended_at"] for event in events})
    for campaign in campaigns:
        for steps in lists_of(campaign["flow"]) if rng.random() < 0.5 else ():
            if rng.random() < 0.5:
                steps.insert(rng.randrange(len(steps) + 1 - ("exit" in steps[-1])), act_of(rng, campaign))
        first, last = sorted(rng.choice(marks) + rng.choice([-1, 0, 0, 1]) for _ in "ab")
        if rng.random() < 0.35:
            campaign["start"] = _text(first)
        if rng.random() < 0.25 and last > first:
            campaign["end"] = _text(last)
    for _ in range(rng.choice([0, 1, 2, 4])):
        place = rng.randrange(len(events))
        kind = rng.choice([*KINDS[:3], KINDS[1], KINDS[3], KINDS[3]]) if rng.random() < 0.6 else KINDS[0]
        at = events[place]["appended_at"] + rng.choice([0, 0, 1])
        data = {"campaign": rng.choice(campaigns)["campaign"]}
        said = {"type": kind, "member_id": None, "occurred_at": at, "appended_at": at, "data": data}
        events.insert(place + 1, said)
    for ahead in rng.sample([900_000, 3_600_000, 86_399_999, 2 * 86_400_000], k=2):
        at = max(event["appended_at"] for event in events) + ahead
        events.append({"type": "tick", "member_id": None, "occurred_at": at, "appended_at": at})
    return campaigns, without_strangers(campaigns, events)


def without_strangers(campaigns: list[dict[str, Any]], events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Leave out receipts of messages that have not gone out before them: a pause may have held these."""
    while True:
        try:
            lines, _ = life(campaigns, events)
        except ValueError:  # no campaign of the language; the loader will say so too
            return events
        sent = {line["command"]: line["at"] for line in lines if line["outcome"] == "eligible"}
        kept = [
            event
            for event in events
            if "command_id" not in (event.get("data") or {})
            or sent.get(event["data"]["command_id"], math.inf) <= event["appended_at"]
        ]
        if len(kept) == len(events):
            return events
        events = kept


def _text(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1000, UTC).isoformat(timespec="milliseconds")
