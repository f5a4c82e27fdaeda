"""Two engine workers, as processes, on Apache Kafka: any of them answers for every member."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Producer

from agents.topics import EVENTS
from schemas.codec import encode_event
from schemas.errors import OperatorError
from schemas.events import Event
from tidings.brokers import open_broker
from tidings.brokers.admin import create_topics
from tidings.config import Settings
from tidings.web.ask import ask, ask_member

pytestmark = [pytest.mark.kafka, pytest.mark.slow]

ROOT = Path(__file__).parents[3]
MEMBERS = [f"m{n}" for n in range(20)]


@pytest.fixture
def settings(tmp_path: Path) -> Iterator[Settings]:
    wanted = {"DATA_DIR": tmp_path, "CACHE_DIR": ROOT / ".cache", "PARTITIONS": 4, "KAFKA_PORT": 0}
    made = Settings.from_env(
        {f"TIDINGS_{name}": str(value) for name, value in wanted.items()}
        | {"TIDINGS_BROKER": "local", "TIDINGS_SESSION_TIMEOUT_MS": "8000"}
    )
    with open_broker(made) as broker:
        reached = made.with_broker(broker.bootstrap)
        create_topics(reached)
        yield reached


def start(settings: Settings, instance: int) -> "subprocess.Popen[str]":
    kept = {name: value for name, value in os.environ.items() if not name.startswith("TIDINGS_")}
    return subprocess.Popen(
        [sys.executable, "-m", "tidings", "worker", "--role", "engine", "--instance", str(instance), "--web-port", "0"],
        cwd=ROOT, env=kept | settings.environment(), text=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
    )  # fmt: skip


def url_of(process: "subprocess.Popen[str]") -> str:
    assert process.stdout is not None
    return process.stdout.readline().rpartition("web ")[2].strip()


def until(condition: Callable[[], bool], what: str, timeout_s: float = 60.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"waited {timeout_s} s for: {what}"
        time.sleep(0.1)


def answer(settings: Settings, path: str, url: str) -> Any:
    try:
        return ask(settings, path, url)
    except OperatorError as error:
        assert error.exit_code == 3, error  # not ready, or on the move: everything else is a fault
        return None


def partitions(settings: Settings, url: str) -> set[int]:
    return set((answer(settings, "/campaigns", url) or {"partitions": []})["partitions"])


def feed(settings: Settings) -> None:
    producer = Producer(settings.confluent(partitioner="murmur2_random"))
    now = time.time_ns() // 1_000_000
    for member in MEMBERS:
        event = Event("member.registered", now, event_id=member, member_id=member, data={"name": member})
        producer.produce(EVENTS, key=member, value=encode_event(event))
    assert producer.flush(10) == 0


def knows_all(settings: Settings, url: str) -> bool:
    try:
        found = [ask_member(settings, member, url) for member in MEMBERS]
    except OperatorError as error:
        assert error.exit_code == 3, error
        return False
    return [view and view["profile"] for view in found] == [{"name": member} for member in MEMBERS]


def test_any_worker_answers_for_every_member_also_after_the_other_has_gone(settings: Settings) -> None:
    workers = [start(settings, instance) for instance in (0, 1)]
    try:
        one, two = (url_of(worker) for worker in workers)
        until(lambda: bool(partitions(settings, one)) and bool(partitions(settings, two)), "both have partitions")
        until(lambda: partitions(settings, one) | partitions(settings, two) == {0, 1, 2, 3}, "all partitions run")
        assert partitions(settings, one) & partitions(settings, two) == set()
        feed(settings)
        for url in (one, two):
            until(lambda asked=url: knows_all(settings, asked), "every member is known")  # type: ignore[misc]
            assert ask_member(settings, "nobody", url) is None

        workers[1].send_signal(signal.SIGTERM)
        assert workers[1].wait(10) == 0
        with pytest.raises(OperatorError, match="ask again|check http") as caught:
            for member in MEMBERS:  # until the session of the static member ends, nobody has its partitions
                ask_member(settings, member, one)
        assert caught.value.exit_code == 3
        until(lambda: knows_all(settings, one), "the one that is left has taken over")
        until(lambda: answer(settings, "/ready", one) == {"status": "ready"}, "ready again")
    finally:
        for worker in workers:
            worker.kill()
            worker.communicate()
