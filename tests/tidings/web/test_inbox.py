"""The inbox over HTTP: what delivery put in is shown to its member alone, once, and what he does is on the log."""

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from confluent_kafka import KafkaError, KafkaException

from agents import desk
from agents.desks import Desks
from agents.inbox_desk import InboxDesk
from agents.send_one import NoMetrics
from schemas.commands import LANES
from schemas.passes import INBOX, sign_pass
from sinks.channels.config import ProvidersConfig
from sinks.channels.kinds import read_spec
from tests.agents.delivery_lab import Lab, send_command, until
from tidings.web import inbox
from tidings.web.desks import install_desks
from tidings.web.routes import Probes, install

SECRET = b"s" * 32
FAR = 9_000_000_000_000
CONFIG = ProvidersConfig({lane: {"in_app": (read_spec("site", "inbox", {}),)} for lane in LANES})
BEARER = {"Authorization": "Bearer token"}


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    made = Lab(tmp_path)
    (made.templates / "in.subject.j2").write_text("About {{ data.product }}")
    (made.templates / "in.txt.j2").write_text("{{ data.product }} is back")
    (made.templates / "in.link.j2").write_text("https://shop.example/p\nOpen")
    yield made
    made.close()


def message(n: int, member: str = "ann", **changes: Any) -> Any:
    return send_command(
        n, **({"channel": "in_app", "template": "in", "member_id": member, "address": member} | changes)
    )


@contextlib.asynccontextmanager
async def site(lab: Lab) -> AsyncIterator[TestClient]:
    """One life of a delivery worker with its endpoints."""
    app = web.Application()
    install(app, Probes("delivery", lambda: None, list), "token")
    async with Desks.beside(lab.root / "state", lab.kafka, NoMetrics()) as desks:
        install_desks(app, desks, [SECRET], NoMetrics())
        async with TestClient(TestServer(app)) as client, lab.running(config=lambda: CONFIG, desks=desks):
            await until(lambda: desks.inbox.replica is not None)
            yield client


def of(member: str, until_ms: int = FAR) -> str:
    return f"/inbox/{sign_pass(INBOX, SECRET, member, until_ms)}"


async def shown(client: TestClient, member: str, query: str = "") -> dict[str, Any]:
    answer = await client.get(of(member) + query)
    assert answer.status == 200
    found: dict[str, Any] = await answer.json()
    return found


async def has(client: TestClient, member: str, count: int) -> None:
    async with asyncio.timeout(60):
        while len((await shown(client, member, "?limit=100"))["items"]) != count:
            await asyncio.sleep(0.05)


def told(lab: Lab) -> list[tuple[str, str]]:
    """What the inbox told, each event once."""
    found = {one.event_id: one for one in lab.receipts() if one.source == "tidings-receipts"}
    return sorted((one.type, str(one.member_id)) for one in found.values())


async def test_a_message_is_shown_to_its_member_and_counted_delivered_opened_and_clicked_once(lab: Lab) -> None:
    async with site(lab) as client:
        lab.write(message(1), message(2, "bob"))
        await has(client, "ann", 1)
        (one,) = (await shown(client, "ann"))["items"]
        assert (one["title"], one["text"], one["link"], one["button"], one["read"]) == (
            "About P1", "P1 is back", "https://shop.example/p", "Open", False,
        )  # fmt: skip
        for what in ("click", "read", "click"):
            assert (await client.post(f"{of('ann')}/{one['id']}/{what}")).status == 204
        async with asyncio.timeout(30):
            while (await shown(client, "ann"))["unread"]:
                await asyncio.sleep(0.05)
        await until(lambda: len(told(lab)) >= 3)
    assert told(lab) == [
        ("delivery.delivered", "ann"), ("engagement.clicked", "ann"), ("engagement.opened", "ann"),
    ]  # fmt: skip


async def test_pages_go_from_the_newest_back(lab: Lab) -> None:
    async with site(lab) as client:
        for n in range(1, 6):
            lab.write(message(n))
            await has(client, "ann", n)
        first = await shown(client, "ann", "?limit=2")
        second = await shown(client, "ann", f"?limit=2&before={first['next']}")
        third = await shown(client, "ann", f"?limit=2&before={second['next']}")
        odd = [await shown(client, "ann", f"?limit={asked}") for asked in ("9" * 5_000, "0", "-1", "x", "²")]
    pages = [[int(one["id"], 16) for one in page["items"]] for page in (first, second, third)]
    assert pages == [[5, 4], [3, 2], [1]] and third["next"] is None and first["unread"] == 5
    assert [len(page["items"]) for page in odd] == [5] * 5


