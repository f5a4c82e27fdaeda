"""What happens on the topic `events` of one run: campaigns and records per partition, from a seeded source."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol

import msgspec
import yaml

from schemas.commands import SendMessage
from schemas.findings import errors
from schemas.ids import h128
from schemas.instants import instant_text
from streams.campaigns import load_campaign
from streams.patterns.plan import Plan
from tidings.simulation.faults import Faults
from tidings.simulation.guarded import Place, competing, crowding, edited, is_guarded, policies, willing
from tidings.simulation.world import World

json_bytes = msgspec.json.Encoder(order="deterministic").encode
Json = dict[str, Any]
TOLD = (
    "delivery.delivered", "delivery.delivered", "delivery.bounced", "delivery.expired", "delivery.rejected",
    "engagement.opened",
)  # fmt: skip
LONGEST_PAUSE_MS = 2 * 86_400_000
DUMPER: Any = getattr(yaml, "CSafeDumper", yaml.SafeDumper)  # in C where it is there
SEND = {"channel": "email", "template": "hello"}
ASKING = {
    "catalog.product.viewed", "cart.item.added", "order.created", "payment.failed", "web.session.started", "app.opened",
}  # fmt: skip


class Source(Protocol):
    """Where cases come from and what judges them: the tests' oracle, which shares no code with the engine."""

    def case(self, seed: int, most_campaigns: int, most_events: int) -> tuple[list[Json], list[Json]]:
        """Make campaigns and the events of one partition's log."""

    def firings(self, campaigns: Sequence[Mapping[str, Any]], events: Sequence[Mapping[str, Any]]) -> list[Json]:
        """List every firing a log asks for."""

    def journeys(
        self, campaigns: Sequence[Mapping[str, Any]], events: Sequence[Mapping[str, Any]], partition: int
    ) -> tuple[list[Json], list[Json]]:
        """List what the journeys and messages of a log are told, and every firing it asks for."""

    def exceeded(
        self, events: Sequence[Mapping[str, Any]], sent: Sequence[Mapping[str, Any]], partition: int
    ) -> tuple[list[str], int]:
        """List the bounds of policies that messages broke, and say how many were looked at."""


@dataclass
class PartitionWork:
    """One partition: `lines` are (append time, member key, record), in log order.

    `plans`: fixed ones, None when control records on the log publish them. `edited`: the log changes campaigns after
    its first event, which the oracle does not know. `guarded`: policies hold, which that of journeys does not know.
    """

    campaigns: list[Json]
    plans: list[Plan] | None
    lines: list[tuple[int, bytes | None, bytes]]
    edited: bool = False
    guarded: bool = False
    lateness_ms: dict[str, int] = field(default_factory=dict)


def place_of(seed: int, partitions: int) -> Place | None:
    """Say where and when a run happens in which policies hold."""
    return Place(seed) if any(is_guarded(seed, partition)[0] for partition in range(partitions)) else None


def make_partition(
    seed: int, partition: int, source: Source, world: World, faults: Faults, most: int, place: Place | None
) -> PartitionWork:
    """Make the work of one partition: a case of the source, spread over control records, duplicates and ticks."""
    rng = world.rng
    campaigns, events = source.case(seed * 4 + partition, 3, most)
    guarded, own = is_guarded(seed, partition)
    timed = with_append_times(events)
    lines = [_line(event, partition, guarded) for event in (place.moved(timed) if place is not None else timed)]
    lives = random.Random(f"life 35866 {seed} {partition}")  # noqa: S311 likewise, and chosen likewise
    alive = lives.random() < 0.25 and bool(lines)
    if alive:
        _date(lives, campaigns, [a for a, _, _ in lines])
    found = [(c, load_campaign(spell(c), "campaign.yaml", lenient=True)[0]) for c in campaigns]
    campaigns = [campaign for campaign, read in found if read is not None]  # a source may make what is refused
    loaded = [read for _, read in found if read is not None]
    strict = not any(errors(load_campaign(spell(c), "campaign.yaml")[1]) for c in campaigns)
    if faults.anywhere("duplicates"):
        _disturb(lines, world)
    lateness = {read.campaign: read.lateness_ms for read in loaded}
    work = PartitionWork(campaigns, None, lines, lateness_ms=lateness)
    if alive and campaigns:
        _operate(lives, campaigns, lines)
    if not strict or rng.random() < 0.4:
        work.plans = [Plan(read) for read in loaded]
        return work
    first = lines[0][0] if lines else world.now
    guarded = guarded and place is not None
    if guarded:
        campaigns += crowding(own, sorted({event["type"] for event in events} & ASKING))
    for campaign in campaigns if guarded else ():
        if "flow" not in campaign:
            campaign["send"] = dict(campaign.get("send", SEND))
        competing(own, campaign)
    head: list[tuple[int, bytes | None, bytes]] = [(first, None, _published(campaign, first)) for campaign in campaigns]
    if guarded and place is not None:
        work.guarded = True
        head.append((first, None, policies(own, place, first)))
        head += [_line(willing(own, place, key.decode(), first), partition, True) for key in _members(lines)]
        for _ in range(own.choice([0, 0, 1, 2]) if lines else 0):
            at = own.randrange(len(lines))
            lines.insert(at, (lines[at][0], None, policies(own, place, lines[at][0])))
        if not alive:
            _edit_flows(own, campaigns, lines)
    if faults.anywhere("edits") and rng.random() < 0.5 and lines and campaigns:
        work.edited = True
        other, _ = source.case(seed * 4 + partition + 1_000_003, 3, 5)
        _edit(lines, campaigns, other, world)
    lines[:0] = head
    return work


