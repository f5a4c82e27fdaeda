"""`simulate`: what it does with a seed that goes wrong by itself."""

import contextlib
import signal
from typing import Any

import pytest

from tidings.cli import simulate
from tidings.simulation import run
from tidings.simulation.world import Violation


def test_a_seed_that_never_ends_is_told_also_when_what_goes_on_minds_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def for_ever(*_: Any, **_more: Any) -> None:
        while True:
            with contextlib.suppress(Exception):  # as an engine goes on after a campaign that raises
                while True:
                    pass

    monkeypatch.setattr(run, "run_seed", for_ever)
    monkeypatch.setattr(simulate, "SEED_S", 0.1)
    outcome = simulate._one((7, frozenset(), False))
    assert (outcome.seed, outcome.violations) == (7, [Violation("simulator", "Endless: did not end within 0 s of CPU")])


def test_a_seed_that_ends_leaves_no_alarm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "run_seed", lambda seed, *_, **_more: run.Outcome(seed, []))
    before = signal.getsignal(signal.SIGPROF)
    assert simulate._one((7, frozenset(), False)).violations == []
    assert signal.getitimer(signal.ITIMER_PROF) == (0.0, 0.0)
    assert signal.getsignal(signal.SIGPROF) is before
