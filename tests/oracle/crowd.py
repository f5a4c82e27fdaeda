"""The oracle of all together: journeys, cascades and plain sends of all members under policies, record by record.

Journeys alone are `journeys.py`, with operators and dates `life.py`; one verdict is `policies.py`. Here they meet, as
docs/policies.md says: what a step of a record asks for is judged at its end, the highest priority first. Every verdict
is found anew from the whole log and from all messages let through before. A plain send is a flow of one step.

    timers   journeys whose wait or hold is over, and matches by the clock; by due, member, campaign, start
    edits    of flows, while the pattern stays: they take effect when a journey is looked at next
    own      what the record itself moves: journeys, oldest first, then matches, by campaign
"""

import contextlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import yaml

from schemas.ids import command_id
from tests.oracle.cascades import Cascade
from tests.oracle.definitions import Read
from tests.oracle.journeys import Entry, chosen, named, walk_steps
from tests.oracle.language import read_campaign, span_ms
from tests.oracle.life import KINDS, STEP_MS, LifeFollower, LifeWalk, Stands, walk_of
from tests.oracle.policies import Message, Rules, forget, last_profile, unreachable, verdict

LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
Ask = tuple[int, tuple[Any, ...], "Member"]  # priority, place among timers, who


def read_yaml(text: str) -> Any:
    """Read what the log publishes."""
    return yaml.load(text, LOADER)  # noqa: S506 - the safe one, in C where it is there


