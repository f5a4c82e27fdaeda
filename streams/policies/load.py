"""`policies.yaml`: text to a `Policy`, with everything that is wrong at once and in its place. Opens nothing."""

import re
from typing import Any

import msgspec

from schemas.commands import CHANNELS
from schemas.findings import Finding, errors
from schemas.ids import h128
from schemas.policy import PRIORITY_MAX, Budget, Cap, ControlGroup, Policy, QuietHours
from streams import marks
from streams.campaign_keys import CATEGORIES, Keys
from streams.patterns.durations import DAY_MS, HINT, parse_duration
from streams.policies.local_time import DAY_MINUTES, PERIODS

POLICY_KEYS = ("timezone", "caps", "quiet_hours", "budgets", "control_group", "dedupe", "transactional")
CAP_KEYS = ("limit", "channel", "category", "reserve")
QUIET_KEYS = ("from", "to", "channels", "then")
BUDGET_KEYS = ("limit", "campaign", "channel")
MAX_CAPS = 16
MAX_CAP_COUNT = 100  # so many messages are remembered per member and scope
MAX_CAP_SPAN_MS = 366 * DAY_MS
MAX_WINDOWS = 16
MAX_BUDGETS = 64
MAX_BUDGET = 1_000_000_000
MAX_DEDUPE_MS = 31 * DAY_MS
VERSION_DIGITS = 16

_LIMIT = re.compile(r"([0-9]{1,10}) per (?:calendar (day|week|month)|(\S{1,40}))")
_IN_ALL = re.compile(r"([0-9]{1,10}) in all")
_RESERVE = re.compile(r"([0-9]{1,3}) for priority ([0-9]{1,3})")
_MINUTE = re.compile(r"([01]?[0-9]|2[0-3]):([0-5][0-9])")
_PERCENT = re.compile(r"[0-9]{1,2}(\.[0-9]{1,2})?")
_WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")


def load_policy(text: str, path: str) -> tuple[Policy | None, tuple[Finding, ...]]:
    """Read a policy file.

    Returns:
        The policy, or None when a finding of severity error forbids it, and all findings in the order of the file.
    """
    try:
        root = marks.read(text.removeprefix("\ufeff"))
    except marks.MarksError as error:
        return None, (Finding(error.code, path, error.pos.line, error.pos.column, error.message, error.hint),)
    if root is None or (isinstance(root, marks.Scalar) and not root.text.strip()):
        return None, (Finding("empty", path, 0, 0, "the file is empty", f"write some of {', '.join(POLICY_KEYS)}"),)
    if not isinstance(root, marks.Mapping):
        message = "policies are written as 'key: value' lines"
        return None, (Finding("no-mapping", path, root.pos.line, root.pos.column, message, "begin with caps: …"),)
    keys = Keys(root, path, POLICY_KEYS)
    policy = Policy(
        timezone=keys.timezone(),
        caps=tuple(_caps(keys)),
        quiet_hours=tuple(_quiet_hours(keys)),
        budgets=tuple(_budgets(keys)),
        control_group=_control_group(keys),
        dedupe_address_ms=_dedupe(keys),
        transactional_consent=_transactional(keys),
        source=root.plain_value(),
    )
    findings = tuple(sorted(keys.findings, key=lambda f: (f.line, f.column)))
    if errors(findings):
        return None, findings
    return msgspec.structs.replace(policy, version=_version(policy)), findings


def _version(policy: Policy) -> str:
    facts: dict[str, Any] = msgspec.to_builtins(policy)
    del facts["version"], facts["source"]
    return h128("policy", msgspec.json.encode(facts, order="deterministic").decode())[:VERSION_DIGITS]


# ---------------------------------------------------------------- lists


def _entries(keys: Keys, name: str, known: tuple[str, ...], most: int) -> list[Keys]:
    """Take a list of mappings."""
    value = keys.found.get(name)
    if value is None:
        return []
    if not isinstance(value, marks.Sequence):
        keys.add("wrong-kind", name, f"'{name}' is a list", "begin each entry with -")
        return []
    if len(value.items) > most:
        keys.add("too-many", name, f"'{name}' has too many entries (got {len(value.items)}, at most {most})")
    found = []
    for item in value.items:
        if isinstance(item, marks.Mapping):
            found.append(Keys(item, keys.path, known, keys.findings))
        else:
            place = Finding("wrong-kind", keys.path, item.pos.line, item.pos.column, "this entry holds keys of its own")
            keys.findings.append(msgspec.structs.replace(place, hint=f"the keys are {', '.join(known)}"))
    return found


def _caps(keys: Keys) -> list[Cap]:
    caps = []
    for entry in _entries(keys, "caps", CAP_KEYS, MAX_CAPS):
        limit = _limit(entry, MAX_CAP_COUNT, "2 per 7d or 1 per calendar day", spans=True)
        channel, category = entry.word("channel", CHANNELS), entry.word("category", CATEGORIES)
        if category == "transactional":
            message = "transactional messages are not capped"
            entry.add("no-effect", "category", message, "remove the cap")
        reserved, priority = _reserve(entry, limit[0] if limit else MAX_CAP_COUNT)
        if limit is not None:
            caps.append(Cap(*limit, channel, category, reserved, priority))
    return caps


