"""What came of one call to a provider, in the same words for every channel.

sent          the provider took the message; never hand it over again
deferred      not taken, may be tried again; `retry_after_ms` when the provider says how long to wait
unknown       the connection broke after the message was handed over and before the answer: nobody knows
bounced       the address takes no messages: never again
rejected      the provider refuses this message: never again
failed        our own settings are at fault: never again
"""

import re
from dataclasses import dataclass

_ADDRESS = re.compile(r"[^\s<>\"',;:]+@[^\s<>\"',;:]+")
_NUMBER = re.compile(r"\+?\d[\d ()-]{6,}\d")
_KEY = re.compile(r"[A-Za-z0-9_:=+/-]{40,}")  # device tokens and the like


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of one attempt: status as above, the provider's code (0: none), a word, its text without addresses."""

    status: str
    code: int
    reason: str
    detail: str = ""
    provider_message_id: str = ""
    retry_after_ms: int = 0
    healthy: bool = True  # False: it says something about the provider, not about this message


class ProviderDown(Exception):
    """The provider takes nothing at all now; `wait_s`: when to ask again. `reason` is one word for metrics."""

    def __init__(self, reason: str, wait_s: float) -> None:
        super().__init__(reason)
        self.reason = reason
        self.wait_s = wait_s


def redact(text: str) -> str:
    """Shorten a provider's words and take addresses out: receipts are kept for years, and name members by id alone."""
    if "@" in text:
        text = _ADDRESS.sub("(address)", text)
    for pattern, word in ((_NUMBER, "(number)"), (_KEY, "(key)")):
        text = pattern.sub(word, text)
    return " ".join(text.split())[:200]
