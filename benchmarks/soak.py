"""How much memory does each role take while its sink or provider stands still and events go on coming?

As a program: `python -m benchmarks.soak --seconds 600`. Needs Java and Maven for the broker.
"""

import random
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
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

NAME = "soak"
QUESTION = "How much memory does each role hold while ClickHouse and the mail server stand still?"
METHOD = (
    "Local Kafka, engine, delivery and sink as processes of their own, on one machine. The mail server is a port that "
    "takes connections and never answers; the sink's inserts stop returning after 20 s. 2,000 events of about 1.5 KB "
    "come every second, whose text does not compress, every one with a command of its own. Resident memory of each "
    "process is read every 5 s (VmRSS). `ceiling`: the most the kernel counted (VmHWM); `slope`: a straight line "
    "through the samples of the second half; `counted`: what the engine itself counts against its bound "
    "(TIDINGS_ENGINE_MEMORY_MB), the most of all samples."
)
SECONDS = 600
RATE = 2_000  # events a second: more than the heap of any role would hold for long
MEMBERS = 20_000
WORKERS = ("engine", "delivery")
ROLES = (*WORKERS, "sink")
CAMPAIGN = "campaign: soak\npattern: app.opened\nsend: {channel: email, template: hello}\n"
SAMPLE_S = 5.0
TOKEN = "soak"  # noqa: S105 - of processes that end with it
START_S = 20.0
TAKES_S = 20.0  # the sink stands still with a full pipe, not with an empty one
NOISE = 4 << 20  # compression looks back much less: what it cannot shrink is what a fetch really brings


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
    """Stands in for ClickHouse: it takes what comes, and then no longer answers."""

    def __init__(self) -> None:
        self._until = time.monotonic() + START_S + TAKES_S

    def insert(self, table: str, columns: list[list[Any]], token: str) -> None:
        """Take it; later, wait for ever."""
        if time.monotonic() > self._until:
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
        self._noise = random.Random(1).randbytes(NOISE // 2).hex()

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
                place = number * 7_919 % (NOISE - 1_300)
                value = msgspec.json.encode({**event, "data": {**data, "note": self._noise[place : place + 1_300]}})
                self._sender.send(value, member.encode())
                self.sent = number + 1


Samples = dict[str, list[tuple[float, float, float, float]]]
"""By role: (seconds since the first event, MiB now, most MiB so far, MiB that the engine counts or 0)."""


def soak(seconds: float, say: "Scale | None" = None) -> tuple[Samples, int]:
    """Let it run; returns what was seen of each role, and how many events were sent.

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
                "TIDINGS_SMTP": f"smtp://127.0.0.1:{smtp}", "TIDINGS_WEB_TOKEN": TOKEN,
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
        samples: Samples = {role: [] for role in ROLES}
        with Feeder(sender) as feeder:
            began = time.monotonic()
            while (passed := time.monotonic() - began) < seconds:
                time.sleep(min(SAMPLE_S, seconds))
                children.watch()
                if any(child.starts != 1 for child in children.all) or sink.poll() is not None:
                    raise StateError("soak: a role has ended (got a restart); see its last words above")
                counted = counted_mb(children.all[0].url())
                for role, pid in zip(ROLES, (*(child.pid for child in children.all), sink.pid), strict=True):
                    row = (round(passed, 1), *memory_mb(pid), counted if role == "engine" else 0.0)
                    samples[role].append(row)
                if say is not None:
                    say.progress(min(1.0, passed / seconds), f"{feeder.sent:,} events")
        if not feeder.sent:
            raise StateError("soak: no event was sent (got 0)")
        return samples, feeder.sent


def counted_mb(url: str | None) -> float:
    """Ask the engine what it counts against its bound, MiB; 0 while it does not answer."""
    if url is None:
        return 0.0
    asked = urllib.request.Request(f"{url}/metrics", headers={"Authorization": f"Bearer {TOKEN}"})  # noqa: S310 - ours
    try:
        with urllib.request.urlopen(asked, timeout=5) as answer:  # noqa: S310 - its own endpoint
            lines = answer.read().decode().splitlines()
    except OSError:
        return 0.0
    return sum(float(line.split()[-1]) for line in lines if line.startswith("tidings_memory_bytes{")) / (1 << 20)


def slope(points: Sequence[tuple[float, float]]) -> float:
    """Return the slope of the straight line through points (seconds, MiB) by least squares, MiB a minute."""
    if len(points) < 2:
        return 0.0
    found = statistics.linear_regression([at for at, _ in points], [value for _, value in points])
    return found.slope * 60


def rows_of(samples: Mapping[str, Sequence[tuple[float, float, float, float]]], events: int) -> list[Row]:
    """Lay out what was seen: one row for each role."""
    rows = []
    for role, found in samples.items():
        row = Row(case=role, unit="event", items=events, runs=1, peak_mb=found[-1][2])
        half = [(at, now) for at, now, _, _ in found[len(found) // 2 :]]
        row.more = {
            "seconds": round(found[-1][0] + SAMPLE_S),
            "MiB at each quarter": " ".join(f"{found[(len(found) - 1) * part // 4][1]:.0f}" for part in range(5)),
            "ceiling MiB": round(found[-1][2]),
            "slope MiB a minute, second half": round(slope(half), 2),
        }
        if role == "engine":
            row.more["counted MiB"] = round(max(counted for *_, counted in found))
        row.series = [(at, round(now, 1)) for at, now, _, _ in found]
        rows.append(row)
    return rows


def run(scale: Scale) -> list[Row]:
    """Measure."""
    return rows_of(*soak(max(30.0, SECONDS * scale.factor), scale))


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
    for row in rows_of(*soak(seconds)):
        click.echo(f"{row.case:9} " + ", ".join(f"{name} {value}" for name, value in row.more.items()))


if __name__ == "__main__":
    main()
