"""Fetches across a rebalance, and what is heard of the coordinator."""

import asyncio
import contextlib
from types import SimpleNamespace
from typing import Any, cast

import pytest
from aiokafka.protocol.group import HeartbeatRequest, JoinGroupRequest, SyncGroupRequest
from faust.types import TP

from agents.fetching import BatchConsumerThread, listen

CHANGELOG, EVENTS = TP("changelog", 0), TP("events", 0)
NO_ERROR, UNKNOWN_MEMBER, REBALANCING = 0, 25, 27


class Fetcher:
    """aiokafka's, as far as the thread asks it; `while_waiting` happens before the records come back."""

    _closed = False

    def __init__(self, found: dict[TP, list[int]], while_waiting: Any) -> None:
        self._found = found
        self._while_waiting = while_waiting
        self.then: Any = lambda: None
        self._subscriptions = SimpleNamespace(fetch_context=contextlib.nullcontext)

    async def fetched_records(self, partitions: set[TP], timeout: float = 0, max_records: Any = None) -> Any:
        await asyncio.sleep(0)
        self._while_waiting()
        # an empty set means "any", as test_faust_contract.py finds it in the source
        found = {
            tp: [SimpleNamespace(offset=offset) for offset in offsets]
            for tp, offsets in self._found.items()
            if not partitions or tp in partitions
        }
        self.then()
        return found


class Bench:
    def __init__(self, found: dict[TP, list[int]]) -> None:
        self.active = {CHANGELOG, EVENTS}
        self.assigned = {CHANGELOG, EVENTS}
        self.seeks: dict[TP, int] = {}
        self.happens: Any = lambda: None
        self.aiokafka: Any = SimpleNamespace(
            _fetcher=Fetcher(found, lambda: self.happens()),
            _closed=False,
            assignment=lambda: self.assigned,
            seek=self.seeks.__setitem__,
        )
        self.thread = cast(Any, BatchConsumerThread.__new__(BatchConsumerThread))
        self.thread.consumer = SimpleNamespace(flow_active=True)

    async def fetch(self) -> dict[TP, list[int]]:
        found = await self.thread._fetch_records(self.aiokafka, self.active, timeout=1.0)
        return {tp: [record.offset for record in records] for tp, records in found.items()}


async def test_fetch_with_the_flow_on_keeps_its_records() -> None:
    bench = Bench({CHANGELOG: [4, 5], EVENTS: [9]})
    assert await bench.fetch() == {CHANGELOG: [4, 5], EVENTS: [9]}
    assert bench.seeks == {}


async def test_records_of_a_fetch_that_outlived_a_rebalance_are_put_back_for_the_recovery() -> None:
    bench = Bench({CHANGELOG: [4, 5], EVENTS: [9]})

    def rebalance() -> None:
        bench.thread.consumer.flow_active = False
        bench.active.clear()

    bench.happens = rebalance
    assert await bench.fetch() == {}
    assert bench.seeks == {CHANGELOG: 4, EVENTS: 9}


async def test_records_of_a_paused_partition_are_put_back_and_the_others_kept() -> None:
    bench = Bench({CHANGELOG: [4, 5], EVENTS: [9]})

    bench.happens = bench.active.clear  # aiokafka looks now, and returns both
    bench.aiokafka._fetcher.then = lambda: bench.active.add(CHANGELOG)  # the recovery begins
    assert await bench.fetch() == {CHANGELOG: [4, 5]}
    assert bench.seeks == {EVENTS: 9}


async def test_nothing_is_put_back_into_a_partition_that_is_gone() -> None:
    bench = Bench({CHANGELOG: [4]})

    def revoked() -> None:
        bench.active.clear()
        bench.assigned.clear()

    bench.happens = revoked
    assert await bench.fetch() == {}
    assert bench.seeks == {}


REQUESTS: dict[str, Any] = {
    "heartbeat": HeartbeatRequest("g", 1, "m"),
    "sync": SyncGroupRequest("g", 1, "m", "i", []),
    "join": JoinGroupRequest("g", 6_000, 6_000, "m", "i", "consumer", []),
}


@pytest.mark.parametrize(
    ("request_", "code", "accepted"),
    [
        ("heartbeat", NO_ERROR, True),
        ("heartbeat", REBALANCING, True),  # it is still a member
        ("heartbeat", UNKNOWN_MEMBER, False),
        ("sync", NO_ERROR, True),
        ("sync", REBALANCING, False),
        ("join", NO_ERROR, False),  # sent long before the group was complete
    ],
)
async def test_what_the_coordinator_accepted_counts_from_when_it_was_sent(
    request_: str, code: int, accepted: bool
) -> None:
    now = 100.0

    async def send(request: Any) -> Any:
        nonlocal now
        now += 3.0  # on its way
        return SimpleNamespace(error_code=code)

    coordinator = SimpleNamespace(_send_req=send)
    heard: list[float] = []
    listen(coordinator, heard.append, lambda: now)
    answer: Any = await coordinator._send_req(REQUESTS[request_])
    assert answer.error_code == code
    assert heard == ([100.0] if accepted else [])


async def test_a_heartbeat_that_gets_no_answer_is_not_heard() -> None:
    async def send(request: Any) -> Any:
        raise ConnectionError("cut off")

    coordinator = SimpleNamespace(_send_req=send)
    heard: list[float] = []
    listen(coordinator, heard.append)
    with pytest.raises(ConnectionError):
        await coordinator._send_req(REQUESTS["heartbeat"])
    assert heard == []
