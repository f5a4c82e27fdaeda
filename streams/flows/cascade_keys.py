"""The key `cascade` of a flow's step: `[push 10m, viber 3h, sms]`, read with every finding in its place."""

import re

from schemas.campaign import DEFAULT_LIFETIME_MS, Send
from schemas.commands import CHANNELS
from schemas.findings import ERROR, WARNING, Finding
from schemas.flow import CascadeStep, Leg
from streams import marks
from streams.campaign_keys import CATEGORIES, SEND_KEYS, TEMPLATE_NAME, Keys
from streams.flows.check import MAX_WAIT_MS
from streams.patterns.durations import HINT, format_duration, parse_duration
from streams.patterns.nodes import Pos
from streams.patterns.spell import nearest

LEG_KEYS = ("legs", *(key for key in SEND_KEYS if key != "channel"))
MIN_LEGS, MAX_LEGS = 2, 8
FORM = "write channel, time and template: push 10m card_push"
# Nobody tells of these that they were delivered, only that they were opened, read or clicked, where that is tracked.
SILENT = frozenset({"email", "push", "bot", "pos"})

_ID = re.compile(r"[a-z][a-z0-9_-]{0,63}")


class CascadeReader:
    """Reads one cascade.

    Args:
        keys: those of its step.
        name: that of its step.
    """

    def __init__(self, keys: Keys, name: str) -> None:
        """Find the list of legs, and what they share."""
        self.name = name
        self.path, self.findings = keys.path, keys.findings
        value = keys.found["cascade"]
        self.shared: Keys | None = None
        if isinstance(value, marks.Mapping):
            self.shared = Keys(value, keys.path, LEG_KEYS, keys.findings)
            if "legs" not in self.shared.found:
                self.shared.scalar("legs", required=True)
            value = self.shared.found.get("legs", value)
        self.pos = value.pos
        self.items = list(value.items) if isinstance(value, marks.Sequence) else []
        if not isinstance(value, marks.Sequence) and value is not keys.found["cascade"]:
            self._at("wrong-kind", value.pos, "'legs' is a list", "write legs: [push 10m, sms]")
        elif not isinstance(value, marks.Sequence | marks.Mapping):
            self._at("wrong-kind", value.pos, "'cascade' is a list of legs", "write cascade: [push 10m a, sms b]")

    def read(self) -> tuple[CascadeStep | None, dict[str, marks.Scalar]]:
        """Read it: the step, None where it cannot be read, and the texts of its data, still to be judged."""
        common, data = self._common()
        if not self.items:
            return None, data
        if not MIN_LEGS <= len(self.items) <= MAX_LEGS:
            message = f"a cascade has {MIN_LEGS} to {MAX_LEGS} legs (got {len(self.items)})"
            self._at("leg-count", self.pos, message, "a single message is a send")
        legs: list[Leg] = []
        for number, item in enumerate(self.items, 1):
            leg = self._leg(item, common, last=number == len(self.items))
            if leg is not None and any(leg.send.channel == known.send.channel for known in legs):
                self._at("duplicate-leg", item.pos, f"'{leg.send.channel}' is a leg already", "a channel comes once")
            elif leg is not None:
                legs.append(leg)
        whole = len(legs) == len(self.items) and MIN_LEGS <= len(legs) <= MAX_LEGS
        return (CascadeStep(self.name, tuple(legs)) if whole else None), data

    def _common(self) -> tuple[Send, dict[str, marks.Scalar]]:
        """Take what all legs share."""
        keys = self.shared
        if keys is None:
            return Send("", ""), {}
        template = keys.scalar("template")
        if template is not None and not TEMPLATE_NAME.fullmatch(template.text):
            keys.add("bad-template", "template", f"this is no name of a template (got '{template.text[:40]}')")
        send = Send(
            "", template.text if template is not None else "", {},
            keys.word("category", CATEGORIES) or CATEGORIES[0], keys.duration("lifetime") or DEFAULT_LIFETIME_MS,
            keys.lane(), keys.identifier("topic") if "topic" in keys.found else None, keys.priority(),
        )  # fmt: skip
        return send, keys.expressions("data")

    def _leg(self, item: marks.Value, common: Send, *, last: bool) -> Leg | None:
        words = item.text.split() if isinstance(item, marks.Scalar) else []
        if not isinstance(item, marks.Scalar) or not 1 <= len(words) <= 3:
            self._at("bad-leg", item.pos, "a leg is a channel, its time and perhaps a template", FORM)
            return None
        channel, *rest = words
        found = len(self.findings)
        span = self._span(item, rest, last=last, lifetime_ms=common.lifetime_ms)
        if span is None:
            return None
        template = rest[0] if rest else common.template
        self._channel(item, channel, last=last)
        if len(rest) > 1:
            self._at("bad-leg", item.place(Pos(1, 1)), f"this is no leg (got '{item.text[:60]}')", FORM)
        elif not template:
            self._at("missing-template", item.pos, f"the leg '{channel[:40]}' has no template", FORM)
        elif not TEMPLATE_NAME.fullmatch(template):
            self._at("bad-template", item.pos, f"this is no name of a template (got '{template[:40]}')", FORM)
        if any(finding.severity == ERROR for finding in self.findings[found:]):
            return None
        return Leg(Send(channel, template, {}, *_rest(common)), span)

    def _span(self, item: marks.Scalar, rest: list[str], *, last: bool, lifetime_ms: int) -> int | None:
        """Take the time out of a leg's words. The last leg may have none: it has as long as its message is of use."""
        try:
            span = parse_duration(rest[0]) if rest and rest[0][0].isdigit() else None
        except ValueError as error:
            self._at("span", item.pos, str(error), HINT)
            return None
        if span is None:
            if last:
                return lifetime_ms
            self._at("missing-span", item.pos, f"the leg '{item.text[:60]}' has no time", FORM)
            return None
        del rest[0]
        if span == 0 or span > MAX_WAIT_MS:
            got = "0" if span == 0 else format_duration(span)
            self._at("long-wait" if span else "zero-span", item.pos, f"a leg's time is 1s to 400d (got {got})", HINT)
            return None
        return span

    def _channel(self, item: marks.Scalar, channel: str, *, last: bool) -> None:
        if channel not in CHANNELS:
            near = nearest(channel, CHANNELS)
            sure = bool(near) or not _ID.fullmatch(channel)
            hint = f"did you mean '{near}'?" if near else f"usual are {', '.join(CHANNELS)}"
            self._at(
                "unknown-channel", item.pos, f"there is no channel '{channel[:40]}'", hint, ERROR if sure else WARNING
            )
        if channel in SILENT:
            then = "the flow goes on when its time is over" if last else "the next leg follows all the same"
            message = f"no provider tells of '{channel}' that it was delivered: unless it is opened or clicked, {then}"
            self._at("silent-channel", item.pos, message, "", WARNING)

    def _at(self, code: str, pos: Pos, message: str, hint: str = "", severity: str = ERROR) -> None:
        self.findings.append(Finding(code, self.path, pos.line, pos.column, message, hint, severity))


def _rest(common: Send) -> tuple[str, int, str, str | None, int]:
    return common.category, common.lifetime_ms, common.lane, common.topic, common.priority
