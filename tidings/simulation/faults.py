"""Which troubles a run may have, and how much of them."""

from schemas.errors import OperatorError
from tidings.simulation.world import World

KINDS = {
    "crash": "a worker process is killed between any two of its steps",
    "machine": "with a kill, the local store's last writes are lost, or the whole disk",
    "pause": "a worker is frozen and wakes up later, maybe as a zombie",
    "rebalance": "workers join, leave, restart; partitions move",
    "network": "requests and acks are late or lost, batches are split",
    "compaction": "the changelog is compacted",
    "skew": "leaders change, append times go back; workers' clocks are off",
    "holes": "offsets are left out",
    "duplicates": "producers send a record twice, stray ticks appear",
    "edits": "campaigns are published, withdrawn and changed in mid-window",
    "heartbeats": "a worker's heartbeats are lost while it still reaches the other brokers, maybe as a zombie",
    "quick": "beyond what is promised, not in `all`: a static member is back before its dead self's last request is in",
    "tombstones": "beyond what is promised, not in `all`: a store comes back older than the changelog's tombstones",
}
DEFAULT = frozenset(KINDS) - {"quick", "tombstones"}


class Faults:
    """The troubles of one run. `active` ends when the log is complete; logs and their shape are not affected by it."""

    def __init__(self, kinds: frozenset[str], scale: int = 1) -> None:
        self.kinds = kinds
        self.scale = scale
        self.active = True

    def on(self, kind: str) -> bool:
        """Tell whether a kind may happen now."""
        return self.active and kind in self.kinds

    def anywhere(self, kind: str) -> bool:
        """Tell whether a kind may happen, even after troubles have stopped."""
        return kind in self.kinds

    def delay(self, world: World, most_ms: int) -> int:
        """Draw how long something takes on the network, in ms."""
        if not self.on("network"):
            return world.rng.randrange(1, 4)
        if world.chance(8):
            return min(most_ms, world.rng.choice([300, 900, 1_900]))
        return min(most_ms, world.rng.randrange(1, 12) * self.scale)


def read_kinds(text: str) -> frozenset[str]:
    """Read a comma-separated choice; `all` and `none` are words, a minus takes one away (`all,-pause`)."""
    chosen: set[str] = set()
    for word in (part.strip() for part in text.split(",")):
        name = word.removeprefix("-")
        if name == "all":
            chosen |= DEFAULT
        elif name == "none" or not name:
            continue
        elif name not in KINDS:
            raise OperatorError(f"--faults: unknown kind (got {name!r}); choose from {', '.join(KINDS)}, all, none")
        elif word.startswith("-"):
            chosen.discard(name)
        else:
            chosen.add(name)
    return frozenset(chosen)
