"""Producing the story in real time, and playing the members who get mail."""

import heapq
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from agents.topics import EVENTS
from schemas.codec import encode_event
from schemas.errors import CampaignError, OperatorError
from schemas.events import CAMPAIGN_PUBLISHED, POLICY_PUBLISHED, Event
from schemas.findings import errors
from streams.campaigns import load_campaign
from tidings.cli.campaigns import send_everywhere
from tidings.cli.policies import read_policy, the_policy_file
from tidings.config import Settings
from tidings.demo.script import Sending, day, opening, reaction, replace_time, shop_span_ms
from tidings.files import campaign_paths, read_text, read_texts
from tidings.producing import Sender
from tidings.smtp_server import ReceivedMail

STEP_S = 0.01
# Mails of the last absences come 15 s after the shop closed; who reacts to them would keep the demo running.
REACTIONS_AFTER_CLOSING_S = 6.0


def now_ms() -> int:
    """Return the wall clock."""
    return time.time_ns() // 1_000_000


class Load:
    """Produces to `events`. `react` may be called from any thread; everything else from one."""

    def __init__(self, settings: Settings, seed: int, events: int) -> None:
        self.counts: Counter[str] = Counter()
        self._seed = seed
        self._events = events
        self._reactions: list[tuple[float, int, Event]] = []
        self._reacted = 0
        self._reacting_until = float("inf")
        self._lock = threading.Lock()
        self.sender = Sender(settings, EVENTS)

    def publish(self, campaigns: Path) -> None:
        """Publish the campaigns of a file or directory, and the policies beside them: a copy on every partition.

        Raises:
            CampaignError: one cannot be run.
        """
        file = the_policy_file([campaigns])
        if file is not None:
            version = read_policy(file).version
            data: dict[str, Any] = {"version": version, "path": file.name, "yaml": read_text(file)}
            send_everywhere(self.sender, POLICY_PUBLISHED, data | {"partitions": self.sender.partitions})
        for path, text in read_texts(campaign_paths([campaigns])):
            campaign, findings = load_campaign(text, path)
            if campaign is None or errors(findings):
                raise CampaignError(findings)
            data = {"campaign": campaign.campaign, "version": campaign.version, "path": path, "yaml": text}
            send_everywhere(self.sender, CAMPAIGN_PUBLISHED, data)
            self.counts["campaign"] += self.sender.partitions

    def register(self) -> None:
        """Produce the registrations."""
        for sending in opening(self._seed, self._events, now_ms()):
            self._produce(sending.key, sending.value, sending.kind)
        self.flush()

    def run(self, stop: Callable[[], bool], progress: Callable[[int], None]) -> None:
        """Produce the shop's day at its pace, and reactions as they come, until all is sent or `stop` says so."""
        start_ms = now_ms()
        closes_ms = shop_span_ms(self._events)
        self._reacting_until = time.monotonic() + closes_ms / 1_000 + REACTIONS_AFTER_CLOSING_S
        story: Iterator[Sending] = day(self._seed, self._events, start_ms)
        coming = next(story, None)
        while not stop() and (coming is not None or time.monotonic() < self._reacting_until or self._reactions):
            passed_ms = now_ms() - start_ms
            while coming is not None and coming.at_ms <= passed_ms:
                self._produce(coming.key, coming.value, coming.kind)
                coming = next(story, None)
            self._produce_reactions()
            self.sender.poll(0)
            progress(self.counts["shop"])
            time.sleep(STEP_S)
        self.flush()

    def react(self, mail: ReceivedMail) -> None:
        """Play the member who got this mail: perhaps a click, perhaps an order, in a second or two."""
        if time.monotonic() > self._reacting_until:
            return
        command_id, headers = mail.message_id.partition("@")[0], mail.parsed()
        campaign = str(headers["Feedback-ID"] or "").partition(":")[0]
        member_id = "m" + mail.recipient.partition("@")[0].removeprefix("member")
        found = reaction(self._seed, member_id, command_id, campaign)
        if found is None:
            return
        after_ms, click, then = found
        at = time.monotonic() + after_ms / 1_000
        with self._lock:
            self._push(at, click)
            if then is not None:
                self._push(at + then[0] / 1_000, then[1])

    def flush(self) -> None:
        """Wait until all is acknowledged.

        Raises:
            OperatorError: the broker did not take it.
        """
        self.sender.flush()
        trouble = self.sender.trouble()
        if trouble:
            raise OperatorError(trouble, exit_code=3)

    def close(self) -> None:
        """Hang up, before the broker does."""
        del self.sender

    def _push(self, at: float, event: Event) -> None:
        self._reacted += 1
        heapq.heappush(self._reactions, (at, self._reacted, event))

    def _produce_reactions(self) -> None:
        while self._reactions and self._reactions[0][0] <= time.monotonic():
            with self._lock:
                _, _, event = heapq.heappop(self._reactions)
            value = encode_event(replace_time(event, now_ms()))
            self._produce((event.member_id or "").encode(), value, event.type.rpartition(".")[2])

    def _produce(self, key: bytes | None, value: bytes, kind: str) -> None:
        self.sender.send(value, key)
        self.counts[kind] += 1