def _limit(entry: Keys, most: int, example: str, *, spans: bool) -> tuple[int, int | None, str | None] | None:
    """Take `n per span`, `n per calendar day` or, of a budget, `n in all`: (count, span, period)."""
    value = entry.scalar("limit", required=True)
    if value is None:
        return None
    text = value.text.strip()
    total = _IN_ALL.fullmatch(text) if not spans else None
    match = _LIMIT.fullmatch(text)
    count, span, period = 0, None, None
    if total is not None:
        count = int(total[1])
    elif match is not None and (match[2] or spans):
        count, period = int(match[1]), match[2]
        if period is None:
            try:
                span = parse_duration(match[3])
            except ValueError:
                entry.add("span", "limit", f"this is no span of time (got '{match[3]}')", HINT)
                return None
    if not 1 <= count <= most or (span is not None and not 0 < span <= MAX_CAP_SPAN_MS):
        entry.add(
            "wrong-limit", "limit", f"this is no limit (got '{text[:40]}')", f"write e.g. {example}, at most {most:,}"
        )
        return None
    return count, span, period


def _reserve(entry: Keys, count: int) -> tuple[int, int]:
    value = entry.scalar("reserve")
    if value is None:
        return 0, 0
    match = _RESERVE.fullmatch(value.text.strip())
    if match is None or not 1 <= int(match[1]) <= count or not 1 <= int(match[2]) <= PRIORITY_MAX:
        hint = f"write e.g. 1 for priority 80; at most the cap's {count}, priorities go to {PRIORITY_MAX}"
        entry.add("wrong-reserve", "reserve", f"this reserves nothing (got '{value.text[:40]}')", hint)
        return 0, 0
    return int(match[1]), int(match[2])


def _quiet_hours(keys: Keys) -> list[QuietHours]:
    windows = []
    for entry in _entries(keys, "quiet_hours", QUIET_KEYS, MAX_WINDOWS):
        begin, end = _minute(entry, "from"), _minute(entry, "to")
        cancel = entry.choice("then", ("hold", "cancel")) == "cancel"
        channels = _channels(entry)
        if begin is None or end is None:
            continue
        if begin == end:
            entry.add("never-free", "to", "quiet hours from a time to itself leave no hour", "write another end")
            continue
        windows.append(QuietHours(begin, end, channels, cancel))
    return windows


def _minute(entry: Keys, key: str) -> int | None:
    value = entry.scalar(key, required=True)
    if value is None:
        return None
    match = _MINUTE.fullmatch(value.text.strip())
    if match is None:
        hint = 'write e.g. "21:00", from "00:00" to "23:59"'
        entry.add("bad-time", key, f"this is no time of day (got '{value.text[:40]}')", hint)
        return None
    return (int(match[1]) * 60 + int(match[2])) % DAY_MINUTES


def _channels(entry: Keys) -> tuple[str, ...]:
    value = entry.found.get("channels")
    if value is None:
        return ()
    items = value.items if isinstance(value, marks.Sequence) else [value]
    found = []
    for item in items:
        if not isinstance(item, marks.Scalar) or item.text not in CHANNELS:
            got = item.text[:40] if isinstance(item, marks.Scalar) else "keys"
            message = f"there is no channel '{got}'"
            place = Finding("unknown-channel", entry.path, item.pos.line, item.pos.column, message)
            entry.findings.append(msgspec.structs.replace(place, hint=f"the channels are {', '.join(CHANNELS)}"))
        else:
            found.append(item.text)
    return tuple(sorted(set(found)))


def _budgets(keys: Keys) -> list[Budget]:
    budgets: dict[str, Budget] = {}
    for entry in _entries(keys, "budgets", BUDGET_KEYS, MAX_BUDGETS):
        limit = _limit(entry, MAX_BUDGET, f"1000 per calendar {PERIODS[0]} or 50000 in all", spans=False)
        campaign = entry.identifier("campaign") if "campaign" in entry.found else None
        channel = entry.word("channel", CHANNELS)
        if limit is None:
            continue
        budget = Budget(limit[0], limit[2], campaign, channel)
        if budget.scope in budgets:
            entry.add("duplicate-budget", "limit", "this budget is there already", "keep one of them")
        budgets[budget.scope] = budget
    return list(budgets.values())


# ---------------------------------------------------------------- single keys


def _control_group(keys: Keys) -> ControlGroup | None:
    inner = keys.inner("control_group", ("percent", "salt"))
    if inner is None:
        return None
    percent, salt = inner.scalar("percent", required=True), inner.scalar("salt", required=True)
    if percent is None or salt is None:
        return None
    if not _PERCENT.fullmatch(percent.text.strip()) or not 0 < float(percent.text) < 100:
        message = f"percent is a number above 0 and below 100 (got '{percent.text[:40]}')"
        inner.add("wrong-number", "percent", message, "write e.g. 5 or 2.5")
        return None
    if not _WORD.fullmatch(salt.text):
        inner.add("bad-salt", "salt", f"this is no salt (got '{salt.text[:40]}')", "letters, digits, - _ and .")
        return None
    return ControlGroup(float(percent.text), salt.text)


def _dedupe(keys: Keys) -> int | None:
    inner = keys.inner("dedupe", ("address",))
    window = inner.duration("address") if inner is not None else None
    if inner is not None and window is not None and window > MAX_DEDUPE_MS:
        inner.add("span", "address", "addresses are remembered for at most 31d", "write a shorter span")
    return window


def _transactional(keys: Keys) -> bool:
    inner = keys.inner("transactional", ("consent",))
    return inner is None or inner.choice("consent", ("required", "assumed")) == "required"
