"""The preference centre: which channels may reach a member, by the signed link of any mail; apart from any framework.

It stands behind the unsubscribe link, under `/choices`: who may take consent back by that link may say more by it.
What the member said before is not shown, as delivery does not know it: each channel stays as it is unless chosen.
"""

import html
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import parse_qs

from schemas.events import Event
from schemas.tokens import TokenError
from schemas.unsubscribe import choice, verify
from tidings.unsubscribe import PAGE

YES, NO, KEEP = "yes", "no", "keep"
FIELDS_MAX = 50
NAMES = {
    "email": "E-mail", "sms": "SMS", "push": "Notifications", "viber": "Viber", "whatsapp": "WhatsApp",
    "call": "Phone calls", "bot": "Chat bot", "in_app": "Messages in the app",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Choices:
    """An HTTP answer, and the events that must be on `events`, in this order, before it is given."""

    status: int
    body: str
    events: tuple[Event, ...] = ()


def choices(
    method: str, token: str, secrets: Sequence[bytes], channels: Sequence[str], body: bytes, now_ms: int
) -> Choices:
    """Answer one request for `<unsubscribe link>/choices`; `channels`: those that there are; `now_ms`: wall clock."""
    try:
        leaving = verify(secrets, token)
    except TokenError:
        text = "<p>This link is not complete. Please use the link in your message again.</p>"
        return Choices(404, PAGE.format(title="Not found", body=text))
    if method == "POST":
        try:
            said = parse_qs(body.decode("ascii"), max_num_fields=FIELDS_MAX)
        except ValueError:
            return Choices(400, PAGE.format(title="Not understood", body="<p>Please use the form.</p>"))
        wanted = {channel: said[channel][-1] for channel in channels if channel in said}
        events = tuple(
            choice(leaving, channel, word == YES, now_ms) for channel, word in wanted.items() if word in (YES, NO)
        )
        text = "<p>Your choices are kept.</p>" if events else "<p>Nothing was changed.</p>"
        return Choices(200, PAGE.format(title="Thank you", body=text), events)
    if method in ("GET", "HEAD"):
        return Choices(200, PAGE.format(title="What may we send you?", body=_form(channels)))
    return Choices(405, PAGE.format(title="Not allowed", body=""))


def _form(channels: Sequence[str]) -> str:
    rows = "".join(_row(html.escape(channel), html.escape(NAMES.get(channel, channel))) for channel in channels)
    return f'<form method="post">{rows}<p><button>Save</button></p></form>'


def _row(channel: str, name: str) -> str:
    shown = ((KEEP, " checked", "as it is"), (YES, "", "yes"), (NO, "", "no"))
    radios = " ".join(
        f'<label><input type="radio" name="{channel}" value="{value}"{checked}> {text}</label>'
        for value, checked, text in shown
    )
    return f"<fieldset><legend>{name}</legend>{radios}</fieldset>"
