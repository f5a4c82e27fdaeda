"""What was sent, by command id: a local RocksDB per process, rebuilt from the topic `tidings-delivery-sent`.

The topic is the truth (a worker on another machine reads it after a rebalance), the store is its fold. One record per
step of one command, key = command id, in the partition that holds the command. A step is in the topic before what it
announces is done:

    sending    written before the provider is called
    deferred   not taken; `next_ms` says when to try again
    sent, bounced, rejected, failed, expired, cancelled    final

What a crash at each place does: see `agents/send_one.py`. Entries are dropped `KEPT_MS` after the first one of their
command: by then the command itself has left its topic and cannot be read again.
"""

import struct
from collections.abc import Callable, Iterable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, TopicPartition
from rocksdict import Options, Rdict, WriteBatch

from schemas.errors import OperatorError, StateError

SENT_TOPIC = "tidings-delivery-sent"
SENT_TOPIC_CONFIG: Mapping[str, str] = {
    "cleanup.policy": "compact,delete",  # the last step of each command, and none for longer than commands are kept
    "retention.ms": str(7 * 86_400_000),
    "message.timestamp.type": "CreateTime",
}
KEPT_MS = 7 * 86_400_000  # as the topic `commands`
FORMAT = 1
FINAL = frozenset({"sent", "bounced", "rejected", "failed", "expired", "cancelled"})
_RESTORE_BATCH = 2_000


class Entry(msgspec.Struct, array_like=True, gc=False):
    """The last step of one command. Fields are only added at the end; `format` changes when one changes its meaning."""

    format: int
    status: str
    attempt: int  # provider calls begun so far
    at_ms: int  # wall clock of this step; a repeated receipt carries it again
    offset: int  # of the command's record: tells a record read again from a command written twice
    first_ms: int  # wall clock of the first step, from which KEPT_MS counts
    next_ms: int = 0  # deferred: when to try again
    code: int = 0  # the provider's, SMTP or HTTP; 0 for none
    reason: str = ""
    detail: str = ""  # the provider's words, without addresses
    provider: str = ""  # its name in the providers' file
    provider_message_id: str = ""
    told: bool = False  # its receipt is on `events`: known here alone, never on the topic

    @property
    def final(self) -> bool:
        """Whether nothing follows."""
        return self.status in FINAL


encode_entry = msgspec.msgpack.Encoder().encode
_decode_entry = msgspec.msgpack.Decoder(Entry).decode


def decode_entry(raw: bytes) -> Entry:
    """Read a stored entry.

    Raises:
        StateError: torn bytes, or a newer format.
    """
    try:
        entry = _decode_entry(raw)
    except msgspec.MsgspecError as error:
        kind = type(error).__name__
        raise StateError(f"delivery state: torn entry ({kind}); delete the directory to rebuild it") from None
    if entry.format > FORMAT:
        raise StateError(f"delivery state: entry of a newer format (got {entry.format}); run the version that wrote it")
    return entry


# Keys: one letter, then big-endian numbers, so that ranges of one partition or of old times are contiguous.
#   e <partition> <command id>             -> entry
#   x <first_ms> <partition> <command id>  -> ""       what to drop, oldest first
#   o <partition>                          -> next offset of SENT_TOPIC to read
#   c                                      -> id of the cluster
def _entry_key(partition: int, command_id: str) -> bytes:
    return b"e" + struct.pack(">I", partition) + command_id.encode()


def _expiry_key(first_ms: int, partition: int, command_id: str) -> bytes:
    return b"x" + struct.pack(">QI", first_ms, partition) + command_id.encode()


def _offset_key(partition: int) -> bytes:
    return b"o" + struct.pack(">I", partition)


