"""Records that their topic would refuse do not end the worker."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from confluent_kafka import Producer

from agents.letters import LETTER_BYTES_MAX, OUTPUT_BYTES_MAX, fitting, hash_of
from agents.topics import COMMANDS, DEAD_LETTERS, EVENTS
from schemas.codec import dead_letter_from, encode_event
from schemas.events import Event
from schemas.records import DeadLetter
from streams.engine import PartitionEngine
from streams.epoch import Epoch
from tests.agents.counting_engine import CountingEngine
from tests.agents.engine_bench import applied, in_thread, produce, read_all, start_broker, until, worker
from tests.agents.test_engine_worker import running
from tidings.brokers.memory import MemoryBroker

LOG = [("ann", b"{}"), ("bob", b"{}")] * 3  # the third event of a member makes its command


@pytest.fixture
def broker() -> Iterator[MemoryBroker]:
    with start_broker() as started:
        yield started


class Talkative(CountingEngine):
    """Ann's commands are larger than the topic takes."""

    size = OUTPUT_BYTES_MAX

    def run(self, records: Any) -> Epoch:
        epoch = super().run(records)
        for command in epoch.commands:
            if command.member_id == "ann":
                command.data = {"text": "x" * self.size}  # type: ignore[union-attr]
        return epoch


def letters(bootstrap: str) -> list[DeadLetter]:
    return [dead_letter_from(m.headers(), m.key(), m.value()) for m in read_all(bootstrap, DEAD_LETTERS)]


@pytest.mark.parametrize(("size", "kept"), [(OUTPUT_BYTES_MAX, True), (LETTER_BYTES_MAX, False)])
async def test_an_output_too_large_for_its_topic_is_a_dead_letter_and_the_others_leave(
    broker: MemoryBroker, tmp_path: Path, size: int, kept: bool
) -> None:
    class Engine(Talkative):
        pass

    Engine.size = size
    async with running(worker(broker.bootstrap, tmp_path, Engine)) as built:
        await in_thread(produce, broker.bootstrap, LOG)
        await until(lambda: applied(built) == len(LOG), "all events applied")
        assert built.metrics.dead_letters == {"too-large-output": 1}
        assert built.metrics.commands == 1
    (command,) = await in_thread(read_all, broker.bootstrap, COMMANDS)
    assert command.key() == b"bob"
    (letter,) = await in_thread(letters, broker.bootstrap)
    assert (letter.topic, letter.offset, letter.reason, letter.key) == ("commands", -1, "too-large-output", b"ann")
    assert hash_of(b"ann") in letter.message and "ann" not in letter.message
    if kept:
        assert msgspec.json.decode(letter.value or b"")["data"] == {"text": "x" * size}
    else:
        assert letter.value is None
        assert "too many to be kept" in letter.message


async def test_an_event_that_even_dead_letters_cannot_hold_is_named_without_its_bytes(
    broker: MemoryBroker, tmp_path: Path
) -> None:
    def send_large() -> None:
        producer = Producer(
            {"bootstrap.servers": broker.bootstrap, "partitioner": "murmur2_random", "message.max.bytes": 8 << 20,
             "compression.type": "zstd"}
        )  # fmt: skip
        producer.produce(EVENTS, b" " * (3 << 20), "ann")
        producer.produce(EVENTS, encode_event(Event("app.opened", 1, "e1", "ann")), "ann")
        assert producer.flush(10) == 0

    async with running(worker(broker.bootstrap, tmp_path, PartitionEngine)) as built:
        await in_thread(send_large)
        await until(lambda: applied(built) == 2, "both applied")
        assert built.metrics.dead_letters == {"too-large": 1}
    (letter,) = await in_thread(letters, broker.bootstrap)
    assert (letter.topic, letter.offset, letter.key, letter.value) == ("events", 0, b"ann", None)
    assert f"its {3 << 20} bytes are too many to be kept here" in letter.message


def test_a_letter_at_the_bound_keeps_its_bytes_and_one_beyond_does_not() -> None:
    def letter(size: int) -> DeadLetter:
        return DeadLetter("events", 0, 7, "too-large", "m", 1, b"k", b"x" * (size - 1))

    assert fitting(letter(LETTER_BYTES_MAX)) == letter(LETTER_BYTES_MAX)
    assert fitting(letter(LETTER_BYTES_MAX + 1)).value is None
