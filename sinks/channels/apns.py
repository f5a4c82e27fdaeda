"""Push to Apple's devices by APNs over HTTP/2. Address: a device token in hex. Authorized by a JWT of the team."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from schemas.ids import h128
from sinks.channels.base import AddressError, ContentError, Dispatch, HttpReply, HttpRequest, Needs, usual_outcome
from sinks.channels.verdicts import GONE, OURS, Verdict, answer_of, judged
from sinks.outcome import Outcome

PAYLOAD_MAX = 4_096
_TOKEN = re.compile(r"[0-9a-fA-F]{64,200}")
_json = msgspec.json.Encoder(order="deterministic").encode
# "Handling notification responses from APNs"
_OURS = (
    "ExpiredProviderToken", "InvalidProviderToken", "MissingProviderToken", "BadCertificate",
    "BadCertificateEnvironment", "Forbidden", "TooManyProviderTokenUpdates", "TopicDisallowed", "BadTopic",
    "MissingTopic",
)  # fmt: skip
_VERDICTS: Mapping[str, Verdict] = {
    **dict.fromkeys(("BadDeviceToken", "DeviceTokenNotForTopic", "Unregistered", "ExpiredToken"), GONE),
    **dict.fromkeys(_OURS, OURS),
    "TooManyRequests": Verdict("deferred", "throttled"),  # for this one device
}


class ApnsSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`key`: the PEM text of the team's .p8 file. `topic`: the app's bundle id."""

    key: str
    key_id: str
    team_id: str
    topic: str
    url: str = "https://api.push.apple.com"
    ca: str = ""  # PEM of the server's authority, for a server of one's own


@dataclass(frozen=True, slots=True)
class Apns:
    """The pure half. A second message of one command replaces the first on the device (`apns-collapse-id`)."""

    settings: ApnsSettings
    needs: Needs = Needs(("subject", "txt"), ("link", "image"))

    def accepts(self, address: str) -> bool:
        """Take a device token in hex."""
        return bool(_TOKEN.fullmatch(address))

    def request(self, dispatch: Dispatch) -> HttpRequest:
        """Make the request; see `HttpAdapter`."""
        command, content = dispatch.command, dispatch.content
        if not self.accepts(command.address):
            raise AddressError("no device token")
        aps: dict[str, Any] = {"alert": {"title": content.title, "body": content.text}, "sound": "default"}
        body: dict[str, Any] = {"aps": aps, "command_id": command.command_id, "campaign": command.campaign}
        if content.link:
            body["link"] = content.link
        if content.image:
            aps["mutable-content"] = 1
            body["image"] = content.image
        payload = _json(body)
        if len(payload) > PAYLOAD_MAX:
            raise ContentError("text_too_long")
        headers = {
            "apns-topic": self.settings.topic,
            "apns-push-type": "alert",
            "apns-id": uuid_text(command.command_id),
            "apns-expiration": str(command.expires_at_ms // 1000),
            "apns-priority": "10",
            "apns-collapse-id": command.command_id[:64],
            "content-type": "application/json",
        }
        return HttpRequest("POST", f"{self.settings.url}/3/device/{command.address}", headers, payload)

    def outcome(self, reply: HttpReply) -> Outcome:
        """Read the status, `apns-id`, and `{reason}`."""
        if reply.status == 200:
            return Outcome("sent", 200, "accepted", "", reply.headers.get("apns-id", ""))
        said = answer_of(reply, _Answer)
        reason = said.reason if said is not None else ""
        verdict = GONE if reply.status == 410 else _VERDICTS.get(reason)
        return judged(verdict, reply.status, reason) if verdict else usual_outcome(reply, detail=reason)


def uuid_text(ident: str) -> str:
    """Spell an id as a UUID, which APNs asks for; one that has not 32 hex digits is hashed."""
    digits = ident.lower() if re.fullmatch(r"[0-9a-fA-F]{32}", ident) else h128("apns", ident)
    return "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))


class _Answer(msgspec.Struct):
    reason: str = ""
