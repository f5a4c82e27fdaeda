"""One process of the engine's worker: the real EngineWorker, tasks, outbox and engine; Faust and Kafka are made up."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any, cast

from faust.types import TP

from agents.batching import BatchMessage
from agents.engine_worker import EngineWorker
from agents.lease import Lease
from agents.member_table import StoreAdapter
from agents.pacemaker import BEAT_S, Pacemaker
from agents.topics import EVENTS
from tidings.simulation.broker import Broker, Writer
from tidings.simulation.consumer import Delivery, SimConsumer, WatchedOutbox
from tidings.simulation.disk import SimStore, Stores
from tidings.simulation.faults import Faults
from tidings.simulation.group import SESSION_MS, Group
from tidings.simulation.world import VirtualLoop, World

PREFETCHED = 8  # batches in Faust's queue
COMMIT_MS = 1_000
LEASE_S, SILENCE_S = SESSION_MS * 0.5 / 1000, SESSION_MS * 0.25 / 1000  # as agents/wiring.py sets them
BEAT_MS = round(BEAT_S * 1000)


class Shared:
    """What all processes of a run see."""

    def __init__(
        self, world: World, faults: Faults, broker: Broker, group: Group, engines: Callable[[int, Any], Any]
    ) -> None:
        self.world = world
        self.faults = faults
        self.broker = broker
        self.group = group
        self.engines = engines


class Process:
    """One life of one worker, from its start to its end. `slot` names the worker over its lives, `name` this life."""

    def __init__(
        self, slot: str, life: int, disk: dict[int, SimStore], shared: Shared, ended: Callable[["Process"], None]
    ) -> None:
        self.slot = slot
        self.name = f"{slot}#{life}"
        self.disk = disk
        self.shared = shared
        self.alive = True
        self.paused = False
        self.deaf = False
        self.halt_at: tuple[int, Callable[[], None]] | None = None
        self.partitions: list[int] = []
        self.positions: dict[int, int] = {}
        self.queue: deque[Delivery] = deque()
        self.given_up: set[int] = set()
        self.acked: dict[int, int] = {}
        self.committing: asyncio.Future[None] | None = None
        self._ended = ended
        world = shared.world
        self.loop = VirtualLoop(world, self.deliver)
        self.loop.halted = self._halted
        self.skew_ms = world.rng.choice([-300, 0, 0, 0, 200, 1_500]) if shared.faults.anywhere("skew") else 0
        self.writer = Writer(world, shared.faults, shared.broker, self)
        self.stores = Stores(disk, world, self._wrote)
        self._stale: list[tuple[int, int, int]] = []
        self._inbox: list[Callable[[], Any]] = []
        self._naps = 0
        self._silences = 0
        self._fetching: set[int] = set()
        self._more: asyncio.Event = asyncio.Event()
        self._committing = False
        self._beat_at: int | None = None
        self._rejoining = False
        self._recovery: asyncio.Task[None] | None = None
        self._build()
        self._spawn(self._run_agent())

    def _build(self) -> None:
        """Put the real parts together, as agents/wiring.py does."""
        table = SimpleNamespace(stores=self.stores, before_assignment=None, recovered=None, stopping=None)
        everything = SimpleNamespace(acks_enabled_for=lambda topic: True)
        self.app = SimpleNamespace(
            consumer_generation_id=0,
            loop=self.loop,
            crash=self._crash,
            topics=everything,
            add_future=lambda coroutine: coroutine.close(),  # the lease is renewed by `deliver`
        )
        self.consumer = SimConsumer(self, self.app)
        self.app.consumer = self.consumer
        self.table: Any = table
        self.outbox = WatchedOutbox(self.writer, self)
        self.worker = EngineWorker(
            cast(Any, self.app),
            cast(Any, table),
            self.shared.engines,
            self.outbox,
            events_topic=EVENTS,
            wall_ms=lambda: self.shared.world.now + self.skew_ms,
            quiesce_s=SESSION_MS * 0.25 / 1000,
            lease_s=LEASE_S,
            silence_s=SILENCE_S,
        )
        self.worker.lease = Lease(LEASE_S, SILENCE_S, self.loop.time)
        self.worker.attach()
        self.pacemaker = Pacemaker(self.worker, EVENTS)

    # ------------------------------------------------------------ life and death

    def deliver(self, do: Callable[[], Any]) -> None:
        """Let something from outside reach this process: now, after its pause, or never."""
        if not self.alive:
            return
        if self.paused:
            self._inbox.append(do)
            return
        self.worker.lease.begin()  # renewed five times a second, so just now
        if not self.deaf and self.shared.group.knows(self):
            self.worker.lease.heard()
        do()
        self._run()

    def kill(self) -> None:
        """End it at once. Nothing of it runs any more; what it has sent is on its way."""
        if self.alive:
            self.alive = False
            self.shared.world.tell(f"{self.name}: killed after {self.loop.steps} steps")
            self.loop.discard()
            self.shared.group.silent(self, lambda: True)
            self._ended(self)

    def pause(self, length_ms: int) -> None:
        """Freeze it; wake it up later."""
        if not self.alive or self.paused:
            return
        self.paused = True
        self._naps += 1
        nap = self._naps
        self.shared.world.tell(f"{self.name}: paused for {length_ms} ms")
        self.shared.group.silent(self, lambda: self.paused and self._naps == nap)
        self.shared.world.after(length_ms, self._resume)

    def _resume(self) -> None:
        if not self.alive:
            return
        world = self.shared.world
        world.tell(f"{self.name}: resumes")
        self.paused = False
        inbox, self._inbox = self._inbox, []
        # What was ready goes on first; then, in one turn of the loop, what came from the network and the timers.
        if world.chance(50):
            self._run()
        if self.alive and not self.paused:
            self._spawn(self.worker.renew_lease())
            for do in inbox:
                do()
            self._run()
        elif self.alive:
            self._inbox = inbox + self._inbox
        if self.alive and not self.shared.group.knows(self):
            world.after(self.shared.faults.delay(world, 500), lambda: self.deliver(self.rejoin))

    def _halted(self) -> bool:
        if self.halt_at is not None and self.loop.steps >= self.halt_at[0]:
            _, do = self.halt_at
            self.halt_at = None
            self.paused = True  # until `do` says what becomes of it

            def decide() -> None:
                self.paused = False
                do()

            self.shared.world.after(0, decide)
        return self.paused or not self.alive

    def _run(self) -> None:
        if self.alive and not self.paused:
            self.loop.run_ready()
            if self.alive and not self.paused:
                self._plan_beat()

    def _spawn(self, coroutine: Any) -> "asyncio.Task[Any]":
        return self.loop.create_task(coroutine)

    async def _crash(self, error: BaseException) -> None:
        """Do what the process does when the worker fails: stop, as well as it can, and exit."""
        self.shared.world.tell(f"{self.name}: fails: {error!r}")
        if self.shared.world.chance(50):
            await self.table.stopping()
        self.shared.world.after(0, self.kill)

    async def stop(self) -> None:
        """Stop in good order, as on SIGTERM."""
        await self.table.stopping()
        await self.writer.flush()
        self.shared.group.leave(self)
        self.shared.world.after(0, self.kill)

    # ------------------------------------------------------------ membership

    def rejoin(self) -> None:
        """Learn from a heartbeat that the group rebalances, or goes on without us."""
        if not self._rejoining and not self.deaf:
            self._rejoining = True
            self._spawn(self._revoke())

    def deafen(self, length_ms: int) -> None:
        """Lose its heartbeats and the group's answers for a while; it goes on working."""
        if not self.alive or self.deaf:
            return
        self.deaf = True
        self._silences += 1
        silence = self._silences
        self.shared.world.tell(f"{self.name}: heartbeats lost for {length_ms} ms")
        ago_ms = self.shared.group.silent(self, lambda: self.deaf and self._silences == silence)
        if self.shared.group.knows(self):  # else it is deaf anew before it heard that the group goes on without it
            self.worker.lease.heard(ago_ms / 1000)

        def hear() -> None:
            self.deaf = False
            group = self.shared.group
            if self.alive and not (group.knows(self) and group.stable):
                self.deliver(self.rejoin)

        self.shared.world.after(length_ms, hear)

    async def _revoke(self) -> None:
        if self._recovery is not None:
            self._recovery.cancel()
        await self.consumer.on_partitions_revoked(self.consumer.assignment())
        self._require_committed()
        self.given_up.update(self.partitions)
        self.partitions = []
        await asyncio.sleep(self.network_s())
        self._rejoining = False
        self.shared.world.after(0, lambda: self.shared.group.join(self) if self.alive else None)

    def _require_committed(self) -> None:
        """A revoke in good order commits what is durable, so that the next owner does not repeat it."""
        group = self.shared.group
        for partition in self.partitions if group.current(self) else ():
            durable = self.acked.get(partition, 0)
            if group.committed.get(partition, 0) < durable:
                text = f"{self.name}: partition {partition} given up, {durable} durable but not committed"
                self.shared.world.accuse("revoke", text)

    def assigned(self, generation: int, partitions: list[int]) -> None:
        """Learn what is ours now."""
        if generation != self.shared.group.generation or self._rejoining:
            return
        if self._recovery is not None:
            self._recovery.cancel()
        self._recovery = self._spawn(self._recover(generation, partitions))

    async def _recover(self, generation: int, partitions: list[int]) -> None:
        self.partitions = partitions
        self.given_up.difference_update(partitions)
        self.acked = {}
        self.app.consumer_generation_id = generation
        self.table.before_assignment()
        for partition in partitions:
            await self._read_changelog(partition)
        self.table.recovered(set(partitions))
        await self.consumer.perform_seek()
        self._deliver_stale()
        for partition in partitions:
            self.poke(partition)

    async def _read_changelog(self, partition: int) -> None:
        """Bring the store up to the changelog's end through the real adapter. Then it must equal the fold."""
        store, log = self.stores.open(partition), self.shared.broker.changelog[partition]
        reader = SimpleNamespace(stores=self.stores)
        end = log.end
        offset = store.changelog_offset()
        position = 0 if offset is None else offset + 1
        while position < end:
            await asyncio.sleep(self.network_s())
            found = [r for r in log.after(position, self.shared.world.rng.choice([1, 3, 50, 5_000])) if r.offset < end]
            if not found:
                break
            event = SimpleNamespace(message=SimpleNamespace(partition=partition), value=found)
            cast(Any, StoreAdapter.apply_changelog_batch)(reader, [event], None, None)
            position = found[-1].offset + 1
        sim = store.store
        if not self.shared.group.current(self):
            return  # a zombie may find records compacted away in favour of later ones
        if end and {**sim.members, **sim.metas} != self.shared.broker.folded(partition, end - 1):
            self.shared.world.accuse("I7", f"{self.name}: store of partition {partition} is not the changelog's fold")

    # ------------------------------------------------------------ records in

    async def _run_agent(self) -> None:
        await self.worker.process(self)

    def noack(self) -> "Process":
        """Be the stream that the agent reads."""
        return self

    async def events(self) -> AsyncIterator[Delivery]:
        """Hand out what was fetched."""
        while True:
            while self.queue:
                delivery = self.queue.popleft()
                self.poke(delivery.message.partition)
                yield delivery
            self._more.clear()
            await self._more.wait()

    def poke(self, partition: int) -> None:
        """Fetch, if there is something to fetch and room for it."""
        position = self.positions.get(partition)
        if position is None or partition in self._fetching or len(self.queue) >= PREFETCHED:
            return
        if position >= self.shared.broker.events[partition].end:
            return
        self._fetching.add(partition)
        self.shared.world.after(
            self.shared.faults.delay(self.shared.world, 5_000), lambda: self.deliver(lambda: self._fetched(partition))
        )

    def _fetched(self, partition: int) -> None:
        self._fetching.discard(partition)
        position = self.positions.get(partition)
        if position is None or self.consumer.reading.place(TP(EVENTS, partition)) is None:
            return  # not sought yet: BatchConsumer drops what it fetches then, and reads it again
        size = self.shared.world.rng.choice([1, 1, 2, 3, 5, 10, 100, 5_000])
        found = self.shared.broker.events[partition].after(position, size)
        if found:
            self.positions[partition] = found[-1].offset + 1
            message = self.consumer._to_message(TP(EVENTS, partition), found)  # noqa: SLF001 - as Faust calls it
            self.queue.append(Delivery(message, self.consumer))
            self._more.set()
        self.poke(partition)

    def keep_stale(self) -> None:
        """Leave a fetch of the old generation under way, which turns up after the rebalance (faust#216)."""
        self._stale = [(p, position, self.app.consumer_generation_id) for p, position in self.positions.items()]

    def _deliver_stale(self) -> None:
        world = self.shared.world
        for partition, position, generation in self._stale:
            found = self.shared.broker.events[partition].after(position, 5)[world.rng.choice([0, 1, 2]) :]
            if found and world.chance(30):
                message = BatchMessage(TP(EVENTS, partition), found, generation)
                self.queue.append(Delivery(message, self.consumer))
                self._more.set()
        self._stale = []

    # ------------------------------------------------------------ commits, ticks

    def network_s(self) -> float:
        """Draw a delay of the network, in seconds."""
        return self.shared.faults.delay(self.shared.world, 1_000) / 1000

    def commit_soon(self) -> None:
        """Commit within the interval."""
        if not self._committing:
            self._committing = True
            self.shared.world.after(self.shared.world.rng.randrange(COMMIT_MS), lambda: self.deliver(self._commit))

    def _commit(self) -> None:
        self._committing = False
        if not self._rejoining:
            self._spawn(self._commit_all())

    async def _commit_all(self) -> None:
        if not await self.consumer.commit() and self.partitions:
            self.commit_soon()

    async def ask_to_commit(self, offsets: Mapping[int, int]) -> bool:
        """Send a commit to the coordinator and wait for the answer."""
        generation, asked = self.app.consumer_generation_id, dict(offsets)
        await asyncio.sleep(self.network_s())
        taken = self.shared.group.commit(self, generation, asked)
        await asyncio.sleep(self.network_s())
        return taken

    def _plan_beat(self) -> None:
        """Schedule the pacemaker's next beat, but leave out those that would find nothing due."""
        dues = [task.engine.next_fire_ms for task in self.worker.tasks.values()]
        due = min((d for d in dues if d is not None), default=None)
        if due is None:
            return
        world = self.shared.world
        at = max(world.now + BEAT_MS, due - self.skew_ms)
        if self._beat_at is None or at < self._beat_at:
            self._beat_at = at
            world.at(at, lambda: self._beat_if(at))

    def _beat_if(self, at: int) -> None:
        if self._beat_at == at:
            self._beat_at = None
            self.deliver(lambda: self._spawn(self.pacemaker.beat()))

    # ------------------------------------------------------------ watching

    def _wrote(self, partition: int, store: SimStore, data: Mapping[bytes, bytes | None]) -> None:
        """I3, I6: what was written is in the changelog, and the store is the changelog's fold up to its own offset."""
        broker = self.shared.broker
        if not all(broker.was_stored(partition, key, value) for key, value in data.items()):
            text = f"{self.name}: store of partition {partition} has what the changelog has not"
            self.shared.world.accuse("I3", text)
            return
        if store.offset is None or not store.exact:
            return
        if {**store.members, **store.metas} != broker.folded(partition, store.offset):
            text = f"{self.name}: store of partition {partition} is not the changelog's fold up to {store.offset}"
            self.shared.world.accuse("I6", text)


def owners_of(processes: Sequence[Process]) -> dict[int, Process]:
    """Find who runs which partition."""
    return {p: process for process in processes if process.alive for p in process.worker.tasks}
