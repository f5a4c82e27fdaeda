"""Decoded members in memory: bounded in bytes, the one that changed longest ago leaves first."""

from tables.hot import HotBudget, HotMembers
from tables.member_state import Member


def member(name: str, epoch: int = 0) -> Member:
    made = Member(name)
    made.epoch = epoch
    return made


def test_the_one_that_changed_longest_ago_leaves_first() -> None:
    hot = HotMembers(8_800)
    for name in "abc":
        hot.keep(member(name), 200)
    hot.keep(hot["a"], 200)
    assert hot.held > hot.budget.limit * 0.9
    hot.keep(member("d"), 200)
    hot.evict(0)
    assert list(hot) == ["a", "d"]
    assert hot.held <= hot.budget.limit


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


def test_partitions_share_one_budget_and_the_one_that_holds_most_gives() -> None:
    budget = HotBudget(30_000)
    idle, busy, new = HotMembers(budget), HotMembers(budget), HotMembers(budget)
    for number in range(60):
        idle.keep(member(f"i{number}"), 10)
    idle.evict(0)
    assert len(idle) == 60 and budget.held == idle.held
    for number in range(60):
        busy.keep(member(f"b{number}"), 10)
        busy.evict(0)
        assert budget.held <= budget.limit
    new.keep(member("n"), 10)
    new.evict(0)
    assert len(new) == 1 and abs(len(idle) - len(busy)) <= 2
    assert next(iter(idle)) != "i0"


def test_members_that_another_partition_has_under_way_stay_when_this_one_asks_for_room() -> None:
    budget = HotBudget(0)
    other, mine = HotMembers(budget), HotMembers(budget)
    other.keep(member("in flight", 1), 100)
    mine.keep(member("written", 1), 100)
    mine.evict(1)
    assert list(other) == ["in flight"] and not mine
    other.evict(1)
    assert budget.held == 0


def test_a_partition_that_is_given_up_takes_nothing_of_the_budget() -> None:
    budget = HotBudget(10_000)
    gone, kept = HotMembers(budget), HotMembers(budget)
    gone.keep(member("a"), 500)
    kept.keep(member("b"), 500)
    del gone
    kept.evict(0)
    assert list(kept) == ["b"] and budget.held == kept.held


def test_a_long_text_in_a_profile_counts_for_what_it_takes() -> None:
    budget = HotBudget()
    texts, states = HotMembers(budget), HotMembers(budget)
    told = member("a")
    told.profile = {"note": "x" * 9_900}
    texts.keep(told, 10_000)
    states.keep(member("b"), 10_000)
    assert 20_000 < texts.held < states.held / 5
