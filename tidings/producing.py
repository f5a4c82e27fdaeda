"""Sending records to the broker from a command: keyed as every producer of ours, counted, with errors reported."""

import contextlib
import time
import uuid
from typing import Any

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from agents.topics import MESSAGE_BYTES_MAX
from schemas.errors import OperatorError
from streams.patterns.durations import format_duration
from tidings.config import Settings

ANSWER_SECONDS = 10.0
MESSAGE_TIMEOUT_MS = 60_000  # a record not taken within a minute is reported as failed
QUEUE_RECORDS = 100_000
ERRORS_NAMED = 5
ATOMIC_MS = 15 * 60_000  # what Kafka allows a transaction unless its settings say otherwise
TRANSACTION_REMEDY = {
    KafkaError.INVALID_TRANSACTION_TIMEOUT: "give it less time, or raise the brokers' transaction.max.timeout.ms",
    KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED: "allow our user Write on transactional ids tidings-produce-*",
    KafkaError.CLUSTER_AUTHORIZATION_FAILED: "allow our user IdempotentWrite on the cluster",
}
NO_COORDINATOR = (
    "try again; if that stays, see that the brokers can make their topic __transaction_state: it needs as many brokers"
    " as transaction.state.log.replication.factor says"
)


class Sender:
    """A producer that counts what the broker took. `failed`: how many it did not; `errors`: why, each reason once."""

    def __init__(self, settings: Settings, topic: str, *, atomic_ms: int = 0) -> None:
        """Connect and look at the topic.

        Args:
            settings: how to reach the broker.
            topic: where the records go.
            atomic_ms: send all in one transaction: readers see every record, or none, and none before `commit`. So
                nothing that follows from the first of them stands in the log before the last. All must be sent in as
                long; readers of the topic see nothing that others send meanwhile either.

        Raises:
            OperatorError: the broker is out of reach, has no such topic, or gives no transaction (exit code 3).
        """
        self.topic = topic
        self.sent = 0
        self.taken = 0
        self.failed = 0
        self.errors: dict[str, int] = {}
        self.over = False  # the time of the transaction
        self._atomic_ms = atomic_ms
        config = settings.confluent(
            log_level=0,  # what goes wrong is counted and reported by us
            enable_idempotence=True,  # a retry after a lost ack is not a second event
            partitioner="murmur2_random",  # as Java clients and Faust: one member, one partition, whoever produces
            linger_ms=5,
            compression_type="zstd",
            message_timeout_ms=min(MESSAGE_TIMEOUT_MS, atomic_ms or MESSAGE_TIMEOUT_MS),
            message_max_bytes=MESSAGE_BYTES_MAX,  # what the topic takes; the client's default is less
            queue_buffering_max_messages=QUEUE_RECORDS,
        )
        if atomic_ms:
            config |= {
                "transactional.id": f"tidings-produce-{uuid.uuid4()}",
                "transaction.timeout.ms": atomic_ms,
            }
        self._producer = Producer(config)
        self.partitions = self._partitions(settings)
        if atomic_ms:
            try:
                self._producer.init_transactions(ANSWER_SECONDS)
                self._producer.begin_transaction()
            except KafkaException as error:
                raise no_transaction(topic, error.args[0], atomic_ms) from None
        # The last tenth, at most half a minute, is for what is under way, and for the commit.
        self._until = time.monotonic() + (atomic_ms - min(atomic_ms // 10, 30_000)) / 1000

    @property
    def broken(self) -> bool:
        """Whether nothing that an atomic sender still sends can come to anything."""
        if self._atomic_ms and not self.over:
            self.over = time.monotonic() > self._until
        return bool(self._atomic_ms) and (self.over or self.failed > 0)

    def send(
        self, value: bytes, key: bytes | None, *, partition: int = -1, headers: dict[str, bytes] | None = None
    ) -> None:
        """Hand a record to the client; waits while its queue is full."""
        more: dict[str, Any] = {"headers": headers} if headers else {}
        if partition >= 0:
            more["partition"] = partition
        while True:
            try:
                self._producer.produce(self.topic, value, key, on_delivery=self._answered, **more)
            except BufferError:
                self._producer.poll(0.1)
            except KafkaException as error:  # refused by the client itself: too large
                self._failed(error.args[0])
                break
            else:
                break
        self.sent += 1
        if self.sent % 256 == 0:
            self._producer.poll(0)

    def flush(self, seconds: float = MESSAGE_TIMEOUT_MS / 1000 + 5) -> None:
        """Wait until every record is answered; what is not by then counts as failed."""
        left = self._producer.flush(seconds)
        if left:
            self.failed += left
            self.errors["no answer"] = left

    def commit(self) -> None:
        """End the transaction of an atomic sender. Where a record was not taken in time, none of them is sent."""
        self.flush()
        if not self.broken:
            try:
                self._producer.commit_transaction(MESSAGE_TIMEOUT_MS / 1000)
            except KafkaException as error:
                self._failed(error.args[0])
        if self.broken:
            self.abort()

    def abort(self) -> None:
        """Take back what an atomic sender sent; all of it counts as failed."""
        with contextlib.suppress(KafkaException):  # the broker takes it back by itself when its time is over
            self._producer.abort_transaction(ANSWER_SECONDS)
        self.failed, self.taken = max(self.sent, self.failed), 0

    def poll(self, seconds: float) -> None:
        """Serve answers for a while."""
        self._producer.poll(seconds)

    def trouble(self) -> str:
        """Say in one line what was not taken; "" if all was."""
        if not self.failed:
            return ""
        reasons = ", ".join(f"{reason} ({count:,})" for reason, count in list(self.errors.items())[:ERRORS_NAMED])
        counts = f"{self.failed:,} of {self.sent:,} records"
        if self.over:
            bound = format_duration(self._atomic_ms)
            return (
                f"topic '{self.topic}': the file was not sent within {bound}, so none of it counts (got {counts} taken"
                " back); give it more time, which the brokers' transaction.max.timeout.ms must allow, or send it from"
                " nearer to them"
            )
        return f"topic '{self.topic}': {counts} were not taken (got {reasons}); send them again"

    def forget(self) -> None:
        """Begin to count anew."""
        self.sent = self.taken = self.failed = 0
        self.errors = {}

    def _partitions(self, settings: Settings) -> int:
        try:
            found = self._producer.list_topics(self.topic, timeout=ANSWER_SECONDS).topics[self.topic]
        except KafkaException as error:
            reason = error.args[0]
            raise OperatorError(
                f"TIDINGS_BROKER: no useful answer from {settings.bootstrap} (got {reason.name()}); start the broker,"
                " or correct its address",
                exit_code=3,
            ) from None
        if found.error is not None or not found.partitions:
            raise OperatorError(
                f"topic '{self.topic}': the broker does not have it; run 'python -m tidings topics create'", exit_code=3
            )
        return len(found.partitions)

    def _answered(self, error: KafkaError | None, message: Message) -> None:
        if error is None:
            self.taken += 1
        else:
            self._failed(error)

    def _failed(self, error: KafkaError) -> None:
        self.failed += 1
        self.errors[error.name()] = self.errors.get(error.name(), 0) + 1


def no_transaction(topic: str, error: KafkaError, atomic_ms: int) -> OperatorError:
    """Say why the brokers began no transaction, and what to do."""
    remedy = TRANSACTION_REMEDY.get(error.code(), NO_COORDINATOR)
    return OperatorError(
        f"topic '{topic}': the brokers began no transaction of {format_duration(atomic_ms)}"
        f" (got {error.name()}: {error.str()}); {remedy}",
        exit_code=3,
    )
