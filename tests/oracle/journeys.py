"""The oracle of journeys: what each says, straight from docs/flows.md, one journey and one record at a time.

A journey depends on nothing but the match that began it and the member's log behind it. So each is followed alone over
the whole log, with nothing remembered but where it stands. It shares no code with streams/ but the hash of ids.

    C      the largest append time read; W = C - lateness
    time   of a journey: the latest of its time before, of W, and of what moved it (an event's e, a due)
    wait   ends at the first record with C >= due + lateness, before that record is read; or by its event, read in the
           wait with e_anchor <= e < due
    exits  any event of goal or exit_on with e >= e_anchor, read after the match, at once
    cascade  legs in order, asked for one by one: see `cascades.py`
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from schemas.ids import command_id, h128, instance_id
from tests.oracle.cascades import Cascade
from tests.oracle.definitions import EPOCH, Read, has
from tests.oracle.evaluate import Instance, Walk
from tests.oracle.language import Plan, Scope, Step, flat, read_campaign, read_expression, read_pattern, span_ms

DAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
MINUTE = timedelta(minutes=1)
LIFETIME_MS = 86_400_000
ADDRESSES = {"email": "email", "sms": "phone", "viber": "phone", "push": "push_token"}


@dataclass(frozen=True)
class Entry:
    """A match that fired: its instance, the last offset read before it, the clock, and what ended the match."""

    instance: Instance
    read_up_to: int
    clock: int
    e: int
    due: int | None
    by: str | None


class EntryWalk(Walk):
    """The walk over one log, with an ear for what fires."""

    entries: list[Entry]

    def _complete(self, i: Instance, read_up_to: int, due: int | None, completed_by: str | None) -> None:
        before = len(self.output)
        super()._complete(i, read_up_to, due, completed_by)
        if len(self.output) > before:
            e = due if due is not None else i.e_prev if i.at else i.e_anchor
            self.entries.append(Entry(i, read_up_to, self.clock, e, due, completed_by))


@dataclass
class Follower:
    """One journey on its way. `line` is what it says, `stack` the steps still before it, innermost list last."""

    entry: Entry
    campaign: Mapping[str, Any]
    plan: Plan
    names: dict[int, str]
    now: int
    clock: int
    profile: Mapping[str, Any]
    due: int | None
    by: str | None
    stack: list[list[Any]] = field(default_factory=list)
    bound: dict[str, Any] = field(default_factory=dict)
    outcomes: dict[str, str] = field(default_factory=dict)
    until: int = 0
    waiting: Any = None
    over: bool = False
    cascades: list[Cascade] = field(default_factory=list)
    lines: list[dict[str, Any]] = field(default_factory=list)

    # --- words ------------------------------------------------------------------------------------------------------

    @property
    def id(self) -> str:
        """The instance's id."""
        i = self.entry.instance
        return instance_id(self.plan.campaign, i.member_id, i.correlation, i.anchor)

    def say(self, outcome: str, reason: str, **more: Any) -> None:
        """Note one decision."""
        line = {"instance": self.id, "outcome": outcome, "reason": reason, "at": self.clock}
        self.lines.append(line | {"due": self.due, "by": self.by} | more)

    def end(self, outcome: str, reason: str) -> None:
        """Come to an end."""
        self.over = True
        self.say(outcome, reason)

    def scope(self, data: Any, profile: Mapping[str, Any]) -> Scope:
        """What names mean for this journey."""
        bound = {**self.entry.instance.bound, **self.bound, "outcome": self.outcomes}
        return Scope(data, self.plan.aliases | frozenset(self.bound) | awaited_names(self.campaign), bound, profile)

    # --- time -------------------------------------------------------------------------------------------------------

    def move(self, nominal: int, clock: int, due: int | None, by: str | None, profile: Mapping[str, Any]) -> None:
        """Take the time of what moves the journey."""
        self.clock, self.due, self.by, self.profile = clock, due, by, profile
        self.now = max(self.now, nominal, clock - self.plan.lateness_ms)

    def zone(self) -> ZoneInfo:
        """The member's zone, else the campaign's."""
        for name in (self.profile.get("timezone"), self.campaign.get("timezone")):
            try:
                return ZoneInfo(name or "")
            except (ValueError, OSError, TypeError, KeyError):
                continue
        return ZoneInfo("UTC")

    def search(self, holds: Any) -> int | None:
        """The first instant from now on, this one or a full minute, at which a condition on local time holds."""
        at = EPOCH + timedelta(milliseconds=self.now)
        zone = self.zone()
        if holds(at.astimezone(zone)):
            return None
        at = at.replace(second=0, microsecond=0)
        while True:
            at += MINUTE
            if holds(at.astimezone(zone)):
                return int((at - EPOCH) / timedelta(milliseconds=1))

    def wait_end(self, wait: Any) -> int | None:
        """Until when a wait lasts."""
        if not isinstance(wait, Mapping):
            return self.now + span_ms(wait)
        if "until" in wait:
            return self.now + span_ms(wait["timeout"])
        if "window" in wait:
            start, end = (minutes(text) for text in wait["window"].split("-"))

            def inside(local: datetime) -> bool:
                m = local.hour * 60 + local.minute
                return start <= m < end if start < end else m >= start or m < end

            return self.search(inside)
        days = [DAYS.index(day.strip()) for day in wait["weekday"].split(",")]
        if "at" not in wait:
            return self.search(lambda local: local.weekday() in days)
        zone = self.zone()
        today = (EPOCH + timedelta(milliseconds=self.now)).astimezone(zone).date()
        for n in range(9):
            day = today + timedelta(days=n)
            m = minutes(wait["at"])
            local = datetime(day.year, day.month, day.day, m // 60, m % 60, tzinfo=zone)
            due = int((local - EPOCH) / timedelta(milliseconds=1))
            if day.weekday() in days and due >= self.now:
                return due if due > self.now else None
        raise AssertionError("no such day")

    # --- steps ------------------------------------------------------------------------------------------------------

    def walk(self) -> None:
        """Do what is next until a step waits or nothing is left."""
        while self.stack and not self.over:
            steps = self.stack[-1]
            if not steps:
                self.stack.pop()
                continue
            step = steps.pop(0)
            if "send" in step:
                self.send(self.names[id(step)], step["send"], step.get("variants"))
            elif "cascade" in step:
                cascade = Cascade(self.names[id(step)], step["cascade"])
                self.cascades.append(cascade)
                if not cascade.go_on(self, ""):
                    return
            elif "wait" in step:
                due = self.wait_end(step["wait"])
                if due is not None:
                    self.until, self.waiting = due, step
                    return
            elif "branch" in step:
                self.stack.append(list(self.way(step["branch"])))
            elif "split" in step:
                arms = step["split"]
                name = self.names[id(step)]
                arm = chosen(self, name, [(label, (arms[label] or {}).get("weight", 1)) for label in arms])
                self.outcomes = self.outcomes | {name: arm}
                self.say("assigned", "split", step=name, variant=arm)
                self.stack.append(list((arms[arm] or {}).get("then", [])))
            elif "exit" in step:
                self.end("exited", step["exit"])
            else:
                self.act(step)
        if not self.over:
            self.end("completed", "end")

    def way(self, cases: Sequence[Any]) -> Sequence[Any]:
        """The steps of the first case that holds."""
        last = self.entry.instance.last.data
        for case in cases:
            if "else" in case:
                return list(case["else"])
            if self.scope(last, self.profile).holds(read_expression(case["if"])):
                return list(case["then"])
        return []

    def act(self, step: Any) -> None:
        """Issue a command about the member, or say why not. What it does to the profile is not followed here."""
        name, kind = self.names[id(step)], next(k for k in ("accrue", "tag", "segment") if k in step)
        asked = step[kind]
        told = {"add": asked.get("add", []), "remove": asked.get("remove", [])}
        if kind == "accrue":
            points = flat(
                self.scope(self.entry.instance.last.data, self.profile).raw(read_expression(asked["points"])[1])
            )
            if len(points) != 1 or isinstance(points[0], str) or not 0 < points[0] <= 1_000_000_000:
                self.outcomes = self.outcomes | {name: "no_points"}
                self.say("suppressed", "no_points", step=name, variant="", command="")
                return
            expires = self.clock + span_ms(asked["expires"]) if "expires" in asked else None
            told = {"points": float(points[0]), "expires": expires}
        self.outcomes = self.outcomes | {name: "done"}
        self.say("issued", kind, step=name, command=command_id(self.id, name, ""), told=told)

    def send(self, name: str, send: Mapping[str, Any], variants: Mapping[str, Any] | None = None) -> None:
        """Send a message, or say why not."""
        variant, template = "", send.get("template")
        if variants:
            texts = {k: v if isinstance(v, Mapping) else {"template": v} for k, v in variants.items()}
            variant = chosen(self, name, [(k, texts[k].get("weight", 1)) for k in texts])
            template = texts[variant]["template"]
        channel = send["channel"]
        about = {"step": name, "variant": variant, "command": command_id(self.id, name, variant)}
        consent = self.profile.get("consent")
        if not isinstance(consent, dict) or consent.get(channel) is not True:
            reason = "no_consent"
        elif not self.profile.get(ADDRESSES[channel]):
            reason = "no_address"
        else:
            scope = self.scope(self.entry.instance.last.data, self.profile)
            found = {k: flat(scope.raw(read_expression(v)[1])) for k, v in send.get("data", {}).items()}
            data = {k: None if not v else v[0] if len(v) == 1 else v for k, v in found.items()}
            self.outcomes = self.outcomes | {name: "sent"}
            self.say("eligible", "sent_to_delivery", **about, template=template, data=data)
            return
        self.outcomes = self.outcomes | {name: reason}
        self.say("suppressed", reason, **about)

    # --- what is read -----------------------------------------------------------------------------------------------

    def see(self, r: Read, clock: int) -> None:
        """Read an event of the member."""
        if r.too_old or r.e < self.entry.instance.e_anchor:
            return
        for key, reason in (("goal", "goal"), ("exit_on", "exit_on")):
            terms = self.campaign.get(key, [])
            if any(self.mine(term, r) for term in (terms if isinstance(terms, list) else [terms])):
                self.move(r.e, clock, None, r.event_id, r.profile)
                self.end("exited", reason)
                return
        if any(cascade.hear(self, r, clock) for cascade in self.cascades):
            return
        wait = self.waiting.get("wait")
        if not isinstance(wait, Mapping) or "until" not in wait or r.e >= self.until:
            return
        if self.mine({"event": wait["until"], "key": wait.get("key", "own")}, r):
            alias = term_of(wait["until"]).alias
            if alias:
                self.bound = self.bound | {alias: r.data}
            self.outcomes = self.outcomes | {self.names[id(self.waiting)]: "happened"}
            self.move(r.e, clock, None, r.event_id, r.profile)
            self.walk()

    def mine(self, term: Any, r: Read) -> bool:
        """Say whether an event is one that the journey looks out for."""
        term = term if isinstance(term, Mapping) else {"event": term}
        if term.get("key", "own") == "own":
            if r.type.startswith(("delivery.", "engagement.")):
                if (r.data or {}).get("instance_id") != self.id:
                    return False
            elif not has(self.plan, self.entry.instance.values, r):
                return False
        specs = term_of(term["event"]).term.specs
        return any(s.name == r.type and self.scope(r.data, r.profile).holds(s.predicate) for s in specs)


def term_of(text: str) -> Step:
    """Read one event term."""
    return read_pattern(text).steps[0]


def minutes(text: str) -> int:
    """Read `09:30` as minutes of the day."""
    hour, _, minute = text.strip().partition(":")
    return int(hour) * 60 + int(minute)


def chosen(follower: Follower, step: str, weights: Sequence[tuple[str, int]]) -> str:
    """Choose by the hash that docs/flows.md gives: 48 bits over the sum of the weights, in the order written."""
    place = int(h128("split", follower.plan.campaign, follower.entry.instance.member_id, step)[:12], 16)
    ways = [label for label, weight in weights for _ in range(weight)]
    return ways[place % len(ways)]


def walk_steps(steps: Sequence[Any]) -> list[Any]:
    """List all steps in the order written."""
    found = []
    for step in steps:
        found.append(step)
        for case in step.get("branch", []):
            found += walk_steps(case.get("then", case.get("else", [])))
        for arm in (step.get("split") or {}).values():
            found += walk_steps((arm or {}).get("then", []))
    return found


def named(steps: Sequence[Any]) -> dict[int, str]:
    """Give each step its name: its own, else its kind with a number from the second on."""
    names: dict[int, str] = {}
    for step in walk_steps(steps):
        kinds = ("send", "cascade", "wait", "branch", "split", "exit", "accrue", "tag", "segment")
        kind = next(k for k in kinds if k in step)
        number, name = 1, step.get("name", kind)
        while name in names.values():
            number += 1
            name = f"{kind}-{number}"
        names[id(step)] = name
    return names


def awaited_names(campaign: Mapping[str, Any]) -> frozenset[str]:
    """Names that a flow's conditions may use beside those of the pattern."""
    waits = [step["wait"] for step in walk_steps(campaign["flow"]) if isinstance(step.get("wait"), Mapping)]
    aliases = [term_of(wait["until"]).alias for wait in waits if "until" in wait]
    return frozenset(["outcome", *(alias for alias in aliases if alias)])


def journeys(
    campaigns: Sequence[Mapping[str, Any]], events: Sequence[Mapping[str, Any]]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Everything that the journeys of a log say, and all firings.

    Args:
        campaigns: campaign files as parsed from YAML.
        events: the lines of one partition's log; the offset is the index.
    """
    plans = sorted((read_campaign(c) for c in campaigns), key=lambda plan: plan.campaign)
    walk = EntryWalk(plans, True)
    walk.entries = []
    clocks: list[int] = []
    for offset, event in enumerate(events):
        walk.read(offset, event)
        clocks.append(walk.clock)
    texts = {c["campaign"]: c for c in campaigns if "flow" in c}
    lines: list[dict[str, Any]] = []
    for entry in walk.entries:
        campaign = texts.get(entry.instance.plan.campaign)
        if campaign is not None:
            lines += follow(entry, campaign, walk.history[entry.instance.member_id], clocks)
    return lines, walk.output


def follow(
    entry: Entry, campaign: Mapping[str, Any], own: Sequence[Read], clocks: Sequence[int]
) -> list[dict[str, Any]]:
    """Follow one journey to its end or the log's."""
    reads = {r.offset: r for r in own}
    profile: Mapping[str, Any] = next((r.profile for r in reversed(own) if r.offset <= entry.read_up_to), {})
    plan = entry.instance.plan
    f = Follower(entry, campaign, plan, named(campaign["flow"]), 0, 0, profile, entry.due, entry.by)
    f.stack = [list(campaign["flow"])]
    f.move(entry.e, entry.clock, entry.due, entry.by, profile)
    f.walk()
    for offset in range(entry.read_up_to + 1, len(clocks)):
        if not f.over and clocks[offset] >= f.until + plan.lateness_ms:
            wait = f.waiting.get("wait")
            if isinstance(wait, Mapping) and "until" in wait:
                f.outcomes = f.outcomes | {f.names[id(f.waiting)]: "timeout"}
            f.move(f.until, clocks[offset], f.until, None, profile)
            if wait is not None or f.cascades[-1].go_on(f, "timeout"):
                f.walk()
        r = reads.get(offset)
        if r is not None:
            profile = r.profile
            if not f.over:
                f.see(r, clocks[offset])
    return f.lines
