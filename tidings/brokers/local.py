"""Broker `local`: Apache Kafka 4 (KRaft, one node) as a child process, listening on 127.0.0.1, its data kept on disk.

<data>/kafka/lock                held (flock) as long as Kafka, its guard or its starter lives: no file to go stale
<data>/kafka/running.json        pid and address of the one that runs; without the lock it means nothing
<data>/kafka/server.properties   written at each start
<data>/kafka/broker.log          Kafka's warnings and errors; broker.log.1 is the run before
<data>/kafka/log/                Kafka's own
"""

import contextlib
import fcntl
import json
import os
import random
import re
import signal
import socket
import subprocess
import time
import uuid
from base64 import urlsafe_b64encode
from collections.abc import Collection
from pathlib import Path
from types import TracebackType

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from schemas.errors import OperatorError
from tidings.brokers.guarded import GuardedProcess, alive, take_lock
from tidings.brokers.jars import ensure_jars, find_program
from tidings.brokers.waiting import Waiting

HOST = "127.0.0.1"
PORTS = (20_000, 32_000)  # below the system's own range for outgoing connections, above the well-known services
# A cold start takes 3 s on two idle cores, and took 42 s where 30 processes shared them; then we call it broken.
READY_S_MAX = 180.0
# Kafka closes its log segments on SIGTERM within 2 s; what is killed after this only has to check its last segments at
# start.
STOP_S_MAX = 20.0
TROUBLE = re.compile(r"\b(ERROR|FATAL|Error|\w*Exception)\b")
PORT_TAKEN = "Address already in use"
PROPERTIES = """\
# Written at each start by tidings/brokers/local.py.
process.roles=broker,controller
node.id=1
listeners=PLAINTEXT://{host}:{port},CONTROLLER://{host}:{controller_port}
advertised.listeners=PLAINTEXT://{host}:{port}
controller.listener.names=CONTROLLER
controller.quorum.voters=1@{host}:{controller_port}
log.dirs={log_dir}
num.partitions={partitions}
# A misspelt topic is an error, not a new topic.
auto.create.topics.enable=false
# One node holds one copy of everything; few partitions of the internal topics start and stop faster.
default.replication.factor=1
min.insync.replicas=1
offsets.topic.replication.factor=1
offsets.topic.num.partitions=8
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=4
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
share.coordinator.state.topic.num.partitions=1
# The first member of a group does not wait for others that will not come.
group.initial.rebalance.delay.ms=0
# Fault tests use sessions shorter than Kafka's 6 s.
group.min.session.timeout.ms=1000
# The default of 128 MB would take a quarter of the heap.
log.cleaner.dedupe.buffer.size=16777216
log.cleaner.backoff.ms=15000
# After a kill Kafka waits this long for its own former self, 9 s by default.
broker.session.timeout.ms=4000
broker.heartbeat.interval.ms=1000
num.network.threads=2
num.io.threads=4
"""


