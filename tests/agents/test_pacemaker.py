"""Ticks that cannot be sent."""

from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka.errors import KafkaTimeoutError, TopicAuthorizationFailedError, UnknownTopicOrPartitionError

from agents.pacemaker import Pacemaker


class Outbox:
    def __init__(self) -> None:
        self.sent = 0
        self.error: Exception | None = None

    async def send_event(self, topic: str, partition: int, value: bytes) -> list[Any]:
        if self.error is not None:
            raise self.error
        self.sent += 1
        return []


@pytest.fixture
def outbox() -> Outbox:
    return Outbox()


@pytest.fixture
def pacemaker(outbox: Outbox) -> Pacemaker:
    """One partition whose timer is due."""
    task = SimpleNamespace(
        engine=SimpleNamespace(next_fire_ms=1, clock_ms=0, breaker=SimpleNamespace(tripped=())),
        closing=False,
        idle=True,
        recording=False,
    )
    metrics = SimpleNamespace(ticks=0)
    worker: Any = SimpleNamespace(
        wall_ms=lambda: 5, tasks={0: task}, outbox=outbox, metrics=metrics, update_gauges=lambda: None
    )
    return Pacemaker(worker, "events")


@pytest.mark.parametrize("error", [UnknownTopicOrPartitionError(), KafkaTimeoutError()])
async def test_tick_that_a_restarting_broker_does_not_take_is_sent_at_the_next_beat(
    pacemaker: Pacemaker, outbox: Outbox, error: Exception
) -> None:
    outbox.error = error
    await pacemaker.beat()
    outbox.error = None
    await pacemaker.beat()
    assert outbox.sent == 1


async def test_tick_that_may_not_be_written_ends_the_worker(pacemaker: Pacemaker, outbox: Outbox) -> None:
    outbox.error = TopicAuthorizationFailedError()
    with pytest.raises(TopicAuthorizationFailedError):
        await pacemaker.beat()
