"""The engine's agent: epochs of each owned partition, made durable in the order that DESIGN §5 prescribes.

Per partition two loops. `_compute` takes what has piled up, runs the engine on it and hands the outputs to the producer
at once; `_land` makes epochs durable one after the other: outputs acked, changelog written and acked, store written,
batch acked. So epoch n+1 is computed, and its outputs leave, while n is in flight; the store is never ahead of the
acks. Outputs of an epoch that never lands are repeated with the same ids by the replay.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from typing import Any

import faust
import structlog
from faust.types import TP

from agents import failpoints
from agents.audit import ChangelogPlace, Changes, require_log, to_repair
from agents.batching import MAX_BATCH_BYTES, BatchConsumer, Sent, size_of
from agents.engine import Engine, EngineFactory
from agents.lease import Lease
from agents.member_table import StateTable
from agents.metrics import EngineMetrics
from agents.outbox import Outbox
from agents.recovery import RecoveryProgress
from agents.watchdog import BEAT_S as WATCH_S
from agents.watchdog import Limits, Progress, Watchdog
from schemas.errors import StateError
from schemas.log import Record, records_of
from streams.epoch import Epoch
from tables.store import StateStore

QUEUED_BATCHES = 4  # per partition; how many bytes wait in all is bounded by the consumer (agents/batching.py)
# A backlog's epochs: the more records, the fewer times a member is encoded and written. A batch is never split, so an
# epoch may exceed these by one batch.
EPOCH_RECORDS = 10_000
EPOCH_BYTES = 2 * MAX_BATCH_BYTES
EPOCHS_IN_FLIGHT = 2  # one being made durable, one computed ahead
LEASE_BEAT_S = 0.2

log = structlog.get_logger(__name__)


WallClock = Callable[[], int]


class Flight:
    """An epoch between its computation and its durability."""

    __slots__ = ("began", "epoch", "events", "outputs")

    def __init__(self, epoch: Epoch, events: list[Any], outputs: list[Sent], began: float) -> None:
        self.epoch = epoch
        self.events = events
        self.outputs = outputs
        self.began = began


class PartitionTask:
    """Runs one partition from its assignment to its revocation."""

    def __init__(self, partition: int, engine: Engine, store: StateStore, worker: "EngineWorker") -> None:
        self.partition = partition
        self.engine = engine
        engine.breathe = worker.breathe
        self.closing = False
        self.recording = False  # the latest record was appended earlier: the clock is the recording's, not ours
        self._store = store
        self._worker = worker
        self._append_ms = engine.clock_ms
        self._place = ChangelogPlace(store.changelog_offset())
        self._incoming: asyncio.Queue[Any] = asyncio.Queue(QUEUED_BATCHES)
        self._flights: asyncio.Queue[Flight] = asyncio.Queue()
        self._slots = asyncio.Semaphore(EPOCHS_IN_FLIGHT)
        self._held: dict[int, Any] = {}  # id -> event accepted and not yet acked
        self._idle = asyncio.Event()
        self._idle.set()
        self._loops = [asyncio.create_task(self._guard(loop)) for loop in (self._compute, self._land)]

    @property
    def idle(self) -> bool:
        """Nothing accepted that is not yet durable."""
        return not self._held

    async def accept(self, event: Any) -> None:
        """Take one batch; waits while QUEUED_BATCHES wait already."""
        self._hold(event)
        await self._incoming.put(event)
        if self.closing:  # closed while we waited: what is in flight may still land, this one is read again
            self._let_go(event)

    async def quiesce(self, timeout_s: float) -> None:
        """Take nothing more, drop what is only queued, give epochs in flight `timeout_s` to land, then stop.

        Afterwards this task produces and writes nothing, and what it did not finish will be read again.
        """
        self.closing = True
        while not self._incoming.empty():
            self._let_go(self._incoming.get_nowait())
        try:
            async with asyncio.timeout(timeout_s):
                await self._idle.wait()
        except TimeoutError:
            log.warning("epochs abandoned", partition=self.partition, batches=len(self._held), waited_s=timeout_s)
        self.cancel()
        await asyncio.gather(*self._loops, return_exceptions=True)

    def cancel(self) -> None:
        """Stop at once."""
        self.closing = True
        current = asyncio.current_task()
        for loop in self._loops:
            if loop is not current:
                loop.cancel()
        self._abandon()

    async def _guard(self, loop: Callable[[], Any]) -> None:
        try:
            await loop()
        except Exception as error:
            self._worker.fail(self.partition, error)

    async def _compute(self) -> None:
        while True:
            await self._compute_epoch(await self._incoming.get())

    async def _compute_epoch(self, event: Any) -> None:
        """Compute one epoch. In a frame of its own, as `_land_epoch`: else a quiet partition keeps its last one."""
        if self.closing:
            self._let_go(event)
            return
        events = [event]
        await self._slots.acquire()
        await self._worker.turn.acquire()
        try:
            began = time.perf_counter()
            epoch = self.engine.run(self._records(self._pile_up(events)))
        finally:  # by the loop's next turn: what is sent below need not wait for it
            asyncio.get_running_loop().call_soon(self._worker.turn.release)
        await self._worker.lease.granted()
        outputs = await self._worker.outbox.send(epoch)
        if failpoints.hit is not None:
            failpoints.hit(failpoints.OUTPUTS_SENT)
        self._flights.put_nowait(Flight(epoch, events, outputs, began))

    def _pile_up(self, events: list[Any]) -> list[Any]:
        """Add to a batch what piled up behind it: one epoch.

        Not while closing: batches before it may have been dropped from the queue already, and an epoch with a hole
        would let `applied` pass records that were never applied.
        """
        waiting, size = len(events[0].value), size_of(events[0].value)
        while waiting < EPOCH_RECORDS and size < EPOCH_BYTES and not (self.closing or self._incoming.empty()):
            events.append(self._incoming.get_nowait())
            waiting += len(events[-1].value)
            size += size_of(events[-1].value)
        return events

    async def _land(self) -> None:
        while True:
            await self._land_epoch(await self._flights.get())

    async def _land_epoch(self, flight: Flight) -> None:
        metrics = self._worker.metrics
        epoch = flight.epoch
        # I2: outputs acked before the changelog is sent. A crash in between repeats them with the same ids.
        for sent in flight.outputs:
            await sent.acked
        if failpoints.hit is not None:
            failpoints.hit(failpoints.OUTPUTS_ACKED)
        metrics.commands_acked(epoch.commands, self._worker.wall_ms())
        # I3: changelog acked before the local write. A crash in between: recovery reads it back.
        offset = await self._worker.outbox.send_changelog(epoch, self._worker.lease.granted)
        if failpoints.hit is not None:
            failpoints.hit(failpoints.CHANGELOG_ACKED)
        # No await from here to the acks: a cancellation cannot come between the write and the acks.
        if epoch.members or epoch.meta or epoch.hints:
            self._store.write(epoch.members, epoch.meta, epoch.hints, offset)
        if failpoints.hit is not None:
            failpoints.hit(failpoints.WRITTEN)
        self.engine.written(epoch)
        for event in flight.events:
            event.ack()
            self._held.pop(id(event), None)
        if failpoints.hit is not None:
            failpoints.hit(failpoints.ACKED)
        metrics.epoch_durable(epoch, len(flight.events), (time.perf_counter() - flight.began) * 1000)
        self._slots.release()
        foreign = self._place.wrote(offset, len(epoch.members) + len(epoch.meta))
        if foreign is not None:
            await self._repair(*foreign)
        if not self._held:
            self._idle.set()

    async def _repair(self, first: int, end: int) -> None:
        """Write again what a worker that had this partition before overwrote in the changelog, see agents/audit.py."""
        worker = self._worker
        found = await worker.read_changelog(self.partition, first, end) if worker.read_changelog is not None else {}
        wrong = to_repair(found, self._store)
        worker.metrics.foreign_writes += 1
        log.error(
            "another worker wrote to our changelog", partition=self.partition, first=first, end=end, repaired=len(wrong)
        )
        if wrong:
            offset = await worker.outbox.rewrite(self.partition, wrong, worker.lease.granted)
            self._store.write({}, {}, [], offset)
            self._place.wrote(offset, len(wrong))

    def _records(self, events: Iterable[Any]) -> list[Record]:
        records: list[Record] = []
        wall = self._worker.wall_ms()
        for event in events:
            found, self._append_ms, self.recording = records_of(event.value, wall, self._append_ms)
            records += found
        return records

    def _hold(self, event: Any) -> None:
        self._held[id(event)] = event
        self._idle.clear()

    def _let_go(self, event: Any) -> None:
        if id(event) not in self._held:
            return
        self._worker.consumer.abandon(event.message)
        self._worker.metrics.abandoned_batches += 1
        self._held.pop(id(event), None)
        if not self._held:
            self._idle.set()

    def _abandon(self) -> None:
        for event in list(self._held.values()):
            self._let_go(event)


class EngineWorker:
    """Owns the partition tasks of this process and answers to Faust's rebalances.

    Args:
        app: the Faust app; its consumer is a BatchConsumer.
        table: the table `members`; tells when partitions are recovered.
        engines: makes the engine of a partition on top of its recovered store.
        outbox: where results go.
        events_topic: the topic whose partitions we run.
        wall_ms: the wall clock, ms since the epoch.
        quiesce_s: how long a revoke may wait for epochs in flight; well below the session timeout.
        limits: after which standstill the worker ends itself.
        lease_s: after a pause longer than this nothing is produced any more; well below the session timeout.
        silence_s: likewise, while no heartbeat was accepted for this long.
    """

    def __init__(
        self,
        app: faust.App,
        table: StateTable,
        engines: EngineFactory,
        outbox: Outbox,
        *,
        events_topic: str,
        wall_ms: WallClock,
        quiesce_s: float,
        lease_s: float,
        silence_s: float,
        limits: Limits = Limits(),  # noqa: B008 - frozen
        metrics: EngineMetrics | None = None,
    ) -> None:
        self.outbox = outbox
        self.metrics = metrics or EngineMetrics()
        self.wall_ms = wall_ms
        self.lease = Lease(lease_s, silence_s)
        # One epoch is computed in a turn of the loop. In a backlog those of all partitions would else lie together, for
        # seconds, and acks that have arrived would time out.
        self.turn = asyncio.Lock()
        self.tasks: dict[int, PartitionTask] = {}
        self.recovered = False
        self.recovery = RecoveryProgress(lambda: app.tables.recovery)  # type: ignore[attr-defined]
        self.read_changelog: Callable[[int, int, int], Awaitable[Changes]] | None = None
        self._watchdog = Watchdog(limits)
        self._app = app
        self._table = table
        self._engines = engines
        self._topic = events_topic
        self._quiesce_s = quiesce_s
        self._revoking = False
        self._failed: BaseException | None = None
        self._progress: dict[int, tuple[int | None, int]] = {}
        self._prepared: dict[int, Engine] = {}  # of partitions that will be ours in a moment
        table.release = self._close
        table.prepare = self._prepare
        table.before_assignment = self._before_assignment
        table.recovered = self._assign
        table.audit = self._audit
        table.stopping = self._stop

    @property
    def consumer(self) -> BatchConsumer:
        """The app's consumer."""
        consumer = self._app.consumer
        if not isinstance(consumer, BatchConsumer):
            raise TypeError(f"engine worker: wrong consumer (got {type(consumer).__name__}); build the app as BatchApp")
        return consumer

    @property
    def failure(self) -> BaseException | None:
        """What ended this worker, if something did."""
        return self._failed

    def attach(self) -> None:
        """Hook into the consumer's rebalances. Call once before the app starts."""
        consumer = self.consumer
        consumer.quiesce = self._quiesce
        consumer.released = self._released
        consumer.rewind = self._rewind
        consumer.listen(lambda sent_at: self.lease.heard(time.monotonic() - sent_at))
        self._app.add_future(self._keep_lease())
        self._app.add_future(self._watch())

    async def process(self, stream: Any) -> None:
        """Be the agent: hand each batch to its partition's task. Never acks; the tasks do, when work is durable."""
        events: AsyncIterator[Any] = stream.noack().events()
        async for event in events:
            message = event.message
            task = self.tasks.get(message.partition)
            if task is None or task.closing or message.generation_id != self._app.consumer_generation_id:
                self.consumer.abandon(message)  # revoked meanwhile: its next owner reads it again
                continue
            await task.accept(event)

    async def finish(self) -> None:
        """Let epochs in flight land and commit them; take nothing more."""
        self.recovered = False
        await asyncio.gather(*(task.quiesce(self._quiesce_s) for task in self.tasks.values()))
        await self.consumer.commit_all()

    def engine_of(self, partition: int) -> Engine | None:
        """Return the engine of a partition that is ours and recovered, for the web."""
        task = self.tasks.get(partition)
        return None if task is None or task.closing else task.engine

    def update_gauges(self) -> None:
        """Refresh lag, progress and next timer of each owned partition in `metrics`."""
        now = self.wall_ms()
        for partition, task in self.tasks.items():
            applied = task.engine.applied_offset
            tp = TP(self._topic, partition)
            end = self.consumer.highwater(tp)
            # Ends of transactions take an offset and are no records: at the end of the log they are no lag.
            caught_up = end is None or (task.idle and not self.consumer.unread(tp))
            lag = 0 if caught_up else max(0, end - 1 - applied)
            seen, since = self._progress.get(partition, (None, now))
            if lag == 0 or seen != applied:
                since = now
            self._progress[partition] = (applied, since)
            self.metrics.lag[partition] = lag
            self.metrics.stalled_ms[partition] = now - since
            self.metrics.next_fire_ms[partition] = task.engine.next_fire_ms

    async def _keep_lease(self) -> None:
        """Say several times a second that the process runs; a Faust timer would begin only after the first recovery."""
        self.lease.begin()
        while True:
            await asyncio.sleep(LEASE_BEAT_S)
            await self.renew_lease()

    async def _watch(self) -> None:
        while self._failed is None:
            await asyncio.sleep(WATCH_S)
            stall = self._watchdog.look(self._seen(), time.monotonic())
            if stall is not None:
                self.fail(None, StateError(stall))

    def _seen(self) -> Progress:
        consumer = self.consumer
        assigned, rebalancing = consumer.group_state()
        applied = {
            partition: task.engine.applied_offset
            for partition, task in self.tasks.items()
            if not task.closing and (not task.idle or consumer.unread(TP(self._topic, partition)))
        }
        if self.recovered or not assigned:
            return Progress(None, 0, applied)
        round_ = self._app.consumer_generation_id
        standing = self.recovery.look(round_)
        return Progress((round_, rebalancing, self.recovery.signature()), standing.left, applied, rebalancing)

    async def renew_lease(self) -> None:
        """Say that this process runs. After a pause that may have cost it its partitions, end the worker."""
        try:
            self.lease.renew()
        except StateError as error:
            self.fail(None, error)

    def breathe(self) -> None:
        """Say amidst a long computation that the process runs, and let other threads run: one sends the heartbeats."""
        self.lease.renew()
        time.sleep(0)  # gives up the interpreter's lock, which compiled code would keep

    def fail(self, partition: int | None, error: BaseException) -> None:
        """End the worker: the batch is not acked, a restart replays it."""
        if self._failed is None:
            self._failed = error
            for task in self.tasks.values():
                task.cancel()  # nothing more is sent or written, whatever order the loop runs things in
            log.error("partition failed, worker stops", partition=partition, exc_info=error)
            self._app.loop.create_task(self._app.crash(error))

    async def _quiesce(self, revoked: set[TP]) -> None:
        self._revoking = True
        self.recovered = False
        self.metrics.rebalances += 1
        tasks = [self.tasks[p] for p in self._partitions(revoked) if p in self.tasks]
        await asyncio.gather(*(task.quiesce(self._quiesce_s) for task in tasks))

    async def _released(self, revoked: set[TP]) -> None:
        """I4: from here on nothing is produced or written for these partitions. Faust has flushed the producer."""
        for partition in {tp.partition for tp in revoked}:
            self._close(partition)

    def _before_assignment(self) -> None:
        for partition in {*self.tasks, *self._table.stores.partitions()}:
            self._close(partition)
        self._revoking = False

    def _prepare(self, partition: int) -> None:
        """Make the engine of a recovered partition ahead: it reads timers, for a tenth of a second or more."""
        self._prepared[partition] = self._engines(partition, self._table.stores.open(partition))

    def _assign(self, partitions: set[int]) -> None:
        if self._revoking:
            return  # recovered for an assignment that is already being taken away
        events = self._partitions(self.consumer.assignment())
        if events != partitions:
            raise StateError(
                f"assignment: partitions of '{self._topic}' and of its changelog differ (got {sorted(events)} and "
                f"{sorted(partitions)}); both topics must have the same number of partitions"
            )
        try:
            self.lease.renew()  # a pause during the recovery must not be forgotten: the partitions may be another's
        except StateError as error:
            self.fail(None, error)
            return
        for partition in sorted(partitions):
            store = self._table.stores.open(partition)
            engine = self._prepared.pop(partition, None) or self._engines(partition, store)
            self.tasks[partition] = PartitionTask(partition, engine, store, self)
        self.recovered = True
        self.recovery.done()
        log.info("partitions recovered", partitions=sorted(partitions))

    async def _audit(self, changelog: str) -> None:
        """Compare each partition's state with its log, before anything is read from it."""
        places = {TP(self._topic, partition): task for partition, task in self.tasks.items()}
        begins = await self.consumer.earliest_offsets(*places)
        ends = await self.consumer.highwaters(*places)
        for tp, task in places.items():
            begin, end = begins.get(tp), ends.get(tp)
            if begin is None or end is None:
                continue
            applied = task.engine.applied_offset
            lost = require_log(tp.topic, changelog, begin, end, tp.partition, applied)
            if lost:
                self.metrics.lost_records += lost
                log.error("records were deleted before they were applied", partition=tp.partition, records=lost)

    def _rewind(self, committed: Mapping[TP, int]) -> dict[TP, int]:
        """Read each partition from its commit, or from its state where that is behind (its changelog lost a tail)."""
        found: dict[TP, int] = {}
        for partition, task in self.tasks.items():
            tp = TP(self._topic, partition)
            resume = task.engine.applied_offset + 1
            # Without a commit the last record applied is read again: it is skipped, and committed.
            found[tp] = min(committed.get(tp, resume - 1), resume) if resume else 0
            if committed.get(tp, 0) > resume:
                self.metrics.rewound_records += committed[tp] - resume
                log.warning("state is behind the committed offset, reading again", partition=partition, offset=resume)
        return found

    async def _stop(self) -> None:
        self.recovered = False
        await asyncio.gather(*(task.quiesce(self._quiesce_s) for task in self.tasks.values()))
        for partition in list(self.tasks):
            self._close(partition)

    def _close(self, partition: int) -> None:
        task = self.tasks.pop(partition, None)
        if task is not None:
            task.cancel()
        self._prepared.pop(partition, None)
        self._table.stores.close(partition)
        self._progress.pop(partition, None)
        self.metrics.release(partition)

    def _partitions(self, tps: Iterable[TP]) -> set[int]:
        return {tp.partition for tp in tps if tp.topic == self._topic}
