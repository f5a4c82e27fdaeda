"""Push by Firebase Cloud Messaging, HTTP v1. Address: a registration token. Authorized by a service account's JWT."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from sinks.channels.base import AddressError, ContentError, Dispatch, HttpReply, HttpRequest, Needs, usual_outcome
from sinks.channels.verdicts import GONE, OURS, Verdict, answer_of, judged
from sinks.outcome import Outcome, redact

PAYLOAD_MAX = 4_096  # bytes of notification and data
TTL_MAX_S = 2_419_200  # four weeks
SCOPE = "https://www.googleapis.com/auth/firebase.messaging"
_TOKEN = re.compile(r"[A-Za-z0-9_:-]{64,4096}")
_APNS_TOKEN = re.compile(r"[0-9a-fA-F]{64}")
_json = msgspec.json.Encoder(order="deterministic").encode
_VERDICTS: Mapping[str, Verdict] = {
    "UNREGISTERED": GONE,
    "SENDER_ID_MISMATCH": Verdict("bounced", "sender_mismatch"),
    "THIRD_PARTY_AUTH_ERROR": OURS,
}


class ServiceAccount(msgspec.Struct, frozen=True):
    """The JSON file of a Google service account, as far as it is used."""

    project_id: str
    client_email: str
    private_key: str
    private_key_id: str = ""
    token_uri: str = "https://oauth2.googleapis.com/token"  # noqa: S105 - a URL


class FcmSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`service_account`: the text of the JSON file."""

    service_account: str
    url: str = "https://fcm.googleapis.com"
    dry_run: bool = False


@dataclass(frozen=True, slots=True)
class Fcm:
    """The pure half. A second message of one command replaces the first on the device (`tag`, `collapse_key`)."""

    settings: FcmSettings
    project: str
    needs: Needs = Needs(("subject", "txt"), ("link", "image"))

    def accepts(self, address: str) -> bool:
        """Take what looks like a registration token; 64 hex digits are a device of APNs."""
        return bool(_TOKEN.fullmatch(address)) and not _APNS_TOKEN.fullmatch(address)

    def request(self, dispatch: Dispatch) -> HttpRequest:
        """Make `projects.messages.send`; see `HttpAdapter`."""
        command, content = dispatch.command, dispatch.content
        if not self.accepts(command.address):
            raise AddressError("no registration token")
        ident = command.command_id
        told: dict[str, Any] = {"title": content.title, "body": content.text}
        if content.image:
            told["image"] = content.image
        data = {"command_id": ident, "campaign": command.campaign}
        if content.link:
            data["link"] = content.link
        if len(_json([told, data])) > PAYLOAD_MAX:
            raise ContentError("text_too_long")
        lasts_s = max(0, min(TTL_MAX_S, (command.expires_at_ms - dispatch.at_ms) // 1000))
        message: dict[str, Any] = {
            "token": command.address,
            "notification": told,
            "data": data,
            "android": {"ttl": f"{lasts_s}s", "collapse_key": ident, "notification": {"tag": ident}},
            "apns": {
                "headers": {
                    "apns-expiration": str(command.expires_at_ms // 1000),
                    "apns-collapse-id": ident[:64],
                }
            },
        }
        if content.link.startswith("https://"):
            message["webpush"] = {"fcm_options": {"link": content.link}}
        body: dict[str, Any] = {"message": message}
        if self.settings.dry_run:
            body["validate_only"] = True
        url = f"{self.settings.url}/v1/projects/{self.project}/messages:send"
        return HttpRequest("POST", url, {"Content-Type": "application/json"}, _json(body))

    def outcome(self, reply: HttpReply) -> Outcome:
        """Read `{name}` or `{error: {code, message, status, details}}`."""
        said = answer_of(reply, _Answer)
        if said is None:
            return usual_outcome(reply)
        if 200 <= reply.status < 300:
            return Outcome("sent", reply.status, "accepted", "", said.name.rpartition("/")[2])
        error = said.error or _Error()
        words, code = redact(error.message), error.fcm_code()
        verdict = _VERDICTS.get(code)
        if code == "INVALID_ARGUMENT" and "token" in error.message.lower():
            verdict = GONE
        return judged(verdict, reply.status, words) if verdict else usual_outcome(reply, detail=words)


class _Error(msgspec.Struct):
    message: str = ""
    status: str = ""
    details: list[Mapping[str, Any]] = []

    def fcm_code(self) -> str:
        """Return FCM's own code, else the RPC status."""
        return next((str(one["errorCode"]) for one in self.details if "errorCode" in one), self.status)


class _Answer(msgspec.Struct):
    name: str = ""
    error: _Error | None = None
