"""The watchdog's rules, and the lease's second one."""

import asyncio
from collections.abc import Hashable

import pytest

from agents.lease import Lease
from agents.recovery import RecoveryProgress
from agents.watchdog import Limits, Progress, Watchdog
from schemas.errors import StateError

LIMITS = Limits(recovery_s=60, progress_s=120)


def recovering(signature: Hashable, left: int = 7, *, rebalancing: bool = False) -> Progress:
    return Progress(signature, left, {}, rebalancing)


def test_recovery_that_stands_still_for_longer_than_its_bound_is_named_with_what_is_left() -> None:
    dog = Watchdog(LIMITS)
    assert dog.look(recovering("a"), 0) is None
    assert dog.look(recovering("a"), 60) is None
    told = dog.look(recovering("a"), 60.1)
    assert told is not None
    assert "recovery stands still (got 7 changelog records" in told
    assert "start it again" in told


def test_recovery_that_gets_on_may_take_any_time() -> None:
    dog = Watchdog(LIMITS)
    assert [dog.look(recovering(n), n * 59) for n in range(100)] == [None] * 100


def test_bound_begins_anew_with_the_next_recovery() -> None:
    dog = Watchdog(LIMITS)
    dog.look(recovering("a"), 0)
    assert dog.look(Progress(None, 0, {}), 59) is None
    assert dog.look(recovering("a"), 61) is None
    assert dog.look(recovering("a"), 120) is None
    assert dog.look(recovering("a"), 122) is not None


def test_rebalance_may_take_as_long_as_the_slowest_member() -> None:
    dog = Watchdog(LIMITS)
    dog.look(recovering("a", rebalancing=True), 0)
    assert dog.look(recovering("a", rebalancing=True), 119) is None
    assert "rebalance does not end" in (dog.look(recovering("a", rebalancing=True), 121) or "")


def test_partition_with_something_to_do_and_an_offset_that_does_not_move_is_named() -> None:
    dog = Watchdog(LIMITS)
    for now in (0, 60, 120):
        assert dog.look(Progress(None, 0, {1: now, 3: 41}), now) is None
    told = dog.look(Progress(None, 0, {1: 121, 3: 41}), 121)
    assert told is not None
    assert "partition 3 stands still (got records after offset 41" in told


def test_partition_with_nothing_to_do_may_rest_for_ever() -> None:
    dog = Watchdog(LIMITS)
    assert dog.look(Progress(None, 0, {3: 41}), 0) is None
    assert dog.look(Progress(None, 0, {}), 1_000) is None
    assert dog.look(Progress(None, 0, {3: 41}), 2_000) is None


def test_bound_of_zero_turns_a_watch_off() -> None:
    dog = Watchdog(Limits(recovery_s=0, progress_s=0))
    for now in (0, 1_000_000):
        assert dog.look(Progress("a", 7, {3: 41}), now) is None


async def test_lease_holds_back_until_a_heartbeat_is_accepted_again() -> None:
    now = [0.0]
    lease = Lease(5.0, 2.0, lambda: now[0])
    now[0] = 2.5
    waiting = asyncio.create_task(lease.granted())
    await asyncio.sleep(0.1)
    assert not waiting.done()
    lease.heard(ago_s=0.5)
    await asyncio.wait_for(waiting, 5)


async def test_lease_counts_from_when_the_heartbeat_was_sent() -> None:
    now = [10.0]
    lease = Lease(5.0, 2.0, lambda: now[0])
    lease.heard(ago_s=1.5)
    now[0] = 10.6
    assert lease.silence_s == pytest.approx(2.1)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(lease.granted(), 0.1)


async def test_lease_of_a_process_that_was_paused_ends_it_even_when_heartbeats_go_on() -> None:
    now = [0.0]
    lease = Lease(5.0, 2.0, lambda: now[0])
    now[0] = 5.5
    lease.heard()
    with pytest.raises(StateError, match=r"did not run for 5\.5 s"):
        await lease.granted()


class Recovery:
    """Faust's, as far as it is asked."""

    def __init__(self) -> None:
        self.active_offsets = {"members-0": 99}
        self.active_highwaters = {"members-0": 1_099}

    def active_remaining(self) -> dict[str, int]:
        return {tp: end - self.active_offsets[tp] for tp, end in self.active_highwaters.items()}


def test_recovery_tells_its_share_rate_and_time_left() -> None:
    now, recovery = [0.0], Recovery()
    progress = RecoveryProgress(lambda: recovery, lambda: now[0])
    first = progress.look(1)
    assert (first.total, first.left, first.eta_s) == (1_000, 1_000, None)
    before = progress.signature()
    now[0], recovery.active_offsets["members-0"] = 2.0, 349
    second = progress.look(1)
    assert progress.signature() != before
    assert second.bar() == "[#####...............] 25%"
    assert second.page() == {
        "records_total": 1_000, "records_left": 750, "percent": 25.0, "records_per_second": 125, "eta_s": 6.0,
    }  # fmt: skip
    assert progress.look(2).total == 750  # the group rebalanced: a new recovery


def test_recovery_with_nothing_to_read_is_complete() -> None:
    recovery = Recovery()
    recovery.active_offsets["members-0"] = 1_099
    assert RecoveryProgress(lambda: recovery).look(1).percent == 100.0
