"""A topic, whole, in a store of this process: each worker of a role has all of it, and answers for any member.

The records of a key are folded in the order of the log, so all workers come to the same value; who wants to know
whether a record of his counts reads it back. Values and the place to read on from are written together. The store is
rebuilt from the topic when it is lost; what is older than the topic keeps is dropped here too, if its fold says so.
"""

import asyncio
import contextlib
import struct
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import structlog
from confluent_kafka import Consumer, KafkaException, TopicPartition
from rocksdict import Options, Rdict, WriteBatch

from schemas.errors import OperatorError

BATCH = 1_000
POLL_S = 0.2
PURGE_S = 600.0
PURGED_AT_ONCE = 10_000  # between two reads

log = structlog.get_logger("agents.replica")

# Current value, record's value, record's time: the next value; None: none. An empty record asks what is left by now
# of a value whose first record is older than the topic keeps.
Fold = Callable[[bytes | None, bytes, int], bytes | None]


class Replica:
    """One topic. Keys of the store are those of the records.

    Args:
        path: a directory of this process alone.
        kafka: librdkafka settings.
        topic: must exist.
        fold: how records of one key become its value.
        kept_ms: as the topic's retention.
        clock_ms: the wall clock.
        changed: called in the loop with the keys whose values changed.
    """

    def __init__(
        self,
        path: Path,
        kafka: Mapping[str, Any],
        topic: str,
        fold: Fold,
        kept_ms: int,
        clock_ms: Callable[[], int],
        changed: Callable[[list[bytes]], None] = lambda keys: None,
    ) -> None:
        self.ready = asyncio.Event()  # all is read that was there when it was opened
        self.ended = asyncio.Event()  # reading failed: what is here no longer follows the topic
        self._path = path
        self._kafka = kafka
        self._topic = topic
        self._fold = fold
        self._kept_ms = kept_ms
        self._clock_ms = clock_ms
        self._moved = asyncio.Event()
        self._changed = changed
        self._watchers: dict[bytes, set[asyncio.Event]] = {}
        self._loop = asyncio.get_running_loop()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._read_forever, name=f"replica-{topic}", daemon=True)

    @contextlib.asynccontextmanager
    async def open(self) -> AsyncIterator["Replica"]:
        """Open the store and read until it is left.

        Raises:
            OperatorError: the store cannot be opened, or there is no such topic.
        """
        await asyncio.to_thread(self._open)
        self._thread.start()
        try:
            yield self
        finally:
            self._stop.set()
            await asyncio.to_thread(self._thread.join)
            self._db.close()

    def get(self, key: bytes) -> bytes | None:
        """Return the value of a key."""
        found: bytes | None = self._db.get(b"v" + key)
        return found

    def scan(self, prefix: bytes, after: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        """Go through the keys with a prefix, in order, those greater than `after`."""
        low = b"v" + (after + b"\0" if after else prefix)
        for key, value in self._db.items(from_key=low):
            if not key.startswith(b"v" + prefix):
                return
            yield key[1:], value

    async def moved(self) -> None:
        """Wait until something is folded in."""
        await self._moved.wait()

    @contextlib.contextmanager
    def watching(self, key: bytes) -> Iterator[asyncio.Event]:
        """Give an event that is set whenever the value of a key changes; who waits clears it."""
        event = asyncio.Event()
        watchers = self._watchers.setdefault(key, set())
        watchers.add(event)
        try:
            yield event
        finally:
            watchers.discard(event)
            if not watchers:
                self._watchers.pop(key, None)

    async def until(self, condition: Callable[[], bool], timeout_s: float) -> bool:
        """Wait until a condition on the store holds; False: it did not in time."""
        try:
            async with asyncio.timeout(timeout_s):
                while not condition():
                    await self.moved()
        except TimeoutError:
            return condition()
        return True

    # ------------------------------------------------------------ in the thread

    def _open(self) -> None:
        self._path.mkdir(parents=True, exist_ok=True)
        options = Options(raw_mode=True)
        options.create_if_missing(True)
        options.set_write_buffer_size(4 << 20)
        try:
            self._db: Any = Rdict(str(self._path), options)
        except Exception as error:  # rocksdict raises bare Exception
            text = str(error).splitlines()[0][:200]
            raise OperatorError(
                f"{self._path}: cannot be opened ({text}); stop the process that uses it, or delete the directory:"
                " it is rebuilt from Kafka"
            ) from None
        config = {
            "queued.max.messages.kbytes": 8_192,
            **self._kafka,
            "group.id": f"tidings-replica-{self._topic}",  # a name the client insists on; never joined
            "enable.auto.commit": False,
            "auto.offset.reset": "earliest",
        }
        config.pop("group.instance.id", None)
        self._consumer = Consumer(config)
        try:
            self._ends = self._assign()
        except BaseException:
            self._consumer.close()
            self._db.close()
            raise

    def _assign(self) -> dict[int, int]:
        """Read on from where the store stands; from the start where the topic is another one."""
        try:
            listed = self._consumer.list_topics(self._topic, timeout=10)
            numbers = sorted(listed.topics[self._topic].partitions)
            if not numbers:
                raise OperatorError(f"topic {self._topic}: is missing; run: python -m tidings topics create")
            cluster = str(listed.cluster_id or "").encode()
            if self._db.get(b"c") not in (None, cluster):
                self._clear()
            self._db[b"c"] = cluster
            places, ends = [], {}
            for number in numbers:
                low, high = self._consumer.get_watermark_offsets(TopicPartition(self._topic, number), timeout=10)
                at = self._position(number)
                if at > high:
                    self._clear()
                    return self._assign()
                places.append(TopicPartition(self._topic, number, max(at, low)))
                ends[number] = high
                if max(at, low) < high:
                    continue
                del ends[number]  # nothing is missing
        except KafkaException as error:
            raise OperatorError(
                f"topic {self._topic}: cannot be read (got {error.args[0].name()}); check the broker", exit_code=3
            ) from None
        self._consumer.assign(places)
        return ends

    def _position(self, number: int) -> int:
        raw = self._db.get(b"o" + struct.pack(">I", number))
        return 0 if raw is None else int(struct.unpack(">Q", raw)[0])

    def _clear(self) -> None:
        batch = WriteBatch(raw_mode=True)
        batch.delete_range(b"", b"\xff")
        self._db.write(batch)

    def _read_forever(self) -> None:
        try:
            last = float("-inf")
            while not self._stop.is_set():
                if not self._ends and not self.ready.is_set():
                    self._tell(self.ready.set)
                self._apply(self._consumer.consume(BATCH, POLL_S))
                now = self._clock_ms()
                if now - last >= PURGE_S * 1000 and self._purge(now):
                    last = now
        except Exception as error:  # whatever it is: who opened this opens it again, from where the store stands
            log.error("replica.failed", topic=self._topic, error=type(error).__name__)
            self._tell(self.ended.set)
        finally:
            self._consumer.close()

    def _apply(self, messages: list[Any]) -> None:
        values: dict[bytes, bytes | None] = {}
        batch = WriteBatch(raw_mode=True)
        for message in messages:
            if message.error() is not None:
                log.warning("replica.read-error", topic=self._topic, error=message.error().name())
                continue
            key, at_ms = message.key() or b"", message.timestamp()[1]
            before = values[key] if key in values else self.get(key)
            after = self._fold(before, message.value() or b"", at_ms)
            values[key] = after
            if after is None:
                batch.delete(b"v" + key)
            else:
                batch.put(b"v" + key, after)
                if before is None:
                    batch.put(b"x" + struct.pack(">Q", max(0, at_ms)) + key, b"")
            number, offset = message.partition(), message.offset()
            batch.put(b"o" + struct.pack(">I", number), struct.pack(">Q", offset + 1))
            if self._ends.get(number, offset + 2) <= offset + 1:
                del self._ends[number]
        if values:
            self._db.write(batch)
            self._tell(self._wake, list(values))

    def _purge(self, now_ms: int) -> bool:
        """Drop what is over, a bounded number at once; tells whether that was all."""
        batch = WriteBatch(raw_mode=True)
        all_seen = True
        end = b"x" + struct.pack(">Q", max(0, now_ms - self._kept_ms))
        for count, mark in enumerate(self._db.keys(from_key=b"x")):
            if mark >= end or count >= PURGED_AT_ONCE:
                all_seen = mark >= end
                break
            batch.delete(mark)
            left = self._fold(self.get(mark[9:]), b"", now_ms)
            if left is None:
                batch.delete(b"v" + mark[9:])
            else:
                batch.put(b"v" + mark[9:], left)
                batch.put(b"x" + struct.pack(">Q", now_ms) + mark[9:], b"")
        self._db.write(batch)
        return all_seen

    def _wake(self, keys: list[bytes]) -> None:
        before, self._moved = self._moved, asyncio.Event()
        before.set()
        self._changed(keys)
        for key in keys if self._watchers else ():
            for event in self._watchers.get(key, ()):
                event.set()

    def _tell(self, what: Callable[..., object], *given: object) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            self._loop.call_soon_threadsafe(what, *given)
