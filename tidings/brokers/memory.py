"""Broker `memory`: librdkafka's in-memory cluster, inside the library that confluent-kafka already loaded.

It listens on 127.0.0.1 with a free port and speaks Kafka's protocol, so any client in any process of this machine can
use it. Nothing is kept after `stop()`. It is made for tests of clients, and its limits are real (each is pinned by a
test):

- Topics are made here at start with their partitions; any other name appears on first use with 4. There is no
  CreateTopics, DescribeConfigs, DeleteRecords, ListGroups (an admin client times out) and no search of offsets by time
  (answers: end).
- Retention is not configurable: the newest 5 MiB of batches *as sent* (compression counts) and 100,000 batches per
  partition. Reading below that answers OFFSET_OUT_OF_RANGE. Batches stay below 2 MiB, or all but the newest may go.
  There is no compaction: a changelog only keeps its newest 5 MiB.
- Timestamps are the producer's (CreateTime), never LogAppendTime; the timestamp in a produce *answer* is 1234, a
  constant. The size of a message is not limited here.
- A fetch returns one producer's batch per partition, and **an empty fetch is answered only after the whole
  `fetch.wait.max.ms`, even if a record arrives meanwhile**: ask for `FETCH_WAIT_MS`. Faust's fixed 1.5 s must be
  overridden.
- **One live member per consumer group.** With two, the second's SyncGroup is often refused and the group never settles;
  two members with other assignment protocols abort the process. A member that comes back waits for session timeout - 1
  s after a clean leave, for twice that after a crash or with `group.instance.id` (static membership is not understood:
  leave it out). So sessions are short here (`Settings.group_session_timeout_ms`) and readers without a group use
  `assign()`.
- Offsets with metadata, idempotent producers, headers, gzip, snappy, lz4 and zstd work, for librdkafka and aiokafka.
"""

import contextlib
import ctypes
import socket
import threading
from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import Any

import confluent_kafka.cimpl

from schemas.errors import OperatorError
from tidings.config import MEMORY_FETCH_WAIT_MS

# What consumers should ask for (see above): the price is one request per consumer in that time while nothing happens.
FETCH_WAIT_MS = MEMORY_FETCH_WAIT_MS
PRODUCER = 0  # RD_KAFKA_PRODUCER in rdkafka.h
NUDGE_S = 0.005
REBALANCE_DELAY_MS = 0  # the mock's own default of 3 s makes each start of a worker wait

_POINTER = ctypes.c_void_p
_SIGNATURES: Mapping[str, tuple[Any, list[Any]]] = {  # as declared in rdkafka.h and rdkafka_mock.h: result, arguments
    "rd_kafka_conf_new": (_POINTER, []),
    "rd_kafka_conf_set": (ctypes.c_int, [_POINTER, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_size_t]),
    "rd_kafka_new": (_POINTER, [ctypes.c_int, _POINTER, ctypes.c_char_p, ctypes.c_size_t]),
    "rd_kafka_destroy": (None, [_POINTER]),
    "rd_kafka_mock_cluster_new": (_POINTER, [_POINTER, ctypes.c_int]),
    "rd_kafka_mock_cluster_destroy": (None, [_POINTER]),
    "rd_kafka_mock_cluster_bootstraps": (ctypes.c_char_p, [_POINTER]),
    "rd_kafka_mock_topic_create": (ctypes.c_int, [_POINTER, ctypes.c_char_p, ctypes.c_int, ctypes.c_int]),
    "rd_kafka_mock_group_initial_rebalance_delay_ms": (None, [_POINTER, ctypes.c_int32]),
    "rd_kafka_mock_broker_set_down": (ctypes.c_int, [_POINTER, ctypes.c_int32]),
    "rd_kafka_mock_broker_set_up": (ctypes.c_int, [_POINTER, ctypes.c_int32]),
}