class Member(LifeFollower):
    """One journey among the others. It asks for a message only when it is its turn."""

    crowd: "Crowd"
    explicit: bool
    version: int
    joined: int

    def resume(self) -> None:
        """Ask again: a hold is over, or its turn has come."""
        leg, self.leg, self.held = self.leg, None, None
        if leg is None:
            self.resuming = True
            self.walk()
            return
        leg.leg -= 1
        with contextlib.suppress(Stands):
            if leg.go_on(self, ""):
                self.walk()

    def end(self, outcome: str, reason: str) -> None:
        """Come to an end; of the flow that a plain send is, an end by itself is not said."""
        before = len(self.lines)
        super().end(outcome, reason)
        if not self.explicit and reason == "end":
            del self.lines[before:]

    def wakes(self) -> int:
        """The clock at which its wait or hold is over."""
        return self.until + self.plan.lateness_ms if self.held is None else self.held

    def gone(self, clock: int) -> bool:
        """Look at it: end it if its campaign was stopped, follow what edits said, before the record at hand."""
        over = ""
        if (self.plan.campaign, KINDS[3]) in [said[1:] for said in self.said if said[0] < self.at]:
            over = "stopped"
        elif self.explicit:
            version, joined = self.crowd.editions[self.plan.campaign].after(self.version, self.joined)
            if version is None or (joined != self.joined and not self.migrate(version, joined)):
                over = "edited"
        if over:
            self.move(0, clock, None, None, self.profile)
            self.end("exited", over)
        return self.over

    def migrate(self, version: int, joined: int) -> bool:
        """Go on in another version at the step of the same name and kind; False where there is none."""
        campaign = self.crowd.editions[self.plan.campaign].texts[version]
        names = named(campaign["flow"])
        cascades = {names[id(step)]: step["cascade"] for step in walk_steps(campaign["flow"]) if "cascade" in step}
        legs: Cascade | None = self.leg if self.held is not None else self.waiting.get("cascade")
        here: Any = None if legs is not None else self.waiting if self.held is None else self.stack[-1][0]
        name = self.names[id(here)] if legs is None else legs.name
        kind = "cascade" if legs is not None else next(k for k in ("send", "wait") if k in here)
        found = [step for step in walk_steps(campaign["flow"]) if names[id(step)] == name]
        if not found or kind not in found[0]:
            return False
        self.cascades = [known for known in self.cascades if cascades.get(known.name) == known.written]
        self.campaign, self.names, self.version, self.joined = campaign, names, version, joined
        self.stack = behind(campaign["flow"], found[0]) or []
        if legs is None and self.held is None:
            self.waiting = found[0]
        elif legs is None:
            self.stack[-1].insert(0, found[0])
        return True

    def wake(self, clock: int) -> None:
        """Go on: a wait or a hold is over."""
        if self.gone(clock):
            return
        wait, held, due = self.waiting.get("wait"), self.held is not None, self.wakes() - self.plan.lateness_ms
        if not held and isinstance(wait, Mapping) and "until" in wait:
            self.outcomes = self.outcomes | {self.names[id(self.waiting)]: "timeout"}
        self.move(due, clock, due, None, last_profile(self.crowd.past(self)))
        with contextlib.suppress(Stands):
            if held:
                self.resume()
            elif wait is not None or self.cascades[-1].go_on(self, "timeout"):
                self.walk()

    def meet(self, r: Read, clock: int) -> None:
        """Read an event of the member."""
        if r.too_old or self.gone(clock):
            return
        i = self.entry.instance
        if self.explicit:
            self.see(r, clock)
        elif self.campaign.get("on_late") == "cancel" and i.at < len(self.plan.steps) and self.crowd.walk.broken(i):
            self.move(0, clock, None, None, r.profile)
            self.end("exited", "late_event")

    def stand(self, steps: Sequence[Any]) -> None:
        """Stay before the message at hand."""
        self.leg = None if steps else self.cascades[-1]
        self.stack[-1][:0] = steps
        self.waiting = {"wait": ""}
        raise Stands

    def send(self, name: str, send: Mapping[str, Any], variants: Mapping[str, Any] | None = None) -> None:
        """Ask for a message: wait for the turn, stand in a pause, or hear the verdict."""
        steps = [step for step in walk_steps(self.campaign["flow"]) if self.names[id(step)] == name]
        spec = send if steps else {**self.cascades[-1].shared, **send}
        if self.crowd.defers():
            self.crowd.asked.append((int(spec.get("priority", 50)), self.place(), self))
            self.stand(steps)
        variant = ""
        if variants:
            texts = {k: v if isinstance(v, Mapping) else {} for k, v in variants.items()}
            variant = chosen(self, name, [(k, texts[k].get("weight", 1)) for k in texts])
        wanted = self.clock if self.wanted is None else self.wanted
        command = command_id(self.id, name, variant)
        about: dict[str, Any] = {"step": name, "variant": variant, "command": command}
        group = "" if steps else f"{self.id} {self.cascades[-1].name}"
        firing = {"campaign": self.plan.campaign, "member_id": self.entry.instance.member_id, "command_id": command}
        m = Message(firing, spec, self.clock, self.at, self.crowd.timers, self.crowd.past(self), wanted, group=group)
        said = self.judged(m)
        if said in ("paused", "held"):
            if said == "held":
                self.say("held", "quiet_hours", **about)
            elif self.outcomes.get(name) != "paused":
                self.say("held", "paused", **about)
            self.outcomes = self.outcomes | ({name: "paused"} if said == "paused" else {})
            self.wanted, self.held = wanted, m.until
            self.stand(steps)
        self.wanted = None
        self.outcomes = self.outcomes | {name: said}
        if said == "sent":
            self.say("eligible", "sent_to_delivery", **about)
        else:
            self.say("suppressed", said, **about)

    def judged(self, m: Message) -> str:
        """A pause comes before all else; without policies only consent and address are asked."""
        if self.paused():
            m.until = min(self.clock + STEP_MS, m.first + span_ms(m.send.get("lifetime", "1d")) - 1)
            return "paused" if m.until > self.clock else "expired"
        return self.crowd.judge(m)

    def place(self) -> tuple[Any, ...]:
        """Where it comes by itself among timers."""
        i = self.entry.instance
        return (self.due or 0, i.member_id, self.plan.campaign, i.order)


