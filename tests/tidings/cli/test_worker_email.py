"""A mail of a real worker: signed by the domain, its links followed to events, over processes."""

import re
import time
import urllib.request
from pathlib import Path

from confluent_kafka import Producer

from agents.topics import COMMANDS, EVENTS, TOPICS
from schemas.codec import decode_event, encode_command
from schemas.commands import SendMessage
from tests.helpers.workers import read_topic, running, until
from tests.sinks.test_dkim import KEY, pem, verifies
from tests.sinks.test_mime import COMMAND
from tidings.brokers.memory import MemoryBroker
from tidings.smtp_server import SmtpServer

PARTITIONS = 2


class NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *args: object) -> None:
        return None


def location(url: str) -> tuple[int, str]:
    request = urllib.request.Request(url, headers={"User-Agent": "Mozilla/5.0 (X11; Linux) Firefox/128.0"})
    try:
        urllib.request.build_opener(NoRedirect).open(request, timeout=15)
    except urllib.error.HTTPError as answer:
        return answer.code, answer.headers.get("Location", "")
    raise AssertionError("it led nowhere")


def command() -> SendMessage:
    now = time.time_ns() // 1_000_000
    values = {name: getattr(COMMAND, name) for name in COMMAND.__struct_fields__}
    return SendMessage(**(values | {"decided_at_ms": now, "caused_at_ms": now, "expires_at_ms": now + 600_000}))


def test_a_signed_mail_leads_a_click_to_the_page_and_to_the_log(tmp_path: Path) -> None:
    templates, key = tmp_path / "templates", tmp_path / "dkim.pem"
    templates.mkdir()
    (templates / "x.subject.j2").write_text("Your cart")
    (templates / "x.txt.j2").write_text("See https://shop.example/cart?id=7 or leave: {{ unsubscribe_url }}\n")
    key.write_bytes(pem(KEY))
    with SmtpServer() as smtp, MemoryBroker({spec.name: PARTITIONS for spec in TOPICS}) as broker:
        producer = Producer({"bootstrap.servers": broker.bootstrap, "partitioner": "murmur2_random"})
        producer.produce(COMMANDS, encode_command(command()), b"m1")
        assert producer.flush(10) == 0
        here = {
            "broker": f"memory://{broker.bootstrap}", "data_dir": str(tmp_path), "smtp": smtp.url,
            "templates_dir": str(templates), "dkim_key": str(key), "dkim_selector": "s2026",
            "mail_from": "Shop <news@shop.example>", "tracking_base_url": "https://t.shop.example",
        }  # fmt: skip
        with running("--role", "delivery", "--web-port", "0", **here) as (_, line):
            until(lambda: smtp.mails, "the mail")
            mail = smtp.mails[0]
            assert verifies(mail.content)
            text = mail.parsed().get_content()
            leave = str(mail.parsed()["List-Unsubscribe"]).strip("<>")
            assert leave in text
            with urllib.request.urlopen(f"{leave}/choices", data=b"email=no", timeout=15) as page:
                assert b"Your choices are kept" in page.read()
            path = re.search(r"https://t\.shop\.example(/c/\S+)", text)
            assert path is not None and "https://shop.example/cart" not in text
            assert location(line.rpartition("web ")[2].strip() + path[1]) == (302, "https://shop.example/cart?id=7")

        found = [decode_event(m.value()) for m in read_topic(broker.bootstrap, EVENTS, PARTITIONS)]
        (click,) = [event for event in found if event.type == "engagement.clicked"]
        assert [event.data["channel"] for event in found if event.type == "consent.revoked"] == ["email"]
        assert (click.member_id, click.data["command_id"]) == ("m1", COMMAND.command_id)
        assert click.data["url"] == "https://shop.example/cart?id=7"
