"""Timers that are due come in their order, with those that are set while others fire."""

from heapq import heappush
from typing import Any

from streams.schedule import in_turn


def test_what_is_set_meanwhile_comes_at_its_place() -> None:
    later: list[tuple[Any, ...]] = []
    fired = []
    for entry in in_turn([(1, "a"), (3, "b"), (5, "c")], later):
        fired.append(entry)
        if entry == (1, "a"):
            heappush(later, (4, "a"))
            heappush(later, (2, "a"))
        if entry == (5, "c"):
            heappush(later, (4, "late"))  # its deadline lies before what has fired: it comes next
            heappush(later, (9, "c"))
    assert fired == [(1, "a"), (2, "a"), (3, "b"), (4, "a"), (5, "c"), (4, "late"), (9, "c")]
    assert later == []


def test_nothing_due_is_nothing() -> None:
    assert list(in_turn([], [])) == []
