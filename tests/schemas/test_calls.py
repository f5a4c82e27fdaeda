"""A call's task: one operator at a time, ended once, called again as its rule says."""

from schemas.calls import (
    CALLBACK,
    EXPIRED,
    FORMAT,
    NOT_REACHED,
    REACHED,
    REFUSED,
    CallClaim,
    CallOutcome,
    CallState,
    CallTask,
    Record,
    encode_call_record,
    fold_call,
    is_open,
    read_call,
)
from schemas.references import reference_of
from tests.sinks.channels.samples import send

T0, AGAIN, UNTIL = 1_000_000, 60_000, 9_000_000
TASK = CallTask(FORMAT, reference_of(send()), "calls", "+4915112345678", "Say hello", T0, UNTIL, 2, AGAIN)


def claim(lease: str, span_ms: int = 1_000) -> CallClaim:
    return CallClaim(FORMAT, lease, f"op-{lease}", span_ms)


def said(lease: str, outcome: str, again_at_ms: int = 0) -> CallOutcome:
    return CallOutcome(FORMAT, lease, outcome, again_at_ms)


def stored(*steps: tuple[int, Record]) -> bytes | None:
    value: bytes | None = None
    for at_ms, record in steps:
        value = fold_call(value, encode_call_record(record), at_ms)
    return value


def folded(*steps: tuple[int, Record]) -> CallState:
    state = read_call(stored((T0, TASK), *steps))
    assert state is not None
    return state


def test_the_first_claim_holds_and_the_other_learns_that_it_lost() -> None:
    state = folded((T0, claim("a")), (T0 + 1, claim("b")))
    assert (state.lease, state.actor, state.leased_until_ms, state.lost) == ("a", "op-a", T0 + 1_000, ("b",))


def test_a_lease_that_is_over_frees_the_task_at_its_very_end() -> None:
    assert folded((T0, claim("a")), (T0 + 999, claim("b"))).lease == "a"
    assert folded((T0, claim("a")), (T0 + 1_000, claim("b"))).lease == "b"


def test_an_outcome_of_a_lease_that_another_has_taken_over_does_not_count() -> None:
    state = folded((T0, claim("a")), (T0 + 1_000, claim("b")), (T0 + 1_001, said("a", REACHED)))
    assert state.outcome == "" and state.lease == "b"


def test_an_outcome_after_the_end_of_a_lease_counts_while_nobody_else_has_claimed() -> None:
    assert folded((T0, claim("a")), (T0 + 5_000, said("a", REACHED))).outcome == REACHED


def test_who_holds_a_task_may_claim_it_again_until_another_has_it() -> None:
    again = folded((T0, claim("a")), (T0 + 500, claim("a", 60_000)), (T0 + 1_500, claim("b")))
    assert (again.lease, again.leased_until_ms, again.lost) == ("a", T0 + 60_500, ("b",))
    late = folded((T0, claim("a")), (T0 + 5_000, claim("a")), (T0 + 5_999, claim("b")))
    assert (late.lease, late.leased_until_ms, late.lost) == ("a", T0 + 6_000, ("b",))
    taken = folded((T0, claim("a")), (T0 + 1_000, claim("b")), (T0 + 1_500, claim("a")))
    assert (taken.lease, taken.lost) == ("b", ("a",))


def test_an_end_forgets_whom_to_call_and_is_not_claimed_again() -> None:
    for outcome in (REACHED, REFUSED):
        value = stored((T0, TASK), (T0, claim("a")), (T0, said("a", outcome)), (T0 + 5_000, claim("b")))
        state = read_call(value)
        assert state is not None and value is not None and not is_open(value)
        assert (state.outcome, state.told, state.task.phone, state.task.text, state.lost) == (
            outcome,
            "a",
            "",
            "",
            ("b",),
        )


def test_a_member_who_is_not_reached_is_called_again_as_often_as_the_rule_says() -> None:
    first = folded((T0, claim("a")), (T0 + 5, said("a", NOT_REACHED)))
    assert (first.outcome, first.tried, first.due_ms, first.lease) == ("", 1, T0 + 5 + AGAIN, "")
    assert not first.free(T0 + 4 + AGAIN) and first.free(T0 + 5 + AGAIN)
    second = folded(
        (T0, claim("a")), (T0 + 5, said("a", NOT_REACHED)), (T0 + AGAIN + 5, claim("b")),
        (T0 + AGAIN + 6, said("b", NOT_REACHED)),
    )  # fmt: skip
    assert second.outcome == NOT_REACHED


def test_a_callback_comes_when_the_member_wants_it_and_costs_no_try() -> None:
    state = folded((T0, claim("a")), (T0, said("a", CALLBACK, T0 + 700_000)))
    assert (state.due_ms, state.tried, state.outcome) == (T0 + 700_000, 0, "")


def test_a_task_expires_at_its_time_but_not_while_somebody_is_calling() -> None:
    assert folded((UNTIL - 1, said("", EXPIRED))).outcome == ""
    assert folded((UNTIL, said("", EXPIRED))).outcome == EXPIRED
    assert folded((UNTIL - 10, claim("a")), (UNTIL, said("", EXPIRED))).outcome == ""
    assert not folded().free(UNTIL)


def test_a_task_told_twice_is_one_and_what_cannot_be_read_changes_nothing() -> None:
    value = stored((T0, TASK), (T0, claim("a")))
    assert fold_call(value, encode_call_record(TASK), T0) == value == fold_call(value, b"\xc1", T0)
    assert fold_call(None, encode_call_record(claim("a")), T0) is None and fold_call(value, b"", T0) is None
