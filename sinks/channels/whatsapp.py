"""WhatsApp by Meta's Cloud API: template messages, and texts within a day of the member's last message.

Address: a telephone number. Receipts come to one address for all messages, signed, and give back a token of ours
(`biz_opaque_callback_data`) that names the message.
"""

import hmac
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import msgspec

from sinks.channels.base import AddressError, ContentError, Dispatch, HttpReply, HttpRequest, Needs, usual_outcome
from sinks.channels.receipts import HookCall, Told, Unsigned
from sinks.channels.twilio import PHONE
from sinks.channels.verdicts import GONE, OURS, REFUSED, STOPPED, THROTTLED, TROUBLE, Verdict, answer_of, judged
from sinks.outcome import Outcome, redact

TEXT_MAX, CAPTION_MAX, TOKEN_MAX = 4_096, 1_024, 512
_T = TypeVar("_T")
SIGNATURE = "x-hub-signature-256"
_SPACES = re.compile(r"[ \t]+")
_json = msgspec.json.Encoder(order="deterministic").encode
_TEMPLATE = Verdict("failed", "template_refused")
# developers.facebook.com/docs/whatsapp/cloud-api/support/error-codes
VERDICTS: Mapping[int, Verdict] = {
    **dict.fromkeys((1, 2, 131000, 131016, 131057, 133004), TROUBLE),
    **dict.fromkeys((4, 80007, 130429, 131048), THROTTLED),
    **dict.fromkeys((0, 3, 10, 190, 200, 368, 131005, 131031, 131042, 131045, 133010), OURS),
    **dict.fromkeys((132000, 132001, 132005, 132007, 132012, 132015, 132016), _TEMPLATE),
    131026: GONE,
    131047: Verdict("rejected", "window_closed"),
    131049: Verdict("rejected", "capped_by_provider"),
    131050: STOPPED,
    131056: Verdict("deferred", "throttled"),  # too many to this one member
    **dict.fromkeys((100, 130472, 131008, 131009, 131021, 131030, 131051), REFUSED),
}
STATUSES: Mapping[str, str] = {"delivered": "delivered", "read": "read", "failed": "undelivered"}


