"""Web Push (RFC 8030) with encrypted content (RFC 8291, RFC 8188) and VAPID (RFC 8292).

Address: the browser's subscription as JSON, `{"endpoint": …, "keys": {"p256dh": …, "auth": …}}`.

The key and salt of a message are derived from our private key, the subscription and the content: the same message gives
the same bytes, and two different contents never share a key. The endpoint comes from a member's browser, so only hosts
of known push services are called.
"""

import base64
import binascii
import hashlib
import hmac
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import http_ece
import msgspec
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from schemas.errors import OperatorError
from sinks.channels.base import AddressError, ContentError, Dispatch, HttpReply, HttpRequest, Needs, usual_outcome
from sinks.outcome import Outcome

PLAIN_MAX = 3_993  # RFC 8291 §4: a push service must take 4,096 bytes of encrypted content
TTL_MAX_S = 2_419_200
_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551  # of P-256
_json = msgspec.json.Encoder(order="deterministic").encode
SERVICES = (
    "fcm.googleapis.com", "updates.push.services.mozilla.com", "push.services.mozilla.com", "web.push.apple.com",
    "notify.windows.com",
)  # fmt: skip


class WebPushSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`private_key`: 32 bytes in base64url, as VAPID tools give it. `subject`: mailto: or https: of the operator."""

    private_key: str
    subject: str
    hosts: tuple[str, ...] = SERVICES
    insecure: bool = False  # http: for a push service on this machine


class _Keys(msgspec.Struct):
    p256dh: str
    auth: str


class Subscription(msgspec.Struct):
    """What a browser's PushManager gives."""

    endpoint: str
    keys: _Keys


@dataclass(frozen=True, slots=True)
class WebPush:
    """The pure half."""

    settings: WebPushSettings
    needs: Needs = Needs(("subject", "txt"), ("link", "image"))

    def accepts(self, address: str) -> bool:
        """Take a subscription."""
        return address.startswith("{") and '"endpoint"' in address

    def request(self, dispatch: Dispatch) -> HttpRequest:
        """Make the request; see `HttpAdapter`."""
        command, content = dispatch.command, dispatch.content
        endpoint, key, secret = self._subscription(command.address)
        body: dict[str, Any] = {"title": content.title, "body": content.text, "command_id": command.command_id}
        body |= {name: value for name, value in (("link", content.link), ("image", content.image)) if value}
        plain = _json(body)
        if len(plain) > PLAIN_MAX:
            raise ContentError("text_too_long")
        lasts_s = max(0, min(TTL_MAX_S, (command.expires_at_ms - dispatch.at_ms) // 1000))
        headers = {
            "TTL": str(lasts_s),
            "Urgency": "normal",
            "Topic": command.command_id[:32],  # a message that still waits is replaced by its repeat
            "Content-Encoding": "aes128gcm",
            "Content-Type": "application/octet-stream",
        }
        return HttpRequest("POST", endpoint, headers, self._encrypted(plain, endpoint, key, secret))

    def outcome(self, reply: HttpReply) -> Outcome:
        """Read the status: 404 and 410 mean that the subscription is gone."""
        if reply.status in (404, 410):
            return Outcome("bounced", reply.status, "recipient_refused")
        if reply.status == 413:
            return Outcome("rejected", reply.status, "text_too_long")
        outcome = usual_outcome(reply)
        if outcome.status == "sent":
            ident = reply.headers.get("location", "").rpartition("/")[2][:100]
            return Outcome("sent", reply.status, "accepted", "", ident)
        return outcome

    def _subscription(self, address: str) -> tuple[str, bytes, bytes]:
        try:
            found = msgspec.json.decode(address, type=Subscription)
            key, secret = unpadded(found.keys.p256dh), unpadded(found.keys.auth)
            ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), key)
            parts = urlsplit(found.endpoint)
            host, _ = parts.hostname or "", parts.port
        except (msgspec.MsgspecError, ValueError):
            raise AddressError("no subscription") from None
        known = any(host == one or host.endswith("." + one) for one in self.settings.hosts)
        if not known or parts.scheme not in (("https", "http") if self.settings.insecure else ("https",)):
            raise AddressError("no push service that we know")
        if len(secret) != 16 or not found.endpoint.isascii():
            raise AddressError("no subscription")
        return found.endpoint, key, secret

    def _encrypted(self, plain: bytes, endpoint: str, key: bytes, secret: bytes) -> bytes:
        seed = hmac.digest(unpadded(self.settings.private_key), _json([endpoint, plain]) + key + secret, "sha256")
        salt = hashlib.sha256(b"salt" + seed).digest()[:16]
        number = int.from_bytes(hashlib.sha512(b"key" + seed).digest(), "big") % (_ORDER - 1) + 1
        own = ec.derive_private_key(number, ec.SECP256R1())
        sealed: bytes = http_ece.encrypt(
            plain, salt=salt, private_key=own, dh=key, auth_secret=secret, version="aes128gcm"
        )
        return sealed


def vapid_key(private_key: str) -> ec.EllipticCurvePrivateKey:
    """Return the key that signs for VAPID.

    Raises:
        OperatorError: it is none.
    """
    try:
        raw = unpadded(private_key)
        number = int.from_bytes(raw, "big")
        if len(raw) != 32 or not 0 < number < _ORDER:
            raise ValueError
        return ec.derive_private_key(number, ec.SECP256R1())
    except ValueError:
        raise OperatorError(
            "web push private_key: must be 32 bytes in base64url (got something else); make a VAPID key pair, and give"
            " its public half to the site"
        ) from None


def public_text(key: ec.EllipticCurvePrivateKey) -> str:
    """Spell the public half as browsers and `k=` want it: the uncompressed point in base64url."""
    raw = key.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode("ascii")


def unpadded(text: str) -> bytes:
    """Read base64url with or without padding.

    Raises:
        ValueError: it is none.
    """
    try:
        return base64.b64decode(text.rstrip("=") + "=" * (-len(text.rstrip("=")) % 4), b"-_", validate=True)
    except binascii.Error as error:
        raise ValueError("not base64url") from error
