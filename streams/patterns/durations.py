"""Spans of time as people write them (`90s`, `2h`, `1h30m`, `7d`, `4w`) and as we count them (int milliseconds)."""

import re

SECOND_MS = 1_000
MINUTE_MS = 60 * SECOND_MS
HOUR_MS = 60 * MINUTE_MS
DAY_MS = 24 * HOUR_MS
WEEK_MS = 7 * DAY_MS
UNITS = {"w": WEEK_MS, "d": DAY_MS, "h": HOUR_MS, "m": MINUTE_MS, "s": SECOND_MS}
LONGEST_MS = 3_660 * DAY_MS  # ten years; more is a slip of the pen
HINT = "write a whole number and one of s m h d w, e.g. 90s, 2h, 1h30m, 7d"

_WHOLE = re.compile(r"(?:[0-9]+[wdhms])+")
_PART = re.compile(r"([0-9]+)([wdhms])")


def parse_duration(text: str) -> int:
    """Read a span such as `1h30m` as milliseconds.

    Units go from the largest to the smallest, each at most once.

    Raises:
        ValueError: the text is no span, or one longer than ten years; the message says which.
    """
    if len(text) > 40 or not _WHOLE.fullmatch(text):
        raise ValueError(f"{text[:40]!r} is no span of time")
    total = 0
    previous = LONGEST_MS
    for number, unit in _PART.findall(text):
        if UNITS[unit] >= previous:
            raise ValueError(f"the units of {text!r} are not in the order w d h m s, each once")
        previous = UNITS[unit]
        total += int(number) * previous
    if total > LONGEST_MS:
        raise ValueError(f"{text!r} is longer than ten years")
    return total


def format_duration(ms: int) -> str:
    """Write milliseconds as the shortest exact span, e.g. `1h30m`; `0s` for zero; a rest below a second is dropped."""
    parts = []
    for unit, size in UNITS.items():
        if unit == "w" and ms % WEEK_MS:
            continue  # 10d reads better than 1w3d
        count, ms = divmod(ms, size)
        if count:
            parts.append(f"{count}{unit}")
    return "".join(parts) or "0s"
