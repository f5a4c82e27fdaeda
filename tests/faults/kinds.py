"""What goes wrong: each fault a class with a name, the time it lasts, how it is applied and how it is undone."""

import shutil
import time
from collections.abc import Callable
from typing import Any, ClassVar

from agents import failpoints
from agents.topics import CHANGELOG, EVENTS
from tests.faults.lab import Lab, alter_topic
from tests.faults.proxy import CUTS, OPEN
from tests.faults.worker import Worker
from tidings.brokers import LocalBroker
from tidings.smtp_server import DROP_AFTER, DROP_BEFORE

FREEZE_SHARE = 1.4  # of the session
POINT_S = 10.0  # a point that is not reached by then is given up: there was nothing to do there
BACK_S = 30.0
CLOCK_MS = 60_000
DOWN_S, DOWN_LONG_S = 8.0, 90.0  # longer than two sessions; as long as a broker's machine takes to come back


class Fault:
    """`hold_s`: between apply and undo. `role`: whose progress shows it."""

    name: ClassVar[str]
    role: ClassVar[str] = "engine"

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.rng = lab.rng
        self.hold_s = 0.0
        self.told = ""  # what came of it, for the table

    def apply(self) -> None:
        raise NotImplementedError

    def undo(self) -> None:
        """Nothing to take back: whoever ended is started again."""

    def one(self, role: str) -> Worker:
        """Pick a worker that runs and is not frozen."""
        among = [w for w in self.lab.crew.of(role) if w.running and not w.frozen] or self.lab.crew.of(role)
        return self.rng.choice(among)


class Kill(Fault):
    """kill -9; back at once, or only when the session is over and the partitions have gone to others."""

    def apply(self) -> None:
        worker = self.one(self.role)
        back_s = self.rng.choice([0.2, 0.2, self.lab.session_s * 1.2])
        self.told = f"{worker.name}, back after {back_s:.1f} s"
        self.lab.crew.kill(worker, back_s)
        self.hold_s = back_s


class Freeze(Fault):
    """SIGSTOP for longer than the session, then SIGCONT."""

    def apply(self) -> None:
        self.worker = self.one(self.role)
        self.told = self.worker.name
        self.hold_s = self.lab.session_s * FREEZE_SHARE
        self.lab.crew.expect_end(self.worker)
        self.worker.freeze()

    def undo(self) -> None:
        self.worker.thaw()


class At(Fault):
    """The end or a freeze at a point of the protocol."""

    point: ClassVar[str]
    action: ClassVar[str]

    def apply(self) -> None:
        self.worker = worker = self.one(self.role)
        count = self.rng.choice([1, 2, 3]) if self.point not in (failpoints.QUIESCED, failpoints.REVOKED) else 1
        self.lab.crew.expect_end(worker)
        worker.point.write_text(f"{self.point} {count} {self.action}")
        if self.point in (failpoints.QUIESCED, failpoints.REVOKED):
            self._rebalance()
        struck = self.lab.wait(lambda: not worker.point.exists(), POINT_S)
        worker.point.unlink(missing_ok=True)
        self.told = f"{worker.name}, time {count}" + ("" if struck else ", not reached")
        if struck and self.action == "stop":
            worker.frozen = True
            self.hold_s = self.lab.session_s * FREEZE_SHARE

    def undo(self) -> None:
        if self.action == "stop":
            self.worker.thaw()

    def _rebalance(self) -> None:
        """Let another one join; where all are there already, one goes first."""
        crew = self.lab.crew
        absent = [w for w in crew.all.values() if w.role == self.role and w.name in crew.resting]
        if not absent:
            other = self.rng.choice([w for w in crew.of(self.role) if w is not self.worker])
            crew.stop(other)
            absent = [other]
        crew.start(absent[0])