def running(data_dir: Path) -> str | None:
    """Return the address of the local broker that runs on this data, in whichever process it was started, or None."""
    home = data_dir / "kafka"
    if not (home / "lock").exists():
        return None
    with (home / "lock").open("r+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            return _recorded(home).get("bootstrap")
    return None


class LocalBroker:
    """One Kafka node; a context manager. The first start fetches jars and formats storage, later ones take seconds.

    Args:
        data_dir: `kafka/` is made in it.
        cache_dir: the jars' place, see `jars.ensure_jars`.
        port: preferred; another free one is taken if it is in use or 0. Read `bootstrap`.
        heap_mb: Java heap.
        partitions: of topics that are created without saying how many.
        more: further lines of server.properties, which win; `{host}`, `{port}` and `{controller_port}` are filled in.
        cluster_id: of the cluster to be made on empty storage, where several nodes are to make one; empty: a new one.

    Raises:
        OperatorError: Java, Maven or the jars are missing, another broker runs on this data, or Kafka ended by itself.
    """

    kind = "local"
    keeps = True

    def __init__(
        self,
        data_dir: Path,
        cache_dir: Path,
        *,
        port: int = 0,
        heap_mb: int = 512,
        partitions: int = 8,
        more: str = "",
        cluster_id: str = "",
    ) -> None:
        self.home = (data_dir / "kafka").absolute()
        self.note = f"on disk: everything is kept in {data_dir / 'kafka'}"
        self.bootstrap = ""
        self.pid = 0
        self._process: GuardedProcess | None = None
        self._more = more
        self._wanted_id = cluster_id
        java = find_program("java")
        self._jars = ensure_jars(cache_dir).absolute()
        self.home.mkdir(parents=True, exist_ok=True)
        lock = _take_lock(self.home)
        try:
            self._start_on_a_free_port(java, port, heap_mb, partitions, lock)
        except BaseException:
            self.stop()
            raise
        finally:
            os.close(lock)  # the guard and Kafka hold it from here on

    def _start_on_a_free_port(self, java: str, port: int, heap_mb: int, partitions: int, lock: int) -> None:
        """Start; a port that another program took after we had looked is answered with other ports."""
        for tries_left in (2, 1, 0):
            try:
                self._start(java, _free_port(port), heap_mb, partitions, lock)
            except OperatorError as error:
                if not tries_left or PORT_TAKEN not in f"{error} {self._log_text()}":
                    raise
                self.stop()
                port = 0
            else:
                return

    def _start(self, java: str, port: int, heap_mb: int, partitions: int, lock: int) -> None:
        listening = {port, *map(int, re.findall(r"://[^,:]+:(\d+)", self._more))}
        controller_port = _free_port(0, listening)
        bootstrap = f"{HOST}:{port}"
        text = (PROPERTIES + self._more).format(
            host=HOST, port=port, controller_port=controller_port, log_dir=self.home / "log", partitions=partitions
        )
        (self.home / "server.properties").write_text(text)
        log = self.home / "broker.log"
        if log.exists():
            log.replace(self.home / "broker.log.1")
        with Waiting("broker 'local': starting Kafka") as waiting, log.open("a") as output:
            if not (self.home / "log" / "meta.properties").exists():
                self._format(java, output.fileno(), waiting)
            self._process = GuardedProcess(
                [
                    *self._command(java, "kafka.Kafka", f"-Xms{min(128, heap_mb)}m", f"-Xmx{heap_mb}m"),
                    str(self.home / "server.properties"),
                ],
                stop_s=STOP_S_MAX,
                lock=lock,
                output=output,
            )
            self.pid = self._process.pid
            record = {"pid": self.pid, "starter": os.getpid(), "bootstrap": bootstrap}
            (self.home / "running.json").write_text(json.dumps(record))
            self._await_ready(bootstrap, waiting)
        self.bootstrap = bootstrap

    def _command(self, java: str, main: str, *options: str) -> list[str]:
        # Warnings are enough to explain a failure; at INFO Kafka writes a megabyte a start.
        quiet = ["-Dorg.slf4j.simpleLogger.defaultLogLevel=warn", "-Dorg.slf4j.simpleLogger.showDateTime=true"]
        quiet.append("-Dorg.slf4j.simpleLogger.dateTimeFormat=yyyy-MM-dd'T'HH:mm:ss.SSSXXX")
        return [java, *options, *quiet, "-Djava.awt.headless=true", "-cp", f"{self._jars}/*", main]

    def _format(self, java: str, output: int, waiting: Waiting) -> None:
        """Give the empty storage its cluster id, which Kafka insists on."""
        cluster = self._wanted_id or urlsafe_b64encode(uuid.uuid4().bytes).rstrip(b"=").decode()
        # An id that begins with '-' would be read as an option.
        words = ["format", f"--cluster-id={cluster}", "--config", str(self.home / "server.properties")]
        command = [*self._command(java, "kafka.tools.StorageTool"), *words, "--ignore-formatted"]
        with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output) as tool:  # noqa: S603
            while tool.poll() is None:
                waiting.tick("formatting storage")
                if waiting.elapsed_s > READY_S_MAX:
                    tool.kill()
                time.sleep(0.05)
        if tool.returncode:
            raise self._failed(f"storage could not be formatted, exit code {tool.returncode}")

    def _await_ready(self, bootstrap: str, waiting: Waiting) -> None:
        port = int(bootstrap.rpartition(":")[2])
        until = time.monotonic() + READY_S_MAX
        # librdkafka backs off between connections; a bare connect finds the listener's first moment.
        while not _answers(port):
            self._check_alive(until)
            waiting.tick()
            time.sleep(0.05)
        cluster = _cluster_id(self.home)
        client = AdminClient({"bootstrap.servers": bootstrap, "log_level": 0, "reconnect.backoff.max.ms": 200})
        while True:
            self._check_alive(until)
            waiting.tick()
            with contextlib.suppress(KafkaException):
                metadata = client.list_topics(timeout=1)
                if metadata.cluster_id not in (None, cluster):
                    raise self._failed(f"found another cluster on its port {port}: {PORT_TAKEN}")
                if metadata.brokers:
                    return

    def _check_alive(self, until: float) -> None:
        code = self._process.ended() if self._process is not None else None
        if code is not None:
            raise self._failed(f"ended by itself, exit code {code}")
        if time.monotonic() > until:
            raise self._failed(f"gave no answer for {READY_S_MAX:.0f} s")

    def _failed(self, what: str) -> OperatorError:
        lines = [line.strip() for line in self._log_text().splitlines()]
        wrong = next((n for n, line in enumerate(lines) if TROUBLE.search(line)), 0)
        # Java says "Error occurred during initialization of VM", and what it was on the next line.
        said = " ".join(lines[wrong : wrong + 2])[:300] or "nothing in its log"
        return OperatorError(
            f"broker 'local': Kafka {what} (got: {said}); read {self.home / 'broker.log'}"
            " (Java must be 17 or later), or set TIDINGS_BROKER=memory or TIDINGS_BROKER=host:port",
            exit_code=3,
        )

    def _log_text(self) -> str:
        return (self.home / "broker.log").read_text(errors="replace")

    def stop(self) -> None:
        """Stop Kafka and wait until it is gone: SIGTERM, a bound of 20 s, SIGKILL. Idempotent; the data stays."""
        process, self._process = self._process, None
        if process is None:
            return
        process.ask_to_stop()
        with Waiting("broker 'local': stopping Kafka") as waiting:
            while not process.wait(0.02):
                waiting.tick()
        (self.home / "running.json").unlink(missing_ok=True)

    def kill(self) -> None:
        """End Kafka with SIGKILL, as a crash does. For fault tests; start a new broker on the same data afterwards."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        self.stop()

    def __enter__(self) -> "LocalBroker":
        """Return the running broker."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop."""
        self.stop()


