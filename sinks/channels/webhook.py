"""A signed webhook: one command as JSON to a system of the operator's, by the scheme of standardwebhooks.com.

    webhook-id         the command's id: the same however often it is sent
    webhook-timestamp  seconds since the epoch, of this attempt
    webhook-signature  "v1," base64(HMAC-SHA256(secret, id "." timestamp "." body))

The body is made of the command alone, so every attempt has the same; id, timestamp and signature come with the call.
"""

import base64
import binascii
import hmac
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

import msgspec

from schemas.errors import OperatorError
from sinks.channels.base import Dispatch, HttpReply, HttpRequest, Needs, usual_outcome
from sinks.channels.receipts import HookCall, Told
from sinks.outcome import Outcome

ID, TIMESTAMP, SIGNATURE = "webhook-id", "webhook-timestamp", "webhook-signature"
SECRET_PREFIX = "whsec_"  # noqa: S105 - the mark that the scheme puts before a secret
SECRET_BYTES_MIN = 24
_json = msgspec.json.Encoder(order="deterministic").encode


class WebhookSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`secret`: `whsec_` and at least 24 bytes in base64. `profile`: names of the profile to send along."""

    url: str
    secret: str
    profile: tuple[str, ...] = ()
    headers: dict[str, str] = {}


@dataclass(frozen=True, slots=True)
class Webhook:
    """The pure half. It uses a text template when there is one, and needs none."""

    settings: WebhookSettings
    needs: Needs = Needs((), ("txt", "subject", "link", "image"))

    def __post_init__(self) -> None:
        key_of(self.settings.secret)

    def accepts(self, address: str) -> bool:
        """Take any: the receiver is the system at `url`."""
        return True

    def request(self, dispatch: Dispatch) -> HttpRequest:
        """Make the request, without timestamp and signature; see `HttpAdapter`."""
        command, content = dispatch.command, dispatch.content
        body = {
            "id": command.command_id,
            "type": "message",
            "timestamp": command.decided_at_ms,
            "member_id": command.member_id,
            "campaign": command.campaign,
            "version": command.version,
            "instance_id": command.instance_id,
            "step": command.step,
            "template": command.template,
            "category": command.category,
            "expires_at": command.expires_at_ms,
            "callback": dispatch.callback,
            "data": command.data,
            "profile": {name: command.member.get(name) for name in self.settings.profile},
            "title": content.title,
            "text": content.text,
            "link": content.link,
            "image": content.image,
        }
        headers = {**self.settings.headers, "Content-Type": "application/json", ID: command.command_id}
        return HttpRequest("POST", self.settings.url, headers, _json(body))

    def told(self, call: HookCall) -> Told:
        """Read `{status, code, detail}`; who has the address may tell."""
        fields = call.fields()
        status, code, detail = (str(fields.get(name, "")) for name in ("status", "code", "detail"))
        return Told(status, str(fields.get("id", "")), code, detail)

    def outcome(self, reply: HttpReply) -> Outcome:
        """Read the status: 2xx is done, 409 too (it has this id already), 410 wants no more."""
        if reply.status == 409:
            return Outcome("sent", reply.status, "known_already")
        if reply.status == 425:
            return Outcome("deferred", reply.status, "too_early")
        return usual_outcome(reply)


def key_of(secret: str) -> bytes:
    """Return the bytes of a secret.

    Raises:
        OperatorError: it is none.
    """
    try:
        key = base64.b64decode(secret.removeprefix(SECRET_PREFIX), validate=True)
    except binascii.Error:
        key = b""
    if len(key) < SECRET_BYTES_MIN:
        raise OperatorError(
            f"webhook secret: must be {SECRET_PREFIX} and {SECRET_BYTES_MIN} bytes or more in base64 (got"
            f" {len(key)} bytes); make one with: openssl rand -base64 32"
        )
    return key


def signature(key: bytes, ident: str, timestamp_s: int, body: bytes) -> str:
    """Sign one attempt."""
    signed = f"{ident}.{timestamp_s}.".encode() + body
    return "v1," + base64.b64encode(hmac.digest(key, signed, "sha256")).decode("ascii")


def signing(secret: str, clock_ms: Callable[[], int]) -> Callable[[HttpRequest], Awaitable[Mapping[str, str]]]:
    """Return what adds timestamp and signature to each attempt."""
    key = key_of(secret)

    async def authorize(request: HttpRequest) -> Mapping[str, str]:
        now = clock_ms() // 1000
        ident = request.headers[ID]
        return {TIMESTAMP: str(now), SIGNATURE: signature(key, ident, now, request.body)}

    return authorize
