"""The token of a tracked link or pixel: which message, which link, where to; signed, so that it leads nowhere else.

Its form is that of `schemas/tokens.py`. It names the message whole (`schemas/references.py`), so that a click needs no
look-up. It holds no address. It does not expire: a link in an old mail must still lead where it led.
"""

import re
from collections.abc import Sequence

import msgspec

from schemas.events import Event
from schemas.ids import h128
from schemas.references import Reference
from schemas.tokens import Signing

FORMAT = 1
MAX_URL = 2_000  # characters; a longer link stays as it is, without being counted
MAX_TOKEN = 5_000
CLICK, OPEN = "click", "open"
SAME_MS = 60_000  # the same link pressed again within a minute is one click
_URL = re.compile(r"https?://[a-z0-9._-]+(?::[0-9]{1,5})?(?:[/?#][\x21\x23-\x3b\x3d\x3f-\x7e]*)?", re.IGNORECASE)
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_QUOTED = re.compile(r"[^\x21\x23-\x3b\x3d\x3f-\x7e]+")


class Track(msgspec.Struct, frozen=True, array_like=True):
    """One link or pixel of one message. `made_ms`: when its attempt began. Fields: added at the end only."""

    format: int
    kind: str
    message: Reference
    made_ms: int
    link_id: str = ""
    url: str = ""


_signing = Signing(Track, "tracking", b"tidings tracking v1\0", MAX_TOKEN)


def web_url(text: str) -> str | None:
    """Return a link as a header can hold it; None when it is none of the web, too long, or its host is not ASCII."""
    text = text.strip()
    if len(text) > MAX_URL or _CONTROL.search(text):
        return None
    url = _QUOTED.sub(lambda found: "".join(f"%{byte:02X}" for byte in found[0].encode()), text)
    return url if len(url) <= MAX_URL and _URL.fullmatch(url) else None


def sign_track(secret: bytes, track: Track) -> str:
    """Make the token. `secret`: at least 16 bytes."""
    return _signing.sign(secret, track)


def read_track(secrets: Sequence[bytes], token: str, kind: str) -> Track:
    """Read a token signed with any of `secrets`, for one kind of use.

    Raises:
        TokenError: it is not ours, whatever it is.
    """
    track = _signing.read(secrets, token)
    if track.format != FORMAT or track.kind != kind or (kind == CLICK and web_url(track.url) != track.url):
        raise _signing.other_format()
    return track


def tracked_event(track: Track, at_ms: int, sign: str) -> Event:
    """Make the event of a click or an open; `sign`: what tells that a machine did it, empty for a person.

    The same link within the same minute is one event by its id; a machine's click does not stand for a person's.
    """
    click, message = track.kind == CLICK, track.message
    kind = "engagement.clicked" if click else "engagement.opened"
    return Event(
        type=kind,
        occurred_at_ms=at_ms,
        event_id=h128(kind, message.command_id, track.link_id, str(bool(sign)), str(at_ms // SAME_MS)),
        member_id=message.member_id,
        source="tidings-tracking",
        causation_id=message.command_id,
        data=message.facts()
        | ({"link_id": track.link_id, "url": track.url, "bot": bool(sign)} if click else {"machine": bool(sign)})
        | ({"reason": sign} if sign else {}),
    )
