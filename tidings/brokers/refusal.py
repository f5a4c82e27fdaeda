"""A broker that refuses us: which settings it does not take, at once at the start, and while a worker runs."""

import asyncio
import time
from typing import Any

import structlog
from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient

from agents.topics import EVENTS
from schemas.errors import OperatorError
from tidings.config import Settings

LOOK_S = 5.0
ASK_S = 3.0
# A broker that restarts may refuse for a moment, until it has read its users. After this a worker ends, and the next
# start says why: whoever supervises it has the new password by then, or an alarm.
REFUSED_S = 15.0
WRONG = {
    KafkaError._AUTHENTICATION: "TIDINGS_SASL_USERNAME and TIDINGS_SASL_PASSWORD (or TIDINGS_SASL_MECHANISM)",  # noqa: SLF001
    KafkaError._SSL: "TIDINGS_SECURITY_PROTOCOL and TIDINGS_SSL_*",  # noqa: SLF001 - both are its public codes
}

log = structlog.get_logger("tidings.worker")


class Asking(AdminClient):
    """An AdminClient that remembers why its connections failed: its calls say only that nobody answered."""

    def __init__(self, settings: Settings) -> None:
        self._place = settings.bootstrap
        self._error: KafkaError | None = None
        # Silent: what goes wrong comes back as an error of the call, and is reported once.
        super().__init__(settings.confluent(log_level=0, error_cb=self._heard, reconnect_backoff_max_ms=1_000))

    def _heard(self, error: KafkaError) -> None:
        if error.code() in WRONG:
            self._error = error

    def refusal(self) -> OperatorError | None:
        """Say which settings the broker refuses; None when it has not been heard to refuse any since the last call."""
        self.poll(0)
        error, self._error = self._error, None
        if error is None:
            return None
        return OperatorError(
            f"{WRONG[error.code()]}: refused by {self._place} (got {error.name()}: {error.str()}); correct them",
            exit_code=3,
        )


async def refused_for_long(settings: Settings, refused_s: float = REFUSED_S) -> OperatorError:
    """Ask every LOOK_S; return once the broker has refused our settings for so long. Each time is in the log."""
    if settings.security_protocol == "PLAINTEXT":
        await asyncio.get_running_loop().create_future()  # nothing that it could refuse
    asking, since, refusal = Asking(settings), None, None
    while True:
        await asyncio.sleep(LOOK_S)
        if await asyncio.to_thread(_answers, asking):
            since, refusal = None, None
            asking.refusal()  # of before: forgotten
            continue
        refusal = asking.refusal() or refusal
        if refusal is None:
            continue  # away, or slow: the roles wait for that themselves
        now = time.monotonic()
        since = now if since is None else since
        log.error("broker refuses us", error=str(refusal), refused_s=round(now - since))
        if now - since >= refused_s:
            return refusal


def _answers(asking: Asking) -> bool:
    try:
        metadata: Any = asking.list_topics(EVENTS, timeout=ASK_S)
    except KafkaException:
        return False
    return bool(metadata.brokers)
