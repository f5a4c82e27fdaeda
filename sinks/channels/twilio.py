"""SMS by Twilio's Messages API (2010-04-01): a form, Basic authorization, status callbacks signed with HMAC-SHA1."""

import base64
import hmac
import re
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlencode

import msgspec

from sinks.channels import gsm
from sinks.channels.base import AddressError, ContentError, Dispatch, HttpReply, HttpRequest, Needs, usual_outcome
from sinks.channels.receipts import HookCall, Told, Unsigned
from sinks.channels.verdicts import GONE, OURS, STOPPED, Verdict, answer_of, judged
from sinks.outcome import Outcome, redact

BODY_MAX = 1_600  # characters; more is error 21617
VALIDITY_MIN_S, VALIDITY_MAX_S = 1, 36_000
PHONE = re.compile(r"\+[1-9][0-9]{6,14}")  # E.164
# twilio.com/docs/api/errors: about the number, and about the member's own wish (STOP).
_VERDICTS: Mapping[int, Verdict] = {
    **dict.fromkeys((21211, 21214, 21217, 21614, 21265), GONE),
    21610: STOPPED,
    **dict.fromkeys((20003, 21212, 21606, 21603, 21608, 21659, 21660, 21703, 30001), OURS),
}
STATUSES: Mapping[str, str] = {
    "delivered": "delivered", "read": "read", "undelivered": "undelivered", "failed": "undelivered",
    "canceled": "cancelled",
}  # fmt: skip


class TwilioSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`sender`: a number, a short code, an alphanumeric name, or the SID `MG…` of a messaging service."""

    account_sid: str
    auth_token: str
    sender: str
    url: str = "https://api.twilio.com"
    parts_max: int = 6


@dataclass(frozen=True, slots=True)
class Twilio:
    """The pure half."""

    settings: TwilioSettings
    needs: Needs = Needs(("txt",))

    def accepts(self, address: str) -> bool:
        """Take a telephone number in E.164."""
        return bool(PHONE.fullmatch(address))

    def request(self, dispatch: Dispatch) -> HttpRequest:
        """Make the request; see `HttpAdapter`."""
        command, text = dispatch.command, gsm.plain(dispatch.content.text)
        if not self.accepts(command.address):
            raise AddressError("no telephone number")
        check_parts(text, self.settings.parts_max)
        if len(text) > BODY_MAX:
            raise ContentError("text_too_long")
        sid = self.settings.account_sid
        lasts_s = (command.expires_at_ms - dispatch.at_ms) // 1000
        form = {
            "To": command.address,
            "MessagingServiceSid" if self.settings.sender.startswith("MG") else "From": self.settings.sender,
            "Body": text,
            "ValidityPeriod": str(max(VALIDITY_MIN_S, min(VALIDITY_MAX_S, lasts_s))),
        }
        if dispatch.callback:
            form["StatusCallback"] = dispatch.callback
        login = base64.b64encode(f"{sid}:{self.settings.auth_token}".encode()).decode("ascii")
        headers = {"Content-Type": "application/x-www-form-urlencoded", "Authorization": f"Basic {login}"}
        url = f"{self.settings.url}/2010-04-01/Accounts/{sid}/Messages.json"
        return HttpRequest("POST", url, headers, urlencode(form).encode())

    def outcome(self, reply: HttpReply) -> Outcome:
        """Read `{sid, status}` or `{code, message}`."""
        said = answer_of(reply, _Answer)
        if said is None:
            return usual_outcome(reply)
        if 200 <= reply.status < 300:
            return Outcome("sent", reply.status, "accepted", str(said.status or ""), said.sid or "")
        code, words = said.code or reply.status, redact(said.message or "")
        verdict = _VERDICTS.get(code)
        return judged(verdict, code, words) if verdict else usual_outcome(reply, detail=words)

    def told(self, call: HookCall) -> Told:
        """Read a status callback (twilio.com/docs/usage/security: X-Twilio-Signature)."""
        form = {str(name): str(value) for name, value in call.fields().items()}
        signed = call.url + "".join(name + form[name] for name in sorted(form))
        wanted = base64.b64encode(hmac.digest(self.settings.auth_token.encode(), signed.encode(), "sha1"))
        if not hmac.compare_digest(wanted, call.headers.get("x-twilio-signature", "").encode()):
            raise Unsigned
        status = STATUSES.get(form.get("MessageStatus", ""), "")
        return Told(status, form.get("MessageSid", ""), form.get("ErrorCode", ""))


def check_parts(text: str, parts_max: int) -> None:
    """Refuse a short message of too many parts.

    Raises:
        ContentError: it has more.
    """
    if len(gsm.plan(text).parts) > parts_max:
        raise ContentError("too_many_parts")


class _Answer(msgspec.Struct):
    sid: str | None = None
    status: str | int | None = None
    code: int | None = None
    message: str | None = None
