"""What is known of one-time codes, kept on the topic `tidings-otp-state`, together with the commands that send them.

Each step is one transaction of Kafka: the records, the command and the event, or none of them. A code is told to nobody
before its hash is durable, and an attempt is counted before its answer. One process at a time writes: who starts takes
over, and the one before is refused by the broker from then on (`transactional.id`), so that it cannot accept a code by
what it remembers.
"""

import time
from collections.abc import Iterable, Mapping
from typing import Any

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, Producer, TopicPartition

from agents.topics import COMMANDS_OF, EVENTS, OTP_STATE
from schemas.codec import encode_command, encode_event
from schemas.commands import SendMessage, lane_of
from schemas.errors import StateError
from schemas.events import Event

TRANSACTIONAL_ID = "tidings-otp"  # permanent: a process that had another one would not end the one before
TRANSACTION_MS = 15_000
COMMIT_S = 10.0
START_S = 60.0
READ_S = 60.0
_PRODUCER_LACKS = ("session.", "heartbeat.", "group.", "fetch.", "max.poll.", "auto.", "queued.")


class OtpLog:
    """The one writer. Blocks; for one thread at a time. Make it, `read` once, then `write`."""

    def __init__(self, kafka: Mapping[str, Any]) -> None:
        self._kafka = dict(kafka)
        plain = {name: value for name, value in kafka.items() if not name.startswith(_PRODUCER_LACKS)}
        self._producer = Producer(
            {
                **plain,
                "partitioner": "murmur2_random",  # as Java and Faust: equal members, equal partitions
                "transactional.id": TRANSACTIONAL_ID,
                "transaction.timeout.ms": TRANSACTION_MS,
                "linger.ms": 0,
            }
        )

    def read(self) -> dict[str, bytes]:
        """Take over from whoever wrote before, and read all that is known.

        Raises:
            KafkaException: the broker refuses us or does not answer.
            StateError: the topic was not read to its end in time.
        """
        self._producer.init_transactions(START_S)  # first: from here on nobody else adds anything
        settings = {**self._kafka, "group.id": "tidings-otp-restore", "enable.auto.commit": False}
        settings |= {"enable.partition.eof": True, "isolation.level": "read_committed"}
        settings.pop("group.instance.id", None)
        consumer = Consumer(settings)
        known: dict[str, bytes] = {}
        try:
            consumer.assign([TopicPartition(OTP_STATE, 0, OFFSET_BEGINNING)])
            until = time.monotonic() + READ_S
            while time.monotonic() < until:
                for message in consumer.consume(1_000, 0.2):
                    error = message.error()
                    if error is not None and error.code() == KafkaError._PARTITION_EOF:  # noqa: SLF001 its own name
                        return known
                    if error is not None:
                        raise KafkaException(error)
                    key, value = message.key(), message.value()
                    if key and value:
                        known[bytes(key).decode()] = bytes(value)
        finally:
            consumer.close()
        raise StateError(f"topic {OTP_STATE}: not read to its end; see that the broker answers, and start again")

    def write(self, records: Mapping[str, bytes], commands: Iterable[SendMessage], events: Iterable[Event]) -> None:
        """Write all of it or nothing; returns once it is durable.

        Raises:
            BufferError: too much waits for the broker; nothing was written.
            KafkaException: it is not known whether it was written, or another process has taken over. What is known
                must be read again: end the process.
        """
        producer = self._producer
        failed: list[KafkaError] = []

        def done(error: KafkaError | None, _: object) -> None:
            if error is not None:
                failed.append(error)

        producer.begin_transaction()
        try:
            for key, value in records.items():
                producer.produce(OTP_STATE, value, key, 0, on_delivery=done)
            for command in commands:
                topic = COMMANDS_OF[lane_of(command)]
                producer.produce(topic, encode_command(command), command.member_id, on_delivery=done)
            for event in events:
                producer.produce(EVENTS, encode_event(event), event.member_id, on_delivery=done)
        except BufferError:
            producer.abort_transaction(COMMIT_S)  # else none could be begun any more
            raise
        producer.commit_transaction(COMMIT_S)
        if failed:
            raise KafkaException(failed[0])

    def close(self) -> None:
        """Leave; what was not committed never was."""
        self._producer.purge()
