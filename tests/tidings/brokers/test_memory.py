import subprocess
import sys
import time
from collections.abc import Iterator

import pytest
from aiokafka import AIOKafkaConsumer
from confluent_kafka import TIMESTAMP_CREATE_TIME, Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient

from agents.topics import TOPICS, partitions_of
from schemas.errors import OperatorError
from tidings.brokers import admin, attach, open_broker
from tidings.brokers.memory import MemoryBroker
from tidings.config import Settings


@pytest.fixture
def broker() -> Iterator[MemoryBroker]:
    with MemoryBroker({"events": 3}) as running:
        yield running


def settings_of(broker: MemoryBroker) -> Settings:
    return Settings().with_broker(broker.bootstrap)


def produce(broker: MemoryBroker, count: int = 1, *, topic: str = "events", value: bytes = b"v", **more) -> None:
    producer = Producer(settings_of(broker).confluent(log_level=0, **more))
    for index in range(count):
        producer.produce(topic, value, str(index), partition=0, timestamp=1_000 + index)
        if index % 100 == 99:
            producer.flush(10)
    assert producer.flush(10) == 0


def read(broker: MemoryBroker, count: int, group: str = "g") -> list:
    consumer = Consumer(settings_of(broker).confluent_consumer(group, log_level=0))
    consumer.assign([TopicPartition("events", 0, 0)])
    found: list = []
    until = time.monotonic() + 10
    while len(found) < count and time.monotonic() < until:
        found += consumer.consume(count, timeout=0.2)
    consumer.close()
    return found


def partitions(broker: MemoryBroker, topic: str) -> int:
    metadata = AdminClient(settings_of(broker).confluent(log_level=0)).list_topics(topic, timeout=5)
    return len(metadata.topics[topic].partitions)


def test_declared_topic_has_its_partitions_and_an_unknown_one_gets_four(broker):
    assert partitions(broker, "events") == 3
    assert partitions(broker, "surprise") == 4


def test_topic_that_exists_cannot_be_created_again(broker):
    with pytest.raises(OperatorError, match="topic 'events': could not be created"):
        broker.create_topic("events", 5)


def test_listens_on_loopback_only_and_says_that_nothing_is_kept(broker):
    assert broker.bootstrap.startswith("127.0.0.1:")
    assert broker.keeps is False
    assert "nothing is kept" in broker.note


def test_another_process_can_use_it(broker):
    code = (
        "import sys; from confluent_kafka import Producer; p = Producer({'bootstrap.servers': sys.argv[1]});"
        "p.produce('events', b'from afar', partition=0); sys.exit(p.flush(10))"
    )
    subprocess.run([sys.executable, "-c", code, broker.bootstrap], check=True, timeout=30)
    assert read(broker, 1)[0].value() == b"from afar"


def test_timestamps_are_the_producers(broker):
    produce(broker)
    assert read(broker, 1)[0].timestamp() == (TIMESTAMP_CREATE_TIME, 1_000)


def test_committed_offset_and_its_metadata_come_back(broker):
    consumer = Consumer(settings_of(broker).confluent_consumer("g", log_level=0))
    consumer.subscribe(["events"])
    until = time.monotonic() + 10
    while not consumer.assignment() and time.monotonic() < until:
        consumer.poll(0.05)
    consumer.commit(offsets=[TopicPartition("events", 1, 7, "clock=5")], asynchronous=False)
    (found,) = consumer.committed([TopicPartition("events", 1)], timeout=5)
    consumer.close()
    assert (found.offset, found.metadata) == (7, "clock=5")


@pytest.mark.parametrize("codec", ["none", "gzip", "snappy", "lz4", "zstd"])
async def test_aiokafka_reads_every_codec_of_an_idempotent_librdkafka_producer(broker, codec):
    produce(broker, 50, value=b"v" * 200, compression_type=codec, enable_idempotence=True, linger_ms=50)
    consumer = AIOKafkaConsumer("events", bootstrap_servers=broker.bootstrap, auto_offset_reset="earliest")
    await consumer.start()
    found = [await consumer.getone() for _ in range(50)]
    await consumer.stop()
    assert [int(record.key) for record in found] == list(range(50))


