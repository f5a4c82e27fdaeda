"""One-time codes: who gets one, and whether one is right. Pure: rules and what is known in, an answer and changes out.

What is known is a mapping of short records under text keys, which `agents/otp_log.py` keeps:

    c<id>             a challenge: the keyed hash of its code, when it ends, how often it was tried
    s<digest>         the one live challenge of a member and purpose: its id, and when it ends
    t<kind><digest>   when something was granted (or a wrong code given): newest last, for limits
    d<provider>/<day> what a provider was to be paid on a day (UTC), in millionths

Nothing in a record is a code, an address or an IP: values are keyed hashes. A record that is missing never lets anybody
in: without a challenge there is nothing to be right about.
"""

import hashlib
import hmac
import re
from collections.abc import Callable, Mapping, Sequence
from ipaddress import IPv6Address, ip_address, ip_network

import msgspec

FORMAT = 1
DAY_MS = 86_400_000
KEPT_MS = 2 * DAY_MS  # records older than this say nothing any more
OPEN, USED, LOCKED = "open", "used", "locked"
SECRET_BYTES_MIN = 16
PHONE_CHANNELS = frozenset({"sms", "viber", "whatsapp", "call"})
SUFFIX = 4  # digits left off a number for its range: fraud rings rent numbers in blocks
_PHONE = re.compile(r"\+[1-9][0-9]{6,14}")  # not \d: digits of other scripts would be other addresses to the limits
_EMAIL = re.compile(r"[^\s@<>]{1,64}@[^\s@<>]{1,255}")
_FILL = re.compile(r"[\s-]+")

Get = Callable[[str], bytes | None]


class Limit(msgspec.Struct, frozen=True):
    """At most `count` in any `window_ms`, sliding."""

    count: int
    window_ms: int


class Destination(msgspec.Struct, frozen=True):
    """Where codes may go: numbers that begin with `prefix`; what one costs, in millionths."""

    prefix: str
    limits: tuple[Limit, ...] = ()
    cost: int = 0


class Purpose(msgspec.Struct, frozen=True):
    """What a code is for, and how it goes out."""

    channel: str
    template: str


class Rules(msgspec.Struct, frozen=True):
    """All that the operator decides. Limits of one kind hold together."""

    purposes: Mapping[str, Purpose]
    destinations: tuple[Destination, ...] = ()
    digits: int = 6
    lifetime_ms: int = 300_000
    attempts: int = 5
    member: tuple[Limit, ...] = ()
    address: tuple[Limit, ...] = ()
    ip: tuple[Limit, ...] = ()
    range: tuple[Limit, ...] = ()
    wrong_member: tuple[Limit, ...] = ()
    wrong_ip: tuple[Limit, ...] = ()
    spend: Mapping[str, int] = {}  # millionths a day, by provider


class Challenge(msgspec.Struct, array_like=True, gc=False):
    """A code that was sent. Fields are only added at the end."""

    format: int
    digest: bytes
    slot: str
    member_id: str
    purpose: str
    channel: str
    expires_ms: int
    wrong: int = 0
    state: str = OPEN


