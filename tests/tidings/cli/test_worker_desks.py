"""A real delivery worker with a providers' file: an inbox, the call centre's queue and SMPP, over its own endpoints."""

import asyncio
import json
import urllib.error
import urllib.request
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Producer

from agents.topics import COMMANDS, EVENTS, TOPICS
from schemas.codec import decode_event, encode_command
from tests.agents.delivery_lab import send_command
from tests.helpers.workers import read_topic, running
from tests.sinks.channels.smsc import Smsc, receipt_text
from tidings.brokers.memory import MemoryBroker

PARTITIONS = 2
FILE = """
providers:
  site: {kind: inbox}
  centre: {kind: calls}
  direct: {kind: smpp, url: "URL", system_id: shop, password: {env: SMPP_PASSWORD}, sender: Shop}
channels: {in_app: site, call: centre, sms: direct}
"""


@pytest.fixture
async def smsc() -> AsyncIterator[Smsc]:
    made = await Smsc().start()
    yield made
    await made.stop()


def ask(url: str, method: str = "GET", token: str = "", body: Any = None) -> tuple[int, Any]:
    raw = None if body is None else json.dumps(body).encode()
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    request = urllib.request.Request(url, data=raw, method=method, headers=headers)
    with urllib.request.urlopen(request, timeout=30) as got:
        text = got.read()
        return int(got.status), json.loads(text) if text else None


async def polled(question: Any) -> Any:
    async with asyncio.timeout(90):
        while not (found := await asyncio.to_thread(question)):
            await asyncio.sleep(0.1)
        return found


async def test_what_ends_with_us_is_there_for_members_and_operators(
    smsc: Smsc, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SMPP_PASSWORD", "smpp-secret")
    (tmp_path / "providers.yaml").write_text(FILE.replace("URL", smsc.url))
    templates = tmp_path / "templates"
    templates.mkdir()
    (templates / "note.subject.j2").write_text("News")
    (templates / "note.txt.j2").write_text("{{ data.product }} is back")
    common = {"template": "note", "member_id": "ann"}
    commands = [
        send_command(1, channel="in_app", address="ann", **common),
        send_command(2, channel="call", address="+4915112345678", **common),
        send_command(3, channel="sms", address="+4915112345678", **common),
    ]
    with MemoryBroker({spec.name: PARTITIONS for spec in TOPICS}) as broker:
        producer = Producer({"bootstrap.servers": broker.bootstrap, "partitioner": "murmur2_random"})
        for command in commands:
            producer.produce(COMMANDS, encode_command(command), command.member_id)
        assert producer.flush(10) == 0
        here = {
            "broker": f"memory://{broker.bootstrap}", "data_dir": str(tmp_path / "data"),
            "providers": str(tmp_path / "providers.yaml"), "templates_dir": str(templates),
        }  # fmt: skip
        with running("--role", "delivery", "--web-port", "0", **here) as (_, line):
            url = line.rpartition("web ")[2].strip().split(" ")[0]
            await visit(url, (tmp_path / "data" / "web-token").read_text())
            await polled(lambda: smsc.taken)
            async with asyncio.timeout(90):
                while not smsc.sessions or await smsc.deliver(receipt_text("ID1", "DELIVRD")) != 0:
                    await asyncio.sleep(0.1)
            wanted = {
                ("delivery.delivered", 1), ("engagement.opened", 1), ("call.outcome", 2), ("delivery.delivered", 2),
                ("delivery.delivered", 3),
            }  # fmt: skip
            await polled(lambda: wanted <= told(broker.bootstrap))


async def visit(url: str, token: str) -> None:
    """Be the member on the shop's page, and an operator."""
    _, given = await asyncio.to_thread(ask, f"{url}/inbox-pass/ann", "POST", token)
    inbox = f"{url}/inbox/{given['pass']}"
    items = await polled(lambda: (seen := answered(inbox)) and seen["items"])
    assert items[0]["text"] == "P1 is back"
    assert (await asyncio.to_thread(ask, f"{inbox}/{items[0]['id']}/read", "POST"))[0] == 204
    _, given = await asyncio.to_thread(ask, f"{url}/call-seat/ben", "POST", token)
    seat = given["pass"]
    task = await polled(lambda: answered(f"{url}/calls/claim", "POST", seat, {}))
    assert (task["phone"], task["text"]) == ("+4915112345678", "P2 is back")
    said = {"lease": task["lease"], "outcome": "reached"}
    assert (await asyncio.to_thread(ask, f"{url}/calls/{task['id']}/outcome", "POST", seat, said))[0] == 204


def answered(*question: Any) -> Any:
    """Ask; None while it is being read, or there is none yet."""
    try:
        return ask(*question)[1]
    except urllib.error.HTTPError as error:
        assert error.code in (404, 503), error.code
        return None


def told(bootstrap: str) -> set[tuple[str, int]]:
    events = [decode_event(message.value()) for message in read_topic(bootstrap, EVENTS, PARTITIONS)]
    return {(event.type, int(event.data["command_id"], 16)) for event in events}