def with_append_times(events: Sequence[Mapping[str, Any]]) -> list[Json]:
    """Give every event an append time; where it has none its own time, made monotone (SEMANTICS 68)."""
    latest, found = 0, []
    for event in events:
        a = event.get("appended_at")
        if not isinstance(a, int):
            a = max(latest, _ms(event["occurred_at"]))
        latest = max(latest, a)
        found.append({**event, "appended_at": a})
    return found


def _ms(value: Any) -> int:
    return value if isinstance(value, int) else round(datetime.fromisoformat(value).timestamp() * 1000)


def _line(event: Json, partition: int, guarded: bool) -> tuple[int, bytes | None, bytes]:
    body = {name: value for name, value in event.items() if name != "appended_at"}
    member = body.get("member_id")
    if member is not None:
        member = body["member_id"] = f"{member}.{partition}"
        if body["type"] in ("member.registered", "member.updated"):
            # Under policies some share a mailbox: members whose numbers differ by two.
            mailbox = f"{int(member[1]) % 2}.{partition}" if guarded and member[1:2].isdigit() else member
            body["data"] = {**body["data"], "email": f"{mailbox}@members.example"}
    return event["appended_at"], None if member is None else member.encode(), json_bytes(body)


def spell(campaign: Mapping[str, Any]) -> str:
    """Write a campaign as YAML."""
    return str(yaml.dump(dict(campaign), Dumper=DUMPER, sort_keys=False, width=10_000))


def _published(campaign: Mapping[str, Any], a: int) -> bytes:
    name = campaign["campaign"]
    data = {"campaign": name, "version": "", "yaml": spell(campaign), "path": f"{name}.yaml"}
    return json_bytes({"type": "campaign.published", "member_id": None, "occurred_at": a, "data": data})


def _members(lines: Sequence[tuple[int, bytes | None, bytes]]) -> list[bytes]:
    return sorted({key.split(b".")[0] for _, key, _ in lines if key is not None})


def told_of_leg(seed: int, command: SendMessage, now_ms: int) -> list[tuple[int, bytes]]:
    """List what a provider tells of a leg of a cascade: (ms from now, record). In any order, twice, late, or never."""
    rng = random.Random(f"told {seed} {command.command_id}")  # noqa: S311 chance of its own, as above
    told: list[tuple[int, bytes]] = []
    for _ in range(rng.choice([0, 1, 1, 2, 3])):
        kind, late_ms = rng.choice(TOLD), rng.choice([5, 500, 3_000, 9_000, 30_000])
        data = {"command_id": command.command_id, "instance_id": command.instance_id, "channel": command.channel}
        event = {
            "type": kind,
            "member_id": command.member_id,
            "event_id": h128(command.command_id, kind),
            "occurred_at": now_ms + rng.choice([0, late_ms]),
            "data": data,
        }
        told += [(late_ms + again, json_bytes(event)) for again in rng.choice([(0,), (0,), (0, 1), (0, 20_000)])]
    return told


def _date(rng: random.Random, campaigns: list[Json], marks: Sequence[int]) -> None:
    """Give campaigns dates around the times of a log, and flows steps that issue commands about the member."""
    for campaign in campaigns:
        first, last = sorted(rng.choice(marks) + rng.choice([-1, 0, 0, 1]) for _ in "ab")
        if rng.random() < 0.3:
            campaign["start"] = instant_text(first)
        if rng.random() < 0.2 and first < last:
            campaign["end"] = instant_text(last)
        if "flow" in campaign and rng.random() < 0.6:
            act = rng.choice([{"accrue": {"points": "5", "expires": "1d"}}, {"tag": {"add": ["z1"]}}])
            campaign["flow"].insert(rng.randrange(len(campaign["flow"]) + 1), act)


