"""Workers as processes of their own, as an operator starts them."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from confluent_kafka import OFFSET_BEGINNING, Consumer, TopicPartition

from schemas.errors import OperatorError
from tidings.config import Settings
from tidings.web.ask import ask

ROOT = Path(__file__).parents[2]


def start(*args: str, **settings: str) -> "subprocess.Popen[str]":
    """Start `worker` with these options; `settings` become TIDINGS_*."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("TIDINGS_")}
    env = kept | {f"TIDINGS_{name.upper()}": value for name, value in settings.items()}
    return subprocess.Popen(
        [sys.executable, "-m", "tidings", "worker", *args],
        cwd=ROOT, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def rules_of_codes(place: Path) -> str:
    """Write rules for role otp beside a directory; gives the file's path."""
    path = place.parent / f"{place.name}-otp.yaml"
    kinds = ("member", "address", "ip", "range", "wrong_member", "wrong_ip")
    limits = "".join(f"  {kind}: 5 per 1h\n" for kind in kinds)
    path.write_text(f"purposes:\n  login: {{channel: email, template: otp}}\nlimits:\n{limits}")
    return str(path)


def refused(*args: str, **settings: str) -> tuple[int, str]:
    """Run a worker that ends by itself; its exit code and what it wrote to stderr."""
    process = start(*args, **settings)
    _, errors = process.communicate(timeout=120)
    return process.returncode, errors


@contextmanager
def running(*args: str, **settings: str) -> "Iterator[tuple[subprocess.Popen[str], str]]":
    """Run a worker to its readiness; yields its process and the line it printed."""
    process = start(*args, **settings)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        url = line.rpartition("web ")[2].strip().split(" ")[0]
        asking = Settings.from_env({"TIDINGS_DATA_DIR": settings["data_dir"]})
        until_deadline = time.monotonic() + 120
        while True:
            try:
                if ask(asking, "/ready", url) == {"status": "ready"}:
                    break
            except OperatorError:
                pass
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < until_deadline, "not ready"
            time.sleep(0.1)
        yield process, line
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


def until(condition: Callable[[], Any], what: str, timeout_s: float = 30.0) -> Any:
    """Wait for a condition and return what it gives."""
    deadline = time.monotonic() + timeout_s
    while not (found := condition()):
        assert time.monotonic() < deadline, f"waited {timeout_s} s for: {what}"
        time.sleep(0.05)
    return found


def read_topic(bootstrap: str, topic: str, partitions: int) -> list[Any]:
    """Read a topic from its beginning to its present end."""
    config = {"bootstrap.servers": bootstrap, "group.id": "reader", "enable.auto.commit": False, "log_level": 0}
    consumer = Consumer({**config, "fetch.wait.max.ms": 20})
    found: list[Any] = []
    try:
        places = [TopicPartition(topic, p, OFFSET_BEGINNING) for p in range(partitions)]
        want = sum(consumer.get_watermark_offsets(place, timeout=5)[1] for place in places)
        consumer.assign(places)
        deadline = time.monotonic() + 10
        while len(found) < want and time.monotonic() < deadline:
            found += [message for message in consumer.consume(1_000, 0.1) if not message.error()]
    finally:
        consumer.close()
    return found
