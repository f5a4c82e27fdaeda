"""One seed, one run: build a world, let it happen, judge it."""

from dataclasses import dataclass, field
from functools import partial
from typing import Any

from schemas.codec import decode_command
from schemas.commands import SendMessage
from schemas.ids import h128
from streams.engine import PartitionEngine
from tidings.simulation.broker import MAX_WIRE_MS, Broker, Stored
from tidings.simulation.checks import Judge
from tidings.simulation.disk import SimStore, lose
from tidings.simulation.faults import DEFAULT, Faults
from tidings.simulation.group import Group
from tidings.simulation.guarded import told_of
from tidings.simulation.process import Process, Shared, owners_of
from tidings.simulation.workload import PartitionWork, Source, json_bytes, make_partition, place_of, told_of_leg
from tidings.simulation.world import Violation, World

# Runs need a few thousand, a month's pause under a skewed clock a hundred thousand; beyond, something goes in circles.
MOST_HAPPENINGS = 300_000
LIVES = 7  # of one worker; after that it is left in peace
PAUSES_MS = (100, 1_000, 4_000, 6_000, 12_000, 30_000)  # below and above lease and session
RESTARTS_MS = (10, 300, 2_000, 15_000)


@dataclass
class Outcome:
    """What came of a seed."""

    seed: int
    violations: list[Violation]
    counts: dict[str, int] = field(default_factory=dict)
    story: list[str] = field(default_factory=list)


