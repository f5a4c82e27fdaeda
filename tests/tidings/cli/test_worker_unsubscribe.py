"""From a mail's List-Unsubscribe header to a decision that is suppressed, over processes, SMTP and HTTP."""

import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Producer

from agents.topics import COMMANDS, DECISIONS, EVENTS, TOPICS
from schemas.codec import decode_decision, decode_event, encode_event
from schemas.events import CAMPAIGN_PUBLISHED, Event
from tests.helpers.workers import read_topic, running, until
from tidings.brokers.memory import MemoryBroker
from tidings.smtp_server import ReceivedMail, SmtpServer

PARTITIONS = 2
THANKS = """
campaign: thanks
pattern: order.created as o
send: {channel: email, template: thank_you, data: {total: o.total}}
"""
PROFILE = {"email": "ann@mail.example", "consent": {"email": True}}


class Shop:
    """Writes what a shop would; every event of one member."""

    def __init__(self, bootstrap: str) -> None:
        self.bootstrap = bootstrap
        self._producer = Producer({"bootstrap.servers": bootstrap, "partitioner": "murmur2_random"})
        self._number = 0

    def say(self, kind: str, data: dict[str, Any], partition: int | None = None) -> None:
        self._number += 1
        member = "m-1" if partition is None else None
        value = encode_event(Event(kind, time.time_ns() // 1_000_000, f"e{self._number}", member, data))
        self._producer.produce(EVENTS, value, member, -1 if partition is None else partition)
        assert self._producer.flush(10) == 0

    def reasons(self) -> list[str]:
        return [decode_decision(m.value()).reason for m in read_topic(self.bootstrap, DECISIONS, PARTITIONS)]

    def revocations(self) -> list[Any]:
        messages = read_topic(self.bootstrap, EVENTS, PARTITIONS)
        return [m for m in messages if decode_event(m.value()).type == "consent.revoked"]


@pytest.fixture
def shop() -> Iterator[Shop]:
    with MemoryBroker({spec.name: PARTITIONS for spec in TOPICS}) as running_broker:
        yield Shop(running_broker.bootstrap)


def post(url: str) -> int:
    """Do what a mail provider does when its user presses Unsubscribe (RFC 8058)."""
    with urllib.request.urlopen(url, data=b"List-Unsubscribe=One-Click", timeout=15) as got:
        return int(got.status)


def link_of(mail: ReceivedMail) -> str:
    parsed = mail.parsed()
    assert parsed["List-Unsubscribe-Post"] == "List-Unsubscribe=One-Click"
    link = str(parsed["List-Unsubscribe"]).strip("<>")
    assert link in parsed.get_body(("plain",)).get_content()  # type: ignore[union-attr]
    return link


def test_one_click_in_a_real_mail_stops_the_next_one(shop: Shop, tmp_path: Path) -> None:
    with SmtpServer() as smtp:
        here = {"broker": f"memory://{shop.bootstrap}", "data_dir": str(tmp_path), "smtp": smtp.url}
        with (
            running("--role", "engine", "--web-port", "0", **here),
            running("--role", "delivery", "--web-port", "0", **here) as (_, line),
        ):
            for partition in range(PARTITIONS):
                shop.say(CAMPAIGN_PUBLISHED, {"campaign": "thanks", "yaml": THANKS, "path": "t.yaml"}, partition)
            shop.say("member.registered", PROFILE)
            shop.say("order.created", {"total": 10})
            until(lambda: smtp.mails, "the mail")
            link = link_of(smtp.mails[0])
            assert link.startswith(line.rpartition("web ")[2].strip() + "/u/")

            with urllib.request.urlopen(link, timeout=15) as page:  # as link scanners do
                assert b"<button>Unsubscribe</button>" in page.read()
            assert shop.revocations() == []

            assert post(link) == 200
            (written,) = shop.revocations()  # at once: it was there before the answer
            assert written.key() == b"m-1"
            assert written.partition() == read_topic(shop.bootstrap, COMMANDS, PARTITIONS)[0].partition()

            shop.say("order.created", {"total": 20})
            until(lambda: len(shop.reasons()) == 2, "the second decision")
            assert shop.reasons() == ["sent_to_delivery", "no_consent"]
            assert smtp.received == 1
