"""Random policies, campaigns that crowd, and logs across midnights and clock changes: one per seed."""

import random
from datetime import UTC, datetime
from typing import Any

from schemas.address import address_digest
from schemas.ids import command_id, instance_id

MINUTE, HOUR, DAY = 60_000, 3_600_000, 86_400_000
VIEW, ORDER = "catalog.product.viewed", "order.created"
# Just before the clocks change: spring and autumn, by an hour and by half of one; and a day without a change.
PLACES = [
    ("Europe/Berlin", datetime(2026, 3, 28, 18, tzinfo=UTC)),
    ("Europe/Berlin", datetime(2026, 10, 24, 18, tzinfo=UTC)),
    ("America/New_York", datetime(2026, 11, 1, 1, tzinfo=UTC)),
    ("America/Sao_Paulo", datetime(2018, 11, 3, 22, tzinfo=UTC)),
    ("America/Sao_Paulo", datetime(2018, 2, 17, 20, tzinfo=UTC)),
    ("Australia/Lord_Howe", datetime(2026, 4, 4, 6, tzinfo=UTC)),
    ("Australia/Lord_Howe", datetime(2026, 10, 3, 6, tzinfo=UTC)),
    ("Europe/Moscow", datetime(2014, 10, 25, 15, tzinfo=UTC)),
    ("Asia/Kathmandu", datetime(2026, 1, 31, 12, tzinfo=UTC)),
]
MEMBERS = ["m1", "m2", "m3"]
MAILBOXES = ["A@shop.example", "a@shop.example", "b@shop.example", "nobody"]
PHONES = ["+7 900 000-00-01", "0079000000001", "79000000002"]
TOPICS = ["sale", "news", "marketing"]


def policy_of(rng: random.Random, zone: str) -> dict[str, Any]:
    """A policy; each part may be missing."""
    policy: dict[str, Any] = {"timezone": rng.choice([zone, "UTC"])}
    caps = []
    for _ in range(rng.choice([0, 1, 1, 2, 3])):
        span = rng.choice(["10m", "2h", "1d", "3d", "calendar day", "calendar day", "calendar week", "calendar month"])
        cap: dict[str, Any] = {"limit": f"{rng.choice([1, 1, 2, 3])} per {span}"}
        if rng.random() < 0.4:
            cap["channel"] = rng.choice(["email", "sms"])
        if rng.random() < 0.3:
            cap["category"] = "marketing"
        if rng.random() < 0.3:
            cap["reserve"] = f"1 for priority {rng.choice([40, 60, 90])}"
        caps.append(cap)
    if caps:
        policy["caps"] = caps
    if rng.random() < 0.4:
        hours = {"from": f"{rng.choice([20, 22, 23, 1, 2]):02}:{rng.choice(['00', '30'])}"}
        window: dict[str, Any] = {**hours, "to": f"{rng.choice([2, 3, 7, 9]):02}:{rng.choice(['00', '15'])}"}
        if rng.random() < 0.5:
            window["channels"] = [rng.choice(["email", "sms"])]
        if rng.random() < 0.4:
            window["then"] = "cancel"
        policy["quiet_hours"] = [window] if window["from"] != window["to"] else []
    if rng.random() < 0.25:
        policy["control_group"] = {"percent": rng.choice([10, 50]), "salt": rng.choice(["s1", "s2"])}
    if rng.random() < 0.35:
        policy["dedupe"] = {"address": rng.choice(["1h", "1d"])}
    if rng.random() < 0.35:
        limit = f"{rng.choice([1, 3, 6])} {rng.choice(['per calendar day', 'per calendar month', 'in all'])}"
        policy["budgets"] = [{"limit": limit, **rng.choice([{"channel": "email"}, {"campaign": "c0"}, {}])}]
    if rng.random() < 0.3:
        policy["transactional"] = {"consent": "assumed"}
    return policy


def campaigns_of(rng: random.Random) -> list[dict[str, Any]]:
    """Campaigns that ask for messages at the same moments."""
    patterns = [f"{ORDER} as o", f"{VIEW} as v", f"{ORDER} as o then no {VIEW} for 30m", f"no {ORDER} for 2h"]
    campaigns = []
    for n in range(rng.choice([1, 2, 3, 4])):
        send: dict[str, Any] = {"channel": rng.choice(["email", "email", "sms"]), "template": "t"}
        if rng.random() < 0.3:
            send["topic"] = rng.choice(TOPICS[:2])
        if rng.random() < 0.6:
            send["priority"] = rng.choice([10, 50, 60, 90])
        if rng.random() < 0.2:
            send["category"] = "transactional"
        if rng.random() < 0.3:
            send["lifetime"] = rng.choice(["2h", "12h"])
        campaigns.append({"campaign": f"c{n}", "pattern": rng.choice(patterns), "send": send})
    return campaigns


