"""The engine's endpoints on a real Faust app with the real engine, on a broker that speaks Kafka's protocol."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import aiohttp
import orjson
import pytest
from aiohttp import web
from confluent_kafka import Producer

from agents.topics import CHANGELOG, EVENTS, TOPICS
from agents.wiring import EngineApp, create_engine_app
from schemas.codec import encode_event
from schemas.events import Event
from schemas.partitioning import partition_of
from streams.engine import PartitionEngine
from tables.rocks import RocksResources
from tidings.brokers.memory import MemoryBroker
from tidings.web.engine import HANDED_ON, install_engine, owner_of
from tidings.worker import _free

PARTITIONS = 2
TOKEN = "t0ken"
BEARER = {"Authorization": f"Bearer {TOKEN}"}
SMALL = RocksResources(8 << 20, 8 << 20)
CAMPAIGN = """\
campaign: reminder
title: Reminder
pattern: catalog.product.viewed as v then no order.created for 2h, same product_id
send: {channel: email, template: reminder}
"""


@pytest.fixture
def broker() -> Iterator[str]:
    with MemoryBroker({spec.name: PARTITIONS for spec in TOPICS}) as running:
        yield running.bootstrap


def engine_app(bootstrap: str, data_dir: Path, **more: Any) -> EngineApp:
    port = _free("127.0.0.1", 0)
    built = create_engine_app(
        bootstrap=[bootstrap], data_dir=data_dir, engines=PartitionEngine, partitions=PARTITIONS, resources=SMALL,
        web_enabled=True, web_port=port, canonical_url=f"http://127.0.0.1:{port}", **{"session_timeout_s": 4.0, **more},
    )  # fmt: skip
    install_engine(built, PARTITIONS, TOKEN)
    return built


def address(built: EngineApp) -> str:
    return str(built.app.conf.canonical_url).rstrip("/")


@asynccontextmanager
async def running(built: EngineApp) -> AsyncIterator[str]:
    await built.app.start()
    try:
        await until(lambda: built.worker.recovered, "recovery")
        yield address(built)
    finally:
        await built.app.stop()


async def until(condition: Callable[[], bool], what: str, timeout_s: float = 40.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {timeout_s} s for: {what}")
        await asyncio.sleep(0.02)


async def get(url: str, headers: dict[str, str] | None = None) -> tuple[int, Any]:
    async with (
        aiohttp.ClientSession() as session,
        session.get(url, headers=BEARER if headers is None else headers) as got,
    ):
        body = await got.read()
        return got.status, orjson.loads(body) if got.content_type == "application/json" else body.decode()


def feed(bootstrap: str, members: list[str]) -> None:
    producer = Producer({"bootstrap.servers": bootstrap, "partitioner": "murmur2_random"})
    now = time.time_ns() // 1_000_000
    published = Event(
        "campaign.published", now, data={"campaign": "reminder", "yaml": CAMPAIGN, "path": "reminder.yaml"}
    )
    for partition in range(PARTITIONS):
        producer.produce(EVENTS, value=encode_event(published), partition=partition)
    producer.flush(10)
    for member in members:
        for kind, data in (("member.registered", {"name": "Ann"}), ("catalog.product.viewed", {"product_id": "p1"})):
            event = Event(kind, now, event_id=f"{member}-{kind}", member_id=member, data=data)
            producer.produce(EVENTS, key=member, value=encode_event(event))
    producer.produce(EVENTS, value=b"{bad", partition=0)
    producer.flush(10)


def total(built: EngineApp) -> int:
    return sum(task.engine.applied_offset + 1 for task in built.worker.tasks.values() if task.idle)


async def test_ready_says_503_before_recovery_and_200_after_it(broker: str, tmp_path: Path) -> None:
    built = engine_app(broker, tmp_path)
    held = asyncio.Event()
    rebalanced = built.app.tables.on_rebalance

    async def later(*args: Any, **more: Any) -> None:
        await held.wait()
        await rebalanced(*args, **more)

    built.app.tables.on_rebalance = later  # type: ignore[method-assign]
    starting = asyncio.create_task(built.app.start())
    try:
        for _ in range(200):
            try:
                status, body = await get(f"{address(built)}/ready", {})
                break
            except aiohttp.ClientError:
                await asyncio.sleep(0.05)
        assert status == 503
        assert body["error"]["message"].startswith("member records are being recovered")
        assert await get(f"{address(built)}/health", {}) == (200, {"status": "ok"})
        status, body = await get(f"{address(built)}/members/m1")
        assert (status, body["error"]["remedy"]) == (503, "ask again; see /ready of the workers")
        held.set()
        await until(lambda: built.worker.recovered, "recovery")
        assert await get(f"{address(built)}/ready", {}) == (200, {"status": "ready"})
    finally:
        held.set()
        await built.app.stop()
        starting.cancel()
        await asyncio.gather(starting, return_exceptions=True)


async def test_endpoints_tell_campaigns_members_and_metrics(broker: str, tmp_path: Path) -> None:
    members = ["m1", "m2", "m3", "a/b c?ü"]
    built = engine_app(broker, tmp_path)
    async with running(built) as base:
        await asyncio.to_thread(feed, broker, members)
        await until(lambda: total(built) == PARTITIONS + 2 * len(members) + 1, "all records applied")

        _, campaigns = await get(f"{base}/campaigns")
        (row,) = campaigns["campaigns"]
        assert (row["campaign"], row["state"], row["agree"]) == ("reminder", "live", True)
        assert campaigns["partitions"] == [0, 1]

        for member in members:
            status, found = await get(f"{base}/members/{quote(member, safe='')}")
            assert (status, found["member_id"], found["profile"]) == (200, member, {"name": "Ann"})
            (instance,) = found["instances"]
            assert instance["fires_at_ms"] == instance["due_ms"] + 5_000
            assert instance["due"].endswith("Z")

        status, body = await get(f"{base}/members/nobody")
        assert (status, body["error"]["place"]) == (404, "members")
        assert "nobody" not in str(body)

        await asyncio.sleep(0.4)  # gauges are refreshed with each beat of the pacemaker
        _, metrics = await get(f"{base}/metrics")
        assert f"\ntidings_records_total {total(built)}\n" in metrics
        assert '\ntidings_dead_letters_total{reason="not-json"} 1\n' in metrics
        assert '\ntidings_lag_records{partition="1"} 0\n' in metrics
        pending = [
            float(line.split()[1]) for line in metrics.splitlines() if line.startswith("tidings_timers_pending{")
        ]
        assert sum(pending) == len(members)
        assert "\ntidings_next_timer_timestamp_seconds{partition=" in metrics
        assert not any(member in metrics for member in ("m1", "m2", "Ann"))

        for path in ("/table/", "/table/members/m1/", "/stats/", "/router/", "/graph/", "/performance/"):
            assert (await get(f"{base}{path}", {}))[0] == 401
            assert (await get(f"{base}{path}"))[0] == 404


class Owner:
    """A stand-in for the worker that owns a partition: it records what it is asked, and answers as told."""

    def __init__(self, status: int = 200, body: bytes = b'{"member_id":"x"}') -> None:
        self.status, self.body = status, body
        self.asked: list[web.Request] = []

    async def answer(self, request: web.Request) -> web.Response:
        self.asked.append(request)
        return web.Response(status=self.status, body=self.body, content_type="application/json")


@asynccontextmanager
async def handing_on(broker: str, path: Path, owner: Owner | None) -> AsyncIterator[str]:
    """Run a worker whose group's metadata says that `owner` (None: nobody) has partition 1, which it gave up."""
    built = engine_app(broker, path)
    app = web.Application()
    runner = web.AppRunner(app, access_log=None)
    port = 0
    if owner is not None:
        app.router.add_route("*", "/{path:.*}", owner.answer)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        port = runner.addresses[0][1]
    async with running(built) as base:
        assert owner_of(built, 1) == base
        built.worker.tasks[1].closing = True
        metadata: Any = {base: {CHANGELOG: [0]}, **({f"http://127.0.0.1:{port}/": {CHANGELOG: [1]}} if owner else {})}
        built.app.router.tables_metadata = lambda: metadata  # type: ignore[method-assign]
        yield base
    await runner.cleanup()