def _take_lock(home: Path) -> int:
    """Return the descriptor of the held lock; waits for a Kafka whose starter died and which is stopping."""
    descriptor = os.open(home / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    until = time.monotonic() + STOP_S_MAX + 5
    with Waiting("broker 'local': waiting for the one before to stop") as waiting:
        while True:
            if take_lock(descriptor):
                return descriptor
            record = _recorded(home)
            starter = record.get("starter", "")
            if (starter and alive(int(starter))) or time.monotonic() > until:
                os.close(descriptor)
                address = record.get("bootstrap", "unknown address")
                raise OperatorError(
                    f"{home}: a broker already runs on this data (got pid {record.get('pid', 'unknown')} at {address});"
                    f" use it with TIDINGS_BROKER=local://{address}, stop it, or set another TIDINGS_DATA_DIR",
                    exit_code=3,
                )
            waiting.tick()
            time.sleep(0.05)


def _recorded(home: Path) -> dict[str, str]:
    try:
        record = json.loads((home / "running.json").read_text())
    except (OSError, ValueError):  # absent, or torn by a crash while it was written
        return {}
    return {name: str(value) for name, value in record.items()} if isinstance(record, dict) else {}


def _cluster_id(home: Path) -> str | None:
    """Return the id that Kafka's storage was formatted with: whoever answers with another one is not our Kafka."""
    for line in (home / "log" / "meta.properties").read_text().splitlines():
        name, _, value = line.partition("=")
        if name.strip() == "cluster.id":
            return value.strip()
    return None


def _free_port(wanted: int, taken: Collection[int] = ()) -> int:
    """Return `wanted` if it can be listened on, else another one, none of those `taken`.

    Not one that the system picks: those are also the source ports of outgoing connections, and one of them could take
    the port before Kafka listens.
    """
    picks = random.SystemRandom()
    for port in [wanted] * (wanted > 0) + [picks.randrange(*PORTS) for _ in range(50)]:
        if port in taken:
            continue
        with socket.socket() as probe:
            # As Kafka does: connections of the run before, still closing, do not make the port unusable.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with contextlib.suppress(OSError):
                probe.bind((HOST, port))
                return port
    raise OperatorError(
        f"broker 'local': no port to listen on (got none free of 50 tried in {PORTS[0]}-{PORTS[1]} on {HOST});"
        " check what this process may listen on",
        exit_code=3,
    )


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(0.5)
        return probe.connect_ex((HOST, port)) == 0
