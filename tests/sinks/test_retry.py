"""Back-off: doubling, bounded, spread by hash, the same each time."""

import pytest

from sinks.retry import Backoff


def test_delays_double_to_the_cap_within_half_a_step() -> None:
    backoff = Backoff(base_ms=1_000, cap_ms=10_000)
    for attempt, step in ((1, 1_000), (2, 2_000), (3, 4_000), (4, 8_000), (5, 10_000), (500, 10_000)):
        assert step // 2 <= backoff.delay_ms(attempt, "k") <= step


def test_a_delay_depends_on_key_and_attempt_alone() -> None:
    backoff = Backoff()
    assert backoff.delay_ms(1, "a") == Backoff().delay_ms(1, "a")
    assert len({backoff.delay_ms(1, str(key)) for key in range(200)}) > 190


def test_the_last_attempt_is_the_last() -> None:
    assert [Backoff(attempts=3).exhausted(n) for n in (1, 2, 3, 4)] == [False, False, True, True]


def test_bounds_that_make_no_sense_are_refused() -> None:
    for bad in ({"base_ms": 0}, {"cap_ms": 1}, {"attempts": 0}):
        with pytest.raises(ValueError, match="backoff"):
            Backoff(**bad)
