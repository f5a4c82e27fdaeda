"""The keys `accrue`, `tag`, `segment`, `call` and `webhook` of a flow's step, read with every finding in its place."""

import re
from collections.abc import Callable
from typing import Any

from schemas.flow import AccrueStep, ActStep, MarkStep
from streams import marks
from streams.campaign_keys import Keys
from streams.flows.acts import MARKS_MAX, POINTS_MAX

ACTS = ("accrue", "tag", "segment")
SHORT = ("call", "webhook")  # short for a send on the channel of that name
ACCRUE_KEYS = ("points", "reason", "expires")
MARK_KEYS = ("add", "remove")
REASON_MAX = 100

_MARK = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:-]{0,63}")
_NUMBER = re.compile(r"-?[0-9]+(?:\.[0-9]+)?")
Judged = Callable[[marks.Scalar, str], Any]
"""Judges the text of an expression; None when it cannot be read."""


def spelled_out(keys: Keys, kind: str) -> str:
    """Write the short form of a send as the send it stands for; returns the kind of step it is."""
    value = keys.found.get(kind)
    if kind not in SHORT or not isinstance(value, marks.Mapping):
        return kind if kind not in SHORT else _no_mapping(keys, kind)
    entries = [_entry(key, inner, kind) for key, inner in value.entries]
    name = next((key for key, _ in value.entries), None)
    if name is not None:
        entries.insert(0, (name.renamed("channel"), name.renamed(kind)))
    keys.found["send"] = marks.Mapping(value.pos, entries)
    keys.key_pos["send"] = keys.key_pos[kind]
    if "channel" in value.plain_value():
        keys.add("no-effect", kind, f"'{kind}' is a channel already", "remove channel")
    return "send"


def _no_mapping(keys: Keys, kind: str) -> str:
    keys.inner(kind, ())
    return "send"


def _entry(key: marks.Scalar, value: marks.Value, kind: str) -> tuple[marks.Scalar, marks.Value]:
    return (key.renamed("template"), value) if kind == "call" and key.text == "script" else (key, value)


def read_act(keys: Keys, kind: str, name: str, judged: Judged) -> ActStep | None:
    """Read a step that issues a command about the member."""
    return _accrue(keys, name, judged) if kind == "accrue" else _mark(keys, kind, name)


def _accrue(keys: Keys, name: str, judged: Judged) -> AccrueStep | None:
    inner = keys.inner("accrue", ACCRUE_KEYS)
    points = inner.scalar("points", required=True) if inner is not None else None
    if inner is None or points is None:
        return None
    text = points.text.strip()
    if _NUMBER.fullmatch(text) and not 0 < float(text) <= POINTS_MAX:
        inner.add("wrong-number", "points", f"points are above 0, at most {POINTS_MAX:,} (got '{text[:40]}')")
        return None
    if judged(points, "points") is None:
        return None
    reason = inner.text("reason") or ""
    if len(reason) > REASON_MAX:
        inner.add("too-long", "reason", f"a reason has at most {REASON_MAX} characters (got {len(reason)})")
    return AccrueStep(name, text, reason, inner.duration("expires"))


def _mark(keys: Keys, kind: str, name: str) -> MarkStep | None:
    inner = keys.inner(kind, MARK_KEYS)
    if inner is None:
        return None
    add, remove = (_names(inner, key, kind) for key in MARK_KEYS)
    if not add and not remove:
        inner.add("missing-key", kind, f"'{kind}' adds and removes nothing", f"write {kind}: {{add: name}}")
        return None
    both = sorted(set(add) & set(remove))
    if both:
        inner.add("no-effect", "remove", f"'{both[0]}' is added and removed", "drop one of them")
    return MarkStep(name, kind, add, remove)


def _names(inner: Keys, key: str, kind: str) -> tuple[str, ...]:
    """Take one name, or a list of them."""
    value = inner.found.get(key)
    if value is None:
        return ()
    found: dict[str, None] = {}
    for item in value.items if isinstance(value, marks.Sequence) else [value]:
        text = item.text.strip() if isinstance(item, marks.Scalar) else ""
        if _MARK.fullmatch(text):
            found[text] = None
        else:
            inner.add("bad-name", key, f"this is no {kind} (got '{text[:40]}')", "letters, digits, - _ . and :")
    if len(found) > MARKS_MAX:
        inner.add("too-many", key, f"a member has at most {MARKS_MAX} (got {len(found)})")
    return tuple(found)
