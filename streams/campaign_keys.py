"""The keys of a campaign file and what each may hold. Every method adds findings and returns a usable value."""

import re
import zoneinfo
from collections.abc import Iterable

from schemas.campaign import (
    DEFAULT_ATTRIBUTION_WINDOW_MS,
    DEFAULT_LATENESS_MS,
    DEFAULT_LIFETIME_MS,
    Limit,
    Repeat,
    Send,
)
from schemas.commands import CHANNELS, LANES
from schemas.findings import ERROR, WARNING, Finding
from schemas.policy import PRIORITY, PRIORITY_MAX
from streams import marks
from streams.patterns.durations import DAY_MS, HINT, format_duration, parse_duration
from streams.patterns.nodes import Pos
from streams.patterns.spell import nearest

KEYS = (
    "campaign",
    "pattern",
    "where",
    "if still",
    "on_repeat",
    "cooldown",
    "limit",
    "once",
    "per",
    "lateness",
    "on_late",
    "start",
    "end",
    "control",
    "holdout",
    "send",
    "flow",
    "goal",
    "exit_on",
    "on_edit",
    "attribution",
    "timezone",
    "title",
    "description",
    "owner",
    "tags",
)
SEND_KEYS = ("channel", "template", "data", "category", "lane", "lifetime", "topic", "priority")
CATEGORIES = ("marketing", "transactional")
MAX_PARALLEL = (
    64  # no more instances of one member can live (DESIGN §4); beyond 8 of one campaign the earliest due goes
)
MAX_LIMIT = 1_000
MAX_LATENESS_MS = 7 * DAY_MS  # older events move no pattern (SEMANTICS 8)

_ID = re.compile(r"[a-z][a-z0-9_-]{0,63}")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")
_LIMIT = re.compile(r"([0-9]{1,6}) per (\S{1,40})")
TEMPLATE_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]*(?:/[A-Za-z0-9_-][A-Za-z0-9_.-]*)*")
_ZONE = re.compile(r"[A-Za-z][A-Za-z0-9_+-]*(?:/[A-Za-z0-9_+-]+){0,2}")


