"""What a first step gathers before it matches: the n latest, a windowed aggregate, a set. Lists in, lists out.

Entries stay until they are spent by a firing (SEMANTICS 49, 50) or fall out of every window that may still come.
"""

from collections.abc import Callable
from math import fsum
from typing import Any, Final

from streams.patterns.expressions import Data, leaves, scalars
from streams.patterns.plan import StepPlan, correlation_key

EXACT_MAX: Final = 64  # DESIGN §4: sums are exact up to 64 entries,
BUCKETS: Final = 32  # else kept in 32 buckets of the window; the error is at most one bucket's share at the far edge
SET_ENTRIES_MAX: Final = 16  # occurrences remembered per member of an `all of`
SEARCH_MAX: Final = 4_096  # sets tried for one record; more means a hostile pattern

Entry = list[Any]

_TESTS: Final[dict[str, Callable[[float, float], bool]]] = {
    "=": lambda a, b: a == b,
    "!=": lambda a, b: a != b,
    "<": lambda a, b: a < b,
    "<=": lambda a, b: a <= b,
    ">": lambda a, b: a > b,
    ">=": lambda a, b: a >= b,
}


def add_latest(entries: list[Entry], entry: Entry, most: int) -> bool:
    """Keep the `most` latest by (event time, offset); tell whether `entry` = [e, offset, id] is among them."""
    at = len(entries)
    while at > 0 and (entries[at - 1][0], entries[at - 1][1]) > (entry[0], entry[1]):
        at -= 1
    entries.insert(at, entry)
    if len(entries) > most:
        del entries[0]
        return at > 0
    return True


def aggregate_values(step: StepPlan, data: Data) -> list[Any]:
    """List the values an event brings to an aggregate; empty means it takes no part."""
    if not step.path:
        return [1]
    found = scalars(leaves(data, step.path))
    if step.fn == "count":
        return [1] if found else []
    if step.fn == "distinct":
        return [correlation_key(v) for v in found]
    return [v for v in found if isinstance(v, int | float) and not isinstance(v, bool)]


def add_to_aggregate(entries: list[Entry], step: StepPlan, at: tuple[int, int], values: list[Any]) -> bool:
    """Add the values of the event `at` (e, offset) to the window ending at the greatest e; tell whether it lies inside.

    Entries are [e, offset, value] for `distinct` (latest e per value), else [e, offset, count, sum, min, max],
    ascending in e.
    """
    e, offset = at
    if step.fn == "distinct":
        for value in values:
            known = next((entry for entry in entries if entry[2] == value), None)
            if known is None:
                entries.append([e, offset, value])
            elif e >= known[0]:
                known[0], known[1] = e, offset
    else:
        entries.append([e, offset, len(values), fsum(values), min(values), max(values)])
    entries.sort(key=_time_of)
    edge = entries[-1][0] - step.window_ms
    keep = next(i for i, entry in enumerate(entries) if entry[0] > edge)
    del entries[:keep]
    if step.fn == "distinct":
        if len(entries) > max(EXACT_MAX, step.threshold + 1):  # more than any comparison can ask for
            del entries[0]
    elif len(entries) > EXACT_MAX:
        _bucket(entries, step.window_ms)
    return bool(e > edge)


def _time_of(entry: Entry) -> int:
    at: int = entry[0]
    return at


def _bucket(entries: list[Entry], window_ms: int) -> None:
    width = max(1, window_ms // BUCKETS)
    merged: dict[int, Entry] = {}
    for entry in entries:
        bucket = merged.get(entry[0] // width)
        if bucket is None:
            merged[entry[0] // width] = list(entry)
        else:
            bucket[0] = max(bucket[0], entry[0])
            bucket[2] += entry[2]
            bucket[3] += entry[3]
            bucket[4] = min(bucket[4], entry[4])
            bucket[5] = max(bucket[5], entry[5])
    entries[:] = merged.values()


def aggregate_of(entries: list[Entry], fn: str) -> float:
    """Compute the aggregate of a non-empty window."""
    if fn == "distinct":
        return len(entries)
    count = sum(entry[2] for entry in entries)
    if fn == "count":
        return float(count)
    if fn == "min":
        return float(min(entry[4] for entry in entries))
    if fn == "max":
        return float(max(entry[5] for entry in entries))
    total = fsum(entry[3] for entry in entries)
    return total / count if fn == "avg" else total


def aggregate_holds(step: StepPlan, entries: list[Entry]) -> bool:
    """Compare the aggregate with the step's threshold."""
    return bool(entries) and _TESTS[step.test](aggregate_of(entries, step.fn), step.threshold)


def add_to_set(entries: list[Entry], entry: Entry) -> None:
    """Remember one occurrence [reference index, e, offset, id] in read order, bounded per reference."""
    entries.append(entry)
    same = [i for i, known in enumerate(entries) if known[0] == entry[0]]
    if len(same) > SET_ENTRIES_MAX:
        del entries[same[0]]


def find_set(entries: list[Entry], count: int, current: Entry, window_ms: int) -> list[Entry] | None:
    """Find a set with one occurrence per reference, `current` among them, whose event times span less than the window.

    Latest read first per reference, references in the order written (SEMANTICS 52).
    """
    candidates = [
        [current] if index == current[0] else [e for e in reversed(entries) if e[0] == index] for index in range(count)
    ]
    budget = SEARCH_MAX

    def extend(index: int, low: int, high: int) -> list[Entry] | None:
        nonlocal budget
        if index == count:
            return []
        for entry in candidates[index]:
            budget -= 1
            if budget < 0:
                return None
            lowest, highest = min(low, entry[1]), max(high, entry[1])
            if highest - lowest < window_ms:
                rest = extend(index + 1, lowest, highest)
                if rest is not None:
                    return [entry, *rest]
        return None

    return extend(0, current[1], current[1])
