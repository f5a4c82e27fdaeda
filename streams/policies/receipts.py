"""What receipts teach the arbiter: an address that is dead, a message that never came and so counts for no cap."""

from collections.abc import Sequence
from typing import Any

from schemas.address import address_digest
from schemas.events import Event
from schemas.taxonomy import EVENT_TYPES
from streams.policies.contact import attribute_of
from tables.member_state import DEAD_MAX, Contacts, Member

BOUNCED, COMPLAINED = "delivery.bounced", "engagement.complained"
HARD = "hard"
# Who opens, reads, clicks or complains has got it; what a machine opened has come as far as the mailbox.
CAME = frozenset({"delivery.delivered", *(name for name in EVENT_TYPES if name.startswith("engagement."))})
# The member got nothing of these. A `delivery.failed` whose outcome nobody knows may have arrived: it stays counted.
NEVER_CAME = frozenset(
    f"delivery.{word}" for word in ("undelivered", "bounced", "rejected", "expired", "failed", "cancelled")
)
UNSURE = frozenset({"outcome_unknown", "reply_lost"})
RECEIPT_TYPES = NEVER_CAME | CAME


def learn(member: Member, event: Event, e: int) -> None:
    """Take in a receipt. One receipt read twice teaches nothing new."""
    data = event.data
    if event.type in CAME or data.get("reason") not in UNSURE:
        settle(member, data.get("command_id"), came=event.type in CAME)
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


def settle(member: Member, command: object, *, came: bool) -> None:
    """Keep the slots of a message that came; give back those of one that did not, until it turns out that it came.

    Receipts come in any order; delivery is the furthest. So a row whose digest is turned negative stays whatever
    else is told, and one that was given back, whose clock is negative, may return.
    """
    contacts = member.contacts
    if contacts is None or not contacts.sent or not isinstance(command, str):
        return
    try:
        digest = command_digest(command)
    except ValueError:  # no id of ours
        return
    for scope, rows in contacts.sent.items():
        if any(row[1] == digest for row in rows):
            contacts.sent[scope] = [_settled(row, came=came) if row[1] == digest else row for row in rows]


def _settled(row: Sequence[Any], *, came: bool) -> list[Any]:
    at = abs(row[0])
    return [at, -1 - (row[1] >> 1), *row[2:]] if came else [-at, *row[1:]]
