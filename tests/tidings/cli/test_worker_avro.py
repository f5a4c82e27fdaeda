"""Workers of a deployment with a schema registry: Avro is read, and a registry that is away refuses no record."""

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner
from confluent_kafka import Producer

from agents.topics import DEAD_LETTERS, DECISIONS, EVENTS, TOPICS
from schemas.avro_codec import encode_event_avro
from schemas.codec import decode_decision, encode_event
from schemas.errors import OperatorError
from schemas.events import CAMPAIGN_PUBLISHED, Event
from sinks.registry import Registry
from tests.helpers.workers import read_topic, running, start, until
from tests.sinks.registry_http import FakeRegistry, registry_server
from tidings.brokers.memory import MemoryBroker
from tidings.cli.explain import explain
from tidings.cli.sql import sql
from tidings.config import Settings
from tidings.web.ask import ask

PARTITIONS = 2
LARGE = """
campaign: large
pattern: order.created[total > 100]
"""


@pytest.fixture
def registry() -> Iterator[FakeRegistry]:
    with registry_server() as server:
        yield server


@pytest.fixture
def bootstrap() -> Iterator[str]:
    with MemoryBroker({spec.name: PARTITIONS for spec in TOPICS}) as broker:
        yield broker.bootstrap


def write(bootstrap: str, registry: FakeRegistry, event_id: str = "o1") -> None:
    """Publish the campaign as the command does, in JSON; then one order of a producer that writes Avro."""
    now = time.time_ns() // 1_000_000
    data = {"campaign": "large", "yaml": LARGE, "path": "large.yaml"}
    producer = Producer({"bootstrap.servers": bootstrap, "partitioner": "murmur2_random"})
    for partition in range(PARTITIONS):
        producer.produce(EVENTS, encode_event(Event(CAMPAIGN_PUBLISHED, now, "c1", None, data)), partition=partition)
    schema_id = Registry(registry.url, timeout_s=2, max_retries=0).register("event")
    order = Event("order.created", now, event_id, "m-1", {"total": 150})
    producer.produce(EVENTS, encode_event_avro(order, schema_id), "m-1")
    assert producer.flush(10) == 0


def anchors(bootstrap: str) -> list[str]:
    return [decode_decision(m.value()).anchor for m in read_topic(bootstrap, DECISIONS, PARTITIONS)]


def test_the_engine_fires_on_avro_and_waits_out_a_registry_that_is_away(
    bootstrap: str, registry: FakeRegistry, tmp_path: Path
) -> None:
    write(bootstrap, registry)
    here = {"broker": f"memory://{bootstrap}", "data_dir": str(tmp_path), "schema_registry": registry.url}
    registry.failing = 500
    process = start("--role", "engine", "--web-port", "0", **here)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1, errors
    assert "the schema registry gives no answer (got HTTP 500)" in errors
    assert read_topic(bootstrap, DEAD_LETTERS, PARTITIONS) == []

    registry.failing = 0
    with running("--role", "engine", "--web-port", "0", **here):
        until(lambda: anchors(bootstrap) == ["o1"], "the firing")
    assert read_topic(bootstrap, DEAD_LETTERS, PARTITIONS) == []


def test_the_sink_stores_avro_and_waits_while_the_registry_is_away(
    bootstrap: str, registry: FakeRegistry, tmp_path: Path
) -> None:
    write(bootstrap, registry)
    here = {
        "broker": f"memory://{bootstrap}", "data_dir": str(tmp_path), "schema_registry": registry.url, "sql_port": "0",
    }  # fmt: skip
    settings = Settings.from_env({f"TIDINGS_{name.upper()}": value for name, value in here.items()})
    registry.failing = 500
    with running("--role", "sink", "--web-port", "0", **here) as (process, line):
        url = line.rpartition("web ")[2].strip()
        until(lambda: "cannot be inserted" in trouble(settings, url), "the outage")
        assert orders(settings) == []
        registry.failing = 0
        until(lambda: orders(settings) == ["o1"], "the row", 40)
        until(lambda: trouble(settings, url) == "", "the end of the outage")
        process.kill()  # SIGKILL: a member that left without a word
    began = time.monotonic()
    with running("--role", "sink", "--web-port", "0", **here):
        write(bootstrap, registry, "o2")
        until(lambda: orders(settings) == ["o1", "o2"], "what was written after the restart", 35)
        assert time.monotonic() - began < 40  # the session of 45 s would have kept it waiting


def trouble(settings: Settings, url: str) -> str:
    """What /ready complains of; "" when it does not."""
    try:
        ask(settings, "/ready", url)
    except OperatorError as error:
        return str(error)
    return ""


def orders(settings: Settings) -> list[str]:
    """Ids of the orders that ClickHouse has, over the SQL server that the role runs."""
    query = "SELECT event_id FROM events FINAL WHERE type = 'order.created' ORDER BY event_id"
    told = CliRunner().invoke(sql, [query, "--output", "json"], env=settings.environment(), catch_exceptions=False)
    return [row["event_id"] for row in json.loads(told.stdout or "[]")]


def test_explain_live_reads_avro_and_says_when_the_registry_is_away(bootstrap: str, registry: FakeRegistry) -> None:
    write(bootstrap, registry)
    env = {"TIDINGS_SCHEMA_REGISTRY": registry.url, "TIDINGS_BROKER": f"memory://{bootstrap}"}
    words = ["--member", "m-1", "--live", "-o", "json"]
    told = CliRunner().invoke(explain, words, env=env, catch_exceptions=False)
    assert [(c["campaign"], c["state"]) for c in json.loads(told.stdout)["campaigns"]] == [("large", "fired")]
    registry.failing = 500
    with pytest.raises(OperatorError, match="the schema registry gives no answer") as caught:
        CliRunner().invoke(explain, words, env=env, catch_exceptions=False)
    assert caught.value.exit_code == 3
