"""Private names of Faust and aiokafka that we use. Red after an upgrade: read what changed before touching the pin."""

import gc
import inspect
from importlib.metadata import version
from typing import Any

import aiokafka
import pytest
from aiokafka.consumer.fetcher import Fetcher
from aiokafka.consumer.group_coordinator import CoordinatorGroupRebalance, GroupCoordinator
from aiokafka.consumer.subscription_state import SubscriptionState
from aiokafka.partitioner import DefaultPartitioner, murmur2
from aiokafka.producer.message_accumulator import BatchBuilder
from faust.app.base import App
from faust.tables.base import Collection
from faust.tables.recovery import Recovery
from faust.transport.consumer import Consumer
from faust.transport.drivers import aiokafka as driver

from agents.batching import BatchApp, BatchConsumer, BatchProducer
from agents.fetching import BatchConsumerThread
from schemas.partitioning import murmur2 as ours
from schemas.partitioning import partition_of


def body(thing: object) -> str:
    # CPython 3.11 gives up parsing ("recursion depth mismatch") when a collection meanwhile ends tasks that tests left.
    gc.disable()
    try:
        return inspect.getsource(thing)  # type: ignore[arg-type]
    finally:
        gc.enable()


def test_faust_is_the_series_that_was_read() -> None:
    assert version("faust-streaming").startswith("0.15.")
    assert version("aiokafka").startswith("0.14.")


@pytest.mark.parametrize(
    ("ours", "base", "names"),
    [
        (
            BatchConsumer,
            driver.Consumer,
            ["_new_consumer_thread", "_to_message", "_add_gap", "ack", "_new_offset", "getmany"],
        ),
        (BatchConsumer, Consumer, ["on_partitions_revoked", "perform_seek", "commit", "_getmany"]),
        (
            BatchConsumerThread,
            driver.AIOKafkaConsumerThread,
            ["_create_worker_consumer", "verify_event_path", "_fetch_records", "getmany", "on_start"],
        ),
        (BatchConsumer, Consumer, ["_wait_next_records"]),
        (BatchProducer, driver.Producer, ["_settings_extra"]),
        (
            BatchApp,
            App,
            ["_new_transport", "_new_producer_transport", "_consumer_wait_empty", "on_start", "FlowControlQueue"],
        ),
    ],
)
def test_overridden_methods_still_exist_with_the_same_parameters(ours: type, base: type, names: list[str]) -> None:
    for name in names:
        theirs, mine = getattr(base, name), getattr(ours, name)
        assert mine is not theirs
        assert list(inspect.signature(mine).parameters) == list(inspect.signature(theirs).parameters), name


def test_consumer_state_that_we_touch_exists() -> None:
    source = body(Consumer)
    for name in ("_acked", "_unacked_messages", "_committed_offset", "_waiting_for_ack", "_n_acked"):
        assert f"self.{name} = " in source or f"{name}: " in source, name
    assert "self._acked = defaultdict(list)" in source
    assert "consumer._acked" not in body(Consumer._filter_tps_with_pending_acks)
    assert "for tp in self._acked" in body(Consumer._filter_tps_with_pending_acks)


def test_aiokafka_takes_no_partitions_for_any_and_faust_empties_the_set_it_has_handed_over() -> None:
    assert "if partitions and tp not in partitions:" in body(Fetcher.fetched_records)
    assert "self._active_partitions.clear()" in body(Consumer._set_active_tps)
    assert "if records is None or self.should_stop:" in body(Consumer.getmany)


def test_heartbeats_and_group_state_are_where_we_look_for_them() -> None:
    assert "await self._send_req(request)" in body(GroupCoordinator._do_heartbeat)
    assert "_send_req(request)" in body(CoordinatorGroupRebalance._send_sync_group_request)
    assert "reassignment_in_progress" in body(SubscriptionState)
    for name in ("active_offsets", "active_highwaters", "active_remaining", "standby_highwaters", "standby_tps"):
        assert name in body(Recovery), name


def test_commit_asks_new_offset_and_revoke_forgets_before_the_app_is_told() -> None:
    assert "self._new_offset(tp)" in body(Consumer._filter_committable_offsets)
    revoke = body(Consumer.on_partitions_revoked)
    assert revoke.index("self._acked.pop") < revoke.index("self._on_partitions_revoked")


def test_a_commit_leaves_out_what_was_revoked_while_it_waited() -> None:
    assert "if tp in assignment:" in body(Consumer._commit_offsets)  # the simulation's does the same


def test_getmany_hands_each_scheduled_item_to_to_message_under_its_three_guards() -> None:
    source = body(Consumer.getmany)
    for guard in ("self.scheduler.iterate(records)", "self.flow_active", "consumer_generation_id", "perform_seek"):
        assert guard in source


def test_revoke_flushes_the_producer_and_clears_queues_before_it_returns() -> None:
    source = body(App._on_partitions_revoked)
    for call in ("flow_control.clear", "_consumer_wait_empty", "_producer_flush"):
        assert call in source


def test_recovery_asks_the_persisted_offset_and_reports_completion_before_it_seeks() -> None:
    assert "table.persisted_offset(tp)" in body(Recovery._add)
    completed = body(Recovery.on_recovery_completed)
    assert completed.index("table.on_recovery_completed") < completed.index("consumer.perform_seek()")
    assert "offset > seen_offset" in body(Recovery)
    assert "_crash_app" not in body(Collection)  # a name of ours in a subclass


def test_changelog_topic_has_its_permanent_name() -> None:
    assert body(Collection._changelog_topic_name).count('f"{self.app.conf.id}-{self.name}-changelog"') == 1


def test_fetch_wait_and_isolation_are_read_from_the_consumer_when_it_starts() -> None:
    source = body(aiokafka.AIOKafkaConsumer.start)
    assert "fetch_max_wait_ms=self._fetch_max_wait_ms" in source and "isolation_level=self._isolation_level" in source


def test_coordination_of_the_group_runs_in_a_task_that_can_be_watched() -> None:
    assert "self._coordination_task = create_task(" in body(GroupCoordinator)
    assert "self._coordinator = GroupCoordinator(" in body(aiokafka.AIOKafkaConsumer)


def test_producer_offers_batches_and_keeps_itself_where_we_look() -> None:
    assert driver.Producer._producer is None
    assert list(inspect.signature(aiokafka.AIOKafkaProducer.send_batch).parameters) == [
        "self",
        "batch",
        "topic",
        "partition",
    ]
    assert "timestamp" in inspect.signature(BatchBuilder.append).parameters
    assert "headers" in inspect.signature(BatchBuilder.append).parameters


def test_partitioner_places_keys_as_aiokafkas_does() -> None:
    theirs = DefaultPartitioner()
    for key in (b"", b"m1", b"m22", b"member-0000000042", b"\xff\x00"):
        assert partition_of(key, 7) == theirs(key, list(range(7)), list(range(7)))
        assert murmur2(key) & 0xFFFF_FFFF == ours(key)


async def test_what_waits_in_a_queue_is_lost_at_a_revoke_and_not_when_the_flow_goes_on() -> None:
    """Else a standby would miss what of its changelog waits when the recovery beside it ends."""
    app = BatchApp("queues", broker="kafka://localhost:1")
    tables: Any = app.tables
    queue = tables.changelog_queue
    app.flow_control.resume()
    queue.put_nowait("fetched")
    app.flow_control.resume()
    assert queue.get_nowait() == "fetched"
    queue.put_nowait("of the generation before")
    app.flow_control.suspend()
    app.flow_control.clear()
    assert queue.empty()