class RollingRestart(Fault):
    """Three workers, one after the other, as a deployment does it."""

    name = "rolling restart"

    def apply(self) -> None:
        crew = self.lab.crew
        for worker in [w for w in crew.all.values() if w.role == "engine"]:
            if worker.name in crew.resting:
                crew.start(worker)
        for worker in crew.of("engine"):
            if not crew.stop(worker):
                self.told = f"{worker.name} did not stop"
            crew.start(worker)
            self.lab.wait(lambda w=worker: w.ready, BACK_S)  # type: ignore[misc]


class Scale(Fault):
    """One worker, then three, then two."""

    name = "scale 1-3-2"

    def apply(self) -> None:
        crew = self.lab.crew
        engines = [w for w in crew.all.values() if w.role == "engine"]
        self.rng.shuffle(engines)
        for worker in engines[1:]:
            if worker.name not in crew.resting:
                crew.stop(worker)
        crew.start(engines[0])
        for worker in engines[1:]:
            crew.start(worker)
        self.lab.wait(lambda: all(w.ready for w in engines), BACK_S)
        crew.stop(engines[2])


class BrokerRestart(Fault):
    name = "broker restart"

    def apply(self) -> None:
        def restart() -> None:
            self.lab.broker.stop()
            self.lab.start_broker()

        self.lab.with_broker(restart)


class BrokerKill(Fault):
    name = "broker kill -9"

    def apply(self) -> None:
        def restart() -> None:
            self.lab.broker.kill()
            self.lab.start_broker()

        self.lab.with_broker(restart)


class BrokerDown(Fault):
    name = "broker down"

    def apply(self) -> None:
        down_s = DOWN_LONG_S if self.lab.long else DOWN_S

        def down() -> None:
            self.lab.broker.stop()
            time.sleep(down_s)
            self.lab.start_broker()

        self.told = f"{down_s:.0f} s"
        self.lab.with_broker(down)


class LeaderLost(Fault):
    """One of three brokers goes: the one that leads a partition of `events`. Others lead, and it comes back."""

    end: ClassVar[Callable[[LocalBroker], None]]

    def apply(self) -> None:
        cluster, away_s = self.lab.cluster, self.rng.choice([1.0, DOWN_S])

        def replace() -> None:
            node = cluster.leader(EVENTS, self.rng.randrange(self.lab.settings.partitions))
            self.told = f"node {node}, away for {away_s:.0f} s"
            cluster.replace(node, away_s, type(self).end)

        self.lab.with_broker(replace)


class StoreLost(Fault):
    """The disk of a worker is gone: it reads the changelog from its beginning."""

    name = "store deleted"

    def apply(self) -> None:
        crew, worker = self.lab.crew, self.one("engine")
        self.told = worker.name
        crew.kill(worker, BACK_S)
        worker.wait(5)
        shutil.rmtree(worker.data / "engine", ignore_errors=True)
        crew.start(worker)


class Compaction(Fault):
    """The changelog is compacted while it grows; then somebody has to read it from the beginning."""

    name = "changelog compacted"

    def apply(self) -> None:
        often = {"segment.ms": "1000", "min.cleanable.dirty.ratio": "0.01", "min.compaction.lag.ms": "0"}
        alter_topic(self.lab.settings, CHANGELOG, often)
        self.hold_s = 4.0

    def undo(self) -> None:
        StoreLost.apply(self)  # type: ignore[arg-type]


class Cut(Fault):
    """The network between one worker and the broker is out for longer than the session."""

    mode: ClassVar[str]

    def apply(self) -> None:
        self.worker = self.one(self.role)
        self.hold_s = self.lab.session_s * self.rng.choice([0.6, FREEZE_SHARE])
        self.told = f"{self.worker.name}, {self.hold_s:.1f} s"
        self.lab.crew.expect_end(self.worker)
        self.lab.proxies.set(self.worker.proxy, self.mode)

    def undo(self) -> None:
        self.lab.proxies.set(self.worker.proxy, OPEN)


