"""Dead letters on librdkafka's in-memory cluster: real client, real protocol."""

from collections.abc import Iterator
from typing import Any

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition

from schemas.codec import dead_letter_headers
from schemas.errors import OperatorError
from schemas.records import DeadLetter
from sinks import dead_letters as module
from sinks.dead_letters import DISCARDED, OPEN, REPLAYED, REPLAYING, DeadLetters, StoredLetter, select
from tidings.brokers.memory import MemoryBroker

AT = 1_795_255_200_123


@pytest.fixture
def config() -> Iterator[dict[str, Any]]:
    broker = MemoryBroker({"events": 2, "dead-letters": 2})
    yield {"bootstrap.servers": broker.bootstrap, "fetch.wait.max.ms": 20}
    broker.stop()


def letter(offset: int, value: bytes | None, *, reason: str = "not-json", partition: int = 1) -> DeadLetter:
    return DeadLetter("events", partition, offset, reason, f"event: {reason}", AT + offset, b"m-1", value)


def put(config: dict[str, Any], *letters: DeadLetter) -> None:
    producer = Producer(config)
    for given in letters:
        headers = dead_letter_headers(given)
        producer.produce("dead-letters", given.value, given.key, given.partition, headers=list(headers))
    assert producer.flush(10) == 0


def written_back(config: dict[str, Any], partition: int = 1) -> list[tuple[bytes | None, bytes | None, Any]]:
    consumer = Consumer(config | {"group.id": "test", "auto.offset.reset": "earliest"})
    place = TopicPartition("events", partition, 0)
    high = consumer.get_watermark_offsets(place, timeout=10)[1]
    consumer.assign([place])
    found = [message for _ in range(high) if (message := consumer.poll(10)) is not None]
    consumer.close()
    return [(message.key(), message.value(), message.headers()) for message in found]


def states(config: dict[str, Any]) -> list[str]:
    return [stored.state for stored in DeadLetters(config).read()]


def test_letters_are_read_as_they_were_written_oldest_first(config: dict[str, Any]) -> None:
    two, one = letter(2, b"\xff\x00"), letter(1, None, partition=0)
    put(config, two, one)
    found = DeadLetters(config).read()
    assert [stored.letter for stored in found] == [one, two]
    assert [(stored.id, stored.state) for stored in found] == [("0/0", OPEN), ("1/0", OPEN)]


def test_no_letters_is_an_empty_list(config: dict[str, Any]) -> None:
    assert DeadLetters(config).read() == []


def test_a_replay_gives_back_bytes_key_and_partition_and_says_where_from(config: dict[str, Any]) -> None:
    put(config, letter(5, b"\xff\x00{"))
    store = DeadLetters(config)
    assert store.replay(store.read()) == 1
    assert written_back(config) == [(b"m-1", b"\xff\x00{", [("replayed_from", b"dead-letters/1/0")])]
    assert states(config) == [REPLAYED]


def test_a_tombstone_goes_back_as_a_tombstone(config: dict[str, Any]) -> None:
    put(config, letter(5, None, reason="empty"))
    store = DeadLetters(config)
    store.replay(store.read())
    assert written_back(config)[0][1] is None


def test_a_second_replay_sends_nothing(config: dict[str, Any]) -> None:
    put(config, letter(5, b"x"))
    for expected in (1, 0):
        store = DeadLetters(config)
        assert store.replay(store.read()) == expected
    assert len(written_back(config)) == 1


class Crash(Exception):
    """The process ends here."""


@pytest.mark.parametrize(("survived_writes", "sent_by_second"), [(1, 1), (2, 0)])
def test_a_replay_cut_off_by_a_crash_is_finished_once(
    config: dict[str, Any], monkeypatch: pytest.MonkeyPatch, survived_writes: int, sent_by_second: int
) -> None:
    put(config, letter(5, b"x"))
    store = DeadLetters(config)
    write = DeadLetters._write
    count = 0

    def dies(self: DeadLetters, *args: Any) -> None:
        nonlocal count
        if count == survived_writes:
            raise Crash
        count += 1
        write(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(DeadLetters, "_write", dies)
        with pytest.raises(Crash):
            store.replay(store.read())
    assert states(config) == [REPLAYING]
    again = DeadLetters(config)
    assert again.replay(again.read()) == sent_by_second
    assert len(written_back(config)) == 1
    assert states(config) == [REPLAYED]


def test_a_discarded_letter_is_not_replayed_and_stays_discarded(config: dict[str, Any]) -> None:
    put(config, letter(5, b"x"), letter(6, b"y"))
    store = DeadLetters(config)
    assert store.discard(store.read()[:1]) == 1
    assert states(config) == [DISCARDED, OPEN]
    assert store.replay(store.read()) == 1
    assert [value for _, value, _ in written_back(config)] == [b"y"]


def test_records_that_are_no_letters_are_passed_over(config: dict[str, Any]) -> None:
    producer = Producer(config)
    producer.produce("dead-letters", b"stray", partition=0)
    producer.flush(10)
    put(config, letter(5, b"x"))
    assert len(DeadLetters(config).read()) == 1


def test_selection_is_by_id_reason_topic_and_state() -> None:
    letters = [StoredLetter("0/0", letter(0, b"x")), StoredLetter("0/1", letter(1, b"", reason="empty"), DISCARDED)]
    assert select(letters) == letters
    assert select(letters, ["0/1"]) == letters[1:]
    assert select(letters, reason="empty") == letters[1:]
    assert select(letters, topic="commands") == []
    assert select(letters, states=module.UNDECIDED) == letters[:1]
    with pytest.raises(OperatorError, match="dead letter 9/9"):
        select(letters, ["9/9"])


def test_a_broker_out_of_reach_says_what_to_do() -> None:
    with pytest.raises(OperatorError, match="check TIDINGS_BROKER") as caught:
        DeadLetters({"bootstrap.servers": "127.0.0.1:9"}, timeout_s=0.5).read()
    assert caught.value.exit_code == 3
