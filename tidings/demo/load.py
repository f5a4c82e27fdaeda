"""Producing the story in real time, and playing the members who get mail."""

import heapq
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from confluent_kafka import KafkaError, Message, Producer

from agents.topics import EVENTS
from schemas.codec import encode_event
from schemas.errors import OperatorError
from schemas.events import CAMPAIGN_PUBLISHED, Event
from tidings.config import Settings
from tidings.demo.script import Sending, day, opening, reaction, replace_time, shop_span_ms
from tidings.files import campaign_paths, read_texts
from tidings.smtp_server import ReceivedMail

STEP_S = 0.01
FLUSH_S = 20.0
# Mails of the last absences come 15 s after the shop closed; who reacts to them would keep the demo running.
REACTIONS_AFTER_CLOSING_S = 6.0
# One oversized record is part of the story.
MESSAGE_BYTES_MAX = 1_000_000


def now_ms() -> int:
    """Return the wall clock."""
    return time.time_ns() // 1_000_000


class Load:
    """Produces to `events`. `react` may be called from any thread; everything else from one."""

    def __init__(self, settings: Settings, seed: int, events: int) -> None:
        self.counts: Counter[str] = Counter()
        self.failed = 0
        self._seed = seed
        self._events = events
        self._reactions: list[tuple[float, int, Event]] = []
        self._reacted = 0
        self._reacting_until = float("inf")
        self._lock = threading.Lock()
        self._producer = Producer(
            settings.confluent(
                {
                    "partitioner": "murmur2_random",  # as Java and Faust: equal members, equal partitions
                    "linger.ms": 2,
                    "compression.type": "lz4",
                    "enable.idempotence": True,
                    "message.max.bytes": MESSAGE_BYTES_MAX,
                    "log_level": 3,
                }
            )
        )

    def publish(self, campaigns: Iterable[Any], partitions: int) -> int:
        """Publish all campaigns of files or directories: a copy of each on every partition. Returns how many."""
        texts = read_texts(campaign_paths(campaigns))
        for path, text in texts:
            data = {"campaign": _name_of(text, path), "yaml": text, "path": path}
            value = encode_event(Event(CAMPAIGN_PUBLISHED, now_ms(), data=data))
            for partition in range(partitions):
                self._produce(None, value, "campaign", partition)
        self.flush()
        return len(texts)

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
            self._producer.poll(0)
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
        left = self._producer.flush(FLUSH_S)
        if left or self.failed:
            raise OperatorError(
                f"topic '{EVENTS}': the broker did not take all events (got {left or self.failed} without an answer);"
                " see the logs of the demo's data directory",
                exit_code=1,
            )

    def close(self) -> None:
        """Hang up, before the broker does."""
        self._producer.purge()
        del self._producer

    def _push(self, at: float, event: Event) -> None:
        self._reacted += 1
        heapq.heappush(self._reactions, (at, self._reacted, event))

    def _produce_reactions(self) -> None:
        while self._reactions and self._reactions[0][0] <= time.monotonic():
            with self._lock:
                _, _, event = heapq.heappop(self._reactions)
            value = encode_event(replace_time(event, now_ms()))
            self._produce((event.member_id or "").encode(), value, event.type.rpartition(".")[2])

    def _produce(self, key: bytes | None, value: bytes, kind: str, partition: int = -1) -> None:
        while True:
            try:
                self._producer.produce(EVENTS, value, key, partition, on_delivery=self._acked)
                break
            except BufferError:
                self._producer.poll(0.1)
        self.counts[kind] += 1

    def _acked(self, error: KafkaError | None, message: Message) -> None:
        if error is not None:
            self.failed += 1


def _name_of(text: str, path: str) -> str:
    from streams.campaigns import load_campaign

    campaign, findings = load_campaign(text, path)
    if campaign is None:
        raise OperatorError("\n".join(str(finding) for finding in findings), exit_code=1)
    return campaign.campaign