def behind(steps: Sequence[Any], step: Any) -> list[list[Any]] | None:
    """The steps that follow one, innermost list last; None if it is not among these."""
    for number, known in enumerate(steps):
        ways = [case.get("then", case.get("else", [])) for case in known.get("branch", [])]
        ways += [(arm or {}).get("then", []) for arm in (known.get("split") or {}).values()]
        inner = [[]] if known is step else next((found for way in ways if (found := behind(way, step))), None)
        if inner is not None:
            rest = list(steps[number + 1 :])
            return [rest] if known is step else [rest, *inner]
    return None


def meaning(text: Mapping[str, Any]) -> Mapping[str, Any]:
    """A campaign's text without `on_edit`, which is no part of what it means; a list of one means that one."""
    return {
        key: value[0] if key in ("goal", "exit_on") and isinstance(value, list) and len(value) == 1 else value
        for key, value in text.items()
        if key != "on_edit"
    }


@dataclass
class Editions:
    """The versions of one campaign. `published`: (offset, number of the text, `on_edit`), each unlike the last."""

    texts: list[Mapping[str, Any]]
    published: list[tuple[int, int, str]]

    def publish(self, offset: int, text: Mapping[str, Any]) -> None:
        """Take a text that the log publishes; one that means what the last did is no edit."""
        text, mode = meaning(text), text.get("on_edit", "drain")
        if text not in self.texts:
            self.texts.append(text)
        number = self.texts.index(text)
        if number != self.published[-1][1]:
            self.published.append((offset, number, mode))

    def at(self, offset: int) -> int:
        """The version that is live when a record is read."""
        return [number for known, number, _ in self.published if known < offset][-1]

    def after(self, version: int, joined: int) -> tuple[int | None, int]:
        """The version in which a journey goes on, and since when; None where an edit ended it."""
        while version != self.published[-1][1]:
            place = max(n for n, (_, number, _) in enumerate(self.published) if number == version)
            offset, number, mode = self.published[place + 1]
            if mode == "drain" or joined >= offset:
                break
            if mode == "drop":
                return None, offset
            version, joined = number, offset
        return version, joined


