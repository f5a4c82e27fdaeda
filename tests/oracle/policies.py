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
from tests.oracle.evaluate import Instance, Read, Walk
from tests.oracle.language import read_campaign

MINUTE_MS = 60_000
LOST = {f"delivery.{word}" for word in ("failed", "bounced", "expired", "cancelled", "rejected", "undelivered")}
SPANS = {"s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
ATTRIBUTES = {"email": "email", "sms": "phone"}


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

    @property
    def member_id(self) -> str:
        return str(self.firing["member_id"])

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
                message.verdict = verdict(message, policy, judged, contest)
                message.said.append((message.clock, message.verdict))
                if not any(known is message for known in judged):
                    judged.append(message)
                contest.append(message)
    return judged


def verdict(m: Message, policy: Mapping[str, Any], judged: Sequence[Message], contest: Sequence[Message]) -> str:
    """The first rule that refuses, in the order of docs/policies.md."""
    if m.clock >= m.first + span_ms(m.send.get("lifetime", "1d")):
        return "expired"
    sent = [x for x in judged if x.verdict == "sent"]
    own = [x for x in sent if x.member_id == m.member_id]
    profile = m.past[-1].profile
    zone = member_zone(profile, policy)
    for reason in (unreachable(m, policy, profile), control(m, policy), quiet(m, policy, zone)):
        if reason:
            return reason
    for cap in policy.get("caps", ()) if m.category != "transactional" else ():
        reason = full(m, cap, own, zone, contest)
        if reason:
            return reason
    window = policy.get("dedupe", {}).get("address")
    if window and any(
        x.member_id != m.member_id
        and x.firing["campaign"] == m.firing["campaign"]
        and same_address(x, m)
        and m.clock - x.clock < span_ms(window)
        for x in sent
    ):
        return "duplicate"
    for budget in policy.get("budgets", ()):
        count, _, rest = budget["limit"].partition(" ")
        zone = ZoneInfo(policy.get("timezone", "UTC"))
        counted = [x for x in sent if matches(x, budget)]
        if rest != "in all":
            period = rest.removeprefix("per calendar ")
            counted = [x for x in counted if calendar(period, x.clock, zone) == calendar(period, m.clock, zone)]
        if matches(m, budget) and len(counted) >= int(count):
            return "budget"
    return "sent"


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
    channel = m.send["channel"]
    if x.send["channel"] != channel:
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
    counted = [
        x
        for x in own
        if matches(x, cap)
        and x.category != "transactional"
        and not never_came(x, m.past)
        and in_span(x.clock, m.clock, span, period, zone)
    ]
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
    return any(r.type in LOST and r.data.get("reason") != "outcome_unknown" for r in told)


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