class Ask(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A request for a code. `ip`: of the person, if there is one (not of the till)."""

    member_id: str
    purpose: str
    to: str
    ip: str = ""


class Try(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A code given back."""

    id: str
    member_id: str
    code: str
    ip: str = ""


class Step(msgspec.Struct):
    """What came of it, and the records to be kept before anybody is told.

    `result`: `granted`, `verified`, `wrong`, or why not. `retry_ms`: when to ask again; 0: never, or at once.
    """

    result: str
    changes: dict[str, bytes] = {}
    retry_ms: int = 0
    attempts_left: int = 0
    channel: str = ""
    purpose: str = ""
    expires_ms: int = 0


_encode = msgspec.msgpack.Encoder().encode
_times = msgspec.msgpack.Decoder(list[int]).decode
_challenge = msgspec.msgpack.Decoder(Challenge).decode
_amount = msgspec.msgpack.Decoder(int).decode
_slot = msgspec.msgpack.Decoder(tuple[str, int]).decode


def request(
    rules: Rules, get: Get, ask: Ask, *, challenge_id: str, code: str, provider: str, secret: bytes, now_ms: int
) -> Step:
    """Decide whether a code goes out.

    Args:
        rules: of the operator.
        get: looks up a record.
        ask: who asks, what for, and where to.
        challenge_id: a fresh one that nobody can guess.
        code: drawn by chance, `rules.digits` digits.
        provider: that will be asked first; it is charged.
        secret: keys all hashes.
        now_ms: the wall clock.
    """
    purpose = rules.purposes.get(ask.purpose)
    if purpose is None:
        return Step("unknown_purpose")
    form = _PHONE if purpose.channel in PHONE_CHANNELS else _EMAIL if purpose.channel == "email" else None
    person = _person(ask.ip)
    if not ask.member_id or not ask.to or (form is not None and not form.fullmatch(ask.to)):
        return Step("invalid_address" if ask.member_id else "no_member")
    if person is None:
        return Step("invalid_ip")
    guarded = [("m", ask.member_id, rules.member, "member_limit"), ("a", ask.to, rules.address, "address_limit")]
    if person:
        guarded.append(("i", person, rules.ip, "ip_limit"))
    cost = 0
    if purpose.channel in PHONE_CHANNELS:
        destination = destination_of(rules, ask.to)
        if destination is None:
            return Step("destination_closed")
        cost = destination.cost
        guarded.append(("r", ask.to[:-SUFFIX], rules.range, "range_limit"))
        guarded.append(("n", destination.prefix, destination.limits, "destination_limit"))
    changes: dict[str, bytes] = {}
    for kind, value, limits, reason in guarded:
        retry = _count(changes, get, f"t{kind}{keyed(secret, kind, value)}", limits, now_ms)
        if retry:
            return Step(reason, retry_ms=retry)
    day = now_ms // DAY_MS
    spent = f"d{provider}/{day}"
    before = get(spent)
    amount = (0 if before is None else _amount(before)) + cost
    if provider in rules.spend and amount > rules.spend[provider]:
        return Step("spend_cap", retry_ms=(day + 1) * DAY_MS - now_ms)
    changes[spent] = _encode(amount)
    slot = keyed(secret, "slot", f"{len(ask.member_id)}:{ask.member_id}{ask.purpose}")
    expires = now_ms + rules.lifetime_ms
    digest = _hash(secret, challenge_id, code)
    challenge = Challenge(FORMAT, digest, slot, ask.member_id, ask.purpose, purpose.channel, expires)
    changes |= {f"c{challenge_id}": _encode(challenge), f"s{slot}": _encode((challenge_id, expires))}
    return Step("granted", changes, 0, rules.attempts, purpose.channel, ask.purpose, expires)


def verify(rules: Rules, get: Get, given: Try, *, secret: bytes, now_ms: int) -> Step:
    """Decide whether a code is right. A wrong one costs an attempt; a right one is good once."""
    person = _person(given.ip)
    if person is None:
        return Step("invalid_ip")
    changes: dict[str, bytes] = {}
    guarded = [("w", given.member_id, rules.wrong_member, "member_limit")]
    if person:
        guarded.append(("x", person, rules.wrong_ip, "ip_limit"))
    for kind, value, limits, reason in guarded:
        retry = _count(changes, get, f"t{kind}{keyed(secret, kind, value)}", limits, now_ms)
        if retry:
            return Step(reason, retry_ms=retry)
    raw = get(f"c{given.id}")
    challenge = None if raw is None else _challenge(raw)
    code = _FILL.sub("", given.code)
    # Always computed and compared, in constant time: how long it takes tells nothing.
    same = hmac.compare_digest(_hash(secret, given.id, code), challenge.digest if challenge else bytes(32))
    if challenge is None or challenge.format > FORMAT or challenge.member_id != given.member_id:
        return Step("unknown", changes)
    facts = (challenge.channel, challenge.purpose, challenge.expires_ms)
    live = get(f"s{challenge.slot}")
    if challenge.state != OPEN:
        return Step(challenge.state, {}, 0, 0, *facts)
    if now_ms >= challenge.expires_ms:
        return Step("expired", {}, 0, 0, *facts)
    if live is None or _slot(live)[0] != given.id:
        return Step("replaced", {}, 0, 0, *facts)
    if same:
        challenge.state = USED
        return Step("verified", {f"c{given.id}": _encode(challenge)}, 0, rules.attempts - challenge.wrong - 1, *facts)
    challenge.wrong += 1
    left = max(0, rules.attempts - challenge.wrong)
    challenge.state = OPEN if left else LOCKED
    return Step("wrong", changes | {f"c{given.id}": _encode(challenge)}, 0, left, *facts)


def destination_of(rules: Rules, number: str) -> Destination | None:
    """Find where a number lies: the longest prefix that is open; None: nowhere that codes may go."""
    fitting = [one for one in rules.destinations if number.startswith(one.prefix)]
    return max(fitting, key=lambda one: len(one.prefix), default=None)


def keyed(secret: bytes, kind: str, value: str) -> str:
    """Name a value without telling it: 128 bits that nobody without the secret can make."""
    return hmac.digest(secret, f"otp/{kind}/{value}".encode(), hashlib.sha256)[:16].hex()


def outdated(key: str, raw: bytes, now_ms: int) -> bool:
    """Tell whether a record says nothing any more."""
    if key.startswith("c"):
        return _challenge(raw).expires_ms + DAY_MS < now_ms
    if key.startswith("t"):
        times = _times(raw)
        return not times or times[-1] + KEPT_MS < now_ms
    if key.startswith("s"):
        return _slot(raw)[1] + DAY_MS < now_ms
    return (int(key.rpartition("/")[2]) + 2) * DAY_MS < now_ms


def _hash(secret: bytes, challenge_id: str, code: str) -> bytes:
    return hmac.digest(secret, f"otp/code/{len(challenge_id)}:{challenge_id}/{code}".encode(), hashlib.sha256)


def _count(changes: dict[str, bytes], get: Get, key: str, limits: Sequence[Limit], now_ms: int) -> int:
    """Note one more under a key; how long until it is within its limits, if it is not (then nothing is noted)."""
    if not limits:
        return 0
    raw = get(key)
    times = [] if raw is None else _times(raw)
    retry = 0
    for limit in limits:
        recent = [at for at in times if at > now_ms - limit.window_ms]
        if len(recent) >= limit.count:
            retry = max(retry, recent[-limit.count] + limit.window_ms - now_ms)
    if not retry:
        most = max(limit.count for limit in limits)
        changes[key] = _encode([*times, now_ms][-most:])
    return retry


def _person(ip: str) -> str | None:
    """Name whom an IP stands for: itself, or the /64 of IPv6 that one line has; None: no IP. Empty: not told."""
    if not ip:
        return ""
    try:
        found = ip_address(ip)
    except ValueError:
        return None
    if isinstance(found, IPv6Address):
        if found.ipv4_mapped is not None:
            return str(found.ipv4_mapped)
        return str(ip_network((found.packed[:8] + bytes(8), 64)))
    return str(found)