@pytest.mark.parametrize(
    ("problem", "status"), [("TOPIC_AUTHORIZATION_FAILED", "deferred"), ("MSG_SIZE_TOO_LARGE", "failed")]
)
async def test_an_inbox_that_takes_nothing_ends_no_other_channel(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, problem: str, status: str
) -> None:
    async def append(self: Any, key: bytes, value: bytes) -> None:
        raise KafkaException(KafkaError(getattr(KafkaError, problem)))

    monkeypatch.setattr(InboxDesk, "append", append)
    async with site(lab):
        lab.write(message(1), send_command(2))
        await until(lambda: lab.statuses().get("m2") == ["sent"] and bool(lab.statuses().get("ann")))
        lab.write(send_command(3))
        await until(lambda: lab.statuses().get("m3") == ["sent"])
    told = [one for one in lab.receipts() if one.member_id == "ann"]
    assert {(one.data["status"], one.data["reason"], one.data["detail"]) for one in told} == {
        (status, "not_kept", problem)
    }


async def test_nobody_gets_in_without_a_pass_of_his_own(lab: Lab) -> None:
    async with site(lab) as client:
        lab.write(message(1))
        await has(client, "ann", 1)
        assert (await shown(client, "bob"))["items"] == []
        ident = f"{1:032x}"
        assert (await client.post(f"{of('bob')}/{ident}/read")).status == 404
        for path in (of("ann", 1), "/inbox/x.y", f"{of('ann')}x"):
            assert (await client.get(path)).status == 403
            assert (await client.get(path + "/events")).status == 403
        assert (await client.post("/inbox-pass/ann")).status == 401
        given = await (await client.post("/inbox-pass/ann?minutes=5", headers=BEARER)).json()
        answer = await client.get(f"/inbox/{given['pass']}")
        assert len((await answer.json())["items"]) == 1


async def test_a_stream_tells_what_is_new_and_after_a_break_what_was_missed(lab: Lab) -> None:
    async with site(lab) as client:
        lab.write(message(1))
        await has(client, "ann", 1)
        async with client.get(f"{of('ann')}/events") as stream:
            assert stream.headers["Content-Type"] == "text/event-stream"
            lab.write(message(2, "bob"), message(3))
            assert await event(stream) == (f"{3:032x}", "About P3")
        lab.write(message(4))
        lab.write(message(5))
        await has(client, "ann", 4)
        async with client.get(f"{of('ann')}/events", headers={"Last-Event-ID": f"{3:032x}"}) as stream:
            assert {(await event(stream))[1] for _ in range(2)} == {"About P4", "About P5"}


async def test_one_pass_cannot_take_all_streams(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inbox, "STREAMS_OF_MEMBER", 2)
    async with site(lab) as client:
        async with contextlib.AsyncExitStack() as stack:
            for _ in range(2):
                opened = await stack.enter_async_context(client.get(f"{of('ann')}/events"))
                assert opened.status == 200 and opened.headers["Cache-Control"] == "no-store"
            assert (await client.get(f"{of('ann')}/events")).status == 503
            assert (await stack.enter_async_context(client.get(f"{of('bob')}/events"))).status == 200
        async with asyncio.timeout(60):
            while True:
                async with client.get(f"{of('ann')}/events") as again:
                    if again.status == 200:
                        break
                lab.write(message(time.time_ns() % 1_000_000_000))  # a write shows that nobody reads any more
                await asyncio.sleep(0.05)


async def test_a_stream_ends_when_the_desk_is_opened_anew(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inbox, "COMMENT_S", 0.05)
    monkeypatch.setattr(desk, "AGAIN_S", 0.05)
    async with site(lab) as client:
        async with client.get(f"{of('ann')}/events") as stream:
            assert await stream.content.readline() == b": open\n"
            monkeypatch.setattr("agents.replica.Replica._apply", fail)
            async with asyncio.timeout(60):
                text = await stream.content.read()
        assert b"HTTP/1.1" not in text  # no second answer inside the first


def fail(*_: object) -> None:
    raise ValueError("unreadable")


async def event(stream: aiohttp.ClientResponse) -> tuple[str, str]:
    found: dict[str, str] = {}
    async with asyncio.timeout(60):
        while True:
            line = (await stream.content.readline()).decode().rstrip("\n")
            if not line and "data" in found:
                return found["id"], json.loads(found["data"])["title"]
            name, _, value = line.partition(": ")
            if name:
                found[name] = value


async def test_an_inbox_is_there_again_after_a_restart_and_after_the_loss_of_the_local_store(lab: Lab) -> None:
    async with site(lab) as client:
        lab.write(message(1), message(2))
        await has(client, "ann", 2)
        assert (await client.post(f"{of('ann')}/{1:032x}/read")).status == 204
        async with asyncio.timeout(30):
            while (await shown(client, "ann"))["unread"] != 1:
                await asyncio.sleep(0.05)
    for lost in (False, True):
        if lost:
            lab.root.joinpath("state-inbox").rename(lab.root / "lost")
        async with site(lab) as client:
            found = await shown(client, "ann")
            assert {(int(one["id"], 16), one["read"]) for one in found["items"]} == {(1, True), (2, False)}


async def test_without_a_provider_of_its_kind_there_is_no_inbox(lab: Lab) -> None:
    app = web.Application()
    async with Desks.beside(lab.root / "state", lab.kafka, NoMetrics()) as desks:
        install_desks(app, desks, [SECRET], NoMetrics())
        async with TestClient(TestServer(app)) as client:
            assert (await client.get(of("ann"))).status == 404
