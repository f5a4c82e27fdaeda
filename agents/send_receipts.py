"""From a command and what came of it to the receipt on `events`: pure."""

from agents.delivery_state import Entry
from schemas.address import address_digest
from schemas.commands import SendMessage
from schemas.events import Event
from schemas.ids import h128
from schemas.references import reference_of


def receipt(command: SendMessage, entry: Entry, provider: str, provider_message_id: str) -> Event:
    """Make the receipt of one step. The same step gives the same event, byte for byte, however often it is made.

    The id holds the attempt: two `delivery.sent` of one command with different ids are two mails really sent.
    """
    return Event(
        type=f"delivery.{entry.status}",
        occurred_at_ms=entry.at_ms,
        event_id=h128(command.command_id, entry.status, str(entry.attempt)),
        member_id=command.member_id,
        source="tidings-delivery",
        causation_id=command.command_id,
        data=reference_of(command).facts()
        | {
            "status": entry.status,
            "attempt": entry.attempt,
            "provider": provider,
            "provider_message_id": provider_message_id,
            "code": str(entry.code) if entry.code else "",
            "reason": entry.reason,
            "detail": entry.detail,
            "address_digest": address_digest(command.channel, command.address),
        }
        | ({"kind": "hard" if entry.reason == "recipient_refused" else "block"} if entry.status == "bounced" else {}),
    )
