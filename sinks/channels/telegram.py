"""Telegram Bot API: `sendMessage`, and `sendPhoto` for a message with an image. Address: the chat's id."""

import re
from dataclasses import dataclass
from typing import Any

import msgspec

from sinks.channels.base import AddressError, ContentError, Dispatch, HttpReply, HttpRequest, Needs, usual_outcome
from sinks.channels.verdicts import GONE, OURS, REFUSED, THROTTLED, answer_of, judged
from sinks.outcome import Outcome, redact

TEXT_MAX, CAPTION_MAX, BUTTON = 4_096, 1_024, "→"  # core.telegram.org/bots/api#sendmessage, #sendphoto
_CHAT = re.compile(r"-?[0-9]{1,20}|@[A-Za-z][A-Za-z0-9_]{3,31}")
_json = msgspec.json.Encoder(order="deterministic").encode
# 400 and 403 about the chat itself; the API gives no code of its own, only these words.
_GONE = re.compile(
    r"chat not found|bot was (blocked|kicked)|user is deactivated|can't initiate conversation|PEER_ID_INVALID"
)


class TelegramSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`token`: of the bot, from BotFather. `silent`: without a sound."""

    token: str
    url: str = "https://api.telegram.org"
    silent: bool = False


@dataclass(frozen=True, slots=True)
class Telegram:
    """The pure half."""

    settings: TelegramSettings
    needs: Needs = Needs(("txt",), ("link", "image"))

    def accepts(self, address: str) -> bool:
        """Take a number, or the name of a channel with `@`."""
        return bool(_CHAT.fullmatch(address))

    def request(self, dispatch: Dispatch) -> HttpRequest:
        """Make the call of a method of the API; see `HttpAdapter`."""
        address, content = dispatch.command.address, dispatch.content
        if not self.accepts(address):
            raise AddressError("no chat of Telegram")
        body: dict[str, Any] = {"chat_id": address if address.startswith("@") else int(address)}
        if len(content.text) > (CAPTION_MAX if content.image else TEXT_MAX):
            raise ContentError("text_too_long")
        if content.image:
            method, told = "sendPhoto", {"photo": content.image, "caption": content.text}
        else:
            method, told = "sendMessage", {"text": content.text}
        body |= told
        if content.link:
            button = {"text": content.button or BUTTON, "url": content.link}
            body["reply_markup"] = {"inline_keyboard": [[button]]}
        if self.settings.silent:
            body["disable_notification"] = True
        url = f"{self.settings.url}/bot{self.settings.token}/{method}"
        return HttpRequest("POST", url, {"Content-Type": "application/json"}, _json(body))

    def outcome(self, reply: HttpReply) -> Outcome:
        """Read `{ok, result | error_code, description, parameters}`."""
        said = answer_of(reply, _Answer)
        if said is None:
            return usual_outcome(reply)
        if said.ok and 200 <= reply.status < 300:
            ident = said.result.get("message_id") if isinstance(said.result, dict) else None
            return Outcome("sent", reply.status, "accepted", "", "" if ident is None else str(ident))
        code, words = said.error_code or reply.status, redact(said.description)
        if code == 429:
            after = said.parameters.get("retry_after")
            wait_ms = after * 1000 if isinstance(after, int) and 0 < after <= 86_400 else 0
            return judged(THROTTLED, code, words, wait_ms)
        if code in (400, 403) and _GONE.search(said.description):
            return judged(GONE, code, words)
        if code == 404:  # the token is part of the path: a wrong one is no such method
            return judged(OURS, code, words)
        if code == 403:
            return judged(REFUSED, code, words)
        return usual_outcome(HttpReply(code, reply.headers, reply.body), detail=words)


class _Answer(msgspec.Struct):
    ok: bool
    result: Any = None
    error_code: int = 0
    description: str = ""
    parameters: dict[str, Any] = {}