def in_partition(partition: int) -> str:
    return next(f"é/{n}" for n in range(1000) if partition_of(f"é/{n}".encode(), PARTITIONS) == partition)


async def test_a_member_of_another_worker_is_asked_there_once_with_the_askers_token(
    broker: str, tmp_path: Path
) -> None:
    owner = Owner()
    async with handing_on(broker, tmp_path, owner) as base:
        member = in_partition(1)
        status, body = await get(f"{base}/members/{quote(member, safe='')}")
        assert (status, body) == (200, {"member_id": "x"})
        (asked,) = owner.asked
        assert asked.rel_url.raw_path == f"/members/{quote(member, safe='')}"
        assert asked.headers["Authorization"] == f"Bearer {TOKEN}"
        assert asked.headers[HANDED_ON] == "1"

        status, body = await get(f"{base}/members/{quote(member, safe='')}", {**BEARER, HANDED_ON: "1"})
        assert (status, body["error"]["message"]) == (503, "this partition is moving between workers")
        assert len(owner.asked) == 1
        assert (await get(f"{base}/members/{quote(member, safe='')}", {}))[0] == 401
        assert len(owner.asked) == 1


async def test_what_the_owner_says_is_passed_on_and_its_refusal_explained(broker: str, tmp_path: Path) -> None:
    owner = Owner(404, b'{"error":{}}')
    async with handing_on(broker, tmp_path, owner) as base:
        url = f"{base}/members/{quote(in_partition(1), safe='')}"
        assert await get(url) == (404, {"error": {}})
        owner.status = 401
        status, body = await get(url)
        assert (status, body["error"]["remedy"]) == (503, "give all workers the same TIDINGS_WEB_TOKEN")


async def test_while_nobody_has_the_partition_the_asker_is_told_to_come_back(broker: str, tmp_path: Path) -> None:
    async with handing_on(broker, tmp_path, None) as base, aiohttp.ClientSession() as session:
        url = f"{base}/members/{quote(in_partition(1), safe='')}"
        async with session.get(url, headers=BEARER) as got:
            assert (got.status, got.headers["Retry-After"]) == (503, "1")
            assert (await got.json())["error"]["message"] == "no worker has this partition ready"
