"""Latency is measured on a real Kafka: the measurement itself must see every command."""

import pytest

from benchmarks.latency import positive


@pytest.mark.kafka
@pytest.mark.slow
def test_a_short_run_sees_the_commands_and_the_rate() -> None:
    row = positive(200, 1.5, 50, warm_s=0.5)
    assert row.items > 10
    assert float(row.more["reached per s"]) > 20
