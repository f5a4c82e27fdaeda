"""The oracle of the arbiter: each verdict anew from the whole log and from all messages let through before it.

What asks is the oracle of patterns (`evaluate.py`); nothing here is shared with `streams/policies`. Counters, periods,
windows and groups are written from docs/policies.md alone: no incremental state, no arithmetic on zones but
`utcoffset`, quiet hours found by looking at each minute.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from schemas.address import address_digest
from schemas.ids import h128
from tests.oracle.definitions import Read
from tests.oracle.evaluate import Instance, Walk
from tests.oracle.language import read_campaign

MINUTE_MS = 60_000
LOST = {f"delivery.{word}" for word in ("failed", "bounced", "expired", "cancelled", "rejected", "undelivered")}
ADDRESS = ("address",)
SPANS = {"s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
ATTRIBUTES = {"email": "email", "sms": "phone", "viber": "phone", "push": "push_token"}


@dataclass
class Message:
    """One message that a campaign asked for, and what became of it."""

    firing: dict[str, Any]
    send: Mapping[str, Any]
    clock: int
    offset: int
    timers: bool
    past: tuple[Read, ...]
    first: int = 0  # the clock at which it was asked for first
    start: tuple[int, int] = (0, 0)
    due: int = 0
    until: int = 0  # when a held one is asked for again
    verdict: str = ""
    said: list[tuple[int, str]] = field(default_factory=list)
    group: str = ""  # of a cascade's leg: the cascade, which caps count once
    zone: str = "UTC"  # of budgets, when it was sent
    counted: set[tuple[Any, ...]] = field(
        default_factory=set
    )  # what still knows of it: scopes of caps and budgets, ADDRESS

    @property
    def member_id(self) -> str:
        return str(self.firing["member_id"])

    @property
    def name(self) -> str:
        """What caps count: the message, or the cascade it is a leg of."""
        return self.group or str(self.firing["command_id"])

    @property
    def category(self) -> str:
        return str(self.send.get("category", "marketing"))

    @property
    def priority(self) -> int:
        return int(self.send.get("priority", 50))


@dataclass
class Asking(Walk):
    """The walk over the log that also keeps who asks for a message, and when."""

    sends: Mapping[str, Any] = field(default_factory=dict)
    messages: list[Message] = field(default_factory=list)
    now: int = -1
    timers: bool = False

    def read(self, offset: int, event: Mapping[str, Any]) -> None:
        self.now = offset
        super().read(offset, event)

    def _timers(self, offset: int) -> None:
        self.timers = True
        super()._timers(offset)
        self.timers = False

    def _complete(self, i: Instance, read_up_to: int, due: int | None, completed_by: str | None) -> None:
        before = len(self.output)
        super()._complete(i, read_up_to, due, completed_by)
        for firing in self.output[before:]:
            send, past = self.sends[i.plan.campaign], tuple(self.history[i.member_id])
            message = Message(firing, send, self.clock, self.now, self.timers, past, self.clock, (i.order, 0), due or 0)
            self.messages.append(message)


def verdicts(
    campaigns: Sequence[Mapping[str, Any]], policy: Mapping[str, Any], events: Sequence[Mapping[str, Any]]
) -> list[Message]:
    """Every message that was asked for, with its last verdict: `sent`, `held`, or the reason why not."""
    plans = sorted((read_campaign(c) for c in campaigns), key=lambda plan: plan.campaign)
    walk = Asking(plans, True, sends={c["campaign"]: c["send"] for c in campaigns})
    lateness = {plan.campaign: plan.lateness_ms for plan in plans}
    judged: list[Message] = []
    sent: list[Message] = []
    rules = Rules(policy)
    done = 0
    for offset, event in enumerate(events):
        walk.read(offset, event)
        fresh, done = walk.messages[done:], len(walk.messages)
        again = [m for m in judged if m.verdict == "held" and m.until <= walk.clock]
        for m in again:
            m.clock, m.offset, m.timers = walk.clock, offset, True
            m.due = m.until - lateness[m.firing["campaign"]]
            m.past = tuple(x for x in walk.history[m.member_id] if x.offset < offset)
        timers = [m for m in fresh if m.timers] + again
        timers.sort(key=lambda m: (m.due, m.member_id, m.firing["campaign"], m.start))
        for step in (timers, [m for m in fresh if not m.timers]):
            contest: list[Message] = []
            for message in sorted(step, key=lambda m: -m.priority):
                message.verdict = verdict(message, rules, sent, contest)
                message.said.append((message.clock, message.verdict))
                if message.verdict == "sent":
                    rules.count(message, sent)
                    sent.append(message)
                if not any(known is message for known in judged):
                    judged.append(message)
                contest.append(message)
    return judged


def verdict(m: Message, rules: "Rules", sent: Sequence[Message], contest: Sequence[Message]) -> str:
    """The first rule that refuses, in the order of docs/policies.md."""
    if m.clock >= m.first + span_ms(m.send.get("lifetime", "1d")):
        return "expired"
    policy = rules.policy
    own = [x for x in sent if x.member_id == m.member_id]
    profile = last_profile(m.past)
    zone = member_zone(profile, policy)
    for reason in (unreachable(m, policy, profile), control(m, policy), quiet(m, policy, zone)):
        if reason:
            return reason
    for cap in policy.get("caps", ()) if m.category != "transactional" else ():
        reason = full(m, cap, own, zone, contest)
        if reason:
            return reason
    window = policy.get("dedupe", {}).get("address")
    same = [x for x in sent if ADDRESS in x.counted and same_address(x, m)] if window else []
    if same and same[-1].member_id != m.member_id and m.clock - same[-1].clock < span_ms(window):
        return "duplicate"
    for budget in policy.get("budgets", ()):
        counted = [x for x in sent if matches(m, budget) and in_budget(x, m, budget, rules)]
        if matches(m, budget) and len(counted) >= rules.share(budget):
            return "budget"
    return "sent"


def in_budget(x: Message, m: Message, budget: Mapping[str, Any], rules: "Rules") -> bool:
    """Say whether a message was taken from what a budget has for the present period."""
    _, _, rest = budget["limit"].partition(" ")
    period = rest.removeprefix("per calendar ")
    then, now = ZoneInfo(x.zone), ZoneInfo(rules.zone)
    return budget_scope(budget) in x.counted and (
        rest == "in all" or calendar(period, x.clock, then) == calendar(period, m.clock, now)
    )


# --- what is counted -------------------------------------------------------------------------------------------------


@dataclass
class Rules:
    """Policies in force, on one of the partitions that share its budgets."""

    policy: Mapping[str, Any]
    partition: int = 0
    partitions: int = 1

    @property
    def zone(self) -> str:
        """The zone of budgets."""
        return str(self.policy.get("timezone", "UTC"))

    def share(self, budget: Mapping[str, Any]) -> int:
        """This partition's part of a budget."""
        count = int(budget["limit"].partition(" ")[0])
        return count // self.partitions + (self.partition < count % self.partitions)

    def count(self, m: Message, sent: Sequence[Message]) -> None:
        """Let what is in force count a message, and let what is too old for it, or too much, be forgotten."""
        budgets = [b for b in self.policy.get("budgets", ()) if matches(m, b)]
        m.zone, m.counted = self.zone, {budget_scope(budget) for budget in budgets}
        caps = [c for c in self.policy.get("caps", ()) if matches(m, c)] if m.category != "transactional" else []
        for scope in {cap_scope(cap) for cap in caps}:
            m.counted.add(scope)
            most = max(cap_of(cap)[0] for cap in caps if cap_scope(cap) == scope)
            known = [x for x in [*sent, m] if x.member_id == m.member_id and scope in x.counted]
            here = [x for x in known if not never_came(x, m.past)]
            kept = list(dict.fromkeys(x.name for x in reversed(here)))[:most]
            for x in here:
                if x.name not in kept:
                    x.counted.discard(scope)
        window = self.policy.get("dedupe", {}).get("address")
        if window:
            m.counted.add(ADDRESS)
            for x in sent:
                if m.clock - x.clock >= span_ms(window):
                    x.counted.discard(ADDRESS)


