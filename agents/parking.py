"""Commands put aside: those whose provider has its share of a lane in hand already. They wait in Kafka, not in memory.

What is kept of one is its offset, 8 bytes. The partition's committed offset stays before it, so whoever takes the
partition over reads it again; and what was read past it meanwhile is known by its command id, as after any crash.
Once its provider has room it is read again, by a consumer without a group that looks at these offsets alone.
"""

import asyncio
import time
from array import array
from bisect import insort
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import structlog
from confluent_kafka import Consumer, Message, TopicPartition

from agents.send_log import good_messages
from agents.send_one import Job

log = structlog.get_logger("agents.send")

QUEUE_KIB = 1_024  # fetched ahead of one visit to the parked; one fetch comes on top
READ_S = 2.0  # for one visit; what it did not find by then is asked for again
_OF_A_GROUP = ("session.", "heartbeat.", "group.")
_NEAR = 2_000  # records: nearer than that it is sooner to read on than to begin a fetch


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of what one process holds at a time, in each lane. Its providers share them equally."""

    connections: int = 8  # to the mail server of the settings; other providers have their own
    under_way: int = 1_000  # commands between reading and the end, without those that wait for another attempt
    waiting: int = 10_000  # those that wait, too
    total_bytes: int = 32 << 20  # of all their records
    parked: int = 1_000_000  # commands put aside, 8 bytes each; beyond, nothing more is read


class Held:
    """Commands in memory: of a lane, or of one provider in it."""

    __slots__ = ("jobs", "size")

    def __init__(self) -> None:
        self.jobs: set[Job] = set()
        self.size = 0

    def add(self, job: Job) -> None:
        """Count one more."""
        self.jobs.add(job)
        self.size += job.size

    def remove(self, job: Job) -> None:
        """Count one less."""
        self.jobs.discard(job)
        self.size -= job.size

    def room(self, limits: Limits, sharers: int = 1) -> int:
        """Say how many more there may be, when `sharers` share the limits equally."""
        if self.size >= limits.total_bytes // sharers:
            return 0
        held, most = len(self.jobs), max(1, limits.under_way // sharers)
        waiting = sum(1 for job in self.jobs if job.waiting) if held >= most else 0
        return min(most - held + waiting, max(1, limits.waiting // sharers) - held)


class Parked:
    """Offsets of one partition that are put aside, ascending, by provider."""

    __slots__ = ("_by_provider",)

    def __init__(self) -> None:
        self._by_provider: dict[str, array[int]] = {}

    def __len__(self) -> int:
        return sum(map(len, self._by_provider.values()))

    def __contains__(self, provider: str) -> bool:
        return provider in self._by_provider

    def providers(self) -> Iterator[str]:
        """Name those who have any; the parked may change meanwhile."""
        yield from list(self._by_provider)

    def put(self, provider: str, offset: int) -> None:
        """Put one aside."""
        found = self._by_provider.setdefault(provider, array("q"))
        if found and offset < found[-1]:
            insort(found, offset)
        else:
            found.append(offset)

    def first(self, provider: str, most: int) -> list[int]:
        """List the first of a provider."""
        return list(self._by_provider.get(provider, ())[:most])

    def drop(self, provider: str, before: int) -> None:
        """Forget those below an offset: they are in hand again, or gone from the topic."""
        found = self._by_provider.get(provider)
        if found is None:
            return
        kept = next((place for place, offset in enumerate(found) if offset >= before), len(found))
        if kept < len(found):
            del found[:kept]
        else:
            del self._by_provider[provider]

    def lowest(self) -> int | None:
        """Return the lowest of all."""
        return min((found[0] for found in self._by_provider.values()), default=None)


class ParkedReader:
    """Reads given offsets of a topic. Has no group and commits nothing; connects when it is first asked."""

    def __init__(self, kafka: Mapping[str, Any], topic: str) -> None:
        self._config = {
            **{name: value for name, value in kafka.items() if not name.startswith(_OF_A_GROUP)},
            "group.id": "tidings-delivery-parked",  # librdkafka wants a name; nobody joins it
            "enable.auto.commit": False,
            "enable.auto.offset.store": False,
            "auto.offset.reset": "earliest",  # the first ones may have left the topic
            "queued.max.messages.kbytes": QUEUE_KIB,
        }
        self._topic = topic
        self._consumer: Consumer | None = None
        self._partition, self._next = -1, 0
        self._reading = ThreadPoolExecutor(1, "delivery-parked")

    async def read(self, partition: int, offsets: Sequence[int]) -> tuple[list[Message], int]:
        """Read records at these offsets, ascending; returns them and the offset below which no more will be found.

        Raises:
            KafkaException: the broker refuses us.
        """
        return await asyncio.get_running_loop().run_in_executor(self._reading, self._read, partition, offsets)

    def rest(self) -> None:
        """Fetch nothing while nothing is parked."""
        if self._partition >= 0:
            self._partition = -1
            self._reading.submit(self._unassign)

    def close(self) -> None:
        """Stop. Blocks."""
        self._reading.shutdown()
        if self._consumer is not None:
            self._consumer.close()

    def _unassign(self) -> None:
        if self._consumer is not None:
            self._consumer.unassign()

    def _read(self, partition: int, offsets: Sequence[int]) -> tuple[list[Message], int]:
        if self._consumer is None:
            self._consumer = Consumer(self._config)
        if partition != self._partition or not 0 <= offsets[0] - self._next <= _NEAR:
            self._consumer.assign([TopicPartition(self._topic, partition, offsets[0])])
            self._partition, self._next = partition, offsets[0]
        wanted, found = set(offsets), []
        until = time.monotonic() + READ_S
        while self._next <= offsets[-1] and time.monotonic() < until:
            left = sum(1 for offset in wanted if offset >= self._next)
            for message in good_messages(self._consumer.consume(left, 0.1)):
                offset = message.offset()
                if message.partition() != partition or offset is None:
                    continue
                self._next = max(self._next, offset + 1)
                if offset in wanted:
                    found.append(message)
        return found, self._next
