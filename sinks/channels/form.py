"""Any provider with a plain HTTP interface: its fields are written in the providers' file, no code is needed.

For the many SMS, messenger and voice providers whose whole interface is "POST these fields". In every value of `fields`
(at any depth), in `url` and in `headers`, `{to}`, `{text}`, `{text_xml}`, `{title}`, `{link}`, `{button}`, `{image}`,
`{id}`, `{callback}`, `{lifetime_s}`, `{campaign}` and `{category}` stand for the message's own; a value that is one of
them alone and comes out empty is left out.
"""

import base64
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import quote, urlencode
from xml.sax.saxutils import escape

import msgspec

from sinks.channels import gsm
from sinks.channels.base import AddressError, Dispatch, HttpReply, HttpRequest, Needs, usual_outcome
from sinks.channels.receipts import HookCall, Told
from sinks.channels.twilio import PHONE, check_parts
from sinks.outcome import Outcome, redact

HEADER_NAMES = frozenset({"id", "campaign", "category"})  # the others are a member's or an author's free text
NAMES = frozenset(
    {"to", "to_digits", "text", "text_xml", "title", "link", "button", "image", "id", "callback", "lifetime_s",
     "campaign", "category"}
)  # fmt: skip
PLACE = re.compile(r"\{([a-z_]+)\}")
_json = msgspec.json.Encoder(order="deterministic").encode


class FormSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Everything that makes one provider's interface.

    `ok`: values of the answer that must be there, `path: value`; `message_id`: the path of its id in the answer; paths
    are keys and numbers with dots. `refused`: value at `error` -> our status: `bounced` for an address that is no good,
    `rejected` for this message, `deferred` for "later". `phone`: addresses are telephone numbers. `parts_max`: of a
    short message; 0: it is none. `told_status`, `told_id`, `told_code`: fields of the provider's receipts, and `told`:
    their statuses -> ours.
    """

    url: str
    fields: dict[str, Any] = {}
    format: Literal["json", "form", "query"] = "json"
    method: Literal["POST", "GET", "PUT"] = "POST"
    headers: dict[str, str] = {}
    username: str = ""
    password: str = ""
    token: str = ""
    ok: dict[str, Any] = {}
    message_id: str = ""
    error: str = ""
    refused: dict[str, Literal["bounced", "rejected", "deferred"]] = {}
    phone: bool = True
    parts_max: int = 0
    told_status: str = ""
    told_id: str = ""
    told_code: str = ""
    told: dict[str, str] = {}


@dataclass(frozen=True, slots=True)
class Form:
    """The pure half."""

    settings: FormSettings
    needs: Needs = Needs(("txt",), ("subject", "link", "image"))

    def accepts(self, address: str) -> bool:
        """Take telephone numbers, or anything where the provider's addresses are its own."""
        return bool(PHONE.fullmatch(address)) if self.settings.phone else bool(address)

    def request(self, dispatch: Dispatch) -> HttpRequest:
        """Make the request; see `HttpAdapter`."""
        command, content, own = dispatch.command, dispatch.content, self.settings
        if not self.accepts(command.address):
            raise AddressError("no address of this provider")
        text = gsm.plain(content.text) if own.parts_max else content.text
        if own.parts_max:
            check_parts(text, own.parts_max)
        values = {
            "to": command.address,
            "to_digits": command.address.removeprefix("+"),
            "text": text,
            "text_xml": escape(text, {'"': "&quot;"}),
            "title": content.title,
            "link": content.link,
            "button": content.button,
            "image": content.image,
            "id": command.command_id,
            "callback": dispatch.callback,
            "lifetime_s": str(max(1, (command.expires_at_ms - dispatch.at_ms) // 1000)),
            "campaign": command.campaign,
            "category": command.category,
        }
        url = PLACE.sub(lambda found: quote(values[found[1]], safe=""), own.url)
        fields = filled(own.fields, values)
        headers = {name: str(filled(value, values)) for name, value in own.headers.items()}
        if own.token:
            headers["Authorization"] = f"Bearer {own.token}"
        elif own.username:
            login = base64.b64encode(f"{own.username}:{own.password}".encode()).decode("ascii")
            headers["Authorization"] = f"Basic {login}"
        if own.format == "json":
            return HttpRequest(own.method, url, headers | {"Content-Type": "application/json"}, _json(fields))
        text = urlencode({name: value for name, value in fields.items()}, doseq=True)
        if own.format == "query":
            return HttpRequest(own.method, f"{url}{'&' if '?' in url else '?'}{text}", headers)
        return HttpRequest(
            own.method, url, headers | {"Content-Type": "application/x-www-form-urlencoded"}, text.encode()
        )

    def told(self, call: HookCall) -> Told:
        """Read the field that `told_status` names, in the provider's words; who has the address may tell."""
        fields, own = call.fields(), self.settings
        status = own.told.get(str(at_path(fields, own.told_status)), "")
        ident = at_path(fields, own.told_id) if own.told_id else None
        code = at_path(fields, own.told_code) if own.told_code else None
        return Told(status, "" if ident is None else str(ident), "" if code is None else str(code))

    def outcome(self, reply: HttpReply) -> Outcome:
        """Read the answer by its HTTP status, then by what the settings say of its body."""
        own = self.settings
        try:
            body = msgspec.json.decode(reply.body) if reply.body else None
        except msgspec.MsgspecError:
            body = None
        error = at_path(body, own.error) if own.error else None
        status = own.refused.get(str(error)) if error is not None else None
        if status is not None:
            reason = {"bounced": "recipient_refused", "rejected": "request_refused"}.get(status, "throttled")
            return Outcome(status, reply.status, reason, redact(str(error)), healthy=status != "deferred")
        if 200 <= reply.status < 300:
            for path, wanted in own.ok.items():
                if str(at_path(body, path)) != str(wanted):
                    return Outcome("rejected", reply.status, "request_refused", redact(str(error or "")))
            ident = at_path(body, own.message_id) if own.message_id else None
            return Outcome("sent", reply.status, "accepted", "", "" if ident is None else str(ident)[:128])
        return usual_outcome(reply, detail=redact(str(error or "")))


def filled(value: Any, values: Mapping[str, str]) -> Any:
    """Put the message's own into every text of a value; a place that stands alone and is empty leaves its key out."""
    if isinstance(value, str):
        return PLACE.sub(lambda found: values[found[1]], value)
    if isinstance(value, dict):
        return {key: filled(one, values) for key, one in value.items() if not _empty(one, values)}
    if isinstance(value, list):
        return [filled(one, values) for one in value]
    return value


def places(value: Any) -> set[str]:
    """Collect the names in braces of a value at any depth."""
    if isinstance(value, str):
        return set(PLACE.findall(value))
    if isinstance(value, dict):
        return {name for one in value.values() for name in places(one)}
    return {name for one in value for name in places(one)} if isinstance(value, list) else set()


def at_path(body: Any, path: str) -> Any:
    """Follow keys and numbers with dots; None when there is nothing."""
    for step in path.split("."):
        if isinstance(body, dict):
            body = body.get(step)
        elif isinstance(body, list) and step.isdigit() and int(step) < len(body):
            body = body[int(step)]
        else:
            return None
    return body


def _empty(value: Any, values: Mapping[str, str]) -> bool:
    found = PLACE.fullmatch(value) if isinstance(value, str) else None
    return found is not None and not values.get(found[1])