@dataclass
class Crowd:
    """All journeys of a partition. `contest`: messages judged in the present one; `sent`: all that were let through."""

    partition: int
    walk: LifeWalk
    editions: Mapping[str, Editions]
    rules: Rules | None = None
    asked: list[Ask] = field(default_factory=list)
    contest: list[Message] = field(default_factory=list)
    sent: list[Message] = field(default_factory=list)
    members: list[Member] = field(default_factory=list)
    judging: bool = False
    timers: bool = False
    offset: int = -1

    def defers(self) -> bool:
        """Say whether a message waits for the end of the step."""
        return self.rules is not None and not self.judging

    def past(self, member: Member) -> tuple[Read, ...]:
        """What was read of a member when a message is judged."""
        own = self.walk.history[member.entry.instance.member_id]
        return tuple(x for x in own if x.offset < self.offset + (not self.timers))

    def judge(self, m: Message) -> str:
        """Say what becomes of a message."""
        if self.rules is None:
            return unreachable(m, {}, last_profile(m.past)) or "sent"
        m.verdict = verdict(m, self.rules, self.sent, [x for x in self.contest if x.member_id == m.member_id])
        self.contest.append(m)
        if m.verdict == "sent":
            self.rules.count(m, self.sent)
            self.sent.append(m)
        return m.verdict

    def hold_contest(self) -> None:
        """Ask for what the step wanted."""
        asked, self.asked, self.contest, self.judging = self.asked, [], [], True
        if self.timers:
            asked.sort(key=lambda ask: ask[1])
        for _, _, member in sorted(asked, key=lambda ask: -ask[0]):
            if not member.over:
                member.resume()
        self.judging = False

    def step(self, offset: int, event: Mapping[str, Any], texts: Mapping[str, Mapping[str, Any]]) -> None:
        """Read one record."""
        before = len(self.walk.entries)
        self.walk.read(offset, event)
        fresh, self.offset, clock = self.walk.entries[before:], offset, self.walk.clock
        self.timers = True
        ready = [m for m in self.members if not m.over and clock >= m.wakes()]
        for m in sorted(ready, key=lambda m: (m.wakes() - m.plan.lateness_ms, *m.place()[1:])):
            m.at = offset
            m.wake(clock)
        for entry in fresh:
            if entry.due is not None:
                self.begin(entry, texts)
        self.hold_contest()
        self.timers = False
        own = self.walk.history.get(str(event.get("member_id")), [])
        if own and own[-1].offset == offset:  # else a tick, nobody's, or read before
            for m in [m for m in self.members if m.entry.instance.member_id == own[-1].member_id and not m.over]:
                m.at = offset
                m.meet(own[-1], clock)
        for entry in fresh:
            if entry.due is None:
                self.begin(entry, texts)
        self.hold_contest()
        if event["type"] in ("policy.published", "policy.withdrawn"):
            self.publish(event)
        elif event["type"] == "campaign.published" and event["data"]["campaign"] in self.editions:
            self.editions[event["data"]["campaign"]].publish(offset, read_yaml(event["data"]["yaml"]))

    def publish(self, event: Mapping[str, Any]) -> None:
        """Take the policies that hold from the next record on."""
        data = event["data"]
        self.rules = None
        if event["type"] == "policy.published":
            self.rules = Rules(read_yaml(data["yaml"]), self.partition, data["partitions"])
        forget(self.rules, self.sent)

    def begin(self, entry: Entry, texts: Mapping[str, Mapping[str, Any]]) -> None:
        """Begin a journey at a match."""
        i = entry.instance
        campaign = texts.get(i.plan.campaign)
        if campaign is None:
            return
        explicit, version = "flow" in campaign, 0
        if explicit:
            version = self.editions[i.plan.campaign].at(self.walk.began[i.order])
            campaign = self.editions[i.plan.campaign].texts[version]
        else:
            campaign = {**campaign, "flow": [{"send": campaign["send"]}]}
        own = self.walk.history[i.member_id]
        profile: Mapping[str, Any] = next((r.profile for r in reversed(own) if r.offset <= entry.read_up_to), {})
        m = Member(entry, campaign, i.plan, named(campaign["flow"]), 0, 0, profile, entry.due, entry.by)
        m.crowd, m.explicit, m.at, m.said = self, explicit, self.offset, self.walk.said
        m.version, m.joined = version, self.offset
        m.stack, m.wanted, m.told, m.held, m.leg, m.resuming = [list(campaign["flow"])], None, False, None, None, False
        self.members.append(m)
        m.move(entry.e, entry.clock, entry.due, entry.by, profile)
        m.walk()


def crowd(
    campaigns: Sequence[Mapping[str, Any]], events: Sequence[Mapping[str, Any]], partition: int = 0
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """What a log says of journeys and messages, and all firings. Policies are those that the log publishes.

    Args:
        campaigns: campaign files, as `life` takes them.
        events: the lines of one partition's log, control records too; the offset is the index.
        partition: its number, for its share of budgets.
    """
    plans = sorted((read_campaign(c) for c in campaigns), key=lambda plan: plan.campaign)
    first = {c["campaign"]: json.loads(json.dumps(c)) for c in campaigns if "flow" in c}
    found = Crowd(
        partition, walk_of(campaigns, plans), {name: Editions([meaning(c)], [(-1, 0, "")]) for name, c in first.items()}
    )
    texts = {c["campaign"]: c for c in campaigns if "flow" in c or "send" in c}
    for offset, event in enumerate(events):
        found.step(offset, event, texts)
    return [line for m in found.members for line in m.lines], found.walk.output
