"""What Faust fetches around a seek and then drops, or delivers too late, is read again: no batch follows a gap."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from faust.transport.consumer import ThreadDelegateConsumer
from faust.types import TP

from agents.batching import BatchConsumer
from agents.reading import Reading

EVENTS, CHANGELOG = TP("events", 0), TP("changelog", 0)


class Bench:
    """A BatchConsumer whose fetches are `log[position:]`, moved on by each fetch as the broker's client does."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.position = 0
        self.end = 0
        self.before_return: Callable[[], Any] | None = None
        consumer: Any = BatchConsumer.__new__(BatchConsumer)
        consumer.reading = Reading()
        consumer.app = SimpleNamespace(topics=SimpleNamespace(acks_enabled_for=lambda topic: topic == "events"))
        self.consumer = consumer

        async def seek(tp: TP, offset: int) -> None:
            self.position = offset

        async def fetch(_self: Any, active: Any, timeout: float) -> dict[TP, list[Any]]:
            found = [SimpleNamespace(offset=offset) for offset in range(self.position, self.end)]
            self.position = self.end
            if self.before_return is not None:
                self.before_return()
            return {EVENTS: found, CHANGELOG: [SimpleNamespace(offset=5)]} if found else {}

        monkeypatch.setattr(consumer, "seek", seek)
        monkeypatch.setattr(ThreadDelegateConsumer, "_getmany", fetch)

    async def fetch(self) -> list[int]:
        """Fetch and give the offsets that would be delivered."""
        records = await self.consumer._getmany(None, 1.0)
        return [record.offset for record in records.get(EVENTS, [])]

    def deliver(self, offsets: list[int]) -> None:
        if offsets:
            self.consumer.reading.delivered(EVENTS, offsets[-1])


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Bench:
    return Bench(monkeypatch)


async def test_a_partition_that_was_not_sought_yet_delivers_nothing(bench: Bench) -> None:
    bench.end = 3
    assert await bench.fetch() == []


async def test_what_was_fetched_before_the_seek_is_fetched_again_after_it(bench: Bench) -> None:
    bench.end = 3
    await bench.fetch()
    await bench.consumer.seek(EVENTS, 0)
    bench.consumer.reading.open({EVENTS: 0})
    bench.end = 5
    assert await bench.fetch() == [0, 1, 2, 3, 4]


async def test_a_fetch_that_a_seek_overtook_is_thrown_away_and_done_again(bench: Bench) -> None:
    bench.end = 3
    bench.before_return = lambda: bench.consumer.reading.open({EVENTS: 1})
    assert await bench.fetch() == []
    bench.before_return = None
    assert await bench.fetch() == [1, 2]


async def test_records_that_faust_dropped_after_the_fetch_are_fetched_again(bench: Bench) -> None:
    bench.consumer.reading.open({EVENTS: 0})
    bench.end = 3
    assert await bench.fetch() == [0, 1, 2]  # and nobody delivers them
    bench.end = 5
    assert await bench.fetch() == [0, 1, 2, 3, 4]


async def test_what_was_delivered_is_not_fetched_again(bench: Bench) -> None:
    bench.consumer.reading.open({EVENTS: 0})
    bench.end = 3
    bench.deliver(await bench.fetch())
    bench.end = 5
    assert await bench.fetch() == [3, 4]


async def test_a_batch_cut_in_two_of_which_one_was_delivered_goes_on_behind_it(bench: Bench) -> None:
    bench.consumer.reading.open({EVENTS: 0})
    bench.end = 4
    bench.deliver((await bench.fetch())[:2])
    assert await bench.fetch() == [2, 3]


async def test_closed_partitions_deliver_nothing_until_they_are_opened(bench: Bench) -> None:
    bench.consumer.reading.open({EVENTS: 0})
    bench.consumer.reading.close()
    bench.end = 3
    assert await bench.fetch() == []


async def test_the_changelog_is_let_through(bench: Bench) -> None:
    bench.end = 3
    records = await bench.consumer._getmany(None, 1.0)
    assert [record.offset for record in records[CHANGELOG]] == [5]
