"""How much memory does each role take while its sink or provider stands still and events go on coming?

As a program: `python -m benchmarks.soak --seconds 600`. Needs Java and Maven for the broker.
"""

import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import msgspec

from agents.records import run_sink
from agents.topics import EVENTS
from benchmarks.harness import ROOT, Row, Scale
from schemas.errors import StateError
from tidings.brokers.admin import create_topics
from tidings.brokers.local import LocalBroker
from tidings.cli.campaigns import send_everywhere
from tidings.config import Settings
from tidings.processes import Child, Children, only_one, role_program
from tidings.producing import Sender

QUESTION = "How much memory does each role hold while ClickHouse and the mail server stand still?"
METHOD = (
    "Local Kafka, engine, delivery and sink as processes of their own. The mail server is a port that takes "
    "connections and never answers; the sink's first insert never returns. Events of about 1.5 KB come all the time, "
    "every one with a command of its own; the figure is the most resident memory that the kernel counted for the "
    "process (VmHWM)."
)
SECONDS = 600
RATE = 3_000  # events a second: more than the heap of any role would hold for long
MEMBERS = 20_000
WORKERS = ("engine", "delivery")
ROLES = (*WORKERS, "sink")
CAMPAIGN = "campaign: soak\npattern: app.opened\nsend: {channel: email, template: hello}\n"
SAMPLE_S = 5.0
START_S = 20.0


@contextmanager
def stalled() -> Iterator[int]:
    """Listen on a port that takes connections and says nothing, ever."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(256)
        taken: list[socket.socket] = []

        def take() -> None:
            while True:
                try:
                    taken.append(listener.accept()[0])
                except OSError:
                    return

        threading.Thread(target=take, daemon=True).start()
        yield int(listener.getsockname()[1])
        listener.shutdown(socket.SHUT_RDWR)
        for connection in taken:
            connection.close()


class Nowhere:
    """Stands in for ClickHouse: what is inserted never arrives."""

    def insert(self, table: str, columns: list[list[Any]], token: str) -> None:
        """Wait for ever."""
        threading.Event().wait()

    def forget(self) -> None:
        """Do nothing."""


@contextmanager
def stalled_sink(bootstrap: str) -> Iterator["subprocess.Popen[bytes]"]:
    """Run the sink's own loop in a process, in front of `Nowhere`."""
    with subprocess.Popen([sys.executable, "-m", "benchmarks.soak", "--sink", bootstrap], cwd=ROOT) as process:
        try:
            yield process
        finally:
            process.kill()


def memory_mb(pid: int) -> tuple[float, float]:
    """Read (now, most) of a process's resident memory, MiB."""
    found = {}
    for line in Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines():
        name, _, rest = line.partition(":")
        if name in ("VmRSS", "VmHWM"):
            found[name] = int(rest.split()[0]) / 1024
    return found["VmRSS"], found["VmHWM"]


class Feeder:
    """Sends events at a pace, from a thread."""

    def __init__(self, sender: Sender) -> None:
        self.sent = 0
        self._sender = sender
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._text = "x" * 1_300

    def __enter__(self) -> "Feeder":
        """Begin."""
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        """End."""
        self._stop.set()
        self._thread.join(30)

    def _run(self) -> None:
        began = time.monotonic()
        while not self._stop.wait(0.05):
            now = time.time_ns() // 1_000_000
            for number in range(self.sent, int((time.monotonic() - began) * RATE)):
                member = f"m{number % MEMBERS}"
                kind = "member.registered" if number < MEMBERS else "app.opened"
                data = {"email": f"{member}@mail.example", "consent": {"email": True}} if number < MEMBERS else {}
                event = {"type": kind, "member_id": member, "event_id": f"e{number}", "occurred_at": now}
                value = msgspec.json.encode({**event, "data": {**data, "note": self._text[number % 7 :]}})
                self._sender.send(value, member.encode())
                self.sent = number + 1


def soak(seconds: float, say: "Scale | None" = None) -> dict[str, list[tuple[float, float]]]:
    """Let it run; returns samples (now, most) in MiB of each role.

    Raises:
        StateError: a role ended, or was not there.
    """
    with ExitStack() as stack:
        place = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        broker = stack.enter_context(LocalBroker(place, Settings().cache_dir, heap_mb=512))
        smtp = stack.enter_context(stalled())
        templates = place / "templates"
        templates.mkdir()
        (templates / "hello.subject.j2").write_text("Hello")
        (templates / "hello.txt.j2").write_text("Hello {{ unsubscribe_url }}")
        settings = Settings.from_env(
            {
                "TIDINGS_BROKER": broker.bootstrap, "TIDINGS_DATA_DIR": str(place / "data"), "TIDINGS_PARTITIONS": "4",
                "TIDINGS_SMTP": f"smtp://127.0.0.1:{smtp}",
                "TIDINGS_TEMPLATES_DIR": str(templates), "TIDINGS_WEB_PORT": "0", "TIDINGS_SQL_PORT": "0",
            }
        )  # fmt: skip
        create_topics(settings)
        lock = stack.enter_context(only_one(place / "data" / "soak.lock", "a soak"))
        programs = [Child(role_program(role), replace(settings), place / "logs", lock) for role in WORKERS]
        children = stack.enter_context(Children(programs, restart=False, say=click.echo))
        children.start()
        sink = stack.enter_context(stalled_sink(broker.bootstrap))
        sender = Sender(settings, EVENTS)
        send_everywhere(sender, "campaign.published", {"campaign": "soak", "yaml": CAMPAIGN, "path": "soak.yaml"})
        time.sleep(START_S)
        samples: dict[str, list[tuple[float, float]]] = {role: [] for role in ROLES}
        with Feeder(sender) as feeder:
            began = time.monotonic()
            while (passed := time.monotonic() - began) < seconds:
                time.sleep(min(SAMPLE_S, seconds))
                children.watch()
                if any(child.starts != 1 for child in children.all) or sink.poll() is not None:
                    raise StateError("soak: a role has ended (got a restart); see its last words above")
                for role, pid in zip(ROLES, (*(child.pid for child in children.all), sink.pid), strict=True):
                    samples[role].append(memory_mb(pid))
                if say is not None:
                    say.progress(min(1.0, passed / seconds), f"{feeder.sent:,} events")
        if not feeder.sent:
            raise StateError("soak: no event was sent (got 0)")
        return samples


def run(scale: Scale) -> list[Row]:
    """Measure."""
    samples = soak(max(30.0, SECONDS * scale.factor), scale)
    return [
        Row(
            case=role, unit="run", items=1, runs=1, cpu_us=0.0, cpu_us_low=0.0, cpu_us_high=0.0, wall_us=0.0, steps=0.0,
            peak_mb=found[-1][1],
        )
        for role, found in samples.items()
    ]  # fmt: skip


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--seconds", default=SECONDS, show_default=True, help="How long events come.")
@click.option("--sink", hidden=True, help="Be the sink of this broker.")
def main(seconds: int, sink: str | None) -> None:
    """Print how much memory each role held while what it writes to stood still.

    \b
    Examples:
      python -m benchmarks.soak
      python -m benchmarks.soak --seconds 60
    """  # noqa: D301 click wants the character itself
    if sink is not None:
        run_sink({"bootstrap.servers": sink}, Nowhere(), threading.Event())
        return
    for role, found in soak(seconds).items():
        quarters = "  ".join(f"{found[(len(found) - 1) * part // 4][0]:7.1f}" for part in range(5))
        click.echo(f"{role:9} MiB at each quarter {quarters}   most {found[-1][1]:7.1f}")


if __name__ == "__main__":
    main()
