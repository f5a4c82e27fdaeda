"""The child process of broker 'local': its life, and that of its data."""

import hashlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition

from agents.topics import BY_NAME, EVENTS
from schemas.errors import OperatorError
from tidings.brokers import LocalBroker, admin, attach, jars, local
from tidings.brokers.local import running
from tidings.config import Settings

ROOT = Path(__file__).parents[3]
CACHE = Settings().cache_dir
kafka = pytest.mark.kafka


def write(broker: LocalBroker, value: bytes) -> None:
    settings = Settings.from_env({"TIDINGS_BROKER": broker.bootstrap, "TIDINGS_PARTITIONS": "1"})
    admin.create_topics(settings, [BY_NAME[EVENTS]])
    producer = Producer(settings.confluent())
    producer.produce(EVENTS, value, partition=0)
    assert producer.flush(10) == 0


def contents(broker: LocalBroker) -> list[bytes | None]:
    consumer = Consumer(Settings.from_env({"TIDINGS_BROKER": broker.bootstrap}).confluent_consumer("r"))
    high = consumer.get_watermark_offsets(TopicPartition(EVENTS, 0), timeout=10)[1]
    consumer.assign([TopicPartition(EVENTS, 0, 0)])
    found: list[bytes | None] = []
    until = time.monotonic() + 10
    while len(found) < high and time.monotonic() < until:
        found += [message.value() for message in consumer.consume(high, timeout=0.5)]
    consumer.close()
    return found


def gone(pid: int, within_s: float = 25) -> bool:
    until = time.monotonic() + within_s
    while time.monotonic() < until:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        # A zombie that nobody collects, as in a container without an init, has ended too.
        if "State:\tZ" in Path(f"/proc/{pid}/status").read_text():
            return True
        time.sleep(0.1)
    return False


@kafka
def test_data_is_there_after_a_stop_and_after_a_kill(tmp_path):
    with LocalBroker(tmp_path, CACHE) as broker:
        write(broker, b"one")
    assert running(tmp_path) is None
    assert gone(broker.pid, 0.1)
    second = LocalBroker(tmp_path, CACHE)
    write(second, b"two")
    second.kill()
    # What a crash leaves: Kafka's own lock file, an unclean log, and a record of a process that is no more.
    (tmp_path / "kafka" / "running.json").write_text(f'{{"pid": {second.pid}, "bootstrap": "127.0.0.1:1", "sta')
    assert (tmp_path / "kafka" / "lock").exists()
    assert (tmp_path / "kafka" / "log" / ".lock").exists()
    assert running(tmp_path) is None
    with LocalBroker(tmp_path, CACHE) as third:
        assert contents(third) == [b"one", b"two"]


@kafka
def test_second_start_on_the_same_data_is_refused_and_told_how_to_attach(tmp_path):
    with LocalBroker(tmp_path, CACHE) as broker:
        with pytest.raises(OperatorError, match=f"already runs .*TIDINGS_BROKER=local://{broker.bootstrap}") as caught:
            LocalBroker(tmp_path, CACHE)
        assert caught.value.exit_code == 3
        beside = attach(Settings.from_env({"TIDINGS_BROKER": "local", "TIDINGS_DATA_DIR": str(tmp_path)}))
        assert (beside.broker_kind, beside.bootstrap) == ("local", broker.bootstrap)


@kafka
def test_kafka_ends_when_its_starter_is_killed_and_the_next_start_waits_for_it(tmp_path):
    code = (
        "import sys, time; from pathlib import Path; from tidings.brokers import LocalBroker;"
        "print(LocalBroker(Path(sys.argv[1]), Path(sys.argv[2])).pid, flush=True); time.sleep(600)"
    )
    starter = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path), str(CACHE)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert starter.stdout is not None
    pid = int(starter.stdout.readline())
    starter.send_signal(signal.SIGKILL)
    starter.wait()
    starter.stdout.close()
    with LocalBroker(tmp_path, CACHE) as broker:
        assert gone(pid, 0.1)
        assert broker.pid != pid


@kafka
def test_kafka_ends_when_its_guard_is_killed(tmp_path):
    with LocalBroker(tmp_path, CACHE) as broker:
        assert broker._process is not None
        os.kill(broker._process._guard.pid, signal.SIGKILL)
        assert gone(broker.pid)