def forget(rules: Rules | None, sent: Sequence[Message]) -> None:
    """Follow an edit of the policies: budgets and addresses that are no longer asked for begin anew; caps go on."""
    policy = rules.policy if rules is not None else {}
    known = {budget_scope(budget) for budget in policy.get("budgets", ())} | (
        {ADDRESS} if "dedupe" in policy else set()
    )
    for x in sent:
        x.counted = {scope for scope in x.counted if scope in known or scope[0] == "cap"}


def cap_scope(cap: Mapping[str, Any]) -> tuple[Any, ...]:
    """Name what a cap counts; caps of one scope know the same messages."""
    return ("cap", cap.get("channel"), cap.get("category"))


def budget_scope(budget: Mapping[str, Any]) -> tuple[Any, ...]:
    """Name what a budget counts, and for how long."""
    return ("budget", budget.get("campaign"), budget.get("channel"), budget["limit"].partition(" ")[2])


def last_profile(past: Sequence[Read]) -> Mapping[str, Any]:
    """The profile as last read."""
    return past[-1].profile if past else {}


# --- consent, address ------------------------------------------------------------------------------------------------


def unreachable(m: Message, policy: Mapping[str, Any], profile: Mapping[str, Any]) -> str:
    channel = m.send["channel"]
    topics = [t for t in (m.send.get("topic"), m.category) if t]
    words = {topic: last_word(m.past, channel, topic) for topic in topics}
    assumed = m.category == "transactional" and policy.get("transactional", {}).get("consent") == "assumed"
    if False in words.values():
        return "topic_off"
    if True not in words.values():
        said = last_word(m.past, channel, None)
        if said is not True and not (said is None and assumed):
            return "no_consent"
    address = profile.get(ATTRIBUTES[channel])
    if not address:
        return "no_address"
    if channel == "email" and "@" not in address:
        return "invalid_address"
    given_up = [
        x for x in m.past
        if x.data.get("channel") == channel
        and (x.type == "engagement.complained" or (x.type == "delivery.bounced" and x.data.get("kind") == "hard"))
        and dead_digest(x, channel) == address_digest(channel, address)
    ]  # fmt: skip
    return "invalid_address" if given_up else ""


