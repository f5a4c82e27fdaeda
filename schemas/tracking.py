"""The token of a tracked link or pixel: which message, which link, where to; signed, so that it leads nowhere else.

    token = base64url(msgpack [1, kind, message, made_ms, link_id, url]) "." base64url(HMAC-SHA256, first 16 bytes)

It names the message whole (`schemas/references.py`), so that a click needs no look-up. It holds no address. It does not
expire: a link in an old mail must still lead where it led.
"""

import base64
import hashlib
import hmac
import re
from collections.abc import Sequence

import msgspec

from schemas.errors import TidingsError
from schemas.events import Event
from schemas.ids import h128
from schemas.references import Reference

FORMAT = 1
SIGNATURE_BYTES = 16
MAX_URL = 2_000  # characters; a longer link stays as it is, without being counted
MAX_TOKEN = 5_000
CLICK, OPEN = "click", "open"
SAME_MS = 60_000  # the same link pressed again within a minute is one click
_CONTEXT = b"tidings tracking v1\0"  # the same secret signs other things
_URL = re.compile(r"https?://[a-z0-9._-]+(?::[0-9]{1,5})?(?:[/?#][\x21\x23-\x3b\x3d\x3f-\x7e]*)?", re.IGNORECASE)
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_QUOTED = re.compile(r"[^\x21\x23-\x3b\x3d\x3f-\x7e]+")


class UnknownTrack(TidingsError):
    """A token that we did not sign."""


class Track(msgspec.Struct, frozen=True, array_like=True):
    """One link or pixel of one message. `made_ms`: when its attempt began. Fields: added at the end only."""

    format: int
    kind: str
    message: Reference
    made_ms: int
    link_id: str = ""
    url: str = ""


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Track).decode


def web_url(text: str) -> str | None:
    """Return a link as a header can hold it; None when it is none of the web, too long, or its host is not ASCII."""
    text = text.strip()
    if len(text) > MAX_URL or _CONTROL.search(text):
        return None
    url = _QUOTED.sub(lambda found: "".join(f"%{byte:02X}" for byte in found[0].encode()), text)
    return url if len(url) <= MAX_URL and _URL.fullmatch(url) else None


def sign_track(secret: bytes, track: Track) -> str:
    """Make the token. `secret`: at least 16 bytes."""
    body = _encode(track)
    return f"{_text(body)}.{_text(_signature(secret, body))}"


def read_track(secrets: Sequence[bytes], token: str, kind: str) -> Track:
    """Read a token signed with any of `secrets`, for one kind of use.

    Raises:
        UnknownTrack: it is not ours, whatever it is.
    """
    if len(token) > MAX_TOKEN or token.count(".") != 1 or not token.isascii():
        raise UnknownTrack("tracking: not a token of ours")
    try:
        body, signature = (base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)) for part in token.split("."))
    except ValueError:
        raise UnknownTrack("tracking: not a token of ours") from None
    # All are compared, each in constant time: how long it takes tells nothing.
    if not any([hmac.compare_digest(_signature(secret, body), signature) for secret in secrets]):  # noqa: C419
        raise UnknownTrack("tracking: not signed by us")
    try:
        track = _decode(body)
    except msgspec.MsgspecError:
        raise UnknownTrack("tracking: a token of another format") from None
    if track.format != FORMAT or track.kind != kind or (kind == CLICK and web_url(track.url) != track.url):
        raise UnknownTrack("tracking: a token of another format")
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
        data={
            "command_id": message.command_id,
            "campaign": message.campaign,
            "version": message.version,
            "instance_id": message.instance_id,
            "step": message.step,
            "channel": message.channel,
            "template": message.template,
            "attribution_window_ms": message.attribution_window_ms,
        }
        | ({"link_id": track.link_id, "url": track.url, "bot": bool(sign)} if click else {"machine": bool(sign)})
        | ({"reason": sign} if sign else {}),
    )


def _signature(secret: bytes, body: bytes) -> bytes:
    return hmac.digest(secret, _CONTEXT + body, hashlib.sha256)[:SIGNATURE_BYTES]


def _text(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode("ascii")
