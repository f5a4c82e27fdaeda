"""The desks of one delivery process: what channels that end with us keep."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agents.send_one import Metrics
from agents.sms_desk import SmsReceipts
from sinks.channels.base import Transport
from sinks.channels.smpp_transport import SmppTransport


@dataclass(frozen=True, slots=True)
class Desks:
    """One of each, shared by all lanes."""

    sms: SmsReceipts

    @classmethod
    def beside(cls, state_dir: Path, kafka: Mapping[str, Any], metrics: Metrics) -> "Desks":
        """Make them with directories beside that of what was sent; nothing is opened yet."""

        def clock_ms() -> int:
            return time.time_ns() // 1_000_000

        return cls(SmsReceipts(kafka, state_dir.with_name(f"{state_dir.name}-sms-ids"), clock_ms, metrics))

    def attach(self, transport: Transport) -> None:
        """Give a transport the desk that it needs."""
        if isinstance(transport, SmppTransport):
            self.sms.begin()
            transport.attach(self.sms)

    async def close(self) -> None:
        """Close those that were opened."""
        await self.sms.close()
