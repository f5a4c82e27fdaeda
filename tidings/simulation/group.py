"""The simulated consumer group: eager rebalances, generations, session expiry, static membership, fenced commits."""

from functools import partial
from typing import Any

from streams.registry import META_CLOCK
from tidings.simulation.broker import Broker, _unpack
from tidings.simulation.faults import Faults
from tidings.simulation.world import World

SESSION_MS = 10_000
HEARTBEAT_MS = 1_000
REBALANCE_MS = 12_000  # a member that has not joined again by then is out


class Group:
    """The coordinator. Members are processes; a static member keeps its name over restarts.

    Args:
        world: clock and chance.
        faults: what may happen.
        broker: for what is durable when a commit comes in.
        static: whether workers have a static membership id.
    """

    def __init__(self, world: World, faults: Faults, broker: Broker, *, static: bool) -> None:
        self.generation = 0
        self.committed: dict[int, int] = {}
        self.assignment: dict[str, list[int]] = {}
        self.owner: dict[int, Any] = {}
        self.stable = True
        self.static = static
        self._world = world
        self._faults = faults
        self._broker = broker
        self._members: dict[str, Any] = {}
        self._joined: set[str] = set()
        self._round = 0

    def join(self, process: Any) -> None:
        """Let a process (back) in. A static member that returns to a stable group gets its partitions back at once."""
        name = self._name(process)
        returning = self.static and name in self._members and self._members[name] is not process
        self._members[name] = process
        if returning and self.stable and name in self.assignment:
            self._world.tell(f"group: {name} returns to generation {self.generation}")
            self._hand_over(process, name)
            return
        if self.stable:
            self._begin()
        self._joined.add(name)
        self._complete_if_all()

    def rebalance(self) -> None:
        """Begin a rebalance for no reason (a topic's metadata changed, a member of no account came and went)."""
        if self.stable and self._members:
            self._begin()

    def leave(self, process: Any) -> None:
        """Let a process go that says goodbye; a static member does not say it."""
        if not self.static and self._members.get(self._name(process)) is process:
            self._remove(self._name(process))

    def silent(self, process: Any, still_silent: Any) -> int:
        """Learn that a process stopped its heartbeats now; unless it resumes, its session expires.

        Returns how long ago, in ms, the last one was.
        """
        name, told = self._name(process), process.name

        def expire() -> None:
            if self._members.get(name) is process and still_silent():
                self._world.tell(f"group: session of {told} expired")
                self._remove(name)

        ago_ms = self._world.rng.randrange(HEARTBEAT_MS)
        self._world.after(SESSION_MS - ago_ms, expire)
        return ago_ms

    def knows(self, process: Any) -> bool:
        """Tell whether a process is a member."""
        return self._members.get(self._name(process)) is process

    def current(self, process: Any) -> bool:
        """Tell whether a process has its partitions in the present generation."""
        return self.knows(process) and process.app.consumer_generation_id == self.generation

    def commit(self, process: Any, generation: int, offsets: dict[int, int]) -> bool:
        """Take a commit, unless it is of another generation or of one who is no member. Checks I1."""
        if not self.knows(process) or generation != self.generation:
            self._world.tell(f"group: commit of {process.name} refused ({offsets})")
            return False
        for partition, offset in offsets.items():
            self._judge(process, partition, offset)
            self.committed[partition] = offset
        self._world.tell(f"group: commit of {process.name} {offsets}")
        return True

    def _judge(self, process: Any, partition: int, offset: int) -> None:
        if partition not in self.assignment.get(self._name(process), ()):
            self._world.accuse("I5", f"commit of {process.name} for partition {partition}, which is not its own")
        if offset < self.committed.get(partition, 0):
            self._world.accuse("I1", f"commit of partition {partition} went back to {offset}")
        applied = -1
        if META_CLOCK in self._broker.fold[partition]:
            applied = _unpack(self._broker.fold[partition][META_CLOCK])[1]
        if offset - 1 > applied:
            self._world.accuse("I1", f"partition {partition}: committed {offset}, durable up to {applied}")

    def _name(self, process: Any) -> str:
        return str(process.slot if self.static else process.name)

    def _begin(self) -> None:
        self._round += 1
        self.stable = False
        self._joined = set()
        world, number = self._world, self._round
        world.tell(f"group: rebalance {number} of {sorted(self._members)}")
        for process in list(self._members.values()):
            world.after(world.rng.randrange(HEARTBEAT_MS), partial(self._notify, number, process))
        world.after(REBALANCE_MS, lambda: self._expire_round(number))

    def _notify(self, number: int, process: Any) -> None:
        if number == self._round and self._name(process) not in self._joined:
            process.deliver(process.rejoin)

    def _expire_round(self, number: int) -> None:
        if number == self._round and not self.stable:
            for name in set(self._members) - self._joined:
                self._world.tell(f"group: {name} did not join in time")
                del self._members[name]
            self._complete_if_all()

    def _remove(self, name: str) -> None:
        del self._members[name]
        self.assignment.pop(name, None)
        if self.stable:
            self._begin()
        self._joined.discard(name)
        self._complete_if_all()

    def _complete_if_all(self) -> None:
        if self.stable or not self._members or set(self._members) != self._joined:
            return
        self.stable = True
        self.generation += 1
        names = sorted(self._members)
        self._world.rng.shuffle(names)
        self.assignment = {name: [] for name in names}
        for partition in range(self._broker.partitions):
            self.assignment[names[partition % len(names)]].append(partition)
        self._world.tell(f"group: generation {self.generation} {self.assignment}")
        for name in names:
            self._hand_over(self._members[name], name)

    def _hand_over(self, process: Any, name: str) -> None:
        generation, partitions = self.generation, list(self.assignment[name])
        for partition in partitions:
            self.owner[partition] = process
        self._world.after(
            self._faults.delay(self._world, 500),
            lambda: process.deliver(lambda: process.assigned(generation, partitions)),
        )
