"""What stands in for Faust around the real parts: a consumer below ours, its events, an outbox that is watched."""

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, cast

import msgspec
from faust.transport.drivers import aiokafka as driver
from faust.types import TP

from agents.batching import BatchConsumer, Entry, OffsetTracker, Sent
from agents.outbox import Outbox
from agents.reading import Reading
from agents.topics import CHANGELOG, EVENTS
from streams.epoch import Epoch
from tidings.simulation.broker import ORIGIN, Writer

if TYPE_CHECKING:
    from tidings.simulation.process import Process

FIRINGS = "firings"  # not a topic of the product: every firing, whether or not consent let a command go

json_bytes = msgspec.json.Encoder(order="deterministic").encode


async def _nothing() -> None:
    """Check nothing."""


class WatchedOutbox(Outbox):
    """The real outbox; it also sends the firings, and watches I2 and I4."""

    def __init__(self, writer: Writer, process: "Process") -> None:
        super().__init__(cast(Any, writer), CHANGELOG)
        self._sim = writer
        self._process = process
        self._outputs: dict[int, list[Sent]] = {}

    async def send(self, epoch: Epoch) -> list[Sent]:
        """See Outbox."""
        self._require_owned(epoch, "outputs")
        ORIGIN.set(epoch.partition)
        sent = await super().send(epoch)
        if epoch.firings:
            entries: list[Entry] = [(f.member_id.encode(), json_bytes(f), []) for f in epoch.firings]
            sent = [*sent, *await self._sim.send(FIRINGS, 0, entries)]
        self._outputs[id(epoch)] = sent
        return sent

    async def send_changelog(self, epoch: Epoch, before_each: Callable[[], Awaitable[None]] = _nothing) -> int | None:
        """See Outbox."""
        self._require_owned(epoch, "changelog")
        for sent in self._outputs.pop(id(epoch), ()):
            if not sent.acked.done():
                text = f"changelog of epoch {epoch.first_offset}..{epoch.last_offset} before the acks of its outputs"
                self._process.shared.world.accuse("I2", text)
                break
        return await super().send_changelog(epoch, before_each)

    def _require_owned(self, epoch: Epoch, what: str) -> None:
        if epoch.partition not in self._process.worker.tasks:
            text = f"{self._process.name}: {what} of partition {epoch.partition} after its revoke had returned"
            self._process.shared.world.accuse("I4", text)


class FaustPart(driver.Consumer):
    """What Faust's consumer does below ours: commit, seek, revoke. Placed below BatchConsumer in SimConsumer."""

    process: "Process"

    async def on_partitions_revoked(self, revoked: set[TP]) -> None:
        """Stop the flow, empty the queue, flush the producer. At times something fetched turns up later."""
        process = self.process
        process.keep_stale()
        process.positions.clear()
        while process.queue:
            self.abandon(process.queue.popleft().message)  # type: ignore[attr-defined]
        await process.writer.flush()

    async def commit(self, topics: Any = None, start_new_transaction: bool = True) -> bool:
        """Commit what is acked."""
        process = self.process
        if process.committing is not None:  # one at a time; who comes meanwhile only waits, as in Faust
            await asyncio.wait([process.committing])
            return False
        process.committing = asyncio.get_running_loop().create_future()
        try:
            return await self._commit_acked()
        finally:
            if not process.committing.done():
                process.committing.set_result(None)
            process.committing = None

    async def _commit_acked(self) -> bool:
        process = self.process
        offsets: dict[int, int] = {}
        for tp in sorted(self.assignment()):
            offset = self._new_offset(tp)
            before = self._committed_offset.get(tp)
            if offset is not None and (before is None or offset > before):
                offsets[tp.partition] = offset
        if not offsets:
            return True
        await process.writer.flush()
        offsets = {partition: offset for partition, offset in offsets.items() if partition in process.partitions}
        if not offsets:  # as in Faust, which discards commits of what was revoked meanwhile
            return False
        if not await process.ask_to_commit(offsets):
            return False
        for partition, offset in offsets.items():
            self._committed_offset[TP(EVENTS, partition)] = offset
        return True

    async def perform_seek(self) -> None:
        """Read on from the committed offsets."""
        process = self.process
        await asyncio.sleep(process.network_s())
        for partition in process.partitions:
            committed = process.shared.group.committed.get(partition)
            self._committed_offset[TP(EVENTS, partition)] = committed
            process.positions[partition] = committed or 0

    async def seek(self, partition: TP, offset: int) -> None:
        """Read on from here."""
        behind = offset < (self._committed_offset.get(partition) or 0)
        if behind and self.process.shared.group.current(self.process):  # else a zombie, which has yet to learn it
            text = f"state of partition {partition.partition} is at {offset}, behind the committed offset"
            self.process.shared.world.accuse("I1", text)
        self.process.positions[partition.partition] = offset

    def assignment(self) -> set[TP]:
        """List what is ours."""
        return {TP(EVENTS, partition) for partition in self.process.partitions}

    def highwater(self, tp: TP) -> int:
        """Return the end of a partition."""
        return self.process.shared.broker.events[tp.partition].end


class SimConsumer(BatchConsumer, FaustPart):
    """The real BatchConsumer on top of a made-up Faust."""

    def __init__(self, process: "Process", app: Any) -> None:
        self.process = process
        self.app = app
        self.tracker = OffsetTracker()
        self.reading = Reading()
        self.quiesce = self.released = self.rewind = None
        self._acked = defaultdict(list)
        self._unacked_messages = cast(Any, set())
        self._n_acked = 0
        self._waiting_for_ack = None
        self._committed_offset = cast(Any, {})

    def listen(self, heard: Callable[[float], None]) -> None:
        """Do nothing: the process renews its lease by itself."""

    def group_state(self) -> tuple[bool, bool]:
        """See BatchConsumer."""
        return bool(self.process.partitions), False

    def unread(self, tp: TP) -> bool:
        """See BatchConsumer."""
        position = self.process.positions.get(tp.partition)
        return position is not None and position < self.highwater(tp)

    def ack(self, message: Any) -> bool:
        """See BatchConsumer; a commit follows within the commit interval."""
        moved = super().ack(message)
        if moved:
            self.process.acked[message.partition] = message.offset + 1
        self.process.commit_soon()
        return moved


class Delivery:
    """A Faust event: a batch of records."""

    __slots__ = ("consumer", "message", "value")

    def __init__(self, message: Any, consumer: SimConsumer) -> None:
        self.message = message
        self.value = message.value
        self.consumer = consumer

    def ack(self) -> None:
        """Acknowledge."""
        self.consumer.ack(self.message)