class Keys:
    """The entries of one mapping, by key; duplicates and strangers become findings at once."""

    def __init__(
        self, mapping: marks.Mapping, path: str, known: Iterable[str], findings: list[Finding] | None = None
    ) -> None:
        """Sort the entries."""
        self.path = path
        self.pos = mapping.pos
        self.findings: list[Finding] = [] if findings is None else findings
        self.found: dict[str, marks.Value] = {}
        self.key_pos: dict[str, Pos] = {}
        self.send_data: dict[str, marks.Scalar] = {}
        known = tuple(known)
        for key, value in mapping.entries:
            name = key.text
            if known and name not in known:
                near = nearest(name, known)
                hint = f"did you mean '{near}'?" if near else f"the keys are {', '.join(known)}"
                self._at("unknown-key", key.pos, f"there is no key '{name[:40]}'", hint)
            elif name in self.found:
                first = self.key_pos[name]
                self._at("duplicate-key", key.pos, f"'{name[:40]}' is already at line {first.line}", "remove one")
            else:
                self.found[name] = value
                self.key_pos[name] = key.pos

    def _at(self, code: str, pos: Pos, message: str, hint: str = "", severity: str = ERROR) -> None:
        self.findings.append(Finding(code, self.path, pos.line, pos.column, message, hint, severity))

    def add(self, code: str, key: str, message: str, hint: str = "", severity: str = ERROR) -> None:
        """Add a finding at the value of a key."""
        value = self.found.get(key)
        self._at(code, value.pos if value is not None else self.pos, message, hint, severity)

    # ------------------------------------------------------------ kinds of values

    def scalar(self, key: str, *, required: bool = False) -> marks.Scalar | None:
        """Take a single value that is not empty."""
        value = self.found.get(key)
        if value is None:
            if required:
                self._at("missing-key", self.pos, f"the key '{key}' is missing", f"add {key}: …")
            return None
        if not isinstance(value, marks.Scalar):
            self.add("wrong-kind", key, f"'{key}' holds one text", "write it on one line")
            return None
        if not value.text.strip():
            self.add("empty", key, f"'{key}' is empty", "write a value or remove the key")
            return None
        return value

    def text(self, key: str) -> str | None:
        """Take a free text."""
        value = self.scalar(key)
        return value.text.strip() if value is not None else None

    def identifier(self, key: str) -> str | None:
        """Take an id: it names the campaign for ever and goes into ids of messages."""
        value = self.scalar(key, required=True)
        if value is None:
            return None
        if not _ID.fullmatch(value.text):
            self.add(
                "bad-id",
                key,
                f"this is no id (got '{value.text[:40]}')",
                "lower case letters, digits, - and _, a letter first, at most 64",
            )
            return None
        return value.text

    def duration(self, key: str) -> int | None:
        """Take a span above zero."""
        value = self.scalar(key)
        if value is None:
            return None
        try:
            span = parse_duration(value.text)
        except ValueError as error:
            self.add("span", key, str(error), HINT)
            return None
        if span == 0:
            self.add("zero-span", key, f"a span of zero holds nothing (got {value.text})", HINT)
            return None
        return span

    def flag(self, key: str) -> bool:
        """Take true or false."""
        value = self.scalar(key)
        if value is None:
            return False
        if value.text not in ("true", "false"):
            self.add("wrong-kind", key, f"'{key}' is true or false (got '{value.text[:40]}')", f"write {key}: true")
        return value.text == "true"

    def choice(self, key: str, options: tuple[str, ...]) -> str:
        """Take one of a few words; the first one is the default."""
        value = self.scalar(key)
        if value is None:
            return options[0]
        if value.text not in options:
            near = nearest(value.text, options)
            self.add(
                "wrong-choice",
                key,
                f"'{key}' is {' or '.join(options)} (got '{value.text[:40]}')",
                f"did you mean '{near}'?" if near else "",
            )
            return options[0]
        return value.text

    def inner(self, key: str, known: Iterable[str]) -> "Keys | None":
        """Take a mapping."""
        value = self.found.get(key)
        if value is None:
            return None
        if not isinstance(value, marks.Mapping):
            self.add(
                "wrong-kind", key, f"'{key}' holds keys of its own", f"write {key}: and below it, indented, its keys"
            )
            return None
        return Keys(value, self.path, known, self.findings)

    # ------------------------------------------------------------ single keys

    def on_repeat(self) -> Repeat | None:
        """Take `restart`, `keep` or `{parallel: n}`; None for the default."""
        if isinstance(self.found.get("on_repeat"), marks.Mapping):
            inner = self.inner("on_repeat", ("parallel",))
            value = inner.scalar("parallel", required=True) if inner else None
            if inner is None or value is None:
                return None
            if not value.text.isascii() or not value.text.isdigit() or not 1 <= int(value.text[:9]) <= MAX_PARALLEL:
                inner.add(
                    "wrong-number",
                    "parallel",
                    f"parallel is a number from 1 to {MAX_PARALLEL} (got '{value.text[:40]}')",
                )
                return None
            return Repeat("parallel", int(value.text))
        value = self.scalar("on_repeat")
        if value is None:
            return None
        if value.text not in ("restart", "keep"):
            near = nearest(value.text, ("restart", "keep"))
            hint = f"did you mean '{near}'?" if near else "or write {parallel: 3}"
            self.add("wrong-choice", "on_repeat", f"'on_repeat' is restart or keep (got '{value.text[:40]}')", hint)
            return None
        return Repeat(value.text)

    def limit(self) -> Limit | None:
        """Take `2 per 30d`."""
        value = self.scalar("limit")
        if value is None:
            return None
        match = _LIMIT.fullmatch(value.text.strip())
        try:
            span = parse_duration(match.group(2)) if match else 0
        except ValueError:
            span = 0
        count = int(match.group(1)) if match else 0
        if not match or span == 0 or not 1 <= count <= MAX_LIMIT:
            self.add(
                "wrong-limit",
                "limit",
                f"this is no limit (got '{value.text[:40]}')",
                f"write e.g. 2 per 30d, at most {MAX_LIMIT}",
            )
            return None
        return Limit(count, span)

    def lateness(self) -> int:
        """Take the allowed lateness, at least the engine's (SEMANTICS 12)."""
        asked = self.duration("lateness")
        if asked is None:
            return DEFAULT_LATENESS_MS
        if asked < DEFAULT_LATENESS_MS:
            self.add(
                "lateness-raised",
                "lateness",
                f"lateness is at least 5s (got {format_duration(asked)}): 5s is used",
                "remove it or write 5s",
                WARNING,
            )
            return DEFAULT_LATENESS_MS
        if asked > MAX_LATENESS_MS:
            self.add(
                "lateness-too-long",
                "lateness",
                f"lateness is at most 7d (got {format_duration(asked)})",
                "older events move no pattern",
            )
        return asked

    def attribution(self) -> int:
        """Take `attribution: {window: 5d}`."""
        inner = self.inner("attribution", ("window",))
        window = inner.duration("window") if inner else None
        return DEFAULT_ATTRIBUTION_WINDOW_MS if window is None else window

    def timezone(self) -> str:
        """Take an IANA time zone, used for members that have none."""
        value = self.scalar("timezone")
        if value is None:
            return "UTC"
        try:
            if not _ZONE.fullmatch(value.text):
                raise ValueError
            zoneinfo.ZoneInfo(value.text)
        except (ValueError, OSError, zoneinfo.ZoneInfoNotFoundError):
            self.add(
                "unknown-timezone", "timezone", f"there is no time zone '{value.text[:40]}'", "write e.g. Europe/Moscow"
            )
            return "UTC"
        return value.text

    def send(self, *, templated: bool = False) -> Send | None:
        """Take the message to send, without its `data`, whose texts are kept in `send_data`.

        `templated`: its variants name their templates, so it need not.
        """
        inner = self.inner("send", SEND_KEYS)
        if inner is None:
            return None
        channel = inner.scalar("channel", required=True)
        template = inner.scalar("template", required=not templated)
        if channel is not None:
            inner.word("channel", CHANNELS)
        if template is not None and not TEMPLATE_NAME.fullmatch(template.text):
            inner.add(
                "bad-template",
                "template",
                f"this is no name of a template (got '{template.text[:40]}')",
                "letters, digits, - _ . and / between folders",
            )
        category = inner.word("category", CATEGORIES) or CATEGORIES[0]
        lifetime = inner.duration("lifetime")
        lane = inner.lane()
        topic = inner.identifier("topic") if "topic" in inner.found else None
        priority = inner.priority()
        self.send_data = inner.expressions("data")
        if channel is None or (template is None and not templated):
            return None
        lasts = DEFAULT_LIFETIME_MS if lifetime is None else lifetime
        named = template.text if template is not None else ""
        return Send(channel.text, named, {}, category, lasts, lane, topic, priority)

    def lane(self) -> str:
        """Take the lane, which is one of three: another one would have nobody who reads its topic."""
        value = self.scalar("lane")
        if value is None or value.text in LANES:
            return "" if value is None else value.text
        near = nearest(value.text, LANES)
        remedy = f"did you mean '{near}'?" if near else f"write {', '.join(LANES)}, or leave it out"
        self.add("unknown-lane", "lane", f"there is no lane '{value.text[:40]}'", remedy)
        return ""

    def priority(self) -> int:
        """Take a priority."""
        value = self.scalar("priority")
        if value is None:
            return PRIORITY
        if not value.text.isascii() or not value.text.isdigit() or int(value.text[:9]) > PRIORITY_MAX:
            message = f"priority is a number from 0 to {PRIORITY_MAX} (got '{value.text[:40]}')"
            self.add("wrong-number", "priority", message, f"{PRIORITY} is that of campaigns that name none")
            return PRIORITY
        return int(value.text)

    def word(self, key: str, usual: tuple[str, ...]) -> str | None:
        """Take a word of the house: a slip of a usual one is an error, another one is allowed with a warning."""
        value = self.scalar(key)
        if value is None or value.text in usual:
            return value.text if value is not None else None
        near = nearest(value.text, usual)
        if near or not _ID.fullmatch(value.text):
            self.add(
                f"unknown-{key}",
                key,
                f"there is no {key} '{value.text[:40]}'",
                f"did you mean '{near}'?" if near else f"usual are {', '.join(usual)}",
            )
        else:
            self.add(
                f"unknown-{key}", key, f"'{value.text}' is no usual {key}", f"usual are {', '.join(usual)}", WARNING
            )
        return value.text

    def expressions(self, key: str) -> dict[str, marks.Scalar]:
        """Take a mapping of names to expression texts."""
        inner = self.inner(key, ())
        if inner is None:
            return {}
        found: dict[str, marks.Scalar] = {}
        for name in inner.found:
            if not _NAME.fullmatch(name):
                inner.add(
                    "bad-name", name, f"this is no name for a template (got '{name[:40]}')", "letters, digits and _"
                )
            value = inner.scalar(name)
            if value is not None:
                found[name] = value
        return found
