"""The consumer's thread: fetches that lose nothing in a rebalance, and what the group's coordinator last accepted."""

import time
from collections.abc import Callable
from typing import Any

import structlog
from aiokafka.protocol.group import HeartbeatRequest, SyncGroupRequest
from faust.transport.drivers import aiokafka as driver
from faust.types import TP

FETCH_MAX_WAIT_MS = 20  # Faust's fixed 1,500 ms lets a drained partition hold up its busy neighbours
_NO_ERROR, _REBALANCING = 0, 27  # Kafka's error codes; a heartbeat answered by the second was accepted as well

Heard = Callable[[float], None]
"""Told when a request was sent (CLOCK_MONOTONIC seconds) that the coordinator has accepted. In the thread's context."""

log = structlog.get_logger(__name__)


class BatchConsumerThread(driver.AIOKafkaConsumerThread):
    """The stock consumer thread with a short fetch wait, safe fetches and an ear for the coordinator.

    It reads committed records only, as sink and delivery do: what a producer's transaction took back decides nothing.
    """

    heard: Heard | None = None

    async def on_start(self) -> None:
        """See Faust."""
        await super().on_start()
        listen(getattr(self._consumer, "_coordinator", None), self._accepted)

    def _accepted(self, sent_at: float) -> None:
        if self.heard is not None:
            self.heard(sent_at)

    def _create_worker_consumer(self, transport: Any) -> Any:
        consumer = super()._create_worker_consumer(transport)
        consumer._fetch_max_wait_ms = FETCH_MAX_WAIT_MS  # noqa: SLF001 - no setting for it; read when it starts
        consumer._isolation_level = "read_committed"  # noqa: SLF001 - as above; Faust sets it with its own transactions
        return consumer

    def coordination_error(self) -> BaseException | None:
        """Return what ended aiokafka's part in the consumer group. Faust never asks, and would wait for ever."""
        consumer: Any = self._consumer
        # of aiokafka's group coordinator; the placeholder used before `subscribe` has no such task
        task = getattr(getattr(consumer, "_coordinator", None), "_coordination_task", None)
        if task is None or not task.done() or task.cancelled():
            return None
        error: BaseException | None = task.exception()
        return error

    def verify_event_path(self, now: float, tp: TP) -> None:
        """Do nothing: the stock check compares two kinds of clock and only raises false alarms (faust#629)."""

    async def getmany(self, active_partitions: set[TP] | None, timeout: float) -> Any:  # noqa: ASYNC109 - Faust's
        """Fetch no more records than there is room for."""
        consumer: Any = self._ensure_consumer()
        ours: Any = self.consumer
        return await self.call_thread(
            self._fetch_records, consumer, active_partitions, timeout=timeout, max_records=ours.room()
        )

    async def _fetch_records(
        self,
        consumer: Any,
        active_partitions: set[TP],
        timeout: float | None = None,  # noqa: ASYNC109 - Faust's name for it
        max_records: int | None = None,
    ) -> Any:
        """Fetch, and put back at once what nobody will take.

        A fetch that waits while the group rebalances comes back with records of the new assignment. Faust's set of
        active partitions is empty just then, which aiokafka takes for "any partition", and Faust drops records while
        the flow is stopped: those of a changelog were then missing in the recovery, which waited for them for ever.
        For `events` agents/reading.py keeps the place; where a changelog is read on is Faust's own to know.
        """
        records: Any = await super()._fetch_records(
            consumer, active_partitions, timeout=timeout, max_records=max_records
        )
        # No await from here to the seek: nobody else can have moved the position meanwhile.
        for tp in list(records):
            if not self.consumer.flow_active or tp not in active_partitions:
                first = records.pop(tp)[0].offset
                if tp in consumer.assignment():
                    consumer.seek(tp, first)
                log.debug("fetched too late, put back", topic=tp.topic, partition=tp.partition, offset=first)
        return records

    def group_state(self) -> tuple[bool, bool]:
        """Tell whether we have partitions, and whether the group is rebalancing."""
        consumer: Any = self._consumer
        if consumer is None:
            return False, False
        return bool(consumer.assignment()), bool(consumer._subscription.reassignment_in_progress)  # noqa: SLF001

    def unread(self, tp: TP) -> bool:
        """Tell whether the broker has records of a partition that were not fetched yet, but could be.

        What lies behind a transaction that has not ended is not there yet (`lso`: the last stable offset).
        """
        consumer: Any = self._consumer
        try:
            state = consumer._subscription.subscription.assignment.state_value(tp)  # noqa: SLF001
            ends = [end for end in (state.highwater, state.lso) if end is not None and end >= 0]
            return bool(state.has_valid_position and ends and state.position < min(ends))
        except (AttributeError, KeyError, TypeError):  # between two assignments
            return False


def listen(coordinator: Any, accepted: Heard, clock: Callable[[], float] = time.monotonic) -> None:
    """Have `accepted` called after each heartbeat and each return to the group that the coordinator accepted.

    With the time of the request, not of its answer: the broker's own count may begin that early.
    """
    send = getattr(coordinator, "_send_req", None)
    if send is None:
        return

    async def send_and_tell(request: Any) -> Any:
        sent_at = clock()
        response = await send(request)
        kind = type(request)
        if kind in (HeartbeatRequest, SyncGroupRequest):
            code = response.error_code
            if code == _NO_ERROR or (code == _REBALANCING and kind is HeartbeatRequest):
                accepted(sent_at)
        return response

    coordinator._send_req = send_and_tell  # noqa: SLF001 - no public way to learn of heartbeats
