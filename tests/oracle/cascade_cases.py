"""Random flows with cascades, and what providers tell of their messages: late, twice, out of order, and wrong."""

import random
from collections.abc import Mapping, Sequence
from typing import Any

from tests.oracle.flows import CHANNELS, with_flow
from tests.oracle.generate import PACE, SPANS, WORLDS, CampaignMaker, LogMaker
from tests.oracle.journeys import journeys

TOLD = [
    "delivery.delivered", "delivery.delivered", "delivery.delivered", "delivery.bounced", "delivery.expired",
    "delivery.failed", "delivery.undelivered", "delivery.rejected", "delivery.sent", "delivery.unknown",
    "engagement.opened", "engagement.clicked",
]  # fmt: skip
ROUNDS = 8  # receipts change what follows, so that they are made one by one


def cascade_case(seed: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Make campaigns with cascades and a log; the same seed always gives the same."""
    rng = random.Random(f"cascade {seed}")
    types, same = WORLDS[rng.choice(["shop", "pay", "plain"])]
    types = rng.sample(types, k=2)
    spans = dict(rng.sample(list(SPANS.items()), k=rng.choice([1, 2, 3])))
    maker = CampaignMaker(rng, types, same, spans, rng.randrange(100) < 60)
    campaigns = []
    for number in range(rng.choice([1, 1, 2])):
        campaigns.append(with_flow(rng, maker, maker.make(f"campaign-{number}"), cascading=70))
    log = LogMaker(rng, types, ["m1"], spans, appended=True, pace=PACE)
    profile: dict[str, Any] = {"email": "m1@x.example", "phone": "+1", "push_token": "t"}
    if rng.randrange(100) < 20:
        del profile[rng.choice(["email", "phone", "push_token"])]
    profile["consent"] = {channel: rng.randrange(100) < 85 for channel in CHANNELS}
    event = {"type": "member.registered", "member_id": "m1", "occurred_at": log.clock, "data": profile}
    log.put(event, log.clock)
    for _ in range(rng.randint(6, 30)):
        log.add()
    for ahead in (600_000, rng.choice([1, 86_400_000, 3 * 86_400_000])):
        log.put({"type": "tick", "member_id": None, "occurred_at": log.clock + ahead}, log.clock + ahead)
    return campaigns, told_of(rng, campaigns, log.log)


def told_of(
    rng: random.Random, campaigns: Sequence[Mapping[str, Any]], events: list[dict[str, Any]]
) -> list[dict[str, Any]]:
    """Put receipts into the log, most of them about legs; some again, some much later, some with an old time."""
    last = ""
    for number in range(rng.choice([0, 2, 4, ROUNDS])):
        try:
            lines, _ = journeys(campaigns, events)
        except ValueError:  # no campaign of the language; the loader will say so too
            return events
        sent = [line for line in lines if line["outcome"] == "eligible"]
        legs = [line for line in sent if "." in line["step"]] or sent
        if not legs:
            return events
        same = [line for line in legs if line["instance"] == last]
        line = rng.choice(same if same and rng.randrange(100) < 60 else legs)
        last, kind = line["instance"], rng.choice(TOLD)
        data = {"instance_id": line["instance"], "command_id": line["command"], "step": line["step"]}
        if kind == "delivery.failed" and rng.randrange(100) < 40:
            data["reason"] = "outcome_unknown"
        about = {"type": kind, "member_id": "m1", "event_id": f"told {number}", "data": data}
        a = line["at"] + rng.choice([0, 1, 800, 8_000, 20_000, 90_000, 600_000])
        for _ in range(rng.choice([1, 1, 1, 2])):
            behind = [n for n, event in enumerate(events) if event["appended_at"] > a]
            e = a - rng.choice([0, 0, 1, 5_000, 60_000, 8 * 86_400_000])
            events.insert(behind[0] if behind else len(events), {**about, "occurred_at": e, "appended_at": a})
            a += rng.choice([0, 1, 30_000])
    return events
