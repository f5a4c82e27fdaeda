"""What policies need of a run: members to protect, clocks that change, receipts of every kind. All of it by chance."""

import copy
import random
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import msgspec
import yaml

from schemas.commands import SendMessage
from schemas.ids import h128
from schemas.instants import instant_text

json_bytes = msgspec.json.Encoder(order="deterministic").encode
Json = dict[str, Any]
LOGS_BEGIN_MS = 1_760_000_000_000  # of the source
# Clocks go forward and back, by an hour and by half of one, at midnight too; and ends of days, weeks and months.
TURNS = [
    ("Europe/Berlin", datetime(2026, 3, 29, 1, tzinfo=UTC)),
    ("Europe/Berlin", datetime(2026, 10, 25, 1, tzinfo=UTC)),
    ("America/New_York", datetime(2026, 11, 1, 6, tzinfo=UTC)),
    ("America/Sao_Paulo", datetime(2018, 11, 4, 3, tzinfo=UTC)),
    ("America/Sao_Paulo", datetime(2018, 2, 18, 2, tzinfo=UTC)),
    ("Australia/Lord_Howe", datetime(2026, 4, 4, 15, tzinfo=UTC)),
    ("Australia/Lord_Howe", datetime(2026, 10, 3, 15, 30, tzinfo=UTC)),
    ("Asia/Kathmandu", datetime(2026, 1, 31, 18, 15, tzinfo=UTC)),
    ("Europe/Moscow", datetime(2026, 8, 30, 21, tzinfo=UTC)),
]
CHANNELS = ("email", "sms", "viber", "push")
TOLD = (
    "delivery.delivered", "delivery.delivered", "delivery.bounced", "delivery.expired", "delivery.rejected",
    "delivery.failed", "delivery.undelivered", "delivery.cancelled", "delivery.unknown", "engagement.opened",
    "engagement.clicked", "engagement.unsubscribed", "engagement.complained",
)  # fmt: skip


