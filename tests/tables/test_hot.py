"""Decoded members in memory: bounded in bytes, the one that changed longest ago leaves first."""

from tables.hot import HotMembers
from tables.member_state import Member


def member(name: str, epoch: int = 0) -> Member:
    made = Member(name)
    made.epoch = epoch
    return made


def test_the_one_that_changed_longest_ago_leaves_first() -> None:
    hot = HotMembers(10_000)
    for name in "abc":
        hot.keep(member(name), 200)
    hot.keep(hot["a"], 200)
    assert hot.held > hot.budget * 0.9
    hot.keep(member("d"), 200)
    hot.evict(0)
    assert list(hot) == ["a", "d"]
    assert hot.held <= hot.budget


def test_large_members_push_more_out_than_small_ones() -> None:
    small, large = HotMembers(20_000), HotMembers(20_000)
    for number in range(100):
        small.keep(member(f"m{number}"), 10)
        large.keep(member(f"m{number}"), 1_000)
    small.evict(0)
    large.evict(0)
    assert len(large) < 3 < 30 < len(small)


def test_member_that_grows_is_counted_with_its_present_size() -> None:
    hot = HotMembers()
    one = member("a")
    hot.keep(one, 100)
    before = hot.held
    hot.keep(one, 100)
    assert hot.held == before
    hot.keep(one, 5_000)
    assert hot.held > 10 * before
    hot.keep(one, 100)
    assert hot.held == before


def test_member_of_an_epoch_that_is_not_written_stays_whatever_it_costs() -> None:
    hot = HotMembers(0)
    hot.keep(member("written", 1), 100)
    hot.keep(member("in flight", 2), 100)
    hot.evict(1)
    assert list(hot) == ["in flight"]
    hot.evict(2)
    assert not hot
    assert hot.held == 0


def test_member_that_left_and_came_back_is_counted_once() -> None:
    hot = HotMembers(0)
    one = member("a")
    hot.keep(one, 100)
    hot.evict(0)
    hot.keep(one, 100)
    assert hot.held == one.cost
