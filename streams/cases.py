"""Cases files: what must come of a campaign, said in events with times. `streams/case_runs.py` runs them.

    - name: an order within two hours
      profile: {city: Omsk}                # of member m1; everyone has an address and consent for every channel
      events:
        - {at: 10:00, type: catalog.product.viewed, id: v1, product_id: p1}
        - {at: +90m, type: order.created, id: o1, items: [{product_id: p1}]}
      until: 13:00                         # the clock reads this at the end; without it, the last event's time
      expect: []                           # every message, and no other: {fires: 12:00, anchor: v1, data: {…}}
      not:
        - {anchor: v1, because: cancelled, by: o1}

`fires` is the end of the window for an absence, else the time of the event that completed the match. A window that ends
at 12:00 is judged once the clock reads 12:00:05 (the campaign's lateness). `appended_at` is when an event was read, if
that was later: `+3h` counts from its own `at`. An event's id is `e1`, `e2` … by its place unless it says one.

Pure: takes text, opens nothing. All findings at once, in their places.
"""

from collections.abc import Iterable
from typing import Any

import msgspec

from schemas.events import TICK
from schemas.findings import WARNING, Finding, errors
from schemas.taxonomy import is_known, known_attribute, suggest_attribute, suggest_type
from streams import marks
from streams.campaign_keys import Keys
from streams.case_times import HINT, Time, read_time
from streams.patterns.nodes import Pos
from streams.patterns.spell import nearest

CASE_KEYS = ("name", "profile", "profiles", "events", "until", "expect", "not")
EXPECT_KEYS = (
    "fires", "member", "anchor", "correlation", "completed_by", "decision", "reason", "data", "called_back", "step",
)  # fmt: skip
NOT_KEYS = ("member", "anchor", "correlation", "because", "by")
EVENT_KEYS = ("at", "type", "id", "member", "appended_at", "data")
FIRST_MEMBER = "m1"
CAPS = ("cooldown", "limit", "once")
BECAUSE = (
    "cancelled",  # the awaited absence was broken; by: the event that did
    "killed",  # a `without` event came; by: that event
    "expired",  # the next step did not come in time
    "replaced",  # a later start took its place (on_repeat: restart); by: that start
    "evicted",  # too many live instances
    "waiting",  # not decided when the case's log ends
    "never_entered",  # it started nothing
    "too_old",  # read more than 7 days after it happened
    "late",  # too old, or called back after the decision (on_late: cancel); by: the late event
    "duplicate",  # its id had been read before
    "if_still",
    "cap",  # any of the next three
    *CAPS,
    "no_consent",
    "topic_off",
    "no_address",
    "invalid_address",
    "paused",  # its message is held; nothing else holds one in a case
    "stopped",
)
DECISIONS = ("eligible", "suppressed", "held", "exited", "completed")  # the last two: how a journey ended
# What a member has unless the case says otherwise: every channel may be used and can be reached.
REACHABLE: dict[str, Any] = {
    "phone": "+10000000000",
    "push_token": "token",
    "consent": {"email": True, "sms": True, "viber": True, "push": True},
}


class CaseEvent(msgspec.Struct, frozen=True):
    """One event of a case, in log order. Times in ms UTC; ticks have no member and no id."""

    id: str
    type: str
    member: str
    at_ms: int
    append_ms: int
    data: dict[str, Any]
    pos: Pos


class Expected(msgspec.Struct, frozen=True):
    """A conclusion that must come: what is None is not compared. `correlated`: `correlation` was written."""

    pos: Pos
    member: str | None = None
    anchor: str | None = None
    fires: Time | None = None
    correlation: Any = None
    correlated: bool = False
    completed_by: str | None = None
    decision: str = DECISIONS[0]
    reason: str | None = None
    data: dict[str, Any] | None = None
    called_back: bool = False
    step: str | None = None


class Denied(msgspec.Struct, frozen=True):
    """What must not fire, and why not. Without an anchor: no message at all for the member."""

    pos: Pos
    because: str
    member: str | None = None
    anchor: str | None = None
    correlation: Any = None
    correlated: bool = False
    by: str | None = None


class Case(msgspec.Struct, frozen=True):
    """One case. `profiles`: attributes by member, beyond what `REACHABLE` gives everyone."""

    name: str
    pos: Pos
    profiles: dict[str, dict[str, Any]]
    events: tuple[CaseEvent, ...]
    until_ms: int | None
    expect: tuple[Expected, ...]
    denied: tuple[Denied, ...]

    def event(self, event_id: str) -> CaseEvent | None:
        """Find an event by its id."""
        return next((event for event in self.events if event.id == event_id), None)