class SmtpDrops(Fault):
    """The server hangs up on every third mail: having taken it, or not."""

    role = "delivery"
    how: ClassVar[str]

    def apply(self) -> None:
        calls = [0]

        def rule(recipient: str, ident: str) -> str | None:
            calls[0] += 1
            return self.how if calls[0] % 3 == 0 else None

        self.lab.smtp.rule = rule
        self.hold_s = 2.0

    def undo(self) -> None:
        self.lab.smtp.rule = None


class SmtpDown(Fault):
    name = "smtp down"
    role = "delivery"

    def apply(self) -> None:
        self.lab.smtp.stop()
        self.hold_s = 3.0

    def undo(self) -> None:
        self.lab.smtp.start()


class ClickHouseSilent(Fault):
    """Inserts are applied and their answers lost."""

    name = "clickhouse applies, no answer"
    role = "sink"

    def apply(self) -> None:
        self.lab.clickhouse.swallow_answers = 4
        self.hold_s = 2.0

    def undo(self) -> None:
        self.lab.clickhouse.swallow_answers = 0


class ClickHouseDown(Fault):
    name = "clickhouse down"
    role = "sink"

    def apply(self) -> None:
        self.lab.clickhouse.stop()
        self.hold_s = 3.0

    def undo(self) -> None:
        self.lab.clickhouse.start()


class ClockMoved(Fault):
    """A worker's clock goes ahead by a minute, then back by one, then is right again."""

    name = "clock moved"

    def apply(self) -> None:
        self.worker = self.one(self.rng.choice(["engine", "engine", "delivery", "sink"]))
        self.told = self.worker.name
        self.worker.move_clock(CLOCK_MS)
        time.sleep(2)
        self.worker.move_clock(-CLOCK_MS)
        self.hold_s = 2.0

    def undo(self) -> None:
        self.worker.move_clock(0)


def _made(base: type[Fault], name: str, **more: Any) -> type[Fault]:
    return type(base.__name__, (base,), {"name": name, "__doc__": base.__doc__, **more})


def _points(role: str, points: tuple[str, ...], stops: tuple[str, ...]) -> list[type[Fault]]:
    found = [_made(At, f"{role} kill at {p}", role=role, point=p, action="kill") for p in points]
    return found + [_made(At, f"{role} freeze at {p}", role=role, point=p, action="stop") for p in stops]


ENGINE_FREEZES = (failpoints.OUTPUTS_SENT, failpoints.OUTPUTS_ACKED, failpoints.CHANGELOG_ACKED, failpoints.QUIESCED)
KINDS: tuple[type[Fault], ...] = (
    *(_made(Kill, f"{role} kill -9", role=role) for role in ("engine", "delivery", "sink")),
    *(_made(Freeze, f"{role} freeze", role=role) for role in ("engine", "delivery", "sink")),
    *_points("engine", failpoints.ENGINE, ENGINE_FREEZES),
    *_points("delivery", failpoints.DELIVERY, (failpoints.ANSWERED,)),
    *_points("sink", failpoints.SINK, (failpoints.ANNOUNCED,)),
    RollingRestart,
    Scale,
    BrokerRestart,
    BrokerKill,
    BrokerDown,
    StoreLost,
    Compaction,
    *(_made(Cut, f"engine network {mode}", mode=mode) for mode in CUTS),
    _made(Cut, "delivery network hang", mode=CUTS[0], role="delivery"),
    _made(Cut, "sink network mute", mode=CUTS[1], role="sink"),
    _made(SmtpDrops, "smtp takes, hangs up", how=DROP_AFTER),
    _made(SmtpDrops, "smtp hangs up", how=DROP_BEFORE),
    SmtpDown,
    ClickHouseSilent,
    ClickHouseDown,
    ClockMoved,
)
CLUSTER_KINDS: tuple[type[Fault], ...] = (
    _made(LeaderLost, "leader kill -9", end=LocalBroker.kill),
    _made(LeaderLost, "leader restart", end=LocalBroker.stop),
)
BY_NAME: dict[str, type[Fault]] = {kind.name: kind for kind in KINDS + CLUSTER_KINDS}
Make = Callable[[Lab], Fault]
