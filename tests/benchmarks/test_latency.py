"""Latency is measured on a real Kafka: the measurement itself must see every command."""

import pytest

from benchmarks.latency import absence, positive


@pytest.mark.kafka
@pytest.mark.slow
def test_a_short_run_sees_the_commands_of_both_kinds() -> None:
    row = positive(200, 3.0, 50)
    assert row.items > 10
    assert row.more["reached per s"] > 50
    late = absence(5)
    assert late.items == 5
    assert late.more["p50 ms"] > -1_000  # a command before due + L would be wrong; a second for clocks and rounding
