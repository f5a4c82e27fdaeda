"""The engine app as an explicit list: every part, made here and nowhere else. Plain arguments, no environment."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import faust
import mode
import structlog
from faust.exceptions import ConsistencyError

from agents.audit import changelog_too_short, read_changelog
from agents.batching import BatchApp, BatchScheduler, BatchSchema, BatchWriter
from agents.engine import EngineFactory
from agents.engine_worker import EngineWorker, WallClock
from agents.member_table import StateTable
from agents.memory import WorkerMemory
from agents.metrics import EngineMetrics
from agents.outbox import Outbox
from agents.pacemaker import BEAT_S, Pacemaker
from agents.topics import APP_ID, CHANGELOG, EVENTS, LARGE_MESSAGE_BYTES_MAX, TABLE
from agents.watchdog import Limits
from tables.codec import fire_at_of
from tables.declare import MemberStores
from tables.rocks import RocksResources
from tables.store import FireAt

# Events in Faust's queues are batches of up to 5,000 records: 8 of them, not 4,096.
_TOPIC_QUEUE = 8
_BUFFER = 16
_RECOVERY_BATCHES = 4  # not 1: that switches on a special path that reads the changelog for ever
_STANDBY_BATCHES = 1  # a standby that lags by nothing
_COMMIT_INTERVAL_S = 1.0
_PRODUCER_SHARE = 0.5  # of the session timeout: a worker cut off stops producing before its partitions have new owners
_QUIESCE_SHARE = 0.25  # of the session timeout, for epochs in flight; the rest is for the commit and the flush
_LEASE_SHARE = 0.5  # likewise, for a worker that was paused
# Likewise, for one that no longer hears the coordinator: with the producer's share three quarters of the session; the
# last quarter is for a request that has left and is still on its way. Two heartbeats fit in.
_SILENCE_SHARE = 0.25
_HEARTBEAT_SHARE = 0.1
_PRODUCER_BATCH = 512 << 10
_REQUEST_BYTES = 2 * LARGE_MESSAGE_BYTES_MAX  # any record that a topic takes, and what is around it
_WATCH_S = 0.05
# A worker that failed has nothing left to bring to an end: what is not durable is read again.
FAILED_STOP_S = 5.0

log = structlog.get_logger(__name__)


@dataclass
class EngineApp:
    """The parts that others need: run `app`, read `worker`, `metrics` and `memory`, add web pages to `app`."""

    app: faust.App
    worker: EngineWorker
    metrics: EngineMetrics
    stores: MemberStores
    pacemaker: Pacemaker
    memory: WorkerMemory | None = None


def wall_ms() -> int:
    """Read the wall clock, ms since the epoch."""
    return time.time_ns() // 1_000_000


def create_engine_app(
    *,
    bootstrap: Sequence[str],
    data_dir: Path,
    engines: EngineFactory,
    partitions: int,
    instance: str | None = None,
    session_timeout_s: float = 45.0,
    standby_replicas: int = 0,
    replication_factor: int = 1,
    declare_topics: bool = False,
    web_host: str = "127.0.0.1",
    web_port: int = 6066,
    web_enabled: bool = False,
    canonical_url: str | None = None,
    compression: str | None = "zstd",
    security: dict[str, Any] | None = None,
    resources: RocksResources | None = None,
    memory: WorkerMemory | None = None,
    limits: Limits = Limits(),  # noqa: B008 - frozen
    fire_at: FireAt = fire_at_of,
    clock: WallClock = wall_ms,
) -> EngineApp:
    """Build the engine's Faust app; nothing is started, only the data directory is locked.

    Args:
        bootstrap: `host:port` of brokers.
        data_dir: this worker's own directory; its stores lie in `engine/` below it.
        engines: makes the engine of a partition on top of its recovered store.
        partitions: of `events` and of the changelog.
        instance: static membership id, stable over restarts; None where the broker has no static membership.
        session_timeout_s: after which the broker gives a silent worker's partitions away.
        standby_replicas: warm copies on other workers.
        replication_factor: of the changelog, where Faust creates it.
        declare_topics: let Faust create the changelog when missing; False where an admin or the broker does.
        web_host: address that Faust's web server binds to, with `web_port`.
        web_port: see `web_host`.
        web_enabled: start Faust's web server; its own statistics and table pages stay off.
        canonical_url: how other workers reach this one's web server.
        compression: of what the worker produces; None for none.
        security: further Faust settings for TLS and SASL, e.g. `broker_credentials`.
        resources: caches to share with other stores of this process; None makes them.
        memory: what this worker may hold; its caches stand in for `resources`. None: the defaults of each part.
        limits: after which standstill the worker ends itself.
        fire_at: how timer hints are derived from member records read back from the changelog.
        clock: the wall clock, ms since the epoch.

    Raises:
        StateError: another process uses the data directory.
    """
    stores = MemberStores(data_dir, memory.resources if memory is not None else resources, fire_at)
    app = BatchApp(
        APP_ID,
        **_broker_settings(bootstrap, instance, session_timeout_s),
        **_producer_settings(session_timeout_s, compression),
        **_web_settings(web_enabled, web_host, web_port, canonical_url),
        **_topic_settings(partitions, replication_factor, declare_topics, standby_replicas),
        **_stream_settings(data_dir),
        **(security or {}),
    )
    table = _members(app, stores, partitions)
    metrics = EngineMetrics()
    worker = EngineWorker(
        app, table, engines, Outbox(BatchWriter(app, clock), CHANGELOG),
        events_topic=EVENTS, wall_ms=clock, metrics=metrics, limits=limits,
        quiesce_s=session_timeout_s * _QUIESCE_SHARE, lease_s=session_timeout_s * _LEASE_SHARE,
        silence_s=session_timeout_s * _SILENCE_SHARE,
    )  # fmt: skip
    worker.read_changelog = partial(read_changelog, app, CHANGELOG)
    return EngineApp(app, worker, metrics, stores, _attach(app, worker, partitions, memory), memory)


def _members(app: BatchApp, stores: MemberStores, partitions: int) -> StateTable:
    table = StateTable(
        app,
        stores=stores,
        name=TABLE,
        partitions=partitions,
        schema=BatchSchema(),
        key_type=bytes,
        value_type=bytes,
        recovery_buffer_size=_RECOVERY_BATCHES,
        standby_buffer_size=_STANDBY_BATCHES,
    )
    app.tables.add(table)
    return table


def _attach(app: BatchApp, worker: EngineWorker, partitions: int, memory: WorkerMemory | None) -> Pacemaker:
    def start() -> None:
        if memory is not None:
            worker.consumer.held_most = memory.limits.fetched
        worker.attach()

    pacemaker = Pacemaker(worker, EVENTS)
    events = app.topic(EVENTS, schema=BatchSchema(), partitions=partitions, maxsize=_TOPIC_QUEUE)
    app.agent(events, name="engine", supervisor_strategy=mode.CrashingSupervisor)(worker.process)
    app.timer(BEAT_S, name="pacemaker")(pacemaker.beat)
    app.before_start = start
    app.before_stop = worker.finish
    return pacemaker


async def run_engine_app(built: EngineApp, ended: asyncio.Event) -> None:
    """Run the worker until `ended` is set or it fails; stops it cleanly either way.

    Raises:
        BaseException: what ended the worker, when it was not `ended`. The caller must end the process, threads and all:
            what hangs in one may still be a member of the group. A restart replays.
    """
    app = built.app
    starting = asyncio.create_task(app.start())
    try:
        while not ended.is_set() and not app.should_stop:
            await asyncio.sleep(_WATCH_S)
            if starting.done():
                starting.result()
    finally:
        try:
            await _stop(built)
        except asyncio.CancelledError:
            # A crash cancels what Faust's services wait for: that must not stand in for what went wrong.
            own = asyncio.current_task()
            if app.crash_reason is None or (own is not None and own.cancelling()):
                raise
        finally:
            starting.cancel()
            await asyncio.gather(starting, return_exceptions=True)
    failure = built.worker.failure or app.crash_reason
    if isinstance(failure, ConsistencyError):
        raise changelog_too_short(CHANGELOG, str(failure)) from failure
    if failure is not None:
        raise failure


async def _stop(built: EngineApp) -> None:
    """Stop; after a failure within FAILED_STOP_S, for the broker that caused it may not answer the goodbye either."""
    if built.worker.failure is None and built.app.crash_reason is None:
        await built.app.stop()
        return
    stopping = asyncio.create_task(built.app.stop())
    done, _ = await asyncio.wait([stopping], timeout=FAILED_STOP_S)
    if done:
        stopping.result()
        return
    log.warning("worker did not stop in good order and is cut off", waited_s=FAILED_STOP_S)
    stopping.cancel()
    await asyncio.wait([stopping], timeout=_WATCH_S)
    built.stores.close_all()


def _broker_settings(bootstrap: Sequence[str], instance: str | None, session_timeout_s: float) -> dict[str, Any]:
    return {
        "broker": [f"kafka://{address}" for address in bootstrap],
        "broker_session_timeout": session_timeout_s,
        "broker_heartbeat_interval": session_timeout_s * _HEARTBEAT_SHARE,
        "broker_request_timeout": session_timeout_s * 2,
        "broker_commit_interval": _COMMIT_INTERVAL_S,
        "broker_commit_every": 1_000_000,  # by time only
        "consumer_group_instance_id": instance,
        # A changelog whose head was compacted away is read from what is left; `latest` would skip all of it.
        "consumer_auto_offset_reset": "earliest",
    }


def _producer_settings(session_timeout_s: float, compression: str | None) -> dict[str, Any]:
    return {
        "producer_request_timeout": session_timeout_s * _PRODUCER_SHARE,
        "producer_linger": 0.0,
        "producer_max_batch_size": _PRODUCER_BATCH,
        "producer_max_request_size": _REQUEST_BYTES,
        "producer_compression_type": compression,
    }


def _topic_settings(partitions: int, replication_factor: int, declare: bool, standby_replicas: int) -> dict[str, Any]:
    return {
        "topic_partitions": partitions,
        "topic_replication_factor": replication_factor,
        "topic_allow_declare": declare,
        "topic_disable_leader": True,
        "table_standby_replicas": standby_replicas,
    }


def _stream_settings(data_dir: Path) -> dict[str, Any]:
    return {
        "store": "memory://",
        "datadir": str(data_dir / "faust"),
        "processing_guarantee": "at_least_once",
        "ConsumerScheduler": BatchScheduler,
        "stream_buffer_maxsize": _BUFFER,
        "stream_wait_empty": True,
        "stream_recovery_delay": 0.0,
        "recovery_consistency_check": True,
    }


def _web_settings(enabled: bool, host: str, port: int, canonical_url: str | None) -> dict[str, Any]:
    settings: dict[str, Any] = {
        "web_enabled": enabled,
        "web_host": host,
        "web_bind": host,
        "web_port": port,
        "web_stats_enabled": False,
        "web_graph_enabled": False,
        "web_router_enabled": False,
        "web_tables_enabled": False,
        "web_metrics_enabled": False,
    }
    if canonical_url is not None:
        settings["canonical_url"] = canonical_url
    return settings
