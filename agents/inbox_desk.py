"""The inboxes of all members, on the topic `INBOX`; every delivery worker reads it whole and can show any of them."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from agents.desk import Desk
from agents.topics import INBOX, INBOX_KEPT_MS
from schemas.inbox import CLICKED, FORMAT, READ, SHOWN, InboxItem, InboxMark, Kept, encode_inbox_record, fold_inbox
from schemas.references import told_event

AXES: Mapping[str, tuple[str, str]] = {
    SHOWN: ("delivery", "delivered"), READ: ("engagement", "opened"), CLICKED: ("engagement", "clicked"),
}  # fmt: skip


class InboxDesk(Desk):
    """See the head of this module."""

    def __init__(self, kafka: Mapping[str, Any], path: Path, clock_ms: Callable[[], int]) -> None:
        super().__init__(kafka, path, INBOX, fold_inbox, INBOX_KEPT_MS, clock_ms)

    async def keep(self, provider: str, item: InboxItem) -> None:
        """Put a message into its member's inbox."""
        record = msgspec.structs.replace(item, provider=provider)
        await self.append(item.message.member_id.encode(), encode_inbox_record(record))

    async def mark(self, kept: Kept, mark: str) -> None:
        """Write that a member saw, read or clicked a message: the event first, for a mark is never written again.

        Raises:
            KafkaException: as `Desk.append`.
        """
        item, now_ms = kept.item, self.clock_ms()
        axis, status = AXES[mark]
        more = {"reason": "told_by_inbox"} if axis == "delivery" else {}
        if mark == CLICKED:
            more = {"url": item.link}
        await self.append_event(told_event(item.message, axis, status, item.provider, now_ms, more))
        record = InboxMark(FORMAT, item.message.command_id, mark, now_ms)
        await self.append(item.message.member_id.encode(), encode_inbox_record(record))