class Log:
    """One log, written record by record."""

    def __init__(self, rng: random.Random, zone: str, start_ms: int, campaigns: list[dict[str, Any]]) -> None:
        self.rng = rng
        self.zone = zone
        self.at = start_ms
        self.campaigns = campaigns
        self.orders: list[tuple[str, str]] = []
        self.log: list[dict[str, Any]] = []

    def put(self, type_: str, member: str | None, **data: Any) -> None:
        self.log.append(
            {"type": type_, "member_id": member, "occurred_at": self.at, "appended_at": self.at, "data": data,
             "event_id": f"e{len(self.log)}"}
        )  # fmt: skip
        if type_ in (ORDER, VIEW) and member is not None:
            self.orders.append((member, f"e{len(self.log) - 1}"))

    def begin(self) -> None:
        """Everybody registers; some forget something."""
        for member in MEMBERS:
            profile: dict[str, Any] = {"email": self.rng.choice(MAILBOXES), "phone": self.rng.choice(PHONES)}
            if self.rng.random() < 0.8:
                profile["timezone"] = self.rng.choice([self.zone, self.zone, "UTC", "Nowhere/None"])
            if self.rng.random() < 0.9:
                profile["consent"] = {"email": True, "sms": self.rng.random() < 0.8}
            self.put("member.registered", member, **profile)

    def add(self) -> None:
        """One more record."""
        rng = self.rng
        self.at += rng.choice([0, 0, 1, MINUTE, 10 * MINUTE, HOUR - 1, HOUR, 2 * HOUR, 5 * HOUR, DAY])
        member = rng.choice(MEMBERS)
        roll = rng.random()
        if roll < 0.6:
            self.put(rng.choice([ORDER, ORDER, VIEW]), member)
        elif roll < 0.72:
            self.consent(member)
        elif roll < 0.86:
            self.receipt()
        elif roll < 0.95:
            choices = {"email": MAILBOXES, "timezone": [self.zone, "UTC"], "phone": PHONES}
            name = rng.choice(list(choices))
            self.put("member.updated", member, **{name: rng.choice(choices[name])})
        else:
            self.log.append({"type": "tick", "member_id": None, "occurred_at": self.at, "appended_at": self.at})

    def consent(self, member: str) -> None:
        channel = self.rng.choice(["email", "sms"])
        topic = {"topic": self.rng.choice(TOPICS)} if self.rng.random() < 0.5 else {}
        kind = self.rng.choice(["consent.granted", "consent.granted", "consent.revoked", "engagement.unsubscribed"])
        self.put(kind, member, channel=channel, **topic)

    def receipt(self) -> None:
        """What a provider says of a message that may have been sent."""
        if not self.orders:
            return
        rng = self.rng
        member, anchor = rng.choice(self.orders[-6:])
        campaign = rng.choice(self.campaigns)
        command = command_id(instance_id(campaign["campaign"], member, None, anchor), "send", "")
        kind = rng.choice(
            ["delivery.sent", "delivery.failed", "delivery.expired", "delivery.bounced", "engagement.complained"]
            + ["delivery.delivered", "engagement.opened"]
        )
        data: dict[str, Any] = {"command_id": command, "channel": campaign["send"]["channel"]}
        if kind == "delivery.bounced":
            data["kind"] = rng.choice(["hard", "block", "soft"])
        if kind == "delivery.failed":
            data["reason"] = rng.choice(["outcome_unknown", "attempts_exhausted"])
        if rng.random() < 0.5:
            addresses = MAILBOXES if data["channel"] == "email" else PHONES
            data["address_digest"] = address_digest(data["channel"], rng.choice(addresses))
        self.put(kind, member, **data)


def policy_case(seed: int) -> tuple[list[dict[str, Any]], dict[str, Any], list[dict[str, Any]]]:
    """Make the campaigns, the policy and the log of a seed."""
    rng = random.Random(f"policy {seed}")
    zone, start = rng.choice(PLACES)
    campaigns = campaigns_of(rng)
    log = Log(rng, zone, int(start.timestamp()) * 1_000, campaigns)
    log.begin()
    for _ in range(rng.randint(5, 50)):
        log.add()
    return campaigns, policy_of(rng, zone), log.log
