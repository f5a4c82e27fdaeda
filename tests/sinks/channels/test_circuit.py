"""When a provider is left alone, and when it is asked again."""

from sinks.channels.circuit import Circuit


def test_it_opens_after_failures_in_a_row_and_not_before() -> None:
    circuit = Circuit(threshold=3, base_s=1)
    for _ in range(2):
        circuit.bad(0, "x")
    circuit.good()
    for _ in range(2):
        circuit.bad(0, "x")
    assert circuit.wait_s(0) == 0
    circuit.bad(0, "x")
    assert circuit.wait_s(0) == 1


def test_one_call_at_a_time_finds_out_whether_it_is_back() -> None:
    circuit = Circuit(threshold=1, base_s=1)
    circuit.bad(0, "x")
    assert circuit.wait_s(1) == 0
    circuit.begin()
    assert circuit.wait_s(1) > 0
    circuit.good()
    assert circuit.wait_s(1) == 0 and circuit.failures == 0


def test_a_failed_trial_doubles_the_pause_up_to_the_cap() -> None:
    circuit, now, pauses = Circuit(threshold=1, base_s=1, cap_s=5), 0.0, []
    for _ in range(5):
        circuit.begin()
        circuit.bad(now, "x")
        pauses.append(circuit.wait_s(now))
        now += pauses[-1]
    assert pauses == [1, 2, 4, 5, 5]


def test_calls_that_fail_together_are_one_failure() -> None:
    circuit = Circuit(threshold=1, base_s=1)
    for _ in range(8):
        circuit.bad(0, "x")
    assert circuit.failures == 1 and circuit.wait_s(0) == 1


def test_a_providers_wish_to_wait_is_obeyed_at_once() -> None:
    circuit = Circuit()
    circuit.bad(0, "throttled", retry_after_s=7)
    assert circuit.wait_s(0) == 7 and circuit.wait_s(8) == 0


def test_a_trial_that_was_given_up_keeps_nobody_waiting() -> None:
    circuit = Circuit(threshold=1, base_s=1)
    circuit.bad(0, "x")
    circuit.begin()
    circuit.gone()
    assert circuit.wait_s(2) == 0
