from types import SimpleNamespace
from typing import Any

import pytest

from agents.records import Counters
from agents.recovery import Standing
from tidings.web.pages import campaigns_page, member_page, recovery_progress, sink_trouble

AT = 1_795_255_200_123  # 2026-11-21T10:00:00.123Z


class Engine:
    def __init__(self, *views: dict[str, Any]) -> None:
        self._views = list(views)

    def campaigns_view(self) -> list[dict[str, Any]]:
        return self._views


class Worker:
    def __init__(self, *engines: Engine | None) -> None:
        self._engines = dict(enumerate(engines))
        self.tasks = dict.fromkeys(self._engines)

    def engine_of(self, partition: int) -> Engine | None:
        return self._engines[partition]


def version(name: str, state: str = "live", since: int = 4) -> dict[str, Any]:
    return {"campaign": name, "version": "v1", "state": state, "since_offset": since, "title": "T", "pattern": "p"}


def page(*engines: Engine | None) -> dict[str, Any]:
    return campaigns_page(Worker(*engines))  # type: ignore[arg-type]


def test_partitions_agree_when_each_runs_the_version_in_the_same_state() -> None:
    (row,) = page(Engine(version("a", since=4)), Engine(version("a", since=9)))["campaigns"]
    assert (row["agree"], row["state"], row["since_offset"]) == (True, "live", {"0": 4, "1": 9})


def test_a_partition_that_has_not_read_it_yet_disagrees() -> None:
    (row,) = page(Engine(version("a")), Engine())["campaigns"]
    assert (row["agree"], row["state"], row["states"]) == (False, "live", {"0": "live"})


def test_partitions_in_other_states_are_mixed() -> None:
    (row,) = page(Engine(version("a")), Engine(version("a", "draining")))["campaigns"]
    assert (row["agree"], row["state"]) == (False, "mixed")


def test_a_partition_that_is_being_revoked_is_not_asked() -> None:
    assert page(Engine(version("a")), None)["partitions"] == [0]


def test_each_time_of_a_member_is_told_in_ms_and_rfc_3339() -> None:
    view = {
        "member_id": "m1", "profile": {"tier": "gold"}, "dates": [{"campaign": "b", "due": AT, "date": "birthday"}],
        "instances": [
            {"campaign": "a", "version": "v1", "correlation": "p1", "anchor": "e1", "step": 1, "due": AT, "until": None,
             "fires_at": AT + 5_000, "matched": [{"step": 0, "event_id": "e1", "e": AT}]},
        ],
        "decisions": [{"at": AT, "campaign": "a", "outcome": "eligible", "reason": "", "instance_id": "i"}],
        "touches": [{"at": AT, "command_id": "c", "campaign": "a"}],
    }  # fmt: skip
    found = member_page(view, 3, AT)
    (instance,) = found["instances"]
    spelled = "2026-11-21T10:00:00.123Z"
    assert (found["partition"], found["clock_ms"], found["clock"]) == (3, AT, spelled)
    assert (instance["due_ms"], instance["due"]) == (AT, spelled)
    assert (instance["until_ms"], instance["until"]) == (None, None)
    assert (instance["fires_at_ms"], instance["fires_at"]) == (AT + 5_000, "2026-11-21T10:00:05.123Z")
    assert instance["matched"] == [{"step": 0, "event_id": "e1", "at_ms": AT, "at": spelled}]
    for listed in ("dates", "decisions", "touches"):
        (row,) = found[listed]
        assert spelled in row.values(), listed


@pytest.mark.parametrize(
    ("counters", "word"), [(None, "not open"), (Counters(outage=True, failures=3), "got 3 failures")]
)
def test_a_sink_that_cannot_insert_says_so(counters: Counters | None, word: str) -> None:
    trouble = sink_trouble(counters)
    assert trouble is not None
    assert word in trouble[0]


def test_a_sink_that_inserts_is_ready() -> None:
    assert sink_trouble(Counters()) is None


def test_recovery_under_way_is_told_in_numbers_and_a_finished_one_is_not() -> None:
    standing = Standing(total=1_000, left=250, rate=500.0, eta_s=0.5)
    recovering: Any = SimpleNamespace(
        worker=SimpleNamespace(recovered=False, recovery=SimpleNamespace(standing=standing))
    )
    assert recovery_progress(recovering) == {
        "records_total": 1_000, "records_left": 250, "percent": 75.0, "records_per_second": 500, "eta_s": 0.5,
    }  # fmt: skip
    recovering.worker.recovered = True
    assert recovery_progress(recovering) is None
