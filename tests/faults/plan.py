"""One seed = one schedule: which workers there are, what goes wrong, when. Eight seeds in a row cover every kind."""

import random
from dataclasses import dataclass

from tests.faults.kinds import CLUSTER_KINDS, KINDS

BLOCK = 8  # seeds that share one deck of all kinds
# Seconds that a kind lasts, roughly: long ones are dealt to different seeds.
SLOW = {"rolling restart": 15, "scale 1-3-2": 14, "broker down": 12}
FROZEN, USUAL = 6, 2
SESSION_MS = 4_000
CLUSTER = 101  # from this seed on there are three brokers, and what goes is one of them, and workers
BESIDES = ("engine kill -9", "delivery kill -9", "sink kill -9", "rolling restart", "store deleted")


@dataclass(frozen=True, slots=True)
class Schedule:
    """What a seed means. `faults`: name, seconds of pause before it, whether it waits for those before to end."""

    seed: int
    engines: int
    deliveries: int
    sinks: int
    holes: bool
    faults: tuple[tuple[str, float, bool], ...]
    cluster: bool = False


def cost_of(name: str) -> int:
    """Guess how long a kind lasts."""
    return SLOW.get(name, FROZEN if "freeze" in name or "network" in name else USUAL)


def schedule_of(seed: int) -> Schedule:
    """Deal the deck of the seed's block of BLOCK seeds, by cost, so that each seed lasts about as long."""
    if seed >= CLUSTER:
        return _cluster_schedule(seed)
    block, place = divmod(seed - 1, BLOCK)
    deck = sorted((kind.name for kind in KINDS), key=lambda name: random.Random(f"{block} {name}").random())
    hands: list[list[str]] = [[] for _ in range(BLOCK)]
    for name in sorted(deck, key=cost_of, reverse=True):
        min(hands, key=lambda hand: (sum(map(cost_of, hand)), len(hand))).append(name)
    rng = random.Random(f"schedule {seed}")
    hand = hands[place]
    rng.shuffle(hand)
    faults = tuple((name, rng.uniform(0.5, 2.0), rng.randrange(4) > 0) for name in hand)
    return Schedule(seed, rng.choice([1, 2, 2, 3]), rng.choice([1, 2]), rng.choice([1, 2]), rng.random() < 0.5, faults)


def _cluster_schedule(seed: int) -> Schedule:
    rng = random.Random(f"cluster {seed}")
    hand = [kind.name for kind in CLUSTER_KINDS for _ in range(2)] + rng.sample(BESIDES, 2)
    rng.shuffle(hand)
    faults = tuple((name, rng.uniform(0.5, 2.0), rng.randrange(2) > 0) for name in hand)
    return Schedule(seed, 2, 2, 1, rng.random() < 0.5, faults, cluster=True)
