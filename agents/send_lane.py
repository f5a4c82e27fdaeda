"""One lane of delivery in one process: from its topic to providers and receipts; see `agents/send.py`."""

import asyncio
import contextlib
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import structlog
from confluent_kafka import KafkaException
from confluent_kafka import Message as KafkaMessage

from agents.delivery_state import KEPT_MS, DeliveryState, restore
from agents.desks import Desks
from agents.lanes import Lane
from agents.letters import fitting
from agents.parking import Held, Parked, ParkedReader
from agents.parking import Limits as Limits
from agents.providers import Providers
from agents.send_log import CommandReader, Outbox
from agents.send_one import Courier, Job, Metrics
from agents.send_page import Message
from agents.topics import DEAD_LETTERS
from schemas.codec import dead_letter_headers, decode_command
from schemas.commands import CancelMessage
from schemas.errors import DecodeError, OperatorError
from schemas.records import DeadLetter
from sinks.channels.config import ProvidersConfig
from sinks.email import SmtpServer
from sinks.retry import Backoff

log = structlog.get_logger("agents.send")

COMMIT_S = 0.5
RECONFIGURE_S = 1.0
READ_MAX = 256  # commands begun at once: what arrives for another lane meanwhile waits for this long, some 10 ms
PURGE_S = 600.0
UNPARK_S = 0.1  # between two looks whether a provider has room again
QUIET_S = 10.0  # how long calls under way may take to end at a rebalance or a stop; what is left is uncertain then


def wall_clock_ms() -> int:
    """Return the wall clock in ms since the epoch, UTC."""
    return time.time_ns() // 1_000_000


@dataclass(frozen=True, slots=True)
class Parts:
    """What all lanes of a process share."""

    server: SmtpServer
    message: Message
    config: Callable[[], ProvidersConfig]
    backoff: Backoff
    limits: Limits
    metrics: Metrics
    desks: Desks


@dataclass(eq=False, slots=True)
class _Partition:
    number: int
    start: int = -1  # where reading began; -1: not restored yet
    pending: set[int] = field(default_factory=set)  # offsets in hand: read and not done
    parked: Parked = field(default_factory=Parked)  # offsets read and put aside
    highest: int = -1
    jobs: dict[str, Job] = field(default_factory=dict)  # by command id, while it is not at its end
    last: dict[str, asyncio.Task[None]] = field(default_factory=dict)  # the last record read of each command under way
    tasks: set[asyncio.Task[None]] = field(default_factory=set)

    def next_offset(self) -> int:
        """Where a successor must begin to miss nothing."""
        parked = self.parked.lowest()
        lowest = min(self.pending, default=parked)
        if lowest is None:
            return max(self.start, self.highest + 1)
        return lowest if parked is None else min(lowest, parked)


