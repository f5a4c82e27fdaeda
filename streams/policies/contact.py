"""Whether a member may be reached by a channel at all: consent, and an address that can stand on an envelope."""

from typing import Any

from streams.policies.verdict import Eligible, MessageRequest, Suppressed, Verdict

# The attribute of the profile that holds a channel's address; where there is none it has the channel's own name.
ADDRESS_OF = {
    "email": "email", "sms": "phone", "viber": "phone", "whatsapp": "phone", "call": "phone", "push": "push_token",
    "bot": "chat_id",
}  # fmt: skip
UNADDRESSED = frozenset({"in_app", "webhook"})  # these go to the member's own place, and to a system: by member_id

_ELIGIBLE = Eligible()


def judge(request: MessageRequest, policy_state: Any, clock_ms: int) -> Verdict:
    """Answer a request by the member's profile alone: `no_consent`, `no_address`, `invalid_address`, or eligible.

    Args:
        request: the message wanted.
        policy_state: what is remembered of the member's earlier messages; not used.
        clock_ms: the partition's clock; not used.
    """
    profile, channel = request.profile, request.channel
    if channel == "webhook":
        return _ELIGIBLE  # nobody is written to: a system is told
    consent = profile.get("consent")
    granted = consent.get(channel) if isinstance(consent, dict) else None
    if granted is not True:
        return Suppressed("no_consent", {"consent": granted})
    if channel in UNADDRESSED:
        return _ELIGIBLE
    attribute = ADDRESS_OF.get(channel, channel)
    address = profile.get(attribute)
    if not address:
        return Suppressed("no_address", {"attribute": attribute})
    if not isinstance(address, str) or (channel == "email" and not _looks_like_email(address)):
        return Suppressed("invalid_address", {"attribute": attribute})
    return _ELIGIBLE


def address_of(member_id: str, profile: dict[str, Any], channel: str) -> str:
    """Return the address of an eligible message."""
    return member_id if channel in UNADDRESSED else str(profile[ADDRESS_OF.get(channel, channel)])


def _looks_like_email(address: str) -> bool:
    """Tell whether an address can stand in an SMTP envelope at all; whether it exists, only the receipt tells."""
    local, at, domain = address.rpartition("@")
    return (
        bool(at and local and domain) and len(address) <= 254 and not any(c.isspace() or c in "<>,;" for c in address)
    )