def dead_digest(x: Read, channel: str) -> str | None:
    """The address that a receipt is about: the one it names, else the one the profile had."""
    named = x.data.get("address_digest")
    if named:
        return str(named)
    address = x.profile.get(ATTRIBUTES[channel])
    return address_digest(channel, address) if address else None


def last_word(past: Sequence[Read], channel: str, topic: str | None) -> bool | None:
    """The latest thing said about a channel, or about a topic on it; None when nothing was, or it was forgotten."""
    for x in reversed(past):
        data = x.data
        if x.type in ("member.registered", "member.updated"):
            if "consent" not in data:
                continue
            given = data["consent"] if isinstance(data["consent"], dict) else {}
            said = given.get(channel) if topic is None else given.get("topics", {}).get(channel, {}).get(topic)
            return said if isinstance(said, bool) else None
        if data.get("channel") != channel:
            continue
        revokes = x.type in ("consent.revoked", "engagement.unsubscribed", "engagement.complained")
        if not revokes and x.type != "consent.granted":
            continue
        about = data.get("topic") if x.type != "engagement.complained" else None
        if about == topic:
            return not revokes
        if topic is not None and about is None and revokes:
            return None
    return None


def same_address(x: Message, m: Message) -> bool:
    """Whether two messages are of one campaign and go to one address."""
    channel = m.send["channel"]
    if x.send["channel"] != channel or x.firing["campaign"] != m.firing["campaign"]:
        return False
    one, other = (str(y.past[-1].profile.get(ATTRIBUTES[channel])) for y in (x, m))
    return address_digest(channel, one) == address_digest(channel, other)


# --- groups, hours, caps ---------------------------------------------------------------------------------------------


def control(m: Message, policy: Mapping[str, Any]) -> str:
    group = policy.get("control_group")
    if group is None or m.category == "transactional":
        return ""
    bucket = int(h128("group", group["salt"], m.member_id)[:12], 16) % 10_000
    return "control" if bucket < group["percent"] * 100 else ""


def quiet(m: Message, policy: Mapping[str, Any], zone: ZoneInfo) -> str:
    """Hold until the first minute that is in no window, if the message is of use then."""
    if m.category == "transactional":
        return ""
    return quiet_at(m, policy, zone, m.clock)