class Run:
    """A world with its broker, group and workers.

    Args:
        seed: everything follows from it.
        source: cases and oracle.
        kinds: troubles allowed; each seed draws some of them.
        telling: keep the story.
    """

    def __init__(self, seed: int, source: Source, kinds: frozenset[str] = DEFAULT, *, telling: bool = False) -> None:
        self.seed = seed
        self.world = World(seed, 0, telling=telling)
        rng = self.world.rng
        chosen = kinds if rng.random() < 0.3 else frozenset(k for k in sorted(kinds) if rng.random() < 0.7)
        self.faults = Faults(chosen, rng.choice([1, 1, 8, 60]))
        partitions = rng.choice([1, 1, 2, 3])
        most = rng.choice([12, 30, 60]) if partitions == 1 else 25
        place = place_of(seed, partitions)
        self.works: list[PartitionWork] = [
            make_partition(seed, p, source, self.world, self.faults, most, place) for p in range(partitions)
        ]
        self.broker = Broker(self.world, self.faults, partitions)
        self.group = Group(self.world, self.faults, self.broker, static=rng.random() < 0.4)
        self.shared = Shared(self.world, self.faults, self.broker, self.group, self._engine)
        self.judge = Judge(self.world, self.broker, self.works, source)
        self.slots = [f"w{n + 1}" for n in range(rng.choice([1, 2, 2, 3]))]
        self.disks: dict[str, dict[int, SimStore]] = {slot: {} for slot in self.slots}
        self.lives = dict.fromkeys(self.slots, 0)
        self.processes: dict[str, Process] = {}
        self.killed = 0
        self._cache = rng.choice([0, 2_000, 1 << 28, 1 << 28])
        self._receipts: set[str] = set()
        self._leaving: set[str] = set()
        self.broker.appended = self._appended
        self.broker.commanded = self._commanded
        self.broker.changed_by = self._changed_by

    def run(self) -> Outcome:
        """Let it happen and judge."""
        begin, end = self._plan_log()
        rng = self.world.rng
        starts = [begin, begin, rng.randrange(begin, end + 1), end]
        for slot in self.slots:
            self.world.at(rng.choice(starts), partial(self._start, slot))
        self._plan_troubles(begin, end)
        calm = end + rng.choice([0, 2_000, 20_000])
        self.world.at(calm, self._calm)
        while self.world.happened < MOST_HAPPENINGS and self.world.step():
            pass
        if self.world.happened >= MOST_HAPPENINGS:
            self.world.accuse("liveness", f"no rest after {MOST_HAPPENINGS} happenings")
        alive = [process for process in self.processes.values() if process.alive]
        calm_ms = max(calm, end) + max(PAUSES_MS) + max(RESTARTS_MS)
        self.judge.judge(owners_of(alive), self.group.committed, calm_ms)
        for process in alive:
            process.loop.discard()
        return Outcome(self.seed, self.world.violations, self._counts(), list(self.world.story))

    def _counts(self) -> dict[str, int]:
        return {
            "records": sum(len(log.records) for log in self.broker.events),
            "firings": self.judge.firings,
            "journeys": self.judge.journeys,
            "bounds": self.judge.bounds,
            "outputs": sum(len(found) for found in self.broker.outputs.values()),
            "kills": self.killed,
            "generations": self.group.generation,
            "compactions": self.broker.compactions,
            "happenings": self.world.happened,
        }

    def _engine(self, partition: int, store: Any) -> PartitionEngine:
        return PartitionEngine(partition, store, campaigns=self.works[partition].plans, hot_bytes=self._cache)

    # ------------------------------------------------------------ the log

    def _plan_log(self) -> tuple[int, int]:
        """Append each record when its append time has come; a time that goes back is a leader whose clock is behind."""
        begin, end = 1 << 62, 0
        for partition, work in enumerate(self.works):
            physical = 0
            for a, key, value in work.lines:
                physical = max(physical, a)
                begin, end = min(begin, physical), max(end, physical)
                self.world.at(physical, partial(self.broker.append_event, partition, key, value, a))
        self.world.now = begin
        return begin, end

    def _appended(self, partition: int) -> None:
        for process in self.processes.values():
            if partition in process.positions:
                process.deliver(partial(process.poke, partition))

    def _commanded(self, record: Stored) -> None:
        """Be the delivery: a receipt for some of the commands, appended to the partition they came from."""
        command = decode_command(record.value)
        if not isinstance(command, SendMessage) or command.command_id in self._receipts:
            return
        self._receipts.add(command.command_id)
        data = {
            "command_id": command.command_id,
            "campaign": command.campaign,
            "version": command.version,
            "instance_id": command.instance_id,
            "channel": command.channel,
            "status": "sent",
            "attempt": 1,
            "attribution_window_ms": command.attribution_window_ms,
        }
        event = {
            "type": "delivery.sent",
            "member_id": command.member_id,
            "event_id": h128(command.command_id, "sent", "1"),
            "occurred_at": self.world.now,
            "data": data,
        }
        key, value, partition = command.member_id.encode(), json_bytes(event), record.origin
        self.world.after(self.world.rng.choice([5, 500]), lambda: self.broker.append_event(partition, key, value))
        told: list[tuple[int, bytes]] = []
        if self.works[partition].guarded:
            told = told_of(self.seed, command, self.world.now)
        elif "." in command.step:  # a leg of a cascade
            told = told_of_leg(self.seed, command, self.world.now)
        for delay_ms, receipt in told:
            self.world.after(delay_ms, partial(self.broker.append_event, partition, key, receipt))

    def _changed_by(self, process: Process, partition: int) -> None:
        """I4 and the zombie's case: who writes to a changelog must not have given the partition up, nor lost it."""
        owner = self.group.owner.get(partition)
        if partition in process.given_up:
            self.world.accuse("I4", f"{process.name}: changelog of {partition} written after its revoke had returned")
        elif owner is not None and owner is not process and owner.alive and partition in owner.worker.tasks:
            text = f"{process.name}: changelog of {partition} written while {owner.name} runs it"
            self.world.accuse("zombie", text)

    # ------------------------------------------------------------ the workers

    def _start(self, slot: str) -> None:
        running = self.processes.get(slot)
        if running is not None and running.alive:
            return
        self.lives[slot] += 1
        self._leaving.discard(slot)
        process = Process(slot, self.lives[slot], self.disks[slot], self.shared, self._ended)
        self.processes[slot] = process
        self.world.tell(f"{process.name}: starts")
        self._plan_halt(process)
        self.world.after(self.faults.delay(self.world, 500), lambda: self._join(process))

    def _join(self, process: Process) -> None:
        if process.alive and not process.paused:
            self.group.join(process)
        elif process.alive:
            process.deliver(lambda: self.group.join(process))

    def _plan_halt(self, process: Process) -> None:
        """Choose a step of this process after which it is killed or frozen: every await point may be that step."""
        rng, life = self.world.rng, self.lives[process.slot]
        if life >= LIVES:
            return
        step = process.loop.steps + int(3 * 2 ** (rng.random() * 8.5))
        roll = rng.random()
        if self.faults.on("crash") and roll < 0.6:
            process.halt_at = (step, lambda: self._kill(process))
        elif self.faults.on("pause") and roll < 0.85:
            process.halt_at = (step, lambda: self._pause(process))

    def _kill(self, process: Process) -> None:
        lost = self.faults.on("machine") and self.world.chance(40)
        process.kill()
        if lost:
            lose(process.disk, self.world)

    def _pause(self, process: Process) -> None:
        length = self.world.rng.choice(PAUSES_MS)
        process.pause(length)
        self.world.after(length + 1, lambda: self._plan_halt(process) if self.faults.active else None)

    def _ended(self, process: Process) -> None:
        self.killed += 1
        delay = self.world.rng.choice(RESTARTS_MS)
        if self.group.static and "quick" not in self.faults.kinds:
            delay = max(delay, MAX_WIRE_MS + 100)  # assumed: what a process sent has arrived before it runs again
        self.world.after(delay, lambda: self._start(process.slot))

    # ------------------------------------------------------------ troubles

    def _plan_troubles(self, begin: int, end: int) -> None:
        rng, span = self.world.rng, end - begin + 1
        if self.faults.anywhere("rebalance"):
            for _ in range(rng.choice([0, 1, 3])):
                self.world.at(begin + rng.randrange(span), self.group.rebalance)
            for _ in range(rng.choice([0, 0, 1, 2])):
                self.world.at(begin + rng.randrange(span), lambda: self._restart(rng.choice(self.slots)))
        if self.faults.anywhere("heartbeats"):
            for _ in range(rng.choice([1, 2, 4])):
                self.world.at(begin + rng.randrange(span), lambda: self._deafen(rng.choice(self.slots)))

    def _restart(self, slot: str) -> None:
        process = self.processes.get(slot)
        if process is not None and process.alive and slot not in self._leaving:
            self._leaving.add(slot)
            self.world.tell(f"{process.name}: asked to stop")
            process.deliver(lambda: process.loop.create_task(process.stop()))

    def _deafen(self, slot: str) -> None:
        process = self.processes.get(slot)
        if process is not None:
            process.deafen(self.world.rng.choice([8_000, 14_000, 25_000]))

    def _calm(self) -> None:
        """End the troubles; what is dead or frozen still comes back."""
        self.world.tell("-- troubles end --")
        self.faults.active = False
        for process in self.processes.values():
            process.halt_at = None


def run_seed(seed: int, source: Source, kinds: frozenset[str] = DEFAULT, *, telling: bool = False) -> Outcome:
    """Run one seed."""
    return Run(seed, source, kinds, telling=telling).run()