def _operate(rng: random.Random, campaigns: Sequence[Json], lines: list[tuple[int, bytes | None, bytes]]) -> None:
    """Let an operator pause, resume, drain and stop between the records of a log."""
    for _ in range(rng.choice([0, 1, 3])):
        place = rng.randrange(len(lines))
        a = lines[place][0]
        what = rng.choice(["paused", "paused", "resumed", "drained", "stopped"])
        data = {"campaign": rng.choice(campaigns)["campaign"]}
        record = json_bytes({"type": f"campaign.{what}", "member_id": None, "occurred_at": a, "data": data})
        lines.insert(place + 1, (a, None, record))
        later = next((n for n, line in enumerate(lines) if line[0] >= a + LONGEST_PAUSE_MS), None)
        if what == "paused" and later is not None:  # what it holds looks again every hour: too much for weeks
            again = json_bytes(
                {"type": "campaign.resumed", "member_id": None, "occurred_at": lines[later][0], "data": data}
            )
            lines.insert(later, (lines[later][0], None, again))
    for campaign in campaigns:  # a pause without end would let what it holds look again for ever: no run would rest
        a, data = lines[-1][0], {"campaign": campaign["campaign"]}
        record = json_bytes({"type": "campaign.resumed", "member_id": None, "occurred_at": a, "data": data})
        lines.append((a, None, record))


def _edit_flows(rng: random.Random, campaigns: list[Json], lines: list[tuple[int, bytes | None, bytes]]) -> None:
    """Publish other versions of flows, and first ones again, while journeys run; their patterns stay as they are."""
    for first in [c for c in campaigns if "flow" in c] if rng.random() < 0.6 and lines else ():
        places = sorted(rng.sample(range(len(lines)), k=min(len(lines), rng.choice([0, 1, 2, 3]))))
        for number, at in reversed(list(enumerate(places))):
            campaign = edited(rng, first, number) if number == 0 or rng.random() < 0.8 else first
            if not errors(load_campaign(spell(campaign), "campaign.yaml")[1]):
                lines.insert(at, (lines[at][0], None, _published(campaign, lines[at][0])))


def _withdrawn(name: str, a: int) -> bytes:
    return json_bytes({"type": "campaign.withdrawn", "member_id": None, "occurred_at": a, "data": {"campaign": name}})


def _tick(a: int) -> bytes:
    return json_bytes({"type": "tick", "member_id": None, "occurred_at": a})


def _disturb(lines: list[tuple[int, bytes | None, bytes]], world: World) -> None:
    """Let a producer send records twice, and put stray ticks between."""
    for _ in range(world.rng.choice([0, 0, 2, 6])):
        place = world.rng.randrange(len(lines))
        later = min(len(lines) - 1, place + world.rng.choice([0, 0, 1, 3]))
        lines.insert(later + 1, (lines[later][0], *lines[place][1:]))
    for _ in range(world.rng.choice([0, 0, 3, 10])):
        place = world.rng.randrange(len(lines))
        a = lines[place][0] + world.rng.choice([-1, 0, 0, 1])
        lines.insert(place + 1, (a, None, _tick(a)))


def _edit(lines: list[tuple[int, bytes | None, bytes]], campaigns: list[Json], other: list[Json], world: World) -> None:
    """Publish new versions, withdraw and bring back, between the records of a log."""
    rng = world.rng
    for _ in range(rng.choice([1, 2, 4, 7])):
        place = rng.randrange(len(lines) + 1)
        a = lines[min(place, len(lines) - 1)][0]
        campaign = dict(rng.choice(campaigns))
        roll = rng.randrange(100)
        if roll < 25:
            record = _withdrawn(campaign["campaign"], a)
        else:
            if roll < 45:
                campaign["cooldown"] = rng.choice(["8s", "1m"])
            elif roll < 60:
                campaign["lateness"] = rng.choice(["5s", "30s"])
            elif roll < 80:
                campaign = {**rng.choice(other), "campaign": campaign["campaign"]}
            if "flow" in campaign:
                campaign["on_edit"] = rng.choice(["drain", "drop", "migrate", "migrate"])
                if rng.random() < 0.5:  # same names, other waits; or a step less
                    campaign["flow"] = [{"wait": "7s", "name": "more"}, *campaign["flow"][rng.choice([0, 0, 1]) :]]
            record = _published(campaign, a)
        lines.insert(place, (a, None, record))
