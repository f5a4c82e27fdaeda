"""Topics on a real Kafka: what `admin` and the command line make of them."""

import dataclasses
import json
import time

import pytest
from click.testing import CliRunner
from confluent_kafka import (
    TIMESTAMP_LOG_APPEND_TIME,
    Consumer,
    KafkaError,
    KafkaException,
    Producer,
    TopicPartition,
)

from agents.topics import BY_NAME, CHANGELOG, COMMANDS, EVENTS, TOPICS, partitions_of
from schemas.errors import OperatorError
from tidings.brokers import admin
from tidings.cli.topics import topics
from tidings.config import Settings

pytestmark = pytest.mark.kafka


@pytest.fixture
def created(kafka: Settings) -> Settings:
    admin.create_topics(kafka)
    return kafka


DECLARED = {spec.name: partitions_of(spec, 3) for spec in TOPICS}


def run(settings: Settings, *args: str):
    return CliRunner().invoke(topics, args, env=settings.environment())


def test_create_is_idempotent_and_leaves_nothing_to_say(created):
    assert set(admin.create_topics(created).values()) == {"exists"}
    assert admin.check(created) == []


def test_missing_topic_is_a_difference_with_its_remedy(kafka):
    missing = dataclasses.replace(BY_NAME[COMMANDS], name="never-made")
    (found,) = admin.check(kafka, [missing])
    assert (found.setting, found.actual) == ("topic", "missing")
    assert "topics create" in found.remedy


def test_topic_is_created_as_declared(created):
    states = {state.name: state for state in admin.describe(created)}
    assert {name: state.partitions for name, state in states.items()} == DECLARED
    for spec in TOPICS:
        assert {name: states[spec.name].config[name] for name in spec.config} == spec.config


def test_events_come_back_with_the_brokers_time_and_commands_with_the_producers(created):
    sent: list[tuple] = []
    producer = Producer(created.confluent())
    for topic in (EVENTS, COMMANDS):
        producer.produce(
            topic, b"{}", partition=0, timestamp=1_000_000_000_000,
            on_delivery=lambda error, message: sent.append((message.topic(), message.offset(), error)),
        )  # fmt: skip
    assert producer.flush(10) == 0
    kinds: dict[str, tuple[int, int]] = {}
    for topic, offset, error in sent:
        assert error is None
        consumer = Consumer(created.confluent_consumer("reader"))
        consumer.assign([TopicPartition(topic, 0, offset)])
        message = consumer.poll(10)
        assert message is not None
        kinds[topic] = message.timestamp()
        consumer.close()
    assert kinds[EVENTS][0] == TIMESTAMP_LOG_APPEND_TIME
    assert kinds[EVENTS][1] > 1_700_000_000_000
    assert kinds[COMMANDS][1] == 1_000_000_000_000


def test_changed_configuration_is_found_and_alter_repairs_it(created):
    # A topic of its own: for a moment after a change the broker may still describe the state before, to others too.
    own = dataclasses.replace(BY_NAME[EVENTS], name="altered-events")
    other = dataclasses.replace(own, config={"retention.ms": "60000"})
    admin.create_topics(created, [own])
    assert admin.create_topics(created, [other], alter=True) == {own.name: "altered"}
    found = settled(lambda: admin.check(created, [own]), 1)
    assert [(d.topic, d.setting, d.actual) for d in found] == [(own.name, "retention.ms", "60000")]
    assert admin.create_topics(created, [own], alter=True) == {own.name: "altered"}
    assert settled(lambda: admin.check(created, [own]), 0) == []


def settled(ask, count: int):
    """Ask until the answer has so many entries, for a few seconds."""
    until = time.monotonic() + 10
    while len(answer := ask()) != count and time.monotonic() < until:
        time.sleep(0.1)
    return answer


def test_other_number_of_partitions_is_found_and_not_changed(created):
    wider = dataclasses.replace(created, partitions=6)
    found = admin.check(wider)
    assert {difference.setting for difference in found} == {"partitions"}
    assert "TIDINGS_PARTITIONS=3" in found[0].remedy
    admin.create_topics(wider, alter=True)
    assert {state.name: state.partitions for state in admin.describe(created)} == DECLARED


def test_more_copies_than_brokers_are_refused_with_the_reason(created):
    greedy = dataclasses.replace(created, replication=3)
    with pytest.raises(OperatorError, match="topic 'greedy': the broker refused .*INVALID_REPLICATION_FACTOR"):
        admin.create_topics(greedy, [dataclasses.replace(BY_NAME[EVENTS], name="greedy")])


def test_committed_offsets_of_a_group_are_listed(created):
    consumer = Consumer(created.confluent_consumer("counted"))
    while True:  # to the test's own bound: the group's coordinator of a young Kafka may still be loading
        try:
            consumer.commit(offsets=[TopicPartition(EVENTS, 1, 0)], asynchronous=False)
        except KafkaException as error:
            assert error.args[0].code() == KafkaError.COORDINATOR_LOAD_IN_PROGRESS
            time.sleep(0.1)
        else:
            break
    consumer.close()
    assert admin.group_offsets(created, "counted") == {(EVENTS, 1): 0}


def test_command_line_creates_shows_and_checks(created):
    assert [row["result"] for row in json.loads(run(created, "create", "-o", "json").stdout)] == ["exists"] * len(
        TOPICS
    )
    shown = [json.loads(line) for line in run(created, "show", "-o", "ndjson").stdout.splitlines()]
    assert {row["topic"]: row["cleanup.policy"] for row in shown}[CHANGELOG] == "compact"
    checked = run(created, "check")
    assert (checked.exit_code, checked.stdout) == (0, f"{len(TOPICS)} topics are as declared\n")


def test_command_line_ends_with_one_on_differences(created):
    result = run(dataclasses.replace(created, partitions=4), "check", "--output", "json")
    assert result.exit_code == 1
    assert {row["setting"] for row in json.loads(result.stdout)} == {"partitions"}


def test_command_line_finds_the_local_broker_that_runs(created):
    result = CliRunner().invoke(
        topics, ["check", "--broker", "local"],
        env={"TIDINGS_DATA_DIR": str(created.data_dir), "TIDINGS_PARTITIONS": "3"},
    )  # fmt: skip
    assert result.exit_code == 0, result.output
