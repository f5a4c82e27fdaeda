"""The desks of one delivery process: what channels that end with us keep."""

import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from confluent_kafka import KafkaError, KafkaException

from agents.calls_desk import CallsDesk
from agents.inbox_desk import InboxDesk
from agents.send_one import Metrics
from agents.sms_desk import SmsReceipts
from sinks.channels.base import Transport
from sinks.channels.inbox import Keep, KeepingTransport
from sinks.channels.smpp_transport import SmppTransport
from sinks.outcome import Outcome

ABOUT_ONE = frozenset({KafkaError.MSG_SIZE_TOO_LARGE, KafkaError.INVALID_RECORD})  # others are about the whole topic


@dataclass(frozen=True, slots=True)
class Desks:
    """One of each, shared by all lanes."""

    sms: SmsReceipts
    inbox: InboxDesk
    calls: CallsDesk

    @classmethod
    @contextlib.asynccontextmanager
    async def beside(cls, state_dir: Path, kafka: Mapping[str, Any], metrics: Metrics) -> AsyncIterator["Desks"]:
        """Make them with directories beside that of what was sent; what was opened meanwhile is closed at the end."""

        def clock_ms() -> int:
            return time.time_ns() // 1_000_000

        def beside(name: str) -> Path:
            return state_dir.with_name(f"{state_dir.name}-{name}")

        made = cls(
            SmsReceipts(kafka, beside("sms-ids"), clock_ms, metrics),
            InboxDesk(kafka, beside("inbox"), clock_ms),
            CallsDesk(kafka, beside("calls"), clock_ms),
        )
        try:
            yield made
        finally:
            for desk in (made.sms, made.inbox, made.calls):
                await desk.close()

    def attach(self, transport: Transport) -> None:
        """Give a transport the desk that it needs."""
        if isinstance(transport, SmppTransport):
            self.sms.begin()
            transport.attach(self.sms)
        elif isinstance(transport, KeepingTransport):
            desk = self.inbox if transport.desk == "inbox" else self.calls
            desk.begin()
            transport.attach(_told(desk.keep))


def _told(keep: Callable[[str, Any], Awaitable[None]]) -> Keep:
    """Make an answer about one message, or about this channel, of what the broker refuses for good.

    Raises:
        KafkaException: the producer can write nothing any more; only a process started anew can.
    """

    async def kept(provider: str, record: Any) -> Outcome:
        try:
            await keep(provider, record)
        except KafkaException as error:
            problem = error.args[0]
            if problem.fatal():
                raise
            if problem.code() in ABOUT_ONE:
                return Outcome("failed", 0, "not_kept", problem.name())
            return Outcome("deferred", 0, "not_kept", problem.name(), healthy=False)  # we may not write there
        return Outcome("sent", 0, "accepted")

    return kept
