"""Random flows for random campaigns, and receipts for what they send: times on the edges, as in `generate`."""

import random
from collections.abc import Mapping, Sequence
from typing import Any

from tests.oracle.generate import (
    ATTRIBUTES,
    MEMBER_TESTS,
    PACE,
    SPANS,
    VIEW,
    WORLDS,
    CampaignMaker,
    LogMaker,
    case,
)
from tests.oracle.journeys import journeys
from tests.oracle.language import read_campaign

ZONES = ["Europe/Berlin", "Asia/Omsk", "America/New_York", "nowhere", None]
WINDOWS = ["09:00-21:00", "08:55-09:00", "22:00-06:00", "00:00-24:00"]
CHANNELS = ["email", "sms", "viber", "push"]
RECEIPTS = ["delivery.delivered", "delivery.bounced", "engagement.opened", "engagement.clicked"]


class FlowMaker:
    """Makes one flow for a campaign of `maker`."""

    def __init__(self, rng: random.Random, maker: CampaignMaker) -> None:
        """Begin a flow."""
        self.rng = rng
        self.maker = maker
        self.steps: list[str] = []
        self.waits: list[str] = []
        self.cascades: list[str] = []
        self.number = 0
        self.cascading = 0  # how many of 100 messages are cascades

    def chance(self, of_100: int) -> bool:
        """True in so many of 100 cases."""
        return self.rng.randrange(100) < of_100

    def name(self, letter: str) -> str:
        """A new step name."""
        self.number += 1
        return f"{letter}{self.number}"

    def span(self) -> str:
        """A short duration, or one of the campaign's."""
        return self.rng.choice([*self.maker.spans, "1s", "8s"])

    def test(self) -> str:
        """A condition of a branch."""
        if self.cascades and self.chance(40):
            came = self.rng.choice([*CHANNELS, "timeout", "no_consent", "bounced"])
            return f"outcome.{self.rng.choice(self.cascades)} = '{came}'"
        roll = self.rng.randrange(100)
        if roll < 45 and self.waits:
            name = self.rng.choice(self.waits)
            return f"outcome.{name} = '{self.rng.choice(['happened', 'timeout'])}'"
        if roll < 60 and self.steps:
            return f"outcome.{self.rng.choice(self.steps)} {self.rng.choice(['=', '!='])} 'sent'"
        if roll < 75:
            return self.rng.choice(MEMBER_TESTS)
        return self.maker.test(self.rng.choice(self.maker.types))

    def event(self) -> str:
        """An event term."""
        if self.chance(20):
            step = f"[step = '{self.rng.choice(self.steps)}']" if self.steps and self.chance(50) else ""
            return self.rng.choice(RECEIPTS) + step
        return self.maker.term()

    def awaited(self) -> Any:
        """An event term, sometimes from any key."""
        return {"event": self.event(), "key": "any"} if self.chance(25) else self.event()

    def step(self, depth: int) -> dict[str, Any]:
        """One step."""
        roll = self.rng.randrange(100)
        if roll < 30:
            return self.send()
        if roll < 75 or depth > 1:
            return self.wait()
        if roll < 88:
            cases: list[Any] = [
                {"if": self.test(), "then": self.list(depth + 1)} for _ in range(self.rng.choice([1, 1, 2]))
            ]
            return {"branch": [*cases, {"else": self.list(depth + 1)}] if self.chance(60) else cases}
        arms: dict[str, Any] = {"a": {"weight": self.rng.choice([1, 3]), "then": self.list(depth + 1)}, "b": None}
        arms["b"] = {"weight": 2} if self.chance(50) else {"then": self.list(depth + 1)}
        name = self.name("p")
        self.steps.append(name)
        return {"split": arms, "name": name}

    def send(self) -> dict[str, Any]:
        """A message."""
        if self.cascading and self.chance(self.cascading):
            return self.cascade()
        data = {
            f"{alias}_x": f"{alias}.{self.rng.choice(list(ATTRIBUTES[t]))}" for alias, t in self.maker.names.items()
        }
        template = f"t{self.number}"
        step: dict[str, Any] = {"send": {"channel": self.rng.choice(["email", "email", "sms"]), "template": template}}
        if data and self.chance(60):
            step["send"]["data"] = data
        if self.chance(25):
            step["variants"] = {"x": "text_x", "y": {"template": "text_y", "weight": self.rng.choice([1, 4])}}
        if self.chance(60):
            step["name"] = self.name("s")
            self.steps.append(step["name"])
        return step

    def cascade(self) -> dict[str, Any]:
        """A message over channels in order."""
        channels = self.rng.sample(CHANNELS, k=self.rng.choice([2, 2, 3, 4]))
        spans = [f" {self.span()}" for _ in channels]
        if self.chance(40):
            spans[-1] = ""
        legs = [f"{channel}{span}" for channel, span in zip(channels, spans, strict=True)]
        written: Any = [f"{leg} t{n}" for n, leg in enumerate(legs)]
        if self.chance(60):
            aliases = self.maker.names.items()
            data = {f"{alias}_x": f"{alias}.{self.rng.choice(list(ATTRIBUTES[t]))}" for alias, t in aliases}
            written = {
                "legs": [legs[0], *written[1:]],
                "template": "t",
                "lifetime": self.rng.choice(["20s", "1m", "1d"]),
            }
            written |= {"data": data} if data else {}
        step: dict[str, Any] = {"cascade": written}
        if self.chance(80):
            step["name"] = self.name("k")
            self.cascades.append(step["name"])
        return step

    def wait(self) -> dict[str, Any]:
        """A wait."""
        roll = self.rng.randrange(100)
        if roll < 45:
            return {"wait": self.span()}
        if roll < 90:
            name = self.name("w")
            wait = {"until": self.event(), "timeout": self.span()}
            if self.chance(25):
                wait["key"] = "any"
            self.waits.append(name)
            return {"wait": wait, "name": name}
        if roll < 96:
            return {"wait": {"window": self.rng.choice(WINDOWS[:3])}}
        return {"wait": {"weekday": self.rng.choice(["thursday", "friday, monday"])}}

    def list(self, depth: int) -> list[dict[str, Any]]:
        """A list of steps; some end in an exit."""
        steps = [self.step(depth) for _ in range(self.rng.choice([1, 1, 2]))]
        if depth and self.chance(15):
            steps.append({"exit": self.rng.choice(["enough", "done"])})
        return steps

    def make(self) -> dict[str, Any]:
        """The keys of a flow."""
        found: dict[str, Any] = {"flow": [self.send(), *(self.step(0) for _ in range(self.rng.choice([1, 2, 3, 4])))]}
        if self.chance(30):
            found["goal"] = self.awaited()
        if self.chance(45):
            found["exit_on"] = [self.awaited() for _ in range(self.rng.choice([1, 2]))]
        if self.chance(20):
            found["timezone"] = "Europe/Berlin"
        return found


