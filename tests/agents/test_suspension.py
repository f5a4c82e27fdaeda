"""The running worker stops a campaign that keeps raising, by a record on its own partition of the log."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from confluent_kafka import Producer

from agents.topics import EVENTS
from schemas.codec import decode_event, encode_event
from schemas.events import CAMPAIGN_PUBLISHED, CAMPAIGN_SUSPENDED, Event
from streams.breaker import FAILED_MAX
from streams.engine import PartitionEngine
from streams.patterns.start import try_start
from tests.agents.engine_bench import in_thread, read_all, start_broker, until, worker
from tests.agents.test_engine_worker import running
from tidings.brokers.memory import MemoryBroker
from tidings.web.pages import campaigns_page
from tidings.web.prometheus import engine_families, render

NOW_MS = time.time_ns() // 1_000_000
TEXT = "campaign: {}\npattern: app.opened\n"


@pytest.fixture
def broker() -> Iterator[MemoryBroker]:
    with start_broker() as started:
        yield started


async def test_a_campaign_that_keeps_raising_is_stopped_and_publishing_it_again_closes_that(
    broker: MemoryBroker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = try_start

    def fails(plan, *args):
        if plan.id == "bad":
            raise ZeroDivisionError
        start(plan, *args)

    producer = Producer({"bootstrap.servers": broker.bootstrap, "partitioner": "murmur2_random"})

    def publish(name: str) -> None:
        data = {"campaign": name, "yaml": TEXT.format(name), "path": "x.yaml"}
        producer.produce(EVENTS, encode_event(Event(CAMPAIGN_PUBLISHED, 1, data=data)), partition=0)
        assert producer.flush(10) == 0

    def open_app(first: int, count: int) -> None:
        for n in range(first, first + count):
            producer.produce(EVENTS, encode_event(Event("app.opened", NOW_MS, f"e{n}", "ann")), "ann", 0)
        assert producer.flush(10) == 0

    def states(built) -> dict[str, str]:
        return {row["campaign"]: row["state"] for row in campaigns_page(built.worker)["campaigns"]}

    monkeypatch.setattr("streams.engine.try_start", fails)
    async with running(worker(broker.bootstrap, tmp_path, PartitionEngine)) as built:
        for name in ("bad", "good"):
            await in_thread(publish, name)
        await in_thread(open_app, 0, FAILED_MAX)
        await until(lambda: states(built) == {"bad": "suspended", "good": "live"}, "the suspension")
        await in_thread(open_app, 100, 10)
        await until(lambda: built.metrics.decisions["eligible:no_send"] == FAILED_MAX + 10, "the other campaign")
        assert built.metrics.dead_letters == {"campaign-failed": FAILED_MAX}
        assert 'tidings_campaigns_suspended{campaign="bad"} 1' in render(engine_families(built))
        monkeypatch.setattr("streams.engine.try_start", start)
        await in_thread(publish, "bad")
        await until(lambda: states(built) == {"bad": "live", "good": "live"}, "the campaign again")
        assert "tidings_campaigns_suspended{" not in render(engine_families(built))
    log = [decode_event(message.value()) for message in await in_thread(read_all, broker.bootstrap, EVENTS)]
    assert [event.data["campaign"] for event in log if event.type == CAMPAIGN_SUSPENDED] == ["bad"]