def read_cases(text: str, path: str) -> tuple[tuple[Case, ...], tuple[Finding, ...]]:
    """Read a cases file: a list of cases.

    Args:
        text: the file's text, YAML.
        path: names the file in findings; nothing is opened.

    Returns:
        The cases without errors, and all findings.
    """
    try:
        root = marks.read(text.removeprefix("\ufeff"))
    except marks.MarksError as error:
        return (), (Finding(error.code, path, error.pos.line, error.pos.column, error.message, error.hint),)
    if not isinstance(root, marks.Sequence) or not root.items:
        return (), (Finding("no-cases", path, 0, 0, "a cases file is a list of cases", "begin with - name: …"),)
    cases: list[Case] = []
    findings: list[Finding] = []
    names: dict[str, int] = {}
    for item in root.items:
        reader = _Reader(item, path)
        case = reader.read()
        findings += reader.findings
        if case is None:
            continue
        if case.name in names:
            message = f"case '{case.name}' is already at line {names[case.name]}"
            findings.append(Finding("duplicate-case", path, case.pos.line, case.pos.column, message, "rename one"))
        names.setdefault(case.name, case.pos.line)
        if not errors(reader.findings):
            cases.append(case)
    return tuple(cases), tuple(findings)


class _Reader:
    """Reads one case."""

    def __init__(self, item: marks.Value, path: str) -> None:
        self.item = item
        self.path = path
        self.findings: list[Finding] = []
        self.events: list[CaseEvent] = []

    def read(self) -> Case | None:
        if not isinstance(self.item, marks.Mapping):
            self._add("wrong-kind", self.item.pos, "a case holds keys of its own", "write - name: … and events: below")
            return None
        keys = Keys(self.item, self.path, CASE_KEYS, self.findings)
        name = keys.scalar("name", required=True)
        for number, item in enumerate(self._items(keys, "events"), 1):
            self._event(item, number)
        if "events" not in keys.found:
            self._add("missing-key", keys.pos, "the key 'events' is missing", "add events: and a list of them")
        if "expect" not in keys.found and "not" not in keys.found:
            message = "the case expects nothing"
            self._add("missing-key", keys.pos, message, "add expect: with firings ([] for none), or not: with reasons")
        until = self._time(keys, "until", self.events[-1].at_ms if self.events else None)
        expect = [found for item in self._items(keys, "expect") for found in self._expected(item)]
        denied = [found for item in self._items(keys, "not") for found in self._denied(item)]
        return Case(
            name.text.strip() if name else "",
            keys.pos,
            self._profiles(keys),
            tuple(self.events),
            until.ms if until else None,
            tuple(expect),
            tuple(denied),
        )

    # ------------------------------------------------------------ events

    def _event(self, item: marks.Value, number: int) -> None:
        keys = self._mapping(item, ())
        if keys is None:
            return
        before = self.events[-1] if self.events else None
        kind = keys.scalar("type", required=True)
        at = self._time(keys, "at", before.at_ms if before else None, required=True)
        appended = self._time(keys, "appended_at", at.ms if at else None)
        if kind is None or at is None:
            return
        append_ms = appended.ms if appended else max(at.ms, before.append_ms if before else 0)
        if before and not appended and at.ms < before.at_ms and kind.text != TICK:
            message = "this event happened before the one above it"
            remedy = "sort them, or add appended_at (when it was read) if it came late"
            self._add("goes-back", keys.found["at"].pos, message, remedy, WARNING)
        event_id = keys.text("id") or f"e{number}"
        if any(event.id == event_id for event in self.events) and "id" not in keys.found:
            self._add("duplicate-id", keys.pos, f"another event has the id '{event_id}'", "give this one an id")
        member = keys.text("member") or FIRST_MEMBER
        data = self._data(keys, kind)
        self.events.append(CaseEvent(event_id, kind.text, member, at.ms, append_ms, data, keys.pos))

    def _data(self, keys: Keys, kind: marks.Scalar) -> dict[str, Any]:
        if not is_known(kind.text):
            near = suggest_type(kind.text)
            hint = f"did you mean '{near}'?" if near else "or name it custom.…"
            self._add("unknown-event", kind.pos, f"there is no event '{kind.text[:60]}'", hint, WARNING)
        inner = keys.inner("data", ())
        named = {name: value for name, value in keys.found.items() if name not in EVENT_KEYS}
        named |= inner.found if inner else {}
        for name in named:
            if not known_attribute(kind.text, name):
                near = suggest_attribute(kind.text, name)
                place = keys.key_pos.get(name) or (inner.key_pos[name] if inner else keys.pos)
                hint = f"did you mean '{near}'?" if near else "the campaign may still use it"
                self._add("unknown-attribute", place, f"{kind.text} has no attribute '{name[:40]}'", hint, WARNING)
        return {name: value.plain_value() for name, value in named.items()}

    def _profiles(self, keys: Keys) -> dict[str, dict[str, Any]]:
        found: dict[str, dict[str, Any]] = {}
        first = keys.inner("profile", ())
        if first is not None:
            found[FIRST_MEMBER] = {name: value.plain_value() for name, value in first.found.items()}
        others = keys.inner("profiles", ())
        for member in others.found if others is not None else ():
            inner = others.inner(member, ()) if others is not None else None
            if inner is not None:
                found[member] = {name: value.plain_value() for name, value in inner.found.items()}
        return found

    # ------------------------------------------------------------ expectations

    def _expected(self, item: marks.Value) -> Iterable[Expected]:
        keys = self._mapping(item, EXPECT_KEYS)
        if keys is None:
            return
        anchor = self._event_id(keys, "anchor")
        anchored = next((event for event in self.events if event.id == anchor), None)
        data = keys.inner("data", ())
        correlation = keys.found.get("correlation")
        yield Expected(
            keys.pos,
            keys.text("member"),
            anchor,
            self._time(keys, "fires", anchored.at_ms if anchored else None),
            correlation.plain_value() if correlation is not None else None,
            correlation is not None,
            self._event_id(keys, "completed_by"),
            self._choice(keys, "decision", DECISIONS) or DECISIONS[0],
            keys.text("reason"),
            {name: value.plain_value() for name, value in data.found.items()} if data is not None else None,
            keys.flag("called_back"),
            keys.text("step"),
        )

    def _denied(self, item: marks.Value) -> Iterable[Denied]:
        keys = self._mapping(item, NOT_KEYS)
        if keys is None:
            return
        correlation = keys.found.get("correlation")
        because = self._choice(keys, "because", BECAUSE)
        keys.scalar("because", required=True)
        if because is None:
            return
        yield Denied(
            keys.pos,
            because,
            keys.text("member"),
            self._event_id(keys, "anchor"),
            correlation.plain_value() if correlation is not None else None,
            correlation is not None,
            self._event_id(keys, "by"),
        )

    # ------------------------------------------------------------ kinds of values

    def _event_id(self, keys: Keys, key: str) -> str | None:
        text = keys.text(key)
        ids = [event.id for event in self.events]
        if (
            text is not None and text not in ids and "/" not in text
        ):  # a date's anchor is a label such as every/2026-03-02
            near = nearest(text, ids)
            hint = f"did you mean '{near}'?" if near else f"the ids are {', '.join(ids) or 'none'}"
            keys.add("unknown-id", key, f"no event of this case has the id '{text[:40]}'", hint)
        return text

    def _choice(self, keys: Keys, key: str, options: tuple[str, ...]) -> str | None:
        value = keys.scalar(key)
        if value is None:
            return None
        if value.text in options:
            return value.text
        near = nearest(value.text, options)
        hint = f"did you mean '{near}'?" if near else f"write one of {', '.join(options)}"
        keys.add(f"unknown-{key}", key, f"'{key}' cannot be '{value.text[:40]}'", hint)
        return None

    def _time(self, keys: Keys, key: str, after_ms: int | None, *, required: bool = False) -> Time | None:
        value = keys.scalar(key, required=required)
        if value is None:
            return None
        try:
            return read_time(value.text, after_ms)
        except ValueError as error:
            keys.add("bad-time", key, str(error), HINT)
            return None

    def _items(self, keys: Keys, key: str) -> list[marks.Value]:
        value = keys.found.get(key)
        if value is None:
            return []
        if isinstance(value, marks.Sequence):
            return value.items
        if isinstance(value, marks.Scalar) and value.text in ("", "[]"):
            return []
        keys.add("wrong-kind", key, f"'{key}' is a list", "begin each entry with -")
        return []

    def _mapping(self, item: marks.Value, known: tuple[str, ...]) -> Keys | None:
        if isinstance(item, marks.Mapping):
            return Keys(item, self.path, known, self.findings)
        self._add("wrong-kind", item.pos, "this entry holds keys of its own", "write - {at: 10:00, type: …}")
        return None

    def _add(self, code: str, pos: Pos, message: str, hint: str = "", severity: str = "error") -> None:
        self.findings.append(Finding(code, self.path, pos.line, pos.column, message, hint, severity))
