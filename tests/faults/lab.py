"""One laboratory: a broker with a proxied door per worker, the workers, an SMTP server, a ClickHouse, a watcher."""

import dataclasses
import random
import shutil
import signal
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import msgspec
from confluent_kafka import OFFSET_BEGINNING, Consumer, TopicPartition
from confluent_kafka.admin import (  # type: ignore[attr-defined]
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    ResourceType,
)

from agents.delivery_state import SENT_TOPIC
from agents.topics import COMMANDS
from tests.faults.cluster import Cluster
from tests.faults.load import PROBE, Load, Spoilt
from tests.faults.proxy import OPEN, Proxies
from tests.faults.worker import Crew, Worker
from tests.sinks.clickhouse_http import ClickHouseOverHttp
from tidings.brokers import LocalBroker
from tidings.brokers.admin import create_topics
from tidings.brokers.local import _free_port
from tidings.config import Settings
from tidings.smtp_server import ReceivedMail, SmtpServer
from tidings.standing import Lookout, Metrics, Standing, get
from tidings.web.auth import token_of
from tidings.worker import PORT_OFFSETS

PARTITIONS = 3
ENGINES, DELIVERIES, SINKS = 3, 2, 2
DOORS = ENGINES + DELIVERIES + SINKS
READY_S = 240.0
STILL_S = 60.0  # nothing moves for so long: it never will
SETTLED_S = 400.0


class ClickHouse(ClickHouseOverHttp):
    """The tests' server, which notes when it was inserted into."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.inserted_at: list[float] = []

    def _run(self, text: bytes, *rest: Any) -> tuple[bytes, str]:
        found = super()._run(text, *rest)
        if text.startswith(b"INSERT"):
            self.inserted_at.append(time.monotonic())
        return found


class Watch(threading.Thread):
    """Reads `commands` as they come: when was each probe answered? `anchors`: command id -> event id of a probe."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(name="watch", daemon=True)
        self.answered_at: dict[str, float] = {}
        self.anchors: dict[str, str] = {}
        self._closing = threading.Event()
        self._consumer = Consumer(
            settings.confluent_consumer(
                "lab-watch", {"log_level": 0, "reconnect.backoff.max.ms": 200}, fetch_wait_max_ms=20
            )
        )
        self._consumer.assign([TopicPartition(COMMANDS, p, OFFSET_BEGINNING) for p in range(settings.partitions)])

    def run(self) -> None:
        while not self._closing.is_set():
            for message in self._consumer.consume(500, 0.02):
                if message.error() is None:
                    command = msgspec.json.decode(message.value() or b"{}")
                    if command.get("campaign") == PROBE:
                        self.answered_at.setdefault(command["anchor"], time.monotonic())
                        self.anchors[command["command_id"]] = command["anchor"]
        self._consumer.close()

    def close(self) -> None:
        self._closing.set()
        self.join(10)