class DeliveryState:
    """The local store. Calls are synchronous and take microseconds; safe to use from several threads.

    Args:
        path: a directory of this process alone.
        cluster_id: of the Kafka cluster; a store of another cluster (or of an in-memory one that is gone) is emptied.
    """

    def __init__(self, path: Path, cluster_id: str) -> None:
        path.mkdir(parents=True, exist_ok=True)
        options = Options(raw_mode=True)
        options.create_if_missing(True)
        options.set_write_buffer_size(8 << 20)
        try:
            self._db: Any = Rdict(str(path), options)
        except Exception as error:  # rocksdict raises bare Exception
            text = str(error).splitlines()[0][:200]
            raise OperatorError(
                f"{path}: delivery state cannot be opened ({text}); stop the process that uses it, or delete the"
                " directory: it is rebuilt from Kafka"
            ) from None
        known = self._db.get(b"c")
        if known is not None and known != cluster_id.encode():
            self._clear()
        self._db[b"c"] = cluster_id.encode()

    def get(self, partition: int, command_id: str) -> Entry | None:
        """Return the last known step of a command."""
        raw = self._db.get(_entry_key(partition, command_id))
        return None if raw is None else decode_entry(raw)

    def put(self, partition: int, command_id: str, entry: Entry, offset: int) -> None:
        """Store a step that is in the topic at `offset`.

        The place to read on from moves only without a gap: what another worker may have written in between is read
        when the partition is taken again.
        """
        batch = WriteBatch(raw_mode=True)
        _put(batch, partition, command_id, entry)
        if self.next_offset(partition) == offset:
            batch.put(_offset_key(partition), struct.pack(">Q", offset + 1))
        self._db.write(batch)

    def next_offset(self, partition: int) -> int | None:
        """Return from where in SENT_TOPIC to read on; None: never read."""
        raw = self._db.get(_offset_key(partition))
        return None if raw is None else struct.unpack(">Q", raw)[0]

    def load(self, partition: int, entries: Iterable[tuple[str, Entry]], next_offset: int) -> None:
        """Store what was read from the topic up to `next_offset`, at once; which receipts are written stays known."""
        batch = WriteBatch(raw_mode=True)
        for command_id, entry in entries:
            known = self.get(partition, command_id) if entry.final else None
            told = known is not None and known.told and msgspec.structs.replace(entry, told=True) == known
            _put(batch, partition, command_id, known if known is not None and told else entry)
        batch.put(_offset_key(partition), struct.pack(">Q", next_offset))
        self._db.write(batch)

    def wipe(self, partition: int) -> None:
        """Forget a partition (its topic was replaced). Expiry marks stay behind and hit nothing."""
        low = b"e" + struct.pack(">I", partition)
        self._delete_range(low, _after(low))
        self._db.delete(_offset_key(partition))

    def purge(self, before_ms: int, limit: int = 100_000) -> int:
        """Drop up to `limit` commands whose first step is older than `before_ms`; return how many."""
        end = b"x" + struct.pack(">Q", max(0, before_ms))
        keys: list[bytes] = []
        for key in self._db.keys(from_key=b"x"):
            if key >= end or len(keys) >= limit:
                break
            keys.append(key)
        batch = WriteBatch(raw_mode=True)
        for key in keys:
            batch.delete(b"e" + key[9:])
            batch.delete(key)
        self._db.write(batch)
        return len(keys)

    def close(self) -> None:
        """Flush and release the directory."""
        self._db.close()

    def _clear(self) -> None:
        self._delete_range(b"", b"\xff")

    def _delete_range(self, low: bytes, high: bytes) -> None:
        batch = WriteBatch(raw_mode=True)
        batch.delete_range(low, high)
        self._db.write(batch)


def _put(batch: Any, partition: int, command_id: str, entry: Entry) -> None:
    batch.put(_entry_key(partition, command_id), encode_entry(entry))
    batch.put(_expiry_key(entry.first_ms, partition, command_id), b"")


def _after(prefix: bytes) -> bytes:
    return (int.from_bytes(prefix, "big") + 1).to_bytes(len(prefix), "big")


def restore(
    state: DeliveryState,
    kafka: Mapping[str, Any],
    partition: int,
    stopped: Callable[[], bool],
    topic: str = SENT_TOPIC,
) -> int:
    """Read a partition of what was sent from where the store stands to its end; return how many records. Blocks.

    Raises:
        KafkaException: the broker failed; call again.
        StateError: an entry of a newer format.
    """
    config = {**kafka, "group.id": "tidings-delivery-restore"}  # a name the client insists on; never joined
    config |= {"enable.auto.commit": False, "enable.partition.eof": True, "auto.offset.reset": "earliest"}
    config.pop("group.instance.id", None)
    with closing(Consumer(config)) as consumer:
        low, high = consumer.get_watermark_offsets(TopicPartition(topic, partition), timeout=10)
        start = state.next_offset(partition)
        if start is not None and start > high:
            state.wipe(partition)  # the topic is another one: deleted and made anew
            start = None
        if start is None or start < low:
            start = low
        if start >= high:
            state.load(partition, (), high)
            return 0
        consumer.assign([TopicPartition(topic, partition, start if start > 0 else OFFSET_BEGINNING)])
        return _read(consumer, state, partition, high, stopped)


def _read(consumer: Consumer, state: DeliveryState, partition: int, high: int, stopped: Callable[[], bool]) -> int:
    count = 0
    at = 0
    while at < high and not stopped():
        entries: list[tuple[str, Entry]] = []
        for message in consumer.consume(_RESTORE_BATCH, 0.5):
            error = message.error()
            if error is not None and error.code() == KafkaError._PARTITION_EOF:  # noqa: SLF001  the library's own name
                at = max(at, message.offset() or 0)
                continue
            if error is not None:
                raise KafkaException(error)
            at = (message.offset() or 0) + 1
            key, value = message.key(), message.value()
            if key and value:
                entries.append((bytes(key).decode(), decode_entry(bytes(value))))
        if entries or at >= high:
            state.load(partition, entries, at)
            count += len(entries)
    return count
