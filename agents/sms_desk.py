"""Receipts of SMPP providers: which message an id stands for, kept in a topic that every worker reads whole.

A provider gives each message an id of its own and names only that in the receipt, which may come hours later, over
any bound session: of another lane, of another worker, after a restart. So what an id stands for is written to
`SMS_IDS_TOPIC` when it is answered, and looked up when the receipt comes. A receipt is answered once its event is on
`events`; until then the provider keeps it.
"""

import asyncio
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec
import structlog
from confluent_kafka import KafkaException

from agents.desk import Desk
from agents.send_one import Metrics
from agents.topics import SMS_IDS, SMS_IDS_KEPT_MS
from schemas.references import Reference
from sinks.channels.receipts import Told, receipt_event

FORMAT = 1
KNOWN_S = 3.0  # a receipt may overtake what its id stands for: the answer to it has just come, here or elsewhere
WRITE_S = 10.0
NOTED_MAX = 20_000  # ids that are being written

log = structlog.get_logger("agents.sms")


class SmsId(msgspec.Struct, frozen=True, array_like=True):
    """What one id of a provider stands for. `last`: the part that is told of. Fields are only added at the end."""

    format: int
    message: Reference
    last: bool


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(SmsId).decode


def keep_latest(before: bytes | None, value: bytes, at_ms: int) -> bytes | None:
    """Fold: the last record of an id counts."""
    return value or None


class SmsReceipts(Desk):
    """See the head of this module.

    Args:
        kafka: librdkafka settings.
        path: a directory of this process alone.
        clock_ms: the wall clock.
        metrics: where to count.
    """

    def __init__(self, kafka: Mapping[str, Any], path: Path, clock_ms: Callable[[], int], metrics: Metrics) -> None:
        super().__init__(kafka, path, SMS_IDS, keep_latest, SMS_IDS_KEPT_MS, clock_ms)
        self._metrics = metrics

    def note(self, provider: str, ident: str, reference: Reference, last: bool) -> None:
        """Begin to write what an id stands for.

        Nobody waits for it: a message must not be sent again because this is slow. A crash before it is written costs
        the receipt, never a message; so does a topic that takes nothing for long, for what waits is bounded.
        """
        if len(self._tasks) >= NOTED_MAX:
            self._metrics.count("sms_ids_lost")
            return
        self.start(self.append(_key(provider, ident), _encode(SmsId(FORMAT, reference, last))))

    async def tell(self, provider: str, told: Told) -> bool:
        """Write the event of a receipt; False: the provider shall come again."""
        replica = self.replica
        if replica is None:
            return False
        key = _key(provider, told.provider_message_id)
        if not await replica.until(lambda: replica.get(key) is not None, KNOWN_S):
            # Of another program with the same account, or of a message too long ago.
            self._metrics.count("receipt_requests", status="404")
            log.info("sms.receipt-of-nothing", provider=provider)
            return True
        known = _decode(replica.get(key) or b"")
        if told.status == "delivered" and not known.last:
            return True
        event = receipt_event(known.message, told, provider, self.clock_ms())
        try:
            async with asyncio.timeout(WRITE_S):
                await self.append_event(event)
        except (TimeoutError, KafkaException) as error:
            log.error("receipt not written", error=type(error).__name__)
            return False
        self._metrics.count("receipts_told", type=event.type)
        return True


def _key(provider: str, ident: str) -> bytes:
    return f"{provider}\0{ident}".encode()