class WhatsappTemplate(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A template that Meta has approved.

    `parameters`: how many its body has; the lines of our text are their values, `names` their names where it has such.
    `image`: its header is an image, ours. `button_base`: its button leads to this address and what of our link follows.
    """

    name: str
    language: str
    parameters: int = 0
    names: tuple[str, ...] = ()
    image: bool = False
    button_base: str = ""


class WhatsappSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`phone_number_id`: of the sender. `app_secret`: signs receipts. `verify_token`: asked for when they are set up.

    `templates`: our template's name -> Meta's. What is not listed goes as a text.
    """

    token: str
    phone_number_id: str
    app_secret: str
    verify_token: str
    templates: dict[str, WhatsappTemplate] = {}
    url: str = "https://graph.facebook.com"
    version: str = "v23.0"


@dataclass(frozen=True, slots=True)
class Whatsapp:
    """The pure half."""

    settings: WhatsappSettings
    needs: Needs = Needs(("txt",), ("link", "image"))

    def accepts(self, address: str) -> bool:
        """Take a telephone number in E.164."""
        return bool(PHONE.fullmatch(address))

    def request(self, dispatch: Dispatch) -> HttpRequest:
        """Make the call; see `Adapter`."""
        command = dispatch.command
        if not self.accepts(command.address):
            raise AddressError("no telephone number")
        template = self.settings.templates.get(command.template)
        body: dict[str, Any] = {
            "messaging_product": "whatsapp",
            "recipient_type": "individual",
            "to": command.address.removeprefix("+"),
            **(_text(dispatch) if template is None else _templated(dispatch, template)),
        }
        token = dispatch.callback.rpartition("/")[2]
        if token and len(token) <= TOKEN_MAX:
            body["biz_opaque_callback_data"] = token
        own = self.settings
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {own.token}"}
        url = f"{own.url}/{own.version}/{own.phone_number_id}/messages"
        return HttpRequest("POST", url, headers, _json(body))

    def outcome(self, reply: HttpReply) -> Outcome:
        """Read `{messages: [{id}]}` or `{error: {code, message}}`."""
        said = answer_of(reply, _Answer)
        if said is None:
            return usual_outcome(reply)
        if 200 <= reply.status < 300 and said.messages:
            return Outcome("sent", reply.status, "accepted", "", said.messages[0].id[:128])
        if said.error is None:
            return usual_outcome(reply)
        words, verdict = redact(said.error.message), VERDICTS.get(said.error.code)
        return judged(verdict, said.error.code, words) if verdict else usual_outcome(reply, detail=words)

    def gathered(self, call: HookCall) -> Iterator[tuple[str, Told]]:
        """Read a call that tells of many messages; see `Gatherer`."""
        wanted = "sha256=" + hmac.digest(self.settings.app_secret.encode(), call.body, "sha256").hex()
        if not hmac.compare_digest(wanted.encode(), call.headers.get(SIGNATURE, "").encode()):
            raise Unsigned
        for status in _statuses(call.body):
            error = status.errors[0] if status.errors else _Error()
            code = str(error.code) if error.code else ""
            told = Told(STATUSES.get(status.status, ""), status.id, code, redact(error.title or error.message))
            yield status.biz_opaque_callback_data, told

    def challenge(self, call: HookCall) -> str:
        """Answer Meta's question whether this address is ours; see `Gatherer`."""
        query = call.query or {}
        given = query.get("hub.verify_token", "").encode()
        if query.get("hub.mode") != "subscribe" or not hmac.compare_digest(given, self.settings.verify_token.encode()):
            raise Unsigned
        return query.get("hub.challenge", "")[:200]


def _text(dispatch: Dispatch) -> dict[str, Any]:
    content = dispatch.content
    text = f"{content.text}\n{content.link}" if content.link else content.text
    if content.image:
        if len(text) > CAPTION_MAX:
            raise ContentError("text_too_long")
        return {"type": "image", "image": {"link": content.image, "caption": text}}
    if len(text) > TEXT_MAX:
        raise ContentError("text_too_long")
    return {"type": "text", "text": {"body": text, "preview_url": bool(content.link)}}


def _templated(dispatch: Dispatch, template: WhatsappTemplate) -> dict[str, Any]:
    content = dispatch.content
    lines = [spaced for line in content.text.splitlines() if (spaced := _SPACES.sub(" ", line).strip())]
    if template.parameters and len(lines) != template.parameters:
        raise ContentError("template_parameters")
    components: list[dict[str, Any]] = []
    if template.image:
        if not content.image:
            raise ContentError("template_image")
        components.append({"type": "header", "parameters": [{"type": "image", "image": {"link": content.image}}]})
    if template.parameters:
        named = [{"parameter_name": name} for name in template.names] or [{}] * len(lines)
        values = [{"type": "text", "text": line} | name for line, name in zip(lines, named, strict=True)]
        components.append({"type": "body", "parameters": values})
    if template.button_base:
        if not content.link.startswith(template.button_base):
            raise ContentError("template_link")
        rest = content.link.removeprefix(template.button_base)
        button = {"type": "button", "sub_type": "url", "index": "0", "parameters": [{"type": "text", "text": rest}]}
        components.append(button)
    spelled = {"name": template.name, "language": {"code": template.language}, "components": components}
    return {"type": "template", "template": spelled}


def _statuses(body: bytes) -> Iterator["_Status"]:
    """Read each on its own: one that is not understood takes no other along."""
    hook = _read(body, _Hook)
    for entry in hook.entry if hook else ():
        for change in entry.changes:
            value = _read(change.value, _Value)
            for raw in (value.statuses if value else None) or ():
                status = _read(raw, _Status)
                if status is not None:
                    yield status


def _read(raw: bytes | msgspec.Raw, kind: type[_T]) -> _T | None:
    try:
        return msgspec.json.decode(raw, type=kind)
    except msgspec.MsgspecError:
        return None


class _Error(msgspec.Struct):
    code: int = 0
    message: str = ""
    title: str = ""


class _Message(msgspec.Struct):
    id: str = ""


class _Answer(msgspec.Struct):
    messages: list[_Message] = []
    error: _Error | None = None


class _Status(msgspec.Struct):
    id: str = ""
    status: str = ""
    biz_opaque_callback_data: str = ""
    errors: list[_Error] | None = None


class _Value(msgspec.Struct):
    statuses: list[msgspec.Raw] | None = None


class _Change(msgspec.Struct):
    value: msgspec.Raw = msgspec.Raw(b"{}")


class _Entry(msgspec.Struct):
    changes: list[_Change] = []


class _Hook(msgspec.Struct):
    entry: list[_Entry] = []
