"""docs/operating.md lists each metric, and none that is not there."""

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from agents.metrics import EngineMetrics
from agents.records import Counters
from tidings.otp import families_of
from tidings.web.prometheus import DeliveryRecorder, engine_families, process_families, sink_families

DOC = Path(__file__).parents[3] / "docs" / "operating.md"


def told() -> set[str]:
    memory = SimpleNamespace(used=lambda held: {"members": held}, most=lambda: {"all": 0})
    consumer = SimpleNamespace(tracker=SimpleNamespace(held_bytes=0))
    worker = SimpleNamespace(tasks={}, engine_of=lambda _: None, consumer=consumer)
    built: Any = SimpleNamespace(metrics=EngineMetrics(), worker=worker, stores={}, memory=memory)
    families = process_families("engine", True) + engine_families(built) + sink_families(Counters())
    return {family.name for family in families + DeliveryRecorder().families() + families_of({})}


def documented() -> set[str]:
    section = DOC.read_text(encoding="utf-8").partition("\n## Metrics\n")[2].partition("\nWorth an alert")[0]
    return {
        name
        for row in section.splitlines()
        if row.startswith("| `")
        for name in re.findall(r"`([a-z_]+)`", row.split(" | ")[0])
    }


def test_the_page_lists_exactly_the_metrics_there_are() -> None:
    assert documented() == told()
