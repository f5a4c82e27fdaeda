"""Timers in memory: each fires at its time and in order, and only the nearest are held."""

import random

from streams.timers import Timers
from tables.member_state import NEVER, Member
from tables.store import MemoryStore

PAGE = 16


def fill(timers: Timers, store: MemoryStore, members: dict[str, Member], count: int, seed: int) -> dict[str, int]:
    """Set a timer for each of `count` members, as an epoch that is written at once."""
    rng, due = random.Random(seed), {}
    for number in range(count):
        member = members.setdefault(f"m{number}", Member(f"m{number}"))
        due[member.member_id] = member.scheduled = member.hint = rng.randrange(1, 1_000_000)
        timers.set(member.scheduled, member.member_id)
    store.write({}, {}, [(name.encode(), None, at) for name, at in due.items()], None)
    return due


def taken(timers: Timers, steps: int = 100) -> list[tuple[int, set[str]]]:
    return [(clock, set(timers.take(clock))) for clock in range(0, 1_000_001, 1_000_000 // steps)]


def test_timers_that_were_let_go_fire_as_if_they_had_been_held() -> None:
    for seed in range(5):
        store, members = MemoryStore(), dict[str, Member]()
        timers = Timers(store.due, PAGE)
        due = fill(timers, store, members, 1_000, seed)
        timers.let_go(members, 0)
        # Not one bucket more than a page needs; the buckets of about a second hold one timer each here.
        assert len(timers) <= PAGE + 5 and timers.earliest() == min(due.values())
        for clock, found in taken(timers):
            assert found == {name for name, at in due.items() if clock - 10_000 < at <= clock}
        assert timers.earliest() is None and timers.first == NEVER


def test_a_clock_that_only_timers_move_reaches_those_that_were_let_go() -> None:
    store, members = MemoryStore(), dict[str, Member]()
    timers = Timers(store.due, PAGE)
    due = fill(timers, store, members, 200, 1)
    timers.let_go(members, 0)
    far = members["far"] = Member("far")
    far.scheduled = far.hint = 5_000_000  # set since: held, though others that come sooner are not
    timers.set(5_000_000, "far")
    store.write({}, {}, [(b"far", None, 5_000_000)], None)
    found: dict[str, int] = {}
    while (clock := timers.earliest()) is not None:
        found |= dict.fromkeys(timers.take(clock), clock)
    assert found == due | {"far": 5_000_000}


def test_a_member_let_go_may_be_set_again_sooner() -> None:
    store, members = MemoryStore(), dict[str, Member]()
    timers = Timers(store.due, PAGE)
    due = fill(timers, store, members, 200, 1)
    timers.let_go(members, 0)
    last = max(due, key=due.__getitem__)
    assert members[last].scheduled == NEVER, "else what comes sooner would not be set"
    near = next(name for name, at in due.items() if at == min(due.values()))
    assert members[near].scheduled == due[near]
    timers.set(5, last)
    assert timers.take(5) == [last]


def test_timers_of_members_whose_epoch_is_not_written_are_held() -> None:
    store, members = MemoryStore(), dict[str, Member]()
    timers = Timers(store.due, PAGE)
    fill(timers, store, members, 200, 1)
    one = members["m7"] = Member("m7")
    one.epoch, one.scheduled = 2, 999_999  # no hint of it is in the store yet
    timers.set(999_999, "m7")
    timers.let_go(members, 1)
    assert one.scheduled == 999_999 and len(timers) < 2 * PAGE
    assert "m7" in set().union(*(found for _, found in taken(timers)[-1:]))


def test_few_timers_are_held_as_they_are() -> None:
    store, members = MemoryStore(), dict[str, Member]()
    timers = Timers(store.due, PAGE)
    fill(timers, store, members, PAGE - 1, 1)
    timers.let_go(members, 0)
    assert len(timers) == PAGE - 1


def test_letting_go_again_and_again_while_the_clock_runs_loses_and_doubles_none() -> None:
    rng = random.Random(3)
    store, members, due = MemoryStore(), dict[str, Member](), dict[str, int]()
    timers, most = Timers(store.due, PAGE), 0
    fired: dict[str, int] = {}
    for clock in range(0, 2_000_000, 2_000):
        for name in timers.take(clock):
            if due.get(name, NEVER) <= clock:
                fired[name] = fired.get(name, 0) + 1
                store.write({}, {}, [(name.encode(), due.pop(name), None)], None)
                members[name].scheduled = NEVER
        if clock < 1_000_000:
            for _ in range(5):
                name = f"m{len(members)}"
                member = members[name] = Member(name)
                due[name] = member.scheduled = clock + rng.randrange(1, 900_000)
                timers.set(member.scheduled, name)
                store.write({}, {}, [(name.encode(), None, due[name])], None)
            timers.let_go(members, 0)
            most = max(most, len(timers))
    assert len(fired) == len(members) == 2_500 and set(fired.values()) == {1} and not due
    assert most < 6 * PAGE < 2_500 / 10