class Lab:
    """A context manager; `home` is emptied first and left as it is."""

    def __init__(
        self, home: Path, seed: int, session_ms: int, engines: int, deliveries: int, sinks: int, cluster: bool = False
    ) -> None:
        self.home = home
        self.session_s = session_ms / 1_000
        self.seed = seed
        self.long = False
        self.rng = random.Random(f"lab {seed}")
        self.mailed_at: dict[str, float] = {}  # by Message-ID, the first
        self.mail_doubles: list[tuple[str, float]] = []
        self._session_ms = session_ms
        self._wanted = {"engine": engines, "delivery": deliveries, "sink": sinks}
        self._stack = ExitStack()
        self._broker_lock = threading.Lock()
        self._clustered = cluster

    def __enter__(self) -> "Lab":
        shutil.rmtree(self.home, ignore_errors=True)
        self.home.mkdir(parents=True)
        with ExitStack() as stack:
            self.proxies = Proxies()
            stack.callback(self.proxies.close)
            self._open_broker(stack)
            self.smtp = stack.enter_context(SmtpServer(on_mail=self._mailed, keep=1))
            self.clickhouse = ClickHouse(self.home / "clickhouse")
            stack.callback(self.clickhouse.close)
            self.clickhouse.start()
            self.settings = self._settings()
            create_topics(self.settings)
            # The broker's clock tells which came first: a result on record, or a successor's reading of what was sent.
            alter_topic(self.settings, SENT_TOPIC, {"message.timestamp.type": "LogAppendTime"})
            self.crew = Crew()
            stack.callback(self.crew.close)
            self._hire()
            self.watch = Watch(self.settings)
            self.watch.start()
            stack.callback(self.watch.close)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.close()

    def _open_broker(self, stack: ExitStack) -> None:
        self._doors: list[int] = []
        if self._clustered:  # without proxies: each worker knows all nodes
            self._proxied = [0] * DOORS
            self.cluster = Cluster(self.home, Settings.from_env().cache_dir)
            stack.callback(self.cluster.close)
            self.bootstrap = self.cluster.bootstrap
            return
        for _ in range(DOORS):
            self._doors.append(_free_port(0, self._doors))
        self._proxied = [self.proxies.add(port) for port in self._doors]
        self._port = _free_port(0, self._doors)
        self.start_broker()
        stack.callback(lambda: self.broker.kill())
        self.bootstrap = self.broker.bootstrap

    def start_broker(self) -> None:
        """Start Kafka on the same data and ports."""
        doors = [f"DOOR{n}://127.0.0.1" for n in range(DOORS)]
        listeners = [f"{door}:{port}" for door, port in zip(doors, self._doors, strict=True)]
        advertised = [f"{door}:{port}" for door, port in zip(doors, self._proxied, strict=True)]
        plain = [f"{name}:PLAINTEXT" for name in ("PLAINTEXT", "CONTROLLER", *(f"DOOR{n}" for n in range(DOORS)))]
        more = [
            "log.cleaner.backoff.ms=200",
            ",".join(["listeners=PLAINTEXT://{host}:{port},CONTROLLER://{host}:{controller_port}", *listeners]),
            ",".join(["advertised.listeners=PLAINTEXT://{host}:{port}", *advertised]),
            "listener.security.protocol.map=" + ",".join(plain),
        ]
        cache = Settings.from_env().cache_dir
        self.broker = LocalBroker(self.home, cache, port=self._port, heap_mb=256, more="\n".join(more) + "\n")
        if int(self.broker.bootstrap.rpartition(":")[2]) != self._port:
            raise Spoilt("another program took Kafka's port; run the seed again")

    def _settings(self) -> Settings:
        templates = self.home / "templates"
        templates.mkdir()
        (templates / "hello.subject.j2").write_text("About {{ campaign }}")
        (templates / "hello.txt.j2").write_text("Hello {{ member.first_name }} {{ unsubscribe_url }}\n")
        return Settings.from_env(
            {
                "TIDINGS_BROKER": self.bootstrap,
                "TIDINGS_DATA_DIR": str(self.home / "data"),
                "TIDINGS_TEMPLATES_DIR": str(templates),
                "TIDINGS_PARTITIONS": str(PARTITIONS),
                "TIDINGS_CLICKHOUSE": self.clickhouse.url,
                "TIDINGS_SMTP": self.smtp.url,
            }
        )

    def _hire(self) -> None:
        logs = self.home / "logs"
        logs.mkdir()
        token_of(self.settings)
        doors = iter(self._proxied)
        for role, most in (("engine", ENGINES), ("delivery", DELIVERIES), ("sink", SINKS)):
            for instance in range(most):
                door = next(doors)
                port = _free_port(0) - PORT_OFFSETS[role] - instance
                broker = f"127.0.0.1:{door}" if door else self.bootstrap
                own = dataclasses.replace(self.settings, broker=broker, web_port=port)
                worker = Worker(role, instance, own, logs, self._session_ms, door)
                self.crew.all[worker.name] = worker
                if instance < self._wanted[role]:
                    self.crew.start(worker)
                else:
                    self.crew.resting.add(worker.name)
        self.crew.begin()

    def await_ready(self) -> None:
        """Wait until all that should run are ready."""
        deadline = time.monotonic() + READY_S
        waiting = self._unready()
        while waiting:
            if time.monotonic() > deadline:
                self._stacks()
                raise RuntimeError(f"not ready: {[(w.name, w.last_words(3)) for w in waiting]}")
            time.sleep(0.1)
            waiting = self._unready()

    def _unready(self) -> list[Worker]:
        return [w for role in self._wanted for w in self.crew.of(role) if not w.ready]

    def wait(self, check: Callable[[], Any], timeout_s: float) -> bool:
        """Wait until something holds; whether it came."""
        deadline = time.monotonic() + timeout_s
        while not check():
            if time.monotonic() > deadline:
                return False
            time.sleep(0.05)
        return True

    def with_broker(self, action: Callable[[], None]) -> None:
        """Do something to the broker; two troubles of the broker do not overlap."""
        with self._broker_lock:
            action()

    def heal(self) -> None:
        """Take back what still lasts."""
        for worker in self.crew.all.values():
            if worker.proxy:
                self.proxies.set(worker.proxy, OPEN)
            worker.point.unlink(missing_ok=True)
            worker.move_clock(0)
            worker.thaw()
        self.smtp.rule = None
        self.smtp.start()
        self.clickhouse.swallow_answers = 0

    def settle(self) -> tuple[bool, str]:
        """Wait until nothing is under way and no timer is left; whether that came, and where it stands."""
        token = token_of(self.settings)
        last: Standing | None = None
        moved = began = time.monotonic()
        with Lookout(self.settings) as lookout:
            while True:
                texts = [get(w.url() or "", "/metrics", token)[1] for w in self.crew.of("engine") if w.running]
                seen = lookout.look(Metrics("\n".join(texts)))
                if seen is not None and seen.done and seen == last:
                    return True, ""
                now = time.monotonic()
                if seen != last:
                    moved = now
                last = seen
                if now - moved > STILL_S or now - began > SETTLED_S:
                    self._stacks()
                    return False, f"{seen}"
                time.sleep(0.3)

    def _stacks(self) -> None:
        """Have every worker write into its log where its threads stand."""
        for worker in self.crew.all.values():
            worker.send(signal.SIGUSR1)
        time.sleep(1)

    def _mailed(self, mail: ReceivedMail) -> None:
        ident = mail.message_id.partition("@")[0]
        if ident in self.mailed_at:
            self.mail_doubles.append((ident, time.monotonic()))
        else:
            self.mailed_at[ident] = time.monotonic()


def load_of(lab: Lab, holes: bool) -> Load:
    """The load of a laboratory, which goes past the proxies."""
    return Load(lab.settings, lab.seed, holes)


def alter_topic(settings: Settings, topic: str, values: dict[str, str]) -> None:
    """Set some of a topic's configuration."""
    entries = [ConfigEntry(name, value, incremental_operation=AlterConfigOpType.SET) for name, value in values.items()]
    resource = ConfigResource(ResourceType.TOPIC, topic, incremental_configs=entries)
    admin = AdminClient(settings.confluent(log_level=0))  # has a name: it must live until it has answered
    for future in admin.incremental_alter_configs([resource]).values():
        future.result(60)