@kafka
def test_a_port_taken_by_another_kafka_after_the_look_is_left_for_another(tmp_path, monkeypatch):
    look = local._free_port
    with LocalBroker(tmp_path / "first", CACHE) as first:
        port = int(first.bootstrap.rpartition(":")[2])
        monkeypatch.setattr(
            local, "_free_port", lambda wanted, taken=(): port if wanted == port else look(wanted, taken)
        )
        with LocalBroker(tmp_path / "second", CACHE, port=port) as second:
            assert second.bootstrap != first.bootstrap
            assert running(tmp_path / "second") == second.bootstrap
            write(second, b"mine")
            assert contents(second) == [b"mine"]
        assert running(tmp_path / "first") == first.bootstrap


@kafka
def test_preferred_port_is_used_and_another_one_if_it_is_taken(tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with LocalBroker(tmp_path, CACHE, port=port) as broker:
            assert broker.bootstrap.startswith("127.0.0.1:")
            assert not broker.bootstrap.endswith(f":{port}")


@kafka
def test_kafka_that_cannot_start_says_why_and_leaves_nothing_behind(tmp_path):
    with pytest.raises(OperatorError, match="broker 'local': Kafka .*heap") as caught:
        LocalBroker(tmp_path, CACHE, heap_mb=1)
    assert "TIDINGS_BROKER=memory" in str(caught.value)
    assert running(tmp_path) is None


@kafka
def test_jars_once_resolved_need_no_maven(monkeypatch, tmp_path):
    folder = jars.ensure_jars(CACHE)
    monkeypatch.setattr(jars, "resolve", lambda target: pytest.fail("asked Maven"))
    assert jars.ensure_jars(CACHE) == folder


def test_machine_without_java_is_told_both_ways_out(monkeypatch, tmp_path):
    monkeypatch.setattr(shutil, "which", lambda name, **_: None)
    with pytest.raises(OperatorError) as caught:
        LocalBroker(tmp_path, tmp_path)
    message = str(caught.value)
    assert message.startswith("broker 'local': needs 'java'")
    assert "install Java 17 or later and Maven" in message
    assert "TIDINGS_BROKER=memory" in message
    assert caught.value.exit_code == 3


def fake_resolution(monkeypatch, files: dict[str, bytes]) -> None:
    def resolve(target: Path) -> None:
        target.mkdir()
        for name, contents in files.items():
            (target / name).write_bytes(contents)

    monkeypatch.setattr(jars, "resolve", resolve)
    monkeypatch.setattr(jars, "find_program", lambda name: name)


def test_jar_that_is_not_byte_for_byte_as_pinned_is_refused(monkeypatch, tmp_path):
    fake_resolution(monkeypatch, {"a.jar": b"other"})
    monkeypatch.setattr(jars, "expected", lambda: {"a.jar": hashlib.sha256(b"pinned").hexdigest()})
    with pytest.raises(OperatorError, match=r"other jars than kafka.sha256 pins \(got a.jar\)"):
        jars.ensure_jars(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_damaged_cache_is_replaced(monkeypatch, tmp_path):
    fake_resolution(monkeypatch, {"a.jar": b"pinned"})
    monkeypatch.setattr(jars, "expected", lambda: {"a.jar": hashlib.sha256(b"pinned").hexdigest()})
    folder = jars.ensure_jars(tmp_path)
    (folder / "a.jar").write_bytes(b"cut")
    assert (jars.ensure_jars(tmp_path) / "a.jar").read_bytes() == b"pinned"


def test_every_pinned_jar_has_a_hash_and_kafka_is_among_them():
    pinned = jars.expected()
    assert all(len(digest) == 64 for digest in pinned.values())
    assert any(name.startswith("kafka_2.13-4.") for name in pinned)


def test_no_local_broker_running_is_an_operators_error(tmp_path):
    with pytest.raises(OperatorError, match="no local broker runs on this data"):
        attach(Settings.from_env({"TIDINGS_BROKER": "local", "TIDINGS_DATA_DIR": str(tmp_path)}))


def test_a_port_of_another_listener_is_not_taken_for_a_second_one(monkeypatch):
    port = local._free_port(0)
    monkeypatch.setattr(local, "PORTS", (port, port + 2))
    assert local._free_port(0, {port + 1}) == port