def quiet_at(m: Message, policy: Mapping[str, Any], zone: ZoneInfo, at: int) -> str:
    windows = [w for w in policy.get("quiet_hours", ()) if m.send["channel"] in w.get("channels", [m.send["channel"]])]
    now = [w for w in windows if in_window(w, at, zone)]
    if not now:
        return ""
    if any(w.get("then") == "cancel" for w in now):
        return "quiet_hours_cancel"
    until = at - at % MINUTE_MS
    while any(in_window(w, until, zone) for w in windows):
        until += MINUTE_MS
        if until > at + 3 * 86_400_000:
            return "quiet_hours_cancel"
    lifetime = span_ms(m.send.get("lifetime", "1d"))
    m.until = until
    return "expired" if until >= m.first + lifetime else "held"


def in_window(w: Mapping[str, Any], at: int, zone: ZoneInfo) -> bool:
    minute = shifted(at, zone) // MINUTE_MS % 1_440
    begin, end = (int(w[k][:2]) * 60 + int(w[k][3:]) for k in ("from", "to"))
    return begin <= minute < end if begin < end else not end <= minute < begin


def full(m: Message, cap: Mapping[str, Any], own: Sequence[Message], zone: ZoneInfo, contest: Sequence[Message]) -> str:
    if not matches(m, cap):
        return ""
    count, span, period = cap_of(cap)
    slots = count
    if cap.get("reserve"):
        kept, for_priority = (int(n) for n in cap["reserve"].split(" for priority "))
        slots = count - kept if m.priority < for_priority else count
    inside = [
        x
        for x in own
        if cap_scope(cap) in x.counted
        and not (m.group and x.group == m.group)
        and not never_came(x, m.past)
        and in_span(x.clock, m.clock, span, period, zone)
    ]
    counted = list({x.name: x for x in inside}.values())  # of a cascade the newest leg
    if len(counted) < slots:
        return ""
    older = [x for x in counted if not any(x is rival and rival.priority > m.priority for rival in contest)]
    return "priority_lost" if len(counted) < count or len(older) < slots else "frequency_cap"


def never_came(x: Message, past: Sequence[Read]) -> bool:
    """Whether what was read after the message was sent says that the member got nothing, and nothing says otherwise."""
    told = [
        r
        for r in past
        if r.data.get("command_id") == x.firing["command_id"]
        and (r.offset > x.offset or (r.offset == x.offset and x.timers))
    ]
    if any(r.type == "delivery.delivered" or r.type.startswith("engagement.") for r in told):
        return False
    return any(r.type in LOST and r.data.get("reason") not in ("outcome_unknown", "reply_lost") for r in told)


def cap_of(cap: Mapping[str, Any]) -> tuple[int, int, str]:
    """(count, span or 0, calendar period or '')."""
    count, _, rest = cap["limit"].partition(" per ")
    calendar_period = rest.removeprefix("calendar ") if rest.startswith("calendar ") else ""
    return int(count), 0 if calendar_period else span_ms(rest), calendar_period


def in_span(then: int, now: int, span: int, period: str, zone: ZoneInfo) -> bool:
    return calendar(period, then, zone) == calendar(period, now, zone) if period else now - then < span


def matches(m: Message, rule: Mapping[str, Any]) -> bool:
    return (
        rule.get("channel") in (None, m.send["channel"])
        and rule.get("category") in (None, m.category)
        and rule.get("campaign") in (None, m.firing["campaign"])
    )


# --- time ------------------------------------------------------------------------------------------------------------


def member_zone(profile: Mapping[str, Any], policy: Mapping[str, Any]) -> ZoneInfo:
    for name in (profile.get("timezone"), policy.get("timezone")):
        try:
            if isinstance(name, str):
                return ZoneInfo(name)
        except (KeyError, ValueError):
            continue
    return ZoneInfo("UTC")


def shifted(at: int, zone: ZoneInfo) -> int:
    """The wall clock as if it were UTC, in ms."""
    offset = datetime.fromtimestamp(at // 1_000, UTC).astimezone(zone).utcoffset() or timedelta()
    return at + int(offset.total_seconds()) * 1_000


def calendar(period: str, at: int, zone: ZoneInfo) -> tuple[int, ...]:
    day = date(1970, 1, 1) + timedelta(days=shifted(at, zone) // 86_400_000)
    if period == "week":
        return tuple(day.isocalendar()[:2])
    return (day.year, day.month) if period == "month" else (day.year, day.month, day.day)


def span_ms(text: str) -> int:
    return int(text[:-1]) * SPANS[text[-1]]