class Place:
    """Where and when a run with policies happens: just before the clocks of a zone turn, or on a plain morning."""

    def __init__(self, seed: int) -> None:
        rng = random.Random(f"place {seed}")  # noqa: S311 seeded chance of a simulation
        name, turn = rng.choice(TURNS)
        self.zone, self.turn = ZoneInfo(name), turn
        self.begin = turn - timedelta(seconds=rng.choice([2, 20, 60, 150, 1_800, 5_400]))
        if rng.random() < 0.2:
            self.begin = datetime.fromtimestamp(LOGS_BEGIN_MS // 1000, UTC)
            self.turn = self.begin + timedelta(minutes=2)
        self.shift_ms = int(self.begin.timestamp()) * 1000 - LOGS_BEGIN_MS

    def hours(self, rng: random.Random) -> tuple[str, str]:
        """Draw a quiet window that begins around the log, and ends soon, or behind the turn, or in what it skips."""
        begin = self.begin + timedelta(minutes=rng.choice([-30, -2, -1, 0, 1, 3]))
        end = rng.choice([self.begin, self.turn, self.turn]) + timedelta(minutes=rng.choice([2, 3, 30, 61, 150]))
        skipped = (self.turn - timedelta(minutes=1)).astimezone(self.zone).replace(tzinfo=None) + timedelta(minutes=31)
        shown = [at.astimezone(self.zone) for at in (begin, end)]
        if rng.random() < 0.25:
            shown[1] = skipped
        return f"{shown[0]:%H:%M}", f"{shown[1]:%H:%M}"

    def moved(self, events: Iterable[Mapping[str, Any]]) -> list[Json]:
        """Let a log happen here."""
        times = ("occurred_at", "appended_at")
        return [{**event, **{name: self._moved(event[name]) for name in times}} for event in events]

    def _moved(self, at: int | str) -> int | str:
        if isinstance(at, int):
            return at + self.shift_ms
        return instant_text(round(datetime.fromisoformat(at).timestamp() * 1000) + self.shift_ms)


def is_guarded(seed: int, partition: int) -> tuple[bool, random.Random]:
    """Draw whether policies hold in a partition; the chance left is for what they say.

    Chance of its own: what is drawn here changes no other draw of the seed. The number was chosen so that the rare
    seeds of tests/simulation/seeds/mutations.json have no policies and stay what they were.
    """
    own = random.Random(f"policies 894 {seed} {partition}")  # noqa: S311 seeded chance of a simulation
    return own.random() < 0.25, own


def willing(rng: random.Random, place: Place, member: str, a: int) -> Json:
    """Make an event by which a member may be written to: else the arbiter would have little to say."""
    consent: Json = {channel: rng.random() < 0.92 for channel in CHANNELS}
    if rng.random() < 0.2:
        consent["topics"] = {"email": {rng.choice(["sale", "marketing"]): rng.random() < 0.5}}
    data: Json = {"consent": consent, "phone": "+1", "push_token": f"t{member}", "email": "x"}
    if rng.random() < 0.8:
        data["timezone"] = rng.choice([place.zone.key, place.zone.key, "UTC", "Nowhere/None"])
    return {"type": "member.updated", "member_id": member, "occurred_at": a, "appended_at": a, "data": data}


def policies(rng: random.Random, place: Place, a: int) -> bytes:
    """Make a control record that publishes policies, or withdraws them."""
    if rng.random() < 0.12:
        return json_bytes({"type": "policy.withdrawn", "member_id": None, "occurred_at": a, "data": {}})
    policy: Json = {"timezone": rng.choice([place.zone.key, place.zone.key, "UTC"])}
    policy["caps"] = [_cap(rng) for _ in range(rng.choice([0, 1, 2, 3]))]
    if rng.random() < 0.5:
        begin, end = place.hours(rng)
        then = {"then": rng.choice(["hold", "hold", "cancel"])} if rng.random() < 0.4 else {}
        channels = {"channels": rng.sample(CHANNELS, k=2)} if rng.random() < 0.3 else {}
        policy["quiet_hours"] = [{"from": begin, "to": end, **then, **channels}] if begin != end else []
    if rng.random() < 0.5:
        limit = f"{rng.choice([2, 5, 20])} {rng.choice(['per calendar day', 'per calendar week', 'in all'])}"
        policy["budgets"] = [{"limit": limit, **rng.choice([{}, {}, {"channel": "email"}])}]
    if rng.random() < 0.4:
        policy["dedupe"] = {"address": rng.choice(["20s", "1m", "1d"])}
    if rng.random() < 0.2:
        policy["control_group"] = {"percent": 30, "salt": "s"}
    if rng.random() < 0.2:
        policy["transactional"] = {"consent": "assumed"}
    text = str(yaml.safe_dump(policy, sort_keys=False, width=10_000))
    data = {"version": "", "yaml": text, "path": "policies.yaml", "partitions": rng.choice([1, 2])}
    return json_bytes({"type": "policy.published", "member_id": None, "occurred_at": a, "data": data})


def _cap(rng: random.Random) -> Json:
    spans = ["8s", "1m", "3m", "1d", "calendar day", "calendar day", "calendar week", "calendar month"]
    cap: Json = {"limit": f"{rng.choice([1, 1, 2, 3])} per {rng.choice(spans)}"}
    if rng.random() < 0.3:
        cap["channel"] = rng.choice(["email", "email", "sms"])
    if rng.random() < 0.2:
        cap["category"] = "marketing"
    if rng.random() < 0.25:
        cap["reserve"] = f"1 for priority {rng.choice([40, 60])}"
    return cap


def crowding(rng: random.Random, types: list[str]) -> Iterator[Json]:
    """Make campaigns that ask for messages often, so that caps are full and slots are contested."""
    for number in range(rng.choice([1, 2, 3])) if types else ():
        campaign: Json = {"campaign": f"crowd-{number}", "pattern": f"{rng.choice(types)} as x"}
        send = {"channel": rng.choice(CHANNELS), "template": "news"}
        if rng.random() < 0.5:
            yield {**campaign, "send": send}
            continue
        legs = [f"{channel} {rng.choice(['8s', '1m'])}" for channel in rng.sample(CHANNELS, k=rng.choice([2, 3]))]
        step = rng.choice([{"send": send}, {"cascade": {"legs": legs, "template": "news"}, "name": "k"}])
        flow = [step, {"wait": rng.choice(["5s", "1m", "6h"])}, {"send": {**send, "channel": "email"}}]
        until = {"until": rng.choice(["engagement.opened", "delivery.bounced", *types]), "timeout": "20s", "key": "any"}
        if rng.random() < 0.4:
            flow.insert(1, {"wait": until, "name": "heard"})
        yield {**campaign, "flow": flow} | ({"exit_on": "engagement.clicked"} if rng.random() < 0.3 else {})


def competing(rng: random.Random, campaign: Json) -> None:
    """Let a campaign's messages differ in what the arbiter asks: priority, category, topic, lifetime."""
    for send in [campaign["send"]] if "send" in campaign else list(_sends(campaign.get("flow", []))):
        send["priority"] = rng.choice([10, 50, 50, 60])
        if rng.random() < 0.1:
            send["category"] = "transactional"
        if rng.random() < 0.15:
            send["topic"] = "sale"
        if rng.random() < 0.15:
            send["lifetime"] = rng.choice(["20s", "3m", "2h"])


def edited(rng: random.Random, campaign: Json, number: int) -> Json:
    """Edit a flow while journeys wait in it: a step more, a step less, another wait, another end."""
    again: Json = copy.deepcopy(campaign)
    again["on_edit"] = rng.choice(["drain", "drop", "migrate", "migrate", "migrate"])
    for _ in range(rng.choice([1, 1, 2])):
        steps = rng.choice(list(_lists(again["flow"])))
        roll = rng.random()
        if roll < 0.4:
            steps.insert(rng.randrange(len(steps)), {"wait": rng.choice(["2s", "7s"]), "name": f"more{number}"})
        elif roll < 0.6 and len(steps) > 1:
            del steps[rng.randrange(len(steps))]
        elif roll < 0.8:
            for step in steps:
                if isinstance(step.get("wait"), str):
                    step["wait"] = rng.choice(["3s", "40s"])
        else:
            again["exit_on"] = rng.choice(["engagement.opened", "engagement.clicked"])
    return again


def _lists(steps: list[Json]) -> Iterator[list[Json]]:
    yield steps
    for step in steps:
        for case in step.get("branch", []):
            yield from _lists(case.get("then", case.get("else", [])))
        for arm in (step.get("split") or {}).values():
            yield from _lists((arm or {}).get("then") or [{}])


def _sends(steps: list[Json]) -> Iterator[Json]:
    for step in steps:
        if "send" in step:
            yield step["send"]
        if isinstance(step.get("cascade"), dict):
            yield step["cascade"]
        for case in step.get("branch", []):
            yield from _sends(case.get("then", case.get("else", [])))
        for arm in (step.get("split") or {}).values():
            yield from _sends((arm or {}).get("then", []))


def told_of(seed: int, command: SendMessage, now_ms: int) -> list[tuple[int, bytes]]:
    """List what a provider and the member tell of a message: (ms from now, record). Late, twice, in any order."""
    rng = random.Random(f"guarded {seed} {command.command_id}")  # noqa: S311 chance of its own
    told: list[tuple[int, bytes]] = []
    for _ in range(rng.choice([0, 0, 1, 2, 3])):
        kind, late_ms = rng.choice(TOLD), rng.choice([5, 500, 3_000, 9_000, 30_000, 100_000])
        data: Json = {
            "command_id": command.command_id, "instance_id": command.instance_id, "channel": command.channel,
            "step": command.step,
        }  # fmt: skip
        if kind == "delivery.bounced":
            data["kind"] = rng.choice(["hard", "soft"])
        if kind == "delivery.failed":
            data["reason"] = rng.choice(["attempts_exhausted", "outcome_unknown"])
        event = {
            "type": kind,
            "member_id": command.member_id,
            "event_id": h128(command.command_id, kind),
            "occurred_at": now_ms + rng.choice([0, late_ms, -60_000, -8 * 86_400_000]),
            "data": data,
        }
        told += [(late_ms + again, json_bytes(event)) for again in rng.choice([(0,), (0,), (0, 1), (0, 20_000)])]
    return told
