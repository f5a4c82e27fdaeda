"""What receipts teach the arbiter: an address that is dead, a message that never came and so counts for no cap."""

from typing import Any

from schemas.address import address_digest
from schemas.events import Event
from streams.policies.contact import attribute_of
from tables.member_state import DEAD_MAX, Contacts, Member

BOUNCED, COMPLAINED = "delivery.bounced", "engagement.complained"
HARD = "hard"
# The member got nothing of these. A `delivery.failed` whose outcome nobody knows may have arrived: it stays counted.
NEVER_CAME = frozenset(
    {"delivery.bounced", "delivery.cancelled", "delivery.expired", "delivery.failed", "delivery.rejected"}
)
UNSURE = frozenset({"outcome_unknown", "reply_lost"})
RECEIPT_TYPES = NEVER_CAME | {COMPLAINED}


def learn(member: Member, event: Event, e: int) -> None:
    """Take in a receipt. One receipt read twice teaches nothing new."""
    data = event.data
    command = data.get("command_id")
    if event.type in NEVER_CAME and isinstance(command, str) and data.get("reason") not in UNSURE:
        release(member, command_digest(command))
    if event.type == COMPLAINED or (event.type == BOUNCED and data.get("kind") == HARD):
        _give_up(member, data, HARD_BOUNCE if event.type == BOUNCED else COMPLAINT, e)


HARD_BOUNCE, COMPLAINT = "hard_bounce", "complaint"


def _give_up(member: Member, data: dict[str, Any], why: str, e: int) -> None:
    """Note the address of a receipt as dead: the one it names by digest, else the member's present one."""
    channel = data.get("channel")
    if not isinstance(channel, str):
        return
    digest = data.get("address_digest")
    if not isinstance(digest, str) or not digest:
        address = member.profile.get(attribute_of(channel))
        if not isinstance(address, str) or not address:
            return
        digest = address_digest(channel, address)
    contacts = member.contacts
    if contacts is None:
        contacts = member.contacts = Contacts()
    kept = [row for row in contacts.dead if (row[0], row[1]) != (channel, digest)]
    contacts.dead = [*kept, [channel, digest, why, e]][-DEAD_MAX:]


def command_digest(command_id: str) -> int:
    """Shorten a command id for the counters: 8 bytes."""
    return int(command_id[:16], 16)


def release(member: Member, digest: int) -> None:
    """Give back the slots that a message had taken."""
    contacts = member.contacts
    if contacts is None:
        return
    for scope, sent in contacts.sent.items():
        if any(row[1] == digest for row in sent):
            contacts.sent[scope] = [row for row in sent if row[1] != digest]
