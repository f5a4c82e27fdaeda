"""Instants as people and machines write them, to int milliseconds since the epoch, UTC."""

from datetime import UTC, datetime, timedelta
from typing import Final

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_ONE_MS: Final = timedelta(milliseconds=1)
_ONE_SECOND_MS = 1_000
MAX_INSTANT_MS: Final = 253_402_300_799_999  # the last millisecond of the year 9999: what RFC 3339 can write
MAX_SECONDS = 8_192  # seconds remembered, about 1 MB

# A memo, not state: it changes how fast an instant is read, never which.
_seconds: dict[str, int] = {}
_TAILS = {f".{part:03d}Z": part for part in range(1_000)} | {"Z": 0}


def instant_ms(value: str | int | float) -> int:
    """Read an instant: RFC 3339 text with any offset (`Z`, `+05:30`), or a number of milliseconds.

    Fractions finer than a millisecond are cut off. A leap second (`:60`) is the first instant of the next minute.

    Raises:
        ValueError: no instant, no offset, before 1970 or after 9999. The text of the error never holds the value.
    """
    if isinstance(value, str):
        try:
            return _seconds[value[:19]] + _TAILS[value[19:]]
        except KeyError:
            at = _text_ms(value)
    else:
        at = int(value)
    if 0 <= at <= MAX_INSTANT_MS:
        if isinstance(value, str):
            _remember(value, at)
        return at
    raise ValueError("an instant before 1970 or after 9999")


def _remember(text: str, at: int) -> None:
    """Keep the second of a text such as `2026-11-21T10:00:00.123Z`: the next events of a log mostly fall into it."""
    tail = _TAILS.get(text[19:])
    if tail is None or text[4] != "-" or text[13] != ":" or text[16] != ":" or text[17:19] == "60":
        return
    if len(_seconds) >= MAX_SECONDS:
        _seconds.clear()
    _seconds[text[:19]] = at - tail


def _text_ms(text: str) -> int:
    leap = 0
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        # RFC 3339 allows lower-case `t` and `z`, and `:60`; fromisoformat allows none of them.
        plain = text.upper()
        if plain[16:19] == ":60":
            plain, leap = f"{plain[:16]}:59{plain[19:]}", _ONE_SECOND_MS
        try:
            moment = datetime.fromisoformat(plain)
        except ValueError:
            raise ValueError(f"not an RFC 3339 instant (text of {len(text)} characters)") from None
    if moment.tzinfo is None:
        raise ValueError("an instant without an offset such as Z or +02:00")
    return (moment - _EPOCH) // _ONE_MS + leap


def instant_text(at_ms: int) -> str:
    """Write an instant as RFC 3339 text in UTC with milliseconds: `2026-11-21T10:00:00.123Z`.

    Raises:
        ValueError: before 1970 or after 9999.
    """
    if not 0 <= at_ms <= MAX_INSTANT_MS:
        raise ValueError("an instant before 1970 or after 9999")
    return (_EPOCH + at_ms * _ONE_MS).isoformat(timespec="milliseconds").replace("+00:00", "Z")
