"""A yardstick for a noisy machine: a loop of plain Python whose work never changes.

A shared machine gives the same code twice the speed from one minute to the next. Each measurement is therefore stored
as a multiple of this loop's step as well, timed just before and just after it. Never change the loop: figures before
and after the change could not be compared.
"""

import statistics
import time

STEPS = 60_000
CHECKSUM = 1_348_232_628  # of a loop of STEPS; another value means that the loop is not the one we compare with
REPEATS = 5


def loop(steps: int = STEPS) -> int:
    """Do what the engine does most: look up, compare, make small objects, drop old ones. Returns a checksum."""
    seen: dict[str, list[int]] = {}
    total = 0
    for number in range(steps):
        key = f"m{number * 7_919 % 1_009}"
        entries = seen.get(key)
        if entries is None:
            entries = seen[key] = []
        entries.append(number)
        if len(entries) > 8:
            total += entries[0]
            del entries[0]
    return total


def step_us() -> float:
    """Time the loop: CPU microseconds per step, the median of `REPEATS` runs.

    Raises:
        RuntimeError: the loop is not the one that results are compared with.
    """
    taken = []
    for _ in range(REPEATS):
        began = time.thread_time()
        found = loop()
        taken.append(time.thread_time() - began)
        if found != CHECKSUM:
            raise RuntimeError(f"calibration: the loop was changed (got checksum {found}); change it back")
    return statistics.median(taken) / STEPS * 1e6
