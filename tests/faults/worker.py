"""Processes of the laboratory: start, kill, freeze, thaw, stop; who ends by itself is started again."""

import contextlib
import os
import signal
import struct
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

from tidings.brokers.guarded import GuardedProcess
from tidings.config import Settings
from tidings.processes import Child, Program
from tidings.standing import is_ready
from tidings.web.ask import URL_FILE
from tidings.worker import PORT_OFFSETS

STOP_S = 25.0
PAUSE_S = 0.3  # before a process that ended is started again


@dataclass
class Life:
    """One life of a process, in monotonic seconds."""

    started: float
    ready: float | None = None
    ended: float | None = None
    how: str = ""


class Worker(Child):
    """One worker process, under the guard that `up` uses; it ends when we do."""

    def __init__(self, role: str, instance: int, settings: Settings, home: Path, session_ms: int, proxy: int) -> None:
        super().__init__(Program(f"{role}-{instance}", (role, str(instance), str(session_ms))), settings, home, -1)
        self.role = role
        self.proxy = proxy
        self.name = self.program.name
        self.data = settings.data_dir / self.name
        self.point = home / f"{self.name}.point"
        self.lives: list[Life] = []
        self.frozen = False
        self._clock = home / f"{self.name}.clock"
        self._clock.write_bytes(struct.pack("<q", 0))
        self._url = f"http://127.0.0.1:{settings.web_port + PORT_OFFSETS[role] + instance}"

    def start(self) -> None:
        (self.data / URL_FILE).unlink(missing_ok=True)
        env = {name: value for name, value in os.environ.items() if not name.startswith("TIDINGS_")}
        env |= self._settings.environment()
        env |= {"FAULTS_CLOCK": str(self._clock), "FAULTS_POINT": str(self.point)}
        # The guard wants a descriptor to keep open: /dev/null will do, nobody waits for it.
        with self.log_path.open("a") as output, open(os.devnull) as nothing:
            self._process = GuardedProcess(
                [sys.executable, "-m", "tests.faults.process", *self.program.words],
                stop_s=STOP_S, lock=nothing.fileno(), output=output, env=env,
            )  # fmt: skip
        self.pid = self._process.pid
        self.frozen = False
        self.lives.append(Life(time.monotonic()))

    def url(self) -> str | None:
        return self._url

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.ended() is None

    @property
    def ready(self) -> bool:
        """Whether it runs and says that it does its work."""
        if not self.running or self.frozen or not is_ready(self._url):
            return False
        if self.lives[-1].ready is None:
            self.lives[-1].ready = time.monotonic()
        return True

    def send(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            if self.running and self.pid:
                os.kill(self.pid, number)

    def freeze(self) -> None:
        self.send(signal.SIGSTOP)
        self.frozen = True

    def thaw(self) -> None:
        self.send(signal.SIGCONT)
        self.frozen = False

    def move_clock(self, ms: int) -> None:
        with self._clock.open("r+b") as file:  # in place: the worker has it mapped
            file.write(struct.pack("<q", ms * 1_000_000))


@dataclass
class Crew:
    """All workers. One that ended is started again, unless it is to rest."""

    all: dict[str, Worker] = field(default_factory=dict)
    resting: set[str] = field(default_factory=set)
    own_ends: list[str] = field(default_factory=list)  # ended with nobody's doing: what it said last
    stops_s: list[float] = field(default_factory=list)  # from SIGTERM to the end

    def __post_init__(self) -> None:
        self._expected: set[str] = set()
        self._again: dict[str, float] = {}
        self._lock = threading.RLock()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="crew", daemon=True)

    def begin(self) -> None:
        self._thread.start()

    def of(self, role: str) -> list[Worker]:
        """Workers of a role that should run."""
        return [w for w in self.all.values() if w.role == role and w.name not in self.resting]

    def start(self, worker: Worker) -> None:
        with self._lock:
            self.resting.discard(worker.name)
            self._again.pop(worker.name, None)
            if not worker.running:
                worker.start()

    def kill(self, worker: Worker, back_s: float = PAUSE_S) -> None:
        """End it with SIGKILL; it is back after a while."""
        with self._lock:
            self._expected.add(worker.name)
            self._again[worker.name] = time.monotonic() + back_s
        worker.send(signal.SIGKILL)

    def stop(self, worker: Worker) -> bool:
        """Stop it as a service manager does, and let it rest; whether it obeyed in time."""
        with self._lock:
            self.resting.add(worker.name)
        began = time.monotonic()
        worker.ask_to_stop()
        obeyed = worker.wait(STOP_S + 5)
        self.stops_s.append(time.monotonic() - began)
        return obeyed

    def expect_end(self, worker: Worker) -> None:
        """Say that it will end and that this is no surprise."""
        self._expected.add(worker.name)

    def close(self) -> None:
        self._closing.set()
        if self._thread.is_alive():
            self._thread.join(5)
        for worker in self.all.values():
            worker.kill()
        for worker in self.all.values():
            worker.wait(5)

    def _watch(self) -> None:
        while not self._closing.wait(0.1):
            for worker in list(self.all.values()):
                with self._lock:
                    self._look(worker)
                if worker.running and not worker.frozen and worker.lives[-1].ready is None:
                    worker.ready  # noqa: B018 - notes when

    def _look(self, worker: Worker) -> None:
        if worker.running or not worker.lives:
            return
        now, life = time.monotonic(), worker.lives[-1]
        if life.ended is None:
            life.ended, life.how = now, f"exit code {worker.ended()}"
            if worker.name not in self._expected and worker.name not in self.resting:
                self.own_ends.append(f"{worker.name} {life.how}: {worker.last_words(1)[:300]}")
            self._expected.discard(worker.name)
            self._again.setdefault(worker.name, now + PAUSE_S)
        if worker.name not in self.resting and now >= self._again.get(worker.name, 0.0):
            self._again.pop(worker.name, None)
            worker.start()
