"""May this member be reached on this channel at all: consent by channel and topic, an address, and one not given up.

Consent lies in the profile: `consent.<channel>`, and by topic `consent.topics.<channel>.<topic>`, so that a profile
event which brings a new `consent` replaces all of it. A topic that was refused stays so when the channel is granted;
a channel that is revoked forgets its topics, so a topic that is granted now was granted later.
"""

import re
from collections.abc import Mapping
from typing import Any, Final

from schemas.address import address_digest
from streams.policies.verdict import Eligible, MessageRequest, Suppressed, Verdict
from tables.member_state import Contacts, Member

# The attribute of the profile that holds a channel's address; where there is none it has the channel's own name.
ADDRESS_OF: Final = {
    "email": "email", "sms": "phone", "viber": "phone", "whatsapp": "phone", "call": "phone", "push": "push_token",
    "bot": "chat_id",
}  # fmt: skip
# These go to the member's own place, and to a system: by member_id.
UNADDRESSED: Final = frozenset({"in_app", "webhook"})
TOPICS: Final = "topics"
Refusal = tuple[str, dict[str, Any]]
ELIGIBLE: Final = Eligible()
_UNFIT: Final = re.compile(r"[\s<>,;]")


def attribute_of(channel: str) -> str:
    """Name the attribute of the profile that holds the channel's address."""
    return ADDRESS_OF.get(channel, channel)


def address_of(member_id: str, profile: Mapping[str, Any], channel: str) -> str:
    """Return the address of an eligible message."""
    return member_id if channel in UNADDRESSED else str(profile[attribute_of(channel)])


def judge(request: MessageRequest, member: Member, clock_ms: int) -> Verdict:
    """Answer a request where no policies are in force: by consent and address alone, whatever the clock."""
    refusal = contact_refusal(request.profile, member.contacts, request)
    return ELIGIBLE if refusal is None else Suppressed(*refusal)


def contact_refusal(
    profile: Mapping[str, Any], contacts: Contacts | None, send: MessageRequest, required: bool = True
) -> Refusal | None:
    """Name why the member may not be reached; None if it may. All that is asked without policies, the first with them.

    `required` False: silence is consent (transactional messages, where the policy says so), a refusal is one all the
    same.
    """
    channel = send.channel
    if channel == "webhook":
        return None  # nobody is written to: a system is told
    consent = profile.get("consent")
    if not (isinstance(consent, dict) and consent.get(channel) is True and TOPICS not in consent):
        refusal = _consent_refusal(consent, send, required)
        if refusal is not None:
            return refusal
    if channel in UNADDRESSED:
        return None
    attribute = ADDRESS_OF.get(channel, channel)
    address = profile.get(attribute)
    if not address:
        return "no_address", {"attribute": attribute}
    if not isinstance(address, str) or (channel == "email" and not _looks_like_email(address)):
        return "invalid_address", {"attribute": attribute}
    return _dead_refusal(address, channel, contacts) if contacts is not None and contacts.dead else None


def _consent_refusal(consent: Any, send: MessageRequest, required: bool) -> Refusal | None:
    """Ask for consent: to the campaign's topic and its category, which is a topic too, then to the channel."""
    if not isinstance(consent, dict):
        return _channel_refusal(None, required)
    if TOPICS not in consent:
        return _channel_refusal(consent.get(send.channel), required)
    topics = (send.topic, send.category) if send.topic else (send.category,)
    return _topic_refusal(consent, send.channel, topics, required)


def _dead_refusal(address: str, channel: str, contacts: Contacts) -> Refusal | None:
    digest = address_digest(channel, address)
    for dead_channel, dead, why, at_ms in reversed(contacts.dead):
        if dead == digest and dead_channel == channel:
            return "invalid_address", {"attribute": attribute_of(channel), "because": why, "since": at_ms}
    return None


def _channel_refusal(granted: Any, required: bool) -> Refusal | None:
    if granted is True or (granted is None and not required):
        return None
    return "no_consent", {"consent": granted}


def _topic_refusal(consent: Mapping[str, Any], channel: str, topics: tuple[str, ...], required: bool) -> Refusal | None:
    by_channel = consent[TOPICS]
    said = by_channel.get(channel) if isinstance(by_channel, dict) else None
    said = said if isinstance(said, dict) else {}
    for topic in topics:
        if said.get(topic) is False:
            return "topic_off", {"topic": topic, "consent": False}
    if any(said.get(topic) is True for topic in topics):
        return None
    return _channel_refusal(consent.get(channel), required)


def _looks_like_email(address: str) -> bool:
    """Tell whether an address can stand in an SMTP envelope at all; whether it exists, only the receipt tells."""
    local, at, domain = address.rpartition("@")
    return bool(at and local and domain) and len(address) <= 254 and _UNFIT.search(address) is None
