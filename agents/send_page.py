"""What all messages of this process share: templates, the sender of mails, links that are signed for one member."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from schemas.commands import SendMessage
from schemas.references import reference_of, sign_reference
from schemas.unsubscribe import FORMAT as TOKEN_FORMAT
from schemas.unsubscribe import Leaving, unsubscribe_url
from sinks.channels.base import Needs
from sinks.dkim import DkimSigner
from sinks.mime import Mail, Sender, build
from sinks.reports import HEADER, reference_header
from sinks.templates import Content, Templates
from sinks.tracking import Tracking


@dataclass(frozen=True, slots=True)
class MailExtras:
    """What mails get besides.

    `dkim` signs them; None: nobody here does. Links of marketing mail lead through `tracking_base_url`; empty: they
    stay as they are.
    """

    dkim: DkimSigner | None = None
    tracking_base_url: str = ""


@dataclass(frozen=True, slots=True)
class Message:
    """Turns a command into what is sent."""

    templates: Templates
    sender: Sender
    unsubscribe_base_url: str
    unsubscribe_secret: bytes
    unsubscribe_mailto: str | None = None
    receipts_base_url: str = ""
    extras: MailExtras = MailExtras()

    def mail(self, command: SendMessage, at_ms: int) -> Mail:
        """Render a command's mail; `at_ms`: now.

        Raises:
            RenderError, AddressError, ValueError: it cannot be.
        """
        url = self._unsubscribe_url(command)
        rendered = self.templates.render(command.template, self._values(command, url))
        if self.extras.tracking_base_url:
            tracking = Tracking(self.extras.tracking_base_url, self.unsubscribe_secret)
            rendered = tracking.tracked(rendered, command, at_ms, url)
        headers = {HEADER: reference_header(self.unsubscribe_secret, command)}
        mail = build(command, rendered, self.sender, url, self.unsubscribe_mailto, headers)
        if self.extras.dkim is None:
            return mail
        return replace(mail, content=self.extras.dkim.sign(mail.content, command.decided_at_ms // 1000))

    def content(self, command: SendMessage, needs: Needs) -> Content:
        """Render the parts of a command's message that is no mail.

        Raises:
            RenderError: it cannot be.
        """
        values = self._values(command, self._unsubscribe_url(command))
        return self.templates.content(command.template, values, needs.required, needs.optional)

    def callback(self, command: SendMessage, provider: str) -> str:
        """Return where a provider may tell what came of a message; empty when it shall not."""
        if not self.receipts_base_url:
            return ""
        token = sign_reference(self.unsubscribe_secret, reference_of(command))
        return f"{self.receipts_base_url}/{provider}/{token}"

    def _unsubscribe_url(self, command: SendMessage) -> str:
        leaving = Leaving(TOKEN_FORMAT, command.member_id, command.channel, command.category, command.command_id)
        return unsubscribe_url(self.unsubscribe_base_url, self.unsubscribe_secret, leaving)

    @staticmethod
    def _values(command: SendMessage, unsubscribe: str) -> Mapping[str, Any]:
        message = {
            "command_id": command.command_id,
            "instance_id": command.instance_id,
            "step": command.step,
            "channel": command.channel,
            "category": command.category,
            "template": command.template,
            "version": command.version,
            "decided_at_ms": command.decided_at_ms,
            "expires_at_ms": command.expires_at_ms,
        }
        return {
            "data": command.data,
            "member": command.member,
            "campaign": command.campaign,
            "message": message,
            "unsubscribe_url": unsubscribe,
        }
