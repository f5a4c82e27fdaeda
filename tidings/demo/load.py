"""Producing the story in real time, and playing the members who get mail."""

import heapq
import html
import re
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
from schemas.references import read_reference
from sinks.reports import read_report, told
from streams.campaigns import load_campaign
from tidings.cli.campaigns import send_everywhere
from tidings.cli.policies import read_policy, the_policy_file
from tidings.config import Settings
from tidings.demo.outside import BROWSER, SCANNER, Outside
from tidings.demo.script import Sending, day, opening, reaction, replace_time, shop_span_ms
from tidings.files import campaign_paths, read_text, read_texts
from tidings.producing import Sender
from tidings.smtp_server import ReceivedMail
from tidings.worker import unsubscribe_secret

STEP_S = 0.01
# Mails of the last absences come 15 s after the shop closed; who reacts to them would keep the demo running.
REACTIONS_AFTER_CLOSING_S = 6.0
MAILS_MIN = 100  # on a slow machine mails come late: to so many there are reactions in any case
SHOP = "https://shop.example/"
ARF = "multipart/report; report-type=feedback-report; boundary=arf"


def tracked(mail: ReceivedMail, path: str) -> str | None:
    """Find the first link of ours in a mail's HTML."""
    page = mail.parsed().get_body(("html",))
    found = re.search(rf'http://[^"\s]+{path}[^"\s]+', page.get_content()) if page is not None else None
    return html.unescape(found[0]) if found is not None else None


def complaint(mail: ReceivedMail) -> bytes:
    """Write the feedback report (RFC 5965) of a mailbox provider whose user pressed "spam"."""
    parts = [
        b"Content-Type: text/plain\r\n\r\nThis is a report of a mail that our user calls spam.",
        b"Content-Type: message/feedback-report\r\n\r\nFeedback-Type: abuse\r\nUser-Agent: demo/1\r\nVersion: 1",
        b"Content-Type: message/rfc822\r\n\r\n" + mail.content,
    ]
    head = f"From: feedback@mailbox.example\r\nMIME-Version: 1.0\r\nContent-Type: {ARF}\r\n\r\n".encode()
    return head + b"".join(b"--arf\r\n" + part + b"\r\n" for part in parts) + b"--arf--\r\n"


def now_ms() -> int:
    """Return the wall clock."""
    return time.time_ns() // 1_000_000


class Load:
    """Produces to `events`. `react` may be called from any thread; everything else from one.

    Args:
        settings: those of the workers.
        seed: of the story.
        events: of the shop.
        outside: where members' requests go out.
    """

    def __init__(self, settings: Settings, seed: int, events: int, outside: Outside) -> None:
        self.counts: Counter[str] = Counter()
        self.done: Counter[str] = Counter()  # what members did about mails
        self._outside = outside
        self._settings = settings
        self._seed = seed
        self._events = events
        self._reactions: list[tuple[float, int, Event]] = []
        self._reacted = 0
        self._reacting_until = float("inf")
        self._mails = 0
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
            self.produce_reactions()
            progress(self.counts["shop"])
            time.sleep(STEP_S)
        self.flush()

    def react(self, mail: ReceivedMail) -> None:
        """Play the member who got this mail, in a second or two: by the links of the mail itself, over HTTP."""
        self._mails += 1
        if time.monotonic() > self._reacting_until and self._mails > MAILS_MIN:
            return
        member_id = "m" + mail.recipient.partition("@")[0].removeprefix("member")
        does, later = reaction(self._seed, member_id, mail.message_id.partition("@")[0]), self._outside.later
        if does.scanned:
            later(0, lambda: self._press(mail, SCANNER))
        if does.opens is not None:
            later(does.opens / 1_000, lambda: self._open(mail))
        if does.clicks is not None:
            later(does.clicks / 1_000, lambda: self._press(mail, BROWSER, does.order))
        if does.leaves is not None:
            later(does.leaves / 1_000, lambda: self._leave(mail))
        if does.complains is not None:
            later(does.complains / 1_000, lambda: self._complain(mail))

    def _press(self, mail: ReceivedMail, agent: str, order: tuple[int, Event] | None = None) -> None:
        """Follow the first tracked link of a mail as far as the redirect; the shop's own page is not there."""
        link = tracked(mail, "/c/")
        if link is None:
            return
        status, headers, _ = self._outside.ask("GET", link, headers={"User-Agent": agent})
        if status != 302 or not headers.get("Location", "").startswith(SHOP):
            raise OSError(f"redirect: {status}")
        self._count("followed" if agent == BROWSER else "scanned")
        if order is not None:
            with self._lock:
                self._push(time.monotonic() + order[0] / 1_000, order[1])

    def _open(self, mail: ReceivedMail) -> None:
        pixel = tracked(mail, "/o/")
        if pixel is not None:
            self._outside.ask("GET", pixel, headers={"User-Agent": BROWSER})

    def _leave(self, mail: ReceivedMail) -> None:
        """Unsubscribe as a mail program does, by RFC 8058."""
        headers = mail.parsed()
        link = str(headers["List-Unsubscribe"]).partition(">")[0].strip("< ")
        form = {"Content-Type": "application/x-www-form-urlencoded"}
        status, _, _ = self._outside.ask("POST", link, str(headers["List-Unsubscribe-Post"]).encode(), form)
        if status != 200:
            raise OSError(f"unsubscribe: {status}")
        self._count("left")

    def _complain(self, mail: ReceivedMail) -> None:
        """Have the mailbox provider report it, as `python -m tidings receipts import` reads it."""
        report = read_report(complaint(mail))
        if report is None:
            raise OSError("complaint: no report")
        reference = read_reference([unsubscribe_secret(self._settings)], report.token)
        with self._lock:
            for event in told(report, reference, now_ms()):
                self._push(time.monotonic(), event)
        self._count("complained")

    def _count(self, what: str) -> None:
        with self._lock:
            self.done[what] += 1

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

    def produce_reactions(self) -> bool:
        """Produce what members do now; tells whether more is to come."""
        while self._reactions and self._reactions[0][0] <= time.monotonic():
            with self._lock:
                _, _, event = heapq.heappop(self._reactions)
            value = encode_event(replace_time(event, now_ms()))
            self._produce((event.member_id or "").encode(), value, "reaction")
        self.sender.poll(0)
        return bool(self._reactions)

    def _produce(self, key: bytes | None, value: bytes, kind: str) -> None:
        self.sender.send(value, key)
        self.counts[kind] += 1
