"""The window of docs/guarantees.md, "At the mail server's door": which mails may come twice, by what is on record.

A second attempt is begun by who finds `sending` with no result. So before a mail comes twice, two attempts were begun
on record. And none was begun by who could have known that the mail had been sent: a worker reads what was sent to its
end when it takes a partition over. A result that its frozen or cut off predecessor got on record only after that comes
too late for it: the successor sends again. Its own log tells when it read, and how far; the broker's clock tells when
the result was appended.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from agents.delivery_state import Entry
from schemas.commands import TRIGGER

SLACK_MS = 2  # two clocks that are cut off to milliseconds


@dataclass(frozen=True, slots=True)
class Step:
    """A record of `tidings-delivery-sent`: its offset, and when the broker appended it."""

    entry: Entry
    offset: int
    appended_ms: int


@dataclass(frozen=True, slots=True)
class Resend:
    """A worker found `sending` of an attempt with no result. It had read up to an offset, having begun to at a time."""

    attempt: int
    read_to: int
    began_ms: int

    def may_have_missed(self, step: Step) -> bool:
        """Whether a step came too late for its reading."""
        return step.offset >= self.read_to and step.appended_ms >= self.began_ms - SLACK_MS


def in_window(steps: Sequence[Step], times: int, resends: Sequence[Resend]) -> bool:
    """Whether a mail that came `times` times did so in the window.

    Args:
        steps: of its command, in the topic's order.
        times: more than once.
        resends: what workers' logs say of it.
    """
    begun = 0
    for number, step in enumerate(steps):
        if step.entry.status == "sending":
            begun += 1
            knowing = [resend for resend in resends if resend.attempt < step.entry.attempt]
            for before in steps[:number]:
                if before.entry.status == "sent" and not any(one.may_have_missed(before) for one in knowing):
                    return False
    return times <= begun


def read_resends(logs: Iterable[Path]) -> dict[str, list[Resend]]:
    """Read what delivery workers logged, by command id: one log per worker, all its lives one after the other."""
    found: dict[str, list[Resend]] = {}
    for path in logs:
        read: dict[int, tuple[int, int]] = {}
        for line in path.read_text("utf-8", "replace").splitlines():
            event = _event(line)
            name = event.get("event")
            if name == "delivery.partition-ready" and event["lane"] == TRIGGER:
                began_ms = int(datetime.fromisoformat(str(event["time"])).timestamp() * 1_000) - int(event["took_ms"])
                read[event["partition"]] = event["read_to"], began_ms
            elif name == "delivery.uncertain" and event["partition"] in read:
                resend = Resend(event["attempt"], *read[event["partition"]])
                found.setdefault(event["command_id"], []).append(resend)
    return found


def _event(line: str) -> dict[str, Any]:
    if not line.startswith("{"):
        return {}
    try:
        event: dict[str, Any] = json.loads(line)
    except ValueError:  # the last words of a process that was killed
        return {}
    return event