def with_flow(
    rng: random.Random, maker: CampaignMaker, campaign: Mapping[str, Any], cascading: int = 0
) -> dict[str, Any]:
    """Replace the `send` of a campaign by a flow; `cascading`: of 100 of its messages, how many are cascades."""
    kept = {key: value for key, value in campaign.items() if key not in ("send", "on_late")}
    flow = FlowMaker(rng, maker)
    flow.cascading = cascading
    return {**kept, **flow.make()}


def flow_case(seed: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Make campaigns with flows and a log; the same seed always gives the same."""
    rng = random.Random(seed)
    types, same = WORLDS[rng.choice(["shop", "shop", "shop", "pay", "plain"])]
    types = rng.sample(types, k=min(len(types), rng.choice([2, 3, 3])))
    spans = dict(rng.sample(list(SPANS.items()), k=rng.choice([1, 2, 3])))
    maker = CampaignMaker(rng, types, same, spans, rng.randrange(100) < 60)
    campaigns = [with_flow(rng, maker, maker.make(f"campaign-{n}")) for n in range(rng.choice([1, 1, 2]))]
    members = ["m1", "m2"][: rng.choice([1, 1, 2])]
    log = LogMaker(rng, types, members, spans, appended=True, pace=PACE)
    for member in members:
        profile: dict[str, Any] = {
            "email": f"{member}@x.example",
            "phone": "+1",
            "consent": {"email": True, "sms": True},
        }
        if rng.randrange(100) < 10:
            del profile["email"]
        profile["timezone"] = rng.choice(ZONES)
        event = {"type": "member.registered", "member_id": member, "occurred_at": log.clock, "data": profile}
        log.put(event, log.clock)
    for _ in range(rng.randint(8, 45)):
        log.add()
    for ahead in (600_000, rng.choice([1, 86_400_000, 8 * 86_400_000])):
        log.put({"type": "tick", "member_id": None, "occurred_at": log.clock + ahead}, log.clock + ahead)
    return campaigns, with_receipts(rng, campaigns, log.log)


def with_receipts(
    rng: random.Random, campaigns: Sequence[Mapping[str, Any]], events: list[dict[str, Any]]
) -> list[dict[str, Any]]:
    """Put receipts for some of the messages into the log, right after they were decided or later."""
    try:
        lines, _ = journeys(campaigns, events)
    except ValueError:  # no campaign of the language; the loader will say so too
        return events
    sent = [line for line in lines if line["outcome"] == "eligible"]
    for line in rng.sample(sent, k=min(len(sent), rng.choice([0, 1, 2, 4]))):
        a = line["at"] + rng.choice([0, 1, 800, 8_000])
        behind = [n for n, event in enumerate(events) if event["appended_at"] > a]
        place = behind[0] if behind else len(events)
        member = next(e["member_id"] for e in events if e["member_id"] is not None)
        data = {
            "instance_id": line["instance"],
            "command_id": line["command"],
            "step": line["step"],
            "channel": "email",
        }
        receipt = {"type": rng.choice(RECEIPTS), "member_id": member, "occurred_at": a, "appended_at": a, "data": data}
        events.insert(place, receipt)
    return events


def mixed_case(
    seed: int, most_campaigns: int = 4, most_events: int = 60
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Make the case of a seed as `generate` does; in some, campaigns have a flow in place of their send."""
    campaigns, events = case(seed, most_campaigns, most_events)
    rng = random.Random(seed ^ 0x5F10)
    if rng.randrange(100) >= 40:
        return campaigns, events
    for member in sorted({event["member_id"] for event in events if event.get("member_id")}):
        if rng.randrange(100) < 80:  # cascades can reach them
            consent = {channel: rng.randrange(100) < 85 for channel in CHANNELS}
            data = {"email": f"{member}@x.example", "phone": "+1", "push_token": "t", "consent": consent}
            first = {str(name): events[0][name] for name in ("occurred_at", "appended_at") if name in events[0]}
            events = [{**first, "type": "member.registered", "member_id": member, "data": data}, *events]
    return [_given_flow(rng, campaign) if rng.randrange(100) < 70 else campaign for campaign in campaigns], events


def _given_flow(rng: random.Random, campaign: dict[str, Any]) -> dict[str, Any]:
    try:
        plan = read_campaign(campaign)
    except ValueError:  # no campaign of the language: it stays as it is
        return campaign
    specs = [spec for step in plan.steps for term in (step.term, *step.without) for spec in term.specs]
    types = list(dict.fromkeys(spec.name for spec in specs if spec.name in ATTRIBUTES)) or [VIEW]
    spans = dict(rng.sample(list(SPANS.items()), k=2))
    maker = CampaignMaker(rng, types, list(plan.same), spans)
    maker.names = {s.alias: s.term.specs[0].name for s in plan.steps if s.alias and s.kind != "agg"}
    return with_flow(rng, maker, campaign, cascading=40)