class Delivery:
    """One process's share of one lane. Create inside a running loop; `run` once."""

    def __init__(self, kafka: Mapping[str, Any], lane: Lane, parts: Parts, state_dir: Path) -> None:
        self.ready = asyncio.Event()
        self._kafka = dict(kafka)
        self._lane = lane
        self._shared = parts
        self._state_dir = state_dir
        self._limits = parts.limits
        self._metrics = parts.metrics
        self._parts: dict[int, _Partition] = {}
        self._held = Held()
        self._shares: dict[str, Held] = {}  # by provider
        self._freed = asyncio.Event()
        self._failure: BaseException | None = None
        self._background: set[asyncio.Task[None]] = set()
        self._closing = False

    async def run(self, stop: asyncio.Event) -> None:
        """Deliver until `stop`; see `run_delivery`."""
        async with contextlib.AsyncExitStack() as stack:
            self._outbox = Outbox(self._kafka)
            stack.push_async_callback(asyncio.to_thread, self._outbox.close)
            await self._check_topics()
            cluster = await asyncio.to_thread(self._outbox.cluster_id)
            self._state = DeliveryState(self._state_dir, cluster)
            stack.callback(self._state.close)
            shared, lane = self._shared, self._lane
            self._providers = Providers(
                lane.name, shared.message, shared.server, self._limits.connections, shared.desks.attach
            )
            stack.push_async_callback(self._providers.close)
            self._providers.apply(shared.config())
            self._reader = CommandReader(self._kafka, lane.group, lane.commands, self._assigned, self._revoked)
            self._courier = Courier(
                self._providers, self._state, self._outbox,
                sent_topic=lane.sent, mail_domain=shared.message.sender.domain,
                backoff=shared.backoff, lease=self._lease, call_s=0.45 * self._reader.session_s,  # a lease is half
                clock_ms=wall_clock_ms, metrics=self._metrics,
            )  # fmt: skip
            self._parked_reader = ParkedReader(self._kafka, lane.commands)
            stack.push_async_callback(asyncio.to_thread, self._parked_reader.close)
            self._start(self._commit_forever())
            self._start(self._unpark_forever())
            self._start(self._purge_forever())
            self._start(self._reconfigure_forever())
            try:
                await self._read_until(stop)
            finally:
                self._closing = True
                for task in list(self._background):
                    task.cancel()
                await asyncio.gather(*self._background, return_exceptions=True)
                await self._reader.close()  # awaits _revoked: ends what is under way, commits
        if self._failure is not None:
            raise self._failure

    # ------------------------------------------------------------ reading

    async def _read_until(self, stop: asyncio.Event) -> None:
        while not stop.is_set() and self._failure is None:
            room = self._room()
            if room <= 0:
                self._freed.clear()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._freed.wait(), 0.2)
                room = self._room()
            if room <= 0:
                # Full for a while: the provider is slow or away. Nothing more is read, but rebalances are still served.
                if not self._reader.held:
                    await self._reader.hold(True)
                self._begin(await self._reader.read(1, 0.05))
                continue
            if self._reader.held:
                await self._reader.hold(False)
            self._begin(await self._reader.read(min(room, READ_MAX), 0.1))

    def _room(self) -> int:
        if self._parked() >= self._limits.parked:
            return 0
        return self._held.room(self._limits)

    def _parked(self) -> int:
        return sum(len(part.parked) for part in self._parts.values())

    def _room_of(self, provider: str) -> int:
        """Say how many more commands for a provider may be held. One alone has all there is: nobody is to be let by."""
        sharers = self._providers.count
        if sharers == 1:
            return self._limits.waiting
        return self._shares.setdefault(provider, Held()).room(self._limits, sharers)

    def _room_for_new(self, provider: str) -> int:
        # Behind those put aside before, on whatever partition: else what is new would take each place that gets free.
        return 0 if any(provider in part.parked for part in self._parts.values()) else self._room_of(provider)

    def _begin(self, messages: Sequence[KafkaMessage]) -> None:
        rooms: dict[str, int] = {}
        for message in messages:
            number, offset = message.partition(), message.offset()
            part = self._parts.get(-1 if number is None else number)
            if part is None or part.start < 0 or offset is None or offset <= part.highest:
                continue  # given up meanwhile, not restored yet and so read again, or read already
            part.highest = offset
            self._take(part, offset, message, rooms)
        self._metrics.gauge("delivery_under_way", len(self._held.jobs), lane=self._lane.name)

    def _take(
        self, part: _Partition, offset: int, message: KafkaMessage, rooms: dict[str, int] | None, share: str = ""
    ) -> None:
        """Begin the work on a record, or put it aside while its provider has no room.

        No `rooms`: it was aside, for `share`, and stays in that one's share whoever is asked for it by now.
        """
        value = _bytes(message.value())
        try:
            command = decode_command(value)
        except DecodeError as error:
            self._begin_task(part, offset, self._bury(part.number, offset, message, error))
            return
        # Records of one command are worked on one after the other: the first decides, the next find it decided.
        before = part.last.get(command.command_id)
        if isinstance(command, CancelMessage):
            if command.command_id in part.jobs:
                part.jobs[command.command_id].cancel_reason = command.reason
                part.jobs[command.command_id].cancelled.set()
            work = self._cancel(part.number, offset, command, before)
        else:
            provider = share
            if rooms is not None:
                provider = self._providers.name_of(command.channel, command.address)
                left = rooms[provider] if provider in rooms else self._room_for_new(provider)
                rooms[provider] = left - 1
                if left <= 0:
                    part.parked.put(provider, offset)
                    return
            job = Job(part.number, offset, command, len(value or b""), share=provider)
            part.jobs.setdefault(command.command_id, job)
            work = self._deliver(part, job, before)
        task = self._begin_task(part, offset, work)
        part.last[command.command_id] = task
        task.add_done_callback(lambda ended: _forget(part.last, command.command_id, ended))

    def _begin_task(self, part: _Partition, offset: int, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        part.pending.add(offset)
        part.tasks.add(task)

        def done(ended: asyncio.Task[None]) -> None:
            part.tasks.discard(ended)
            if ended.cancelled():
                return  # not done: it stays pending, and will be read again
            error = ended.exception()
            if error is None:
                part.pending.discard(offset)
            else:
                self._fail(error)

        task.add_done_callback(done)
        return task

    # ------------------------------------------------------------ one record

    async def _deliver(self, part: _Partition, job: Job, before: asyncio.Task[None] | None) -> None:
        job.task = asyncio.current_task()
        held = (self._held, self._shares.setdefault(job.share, Held()))
        for one in held:
            one.add(job)
        try:
            if before is not None:
                job.waiting = True
                await _ended(before)
                job.waiting = False
            await self._courier.deliver(job)
        finally:
            for one in held:
                one.remove(job)
            _forget(part.jobs, job.command.command_id, job)
            self._freed.set()

    async def _cancel(
        self, partition: int, offset: int, command: CancelMessage, before: asyncio.Task[None] | None
    ) -> None:
        if before is not None:
            await _ended(before)
        await self._courier.cancel(partition, offset, command)

    async def _bury(self, partition: int, offset: int, message: KafkaMessage, error: DecodeError) -> None:
        key, value = _bytes(message.key()), _bytes(message.value())
        now = wall_clock_ms()
        letter = fitting(
            DeadLetter(self._lane.commands, partition, offset, error.reason, error.message, now, key, value)
        )
        headers: list[tuple[str, str | bytes | None]] = [*dead_letter_headers(letter)]
        await self._outbox.send(DEAD_LETTERS, letter.key, letter.value, headers=headers)
        self._metrics.count("delivery_dead_letters", reason=error.reason)
        log.warning("delivery.dead-letter", reason=error.reason, partition=partition, offset=offset)

    # ------------------------------------------------------------ partitions

    def _assigned(self, numbers: list[int]) -> None:
        self._parts = {number: _Partition(number) for number in numbers}
        for part in self._parts.values():
            self._start(self._prepare(part))
        if not numbers:
            self.ready.set()  # more workers than partitions: a spare one is ready, too

    async def _prepare(self, part: _Partition) -> None:
        """Learn what was sent before anything is: read that topic to its end, then start to read commands."""
        while self._parts.get(part.number) is part and not self._closing:
            try:
                start = await self._reader.start_offset(part.number)
                await self._outbox.settled()
                began = time.monotonic()
                given_up = lambda: self._parts.get(part.number) is not part  # noqa: E731
                count = await asyncio.to_thread(
                    restore, self._state, self._kafka, part.number, given_up, self._lane.sent
                )
                if self._parts.get(part.number) is not part:
                    return
                log.info(
                    "delivery.partition-ready", lane=self._lane.name, partition=part.number, offset=start,
                    restored=count, read_to=self._state.next_offset(part.number),
                    took_ms=round(1_000 * (time.monotonic() - began)),
                )  # fmt: skip
                await self._reader.begin(part.number, start)
            except KafkaException as error:
                log.warning("delivery.restore-again", partition=part.number, error=str(error.args[0].name()))
                await asyncio.sleep(1)
                continue
            if self._parts.get(part.number) is not part:
                return
            part.start = start
            if self._parts and all(one.start >= 0 for one in self._parts.values()):
                self.ready.set()
            return

    async def _revoked(self, numbers: list[int]) -> dict[int, int]:
        """End or abandon what is under way on these partitions; returns from where to go on."""
        parts = [part for number in numbers if (part := self._parts.pop(number, None)) is not None]
        for job in [job for part in parts for job in part.jobs.values()]:
            if not job.busy and job.task is not None:
                job.task.cancel()
        tasks = [task for part in parts for task in part.tasks]
        if tasks:
            await asyncio.wait(tasks, timeout=min(QUIET_S, self._reader.session_s / 3))
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        return {part.number: part.next_offset() for part in parts if part.start >= 0}

    async def _lease(self) -> None:
        while time.monotonic() - self._reader.confirmed_at > self._reader.session_s / 2:
            await asyncio.sleep(0.05)

    async def _commit_forever(self) -> None:
        while True:
            offsets = {part.number: part.next_offset() for part in self._parts.values() if part.start >= 0}
            stale = time.monotonic() - self._reader.confirmed_at > self._reader.session_s / 8
            if offsets and (stale or offsets != self._reader.committed):
                self._reader.commit(offsets)
            await asyncio.sleep(COMMIT_S if offsets and not stale else 0.05)

    async def _unpark_forever(self) -> None:
        """Take up what was put aside, the first ones first, as its providers have room again."""
        while True:
            moved = 0
            for part in list(self._parts.values()):
                for provider in part.parked.providers():
                    moved += await self._unpark(part, provider)
            parked = self._parked()
            self._metrics.gauge("delivery_parked", parked, lane=self._lane.name)
            if not parked:
                self._parked_reader.rest()
            await asyncio.sleep(0 if moved else UNPARK_S)

    async def _unpark(self, part: _Partition, provider: str) -> int:
        room = min(self._room_of(provider), READ_MAX)
        if self._providers.count == 1:  # the others left the configuration: what they let by is still aside
            room = min(room, self._held.room(self._limits))
        if room < max(1, min(READ_MAX, self._limits.under_way // self._providers.count) // 4):
            return 0  # a few at a time would cost a fetch for each
        offsets = part.parked.first(provider, room)
        if not offsets:
            return 0
        messages, upto = await self._parked_reader.read(part.number, offsets)
        if self._parts.get(part.number) is not part:
            return 0  # given up meanwhile: its next owner reads them
        for message in messages:
            self._take(part, message.offset() or 0, message, None, provider)
        part.parked.drop(provider, min(upto, offsets[-1] + 1))
        gone = sum(1 for offset in offsets if offset < upto) - len(messages)
        if gone:
            log.warning("delivery.parked-gone", lane=self._lane.name, partition=part.number, records=gone)
        return len(messages)

    async def _purge_forever(self) -> None:
        while True:
            while await asyncio.to_thread(self._state.purge, wall_clock_ms() - KEPT_MS):
                await asyncio.sleep(0.1)
            await asyncio.sleep(PURGE_S)

    async def _reconfigure_forever(self) -> None:
        while True:
            for name, up in self._providers.up().items():
                self._metrics.gauge("delivery_provider_up", float(up), lane=self._lane.name, provider=name)
            await asyncio.sleep(RECONFIGURE_S)
            try:
                self._providers.apply(await asyncio.to_thread(self._shared.config))
            except OperatorError as error:
                log.error("providers.not-changed", lane=self._lane.name, error=str(error))

    async def _check_topics(self) -> None:
        names = (self._lane.commands, self._lane.sent)
        counts = [await asyncio.to_thread(self._outbox.topic_partitions, name) for name in names]
        if counts[0] != counts[1]:
            raise OperatorError(
                f"topic {names[1]}: must have as many partitions as {names[0]} (got {counts[1]} and {counts[0]});"
                " create it anew with the same number"
            )

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._background.add(task)

        def done(ended: asyncio.Task[None]) -> None:
            self._background.discard(ended)
            if not ended.cancelled() and (error := ended.exception()) is not None:
                self._fail(error)

        task.add_done_callback(done)

    def _fail(self, error: BaseException) -> None:
        if self._failure is None:
            log.error("delivery.failed", error=type(error).__name__)
            self._failure = error
        self._freed.set()


async def _ended(before: asyncio.Task[None]) -> None:
    """Wait for the record before; if it did not come to its end, this one does not either: both are read again."""
    await asyncio.wait({before})
    if before.cancelled() or before.exception() is not None:
        raise asyncio.CancelledError


_T = TypeVar("_T")


def _forget(found: dict[str, _T], key: str, value: _T) -> None:
    if found.get(key) is value:
        del found[key]


def _bytes(raw: str | bytes | None) -> bytes | None:
    return raw.encode() if isinstance(raw, str) else raw
