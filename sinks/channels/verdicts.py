"""What the codes of vendors mean, in the same few words for all of them."""

from dataclasses import dataclass
from typing import TypeVar

import msgspec

from sinks.channels.base import HttpReply
from sinks.outcome import Outcome

_T = TypeVar("_T", bound=msgspec.Struct)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one of a vendor's own codes means in our words."""

    status: str
    reason: str
    healthy: bool = True


GONE = Verdict("bounced", "recipient_refused")  # the address takes nothing, for good
STOPPED = Verdict("rejected", "unsubscribed")  # the member's own wish, told to the provider
REFUSED = Verdict("rejected", "request_refused")  # this message
OURS = Verdict("deferred", "credentials_refused", healthy=False)  # our account or its settings: nothing else passes
THROTTLED = Verdict("deferred", "throttled", healthy=False)
TROUBLE = Verdict("deferred", "provider_error", healthy=False)


def judged(verdict: Verdict, code: int, words: str = "", later_ms: int = 0) -> Outcome:
    """Make the outcome of a vendor's own code; `words`: without addresses."""
    return Outcome(verdict.status, code, verdict.reason, words, retry_after_ms=later_ms, healthy=verdict.healthy)


def answer_of(reply: HttpReply, kind: type[_T]) -> _T | None:
    """Read the JSON of an answer; None when it is none of this kind (a proxy's page, nothing at all)."""
    try:
        return msgspec.json.decode(reply.body, type=kind)
    except msgspec.MsgspecError:
        return None