async def delay_of_one_record(broker: MemoryBroker, fetch_wait_ms: int) -> float:
    """Seconds until a record that arrives during an empty fetch is seen."""
    consumer = AIOKafkaConsumer("events", bootstrap_servers=broker.bootstrap, fetch_max_wait_ms=fetch_wait_ms)
    await consumer.start()
    await consumer.getmany(timeout_ms=150)
    produce(broker)
    started = time.monotonic()
    while not await consumer.getmany(timeout_ms=100):
        pass
    waited = time.monotonic() - started
    await consumer.stop()
    return waited


async def test_record_is_seen_only_after_the_whole_wait_of_an_empty_fetch(broker):
    assert await delay_of_one_record(broker, 1_500) > 0.5
    assert await delay_of_one_record(broker, settings_of(broker).fetch_wait_ms) < 0.5


def test_only_the_newest_five_mebibytes_of_a_partition_stay(broker):
    produce(broker, 700, value=bytes(10_000), compression_type="none")
    consumer = Consumer(settings_of(broker).confluent_consumer("g", log_level=0))
    low, high = consumer.get_watermark_offsets(TopicPartition("events", 0), timeout=5)
    consumer.close()
    assert high == 700
    assert 400 * 10_000 < (high - low) * 10_000 < 6 * 1024 * 1024


def test_member_that_left_comes_back_after_its_session_time(broker):
    """Pins why sessions are short here: a real broker would take it back at once."""
    produce(broker)
    for index in range(2):
        consumer = Consumer(settings_of(broker).confluent_consumer("g", log_level=0, session_timeout_ms=2_000))
        consumer.subscribe(["events"])
        started = time.monotonic()
        while consumer.poll(0.05) is None and time.monotonic() - started < 10:
            pass
        waited = time.monotonic() - started
        consumer.close()
        assert (waited > 0.7) == bool(index)


def test_broker_that_is_down_for_a_while_keeps_what_it_holds(broker):
    produce(broker, 1)
    producer = Producer(settings_of(broker).confluent(log_level=0, reconnect_backoff_max_ms=100))
    broker.set_reachable(False)
    producer.produce("events", b"late", partition=0)
    assert producer.flush(0.5) == 1
    broker.set_reachable(True)
    assert producer.flush(10) == 0
    assert [message.value() for message in read(broker, 2)] == [b"v", b"late"]


def test_stop_twice_is_harmless_and_a_stopped_broker_says_so():
    broker = MemoryBroker()
    broker.stop()
    broker.stop()
    with pytest.raises(OperatorError, match="has been stopped"):
        broker.create_topic("x", 1)


def test_open_broker_makes_every_declared_topic():
    settings = Settings.from_env({"TIDINGS_PARTITIONS": "5"})
    with open_broker(settings) as broker:
        running = settings.with_broker(broker.bootstrap)
        assert [state.partitions for state in admin.describe(running)] == [partitions_of(spec, 5) for spec in TOPICS]
        assert admin.check(running) == []
        assert set(admin.create_topics(running).values()) == {"exists"}


def test_check_finds_other_partitions_on_the_memory_broker(broker):
    found = admin.check(settings_of(broker))
    assert ("events", "partitions", "8", "3") in {(d.topic, d.setting, d.declared, d.actual) for d in found}


def test_address_of_a_running_broker_attaches_and_its_stop_leaves_it_running(broker):
    with open_broker(settings_of(broker)) as attached:
        assert (attached.kind, attached.keeps, attached.bootstrap) == ("memory", False, broker.bootstrap)
    assert partitions(broker, "events") == 3


def test_memory_broker_of_another_process_cannot_be_attached_without_its_address():
    with pytest.raises(OperatorError, match=r"TIDINGS_BROKER=memory://host:port") as caught:
        attach(Settings())
    assert caught.value.exit_code == 3


def test_broker_that_does_not_answer_is_named_with_a_remedy():
    with MemoryBroker() as gone:
        settings = settings_of(gone)
    with pytest.raises(OperatorError, match=f"TIDINGS_BROKER: no useful answer from {settings.bootstrap}") as caught:
        admin.check(settings, timeout_s=0.5)
    assert caught.value.exit_code == 3
