"""The whole product for a test: three roles as processes of their own, an SMTP server, a broker that runs already."""

import dataclasses
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from agents.topics import EVENTS
from tidings.brokers.admin import create_topics
from tidings.cli.campaigns import send_everywhere
from tidings.config import Settings
from tidings.demo.run import ask_sql
from tidings.demo.verify import Log, read_topics
from tidings.processes import Child, Children, only_one, role_program
from tidings.producing import Sender
from tidings.smtp_server import SmtpServer
from tidings.standing import Lookout, is_ready, metrics_of
from tidings.web.auth import token_of

ROOT = Path(__file__).parents[2]
READY_S = 60.0


class Product:
    """A context manager. `settings` name a running broker; `data_dir` is the test's own."""

    def __init__(self, settings: Settings, **changes: Any) -> None:
        self.smtp = SmtpServer()
        self._stack = ExitStack()
        self._settings = dataclasses.replace(settings, web_port=0, sql_port=0, **changes)

    def __enter__(self) -> "Product":
        with ExitStack() as stack:
            lock = stack.enter_context(only_one(self._settings.data_dir / "test.lock", "a test"))
            stack.enter_context(self.smtp)
            self.settings = dataclasses.replace(self._settings, smtp=self.smtp.url)
            create_topics(self.settings)
            logs = self.settings.data_dir / "logs"
            self.children = stack.enter_context(
                Children(
                    [Child(role_program(role), self.settings, logs, lock) for role in ("engine", "delivery", "sink")],
                    restart=False,
                    say=print,
                )
            )
            self.children.start()
            until(lambda: all(is_ready(child.url()) for child in self.children.all), "all roles are ready", READY_S)
            self.sender = Sender(self.settings, EVENTS)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exc: object) -> None:
        if any(exc):
            for child in self.children.all:
                print(child.program.name, child.last_words(20))
        del self.sender
        self._stack.close()

    def publish(self, name: str, text: str) -> None:
        """Publish one campaign."""
        send_everywhere(self.sender, "campaign.published", {"campaign": name, "yaml": text, "path": f"{name}.yaml"})

    def send(self, *values: bytes | dict[str, Any], member: str = "m1") -> None:
        """Produce records for one member, as they are or as events that happen now."""
        for value in values:
            raw = value if isinstance(value, bytes) else json.dumps({"occurred_at": now_ms(), **value}).encode()
            self.sender.send(raw, member.encode())
        self.sender.flush()
        assert not self.sender.trouble()

    def drain(self, timeout_s: float = 60.0) -> Log:
        """Wait until nothing is under way and no timer is left; gives what the topics then hold."""
        token = token_of(self.settings)
        last: list[Any] = [None]

        def settled() -> bool:
            self.children.watch()
            seen = lookout.look(metrics_of(self.children.all[0].url(), token))
            same = seen is not None and seen.done and seen == last[0]
            last[0] = seen
            return same

        with Lookout(self.settings) as lookout:
            until(settled, lambda: f"everything is at its end, it stands at {last[0]}", timeout_s, 0.5)
        return read_topics(self.settings)

    def sql(self, query: str) -> list[dict[str, Any]]:
        """Ask the sink's SQL endpoint."""
        return ask_sql(self.settings, query)


class Up:
    """`python -m tidings up` as an operator starts it, on ports of its own that stay over restarts."""

    def __init__(self, data_dir: Path, *options: str, **settings: str) -> None:
        self.lines: list[str] = []
        self._options = options
        kept = {name: value for name, value in os.environ.items() if not name.startswith("TIDINGS_")}
        ports = {"web_port": str(free_ports(60)), "sql_port": "0", "kafka_port": "0"}
        own = {"data_dir": str(data_dir), "partitions": "2"} | ports | settings
        self.env = kept | {f"TIDINGS_{name.upper()}": value for name, value in own.items()}
        self.settings = Settings.from_env({n: v for n, v in self.env.items() if n.startswith("TIDINGS_")})
        self._process: subprocess.Popen[str] | None = None

    def start(self, timeout_s: float = 90.0) -> "Up":
        """Start it and wait until it says that it is ready."""
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tidings", "up", *self._options],
            cwd=ROOT, env=self.env, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
        begin = len(self.lines)
        self._reader = threading.Thread(target=self._read, args=(self._process,), daemon=True)
        self._reader.start()
        self.wait_for("ready;", begin, timeout_s)
        return self

    def wait_for(self, text: str, begin: int = 0, timeout_s: float = 60.0) -> None:
        """Wait until it has printed a line with this text, from line number `begin` on."""
        until(
            lambda: any(text in line for line in self.lines[begin:]) or self.ended(),
            lambda: f"'up' says '{text}', it said {self.lines[begin:]}",
            timeout_s,
        )
        assert any(text in line for line in self.lines[begin:]), self.lines[begin:]

    def ended(self) -> bool:
        """Tell whether it ended by itself."""
        return self._process is not None and self._process.poll() is not None

    def stop(self) -> float:
        """Stop it as a service manager does; gives the seconds it took."""
        assert self._process is not None
        began = time.monotonic()
        self._process.terminate()
        assert self._process.wait(40) == 0, self.lines
        took = time.monotonic() - began
        self._reader.join(5)
        return took

    def kill(self) -> None:
        """End it as the system does when memory runs out."""
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait(10)
            self._reader.join(30)

    def run(self, *words: str) -> str:
        """Run another command beside it; gives its output."""
        done = subprocess.run(
            [sys.executable, "-m", "tidings", *words],
            cwd=ROOT,
            env=self.env,
            text=True,
            capture_output=True,
            timeout=90,
        )
        assert done.returncode == 0, done.stderr + done.stdout
        return done.stdout

    def _read(self, process: "subprocess.Popen[str]") -> None:
        assert process.stdout is not None
        with process.stdout:
            for line in process.stdout:
                self.lines.append(line.rstrip())


def now_ms() -> int:
    """The wall clock."""
    return time.time_ns() // 1_000_000


def until(check: Callable[[], Any], what: str | Callable[[], str], timeout_s: float, pause_s: float = 0.1) -> None:
    """Wait until `check` holds."""
    deadline = time.monotonic() + timeout_s
    while not check():
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {timeout_s:.0f} s until {what if isinstance(what, str) else what()}")
        time.sleep(pause_s)


def free_ports(span: int) -> int:
    """Find a port that is free, with the one `span` - 1 above it: an engine's, delivery's and sink's lie between."""
    for _ in range(50):
        with socket.socket() as low, socket.socket() as middle, socket.socket() as high:
            low.bind(("127.0.0.1", 0))
            port = int(low.getsockname()[1])
            if port + span > 65_000:
                continue
            try:
                middle.bind(("127.0.0.1", port + 20))
                high.bind(("127.0.0.1", port + 40))
            except OSError:
                continue
            return port
    raise AssertionError("no free ports")


def ndjson(path: Path, events: Iterable[dict[str, Any]]) -> str:
    """Write events to a file; gives its name."""
    path.write_text("".join(json.dumps(event) + "\n" for event in events))
    return str(path)