def _library() -> ctypes.CDLL:
    """Open librdkafka through confluent-kafka's own extension module: a lookup in it also searches what it links to."""
    try:
        library = ctypes.CDLL(confluent_kafka.cimpl.__file__)
        for name, (result, arguments) in _SIGNATURES.items():
            function = getattr(library, name)
            function.restype, function.argtypes = result, arguments
    except (OSError, AttributeError) as error:
        raise OperatorError(
            f"broker 'memory': this build of confluent-kafka has no in-memory cluster (got {error}); install its"
            " wheel, or set TIDINGS_BROKER to local or to host:port",
            exit_code=3,
        ) from None
    return library


class MemoryBroker:
    """One in-memory broker; a context manager. Starts in a few ms, in threads of librdkafka.

    Args:
        topics: partitions by topic name, made at start. Other names appear on first use with 4 partitions.
    """

    kind = "memory"
    keeps = False
    note = "in memory: nothing is kept after exit"

    def __init__(self, topics: Mapping[str, int] | None = None) -> None:
        self._library = _library()
        self._client: int | None = None
        self._cluster: int | None = None
        error = ctypes.create_string_buffer(512)
        conf = self._library.rd_kafka_conf_new()
        # The client that carries the cluster never connects anywhere; without this it says so on stderr.
        self._library.rd_kafka_conf_set(conf, b"log_level", b"0", error, len(error))
        self._client = self._library.rd_kafka_new(PRODUCER, conf, error, len(error))
        if self._client:
            self._cluster = self._library.rd_kafka_mock_cluster_new(self._client, 1)
        if not self._cluster:
            raise OperatorError(
                f"broker 'memory': did not start (got {error.value.decode(errors='replace')!r});"
                " check that this process may listen on 127.0.0.1",
                exit_code=3,
            )
        self._library.rd_kafka_mock_group_initial_rebalance_delay_ms(self._cluster, REBALANCE_DELAY_MS)
        self.bootstrap: str = self._library.rd_kafka_mock_cluster_bootstraps(self._cluster).decode()
        with self._nudged():
            for name, partitions in (topics or {}).items():
                self._create(name, partitions)

    def create_topic(self, name: str, partitions: int) -> None:
        """Create a topic.

        Raises:
            OperatorError: it exists, or was already asked for by a client and so exists with 4 partitions.
        """
        with self._nudged():
            self._create(name, partitions)

    def _create(self, name: str, partitions: int) -> None:
        code = self._library.rd_kafka_mock_topic_create(self._running(), name.encode(), partitions, 1)
        if code:
            raise OperatorError(
                f"broker 'memory', topic '{name}': could not be created (got code {code}, 36 = exists);"
                " create topics before the first client asks for them"
            )

    def set_reachable(self, reachable: bool) -> None:
        """Drop and refuse connections, or accept them again: a broker that is down for a while. What it holds stays."""
        function = "rd_kafka_mock_broker_set_up" if reachable else "rd_kafka_mock_broker_set_down"
        with self._nudged():
            getattr(self._library, function)(self._running(), 1)

    def stop(self) -> None:
        """Stop and forget everything. Idempotent."""
        cluster, client, self._cluster, self._client = self._cluster, self._client, None, None
        if cluster:
            with self._nudged():
                self._library.rd_kafka_mock_cluster_destroy(cluster)
        if client:
            self._library.rd_kafka_destroy(client)

    @contextlib.contextmanager
    def _nudged(self) -> Iterator[None]:
        """Wake the cluster's thread while calls wait for it: it misses one in a few, and would sleep on for a second.

        A connection wakes it for sure. Nothing is sent on it.
        """
        host, _, port = self.bootstrap.partition(":")
        over = threading.Event()

        def nudge() -> None:
            while not over.wait(NUDGE_S):
                with contextlib.suppress(OSError):  # it is down, or gone
                    socket.create_connection((host, int(port)), 1).close()

        thread = threading.Thread(target=nudge, daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    def _running(self) -> int:
        if not self._cluster:
            raise OperatorError("broker 'memory': has been stopped; start another one, the contents are gone")
        return self._cluster

    def __enter__(self) -> "MemoryBroker":
        """Return the running broker."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop."""
        self.stop()
