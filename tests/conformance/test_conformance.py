"""Flink CEP's cases as data, run by our engine: what we claim as equal is equal, what we say differs does differ."""

from collections import Counter
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

from schemas.events import Record
from streams.campaigns import load_campaign
from streams.engine import PartitionEngine
from streams.patterns.plan import Plan
from streams.replay import read_log, replay
from tables.store import MemoryStore
from tests.oracle.evaluate import firings as oracle_firings

HERE = Path(__file__).parent
DOCS = HERE.parents[1] / "docs" / "conformance.md"
MINUTE_MS = 60_000
EPOCH_MS = 1_704_067_200_000  # 2024-01-01T00:00:00Z is minute 0 of every case
LAST_TICK = 120  # minutes after a case's last event: beyond every span in the data, so that each absence fires
ENVELOPE = {"id", "type", "at", "read", "member"}
KEYS = {"name", "origin", "theirs_pattern", "campaign", "events", "theirs"}
EXTRA = {"note", "coincides", "strict", "ends", "window", "repeats", "fires", "differs", "draft"}

Ends = tuple[str, str | int]
"""What one firing names: its anchor, and the event that completed it or, for an absence, the due in minutes."""


@dataclass(frozen=True)
class Case:
    """One entry of a data file."""

    file: str
    data: dict[str, Any]

    @property
    def name(self) -> str:
        return str(self.data["name"])

    @property
    def origins(self) -> list[str]:
        origin = self.data["origin"]
        return list(origin) if isinstance(origin, list) else [origin]

    @property
    def counts(self) -> bool:
        """Whether this case is among those we claim: equal, from Flink's own suites, and not told once already."""
        return not {"differs", "draft", "repeats"} & self.data.keys()

    @property
    def row(self) -> str:
        """The case's line in docs/conformance.md."""
        if "differs" in self.data:
            last = self.data["differs"]
        else:
            last = "one for one" if len(self.data["theirs"]) == len(set(self.theirs)) else "first and last"
            last += ", without" if "strict" in self.data else ", one candidate" if "coincides" in self.data else ""
        return f"| {', '.join(f'`{o}`' for o in self.origins)} | {self.name} | {last} |"

    @property
    def theirs(self) -> list[Ends]:
        """Cut Flink's matches to what our firing names; an absence is due a window after its last event."""
        at = {e["id"]: e["at"] for e in self.data["events"] if "id" in e}
        anchor = self.data.get("ends", {}).get("anchor", 0)
        window = self.data.get("window")
        return [(m[anchor], m[-1] if window is None else at[m[-1]] + window) for m in self.data["theirs"]]

    @property
    def lines(self) -> list[bytes]:
        """The log: one line per event in the order given, and a tick long after the last."""
        events = self.data["events"]
        last = max(e.get("read", e.get("at", e.get("tick"))) for e in events)
        return [msgspec.json.encode(line(e)) for e in [*events, {"tick": last + LAST_TICK}]]


def line(event: dict[str, Any]) -> dict[str, Any]:
    if "tick" in event:
        return {"type": "tick", "member_id": None, "occurred_at": EPOCH_MS + round(event["tick"] * MINUTE_MS)}
    told = {
        "event_id": event["id"],
        "type": "custom." + event.get("type", event["id"].rstrip("0123456789")),
        "member_id": event.get("member", "m"),
        "occurred_at": EPOCH_MS + round(event["at"] * MINUTE_MS),
        "data": {k: v for k, v in event.items() if k not in ENVELOPE},
    }
    if "read" in event:
        told["appended_at"] = EPOCH_MS + round(event["read"] * MINUTE_MS)
    return told


@cache
def cases() -> tuple[Case, ...]:
    files = sorted(HERE.glob("*.yaml"))
    return tuple(Case(f.name, data) for f in files for data in yaml.safe_load(f.read_text()))


def chosen(*, differs: bool) -> list[Any]:
    return [pytest.param(c, id=f"{c.file}: {c.name}") for c in cases() if ("differs" in c.data) is differs]


def plan_of(case: Case) -> Plan:
    text = yaml.safe_dump({"campaign": "flink", "send": {"channel": "email", "template": "t"}, **case.data["campaign"]})
    campaign, findings = load_campaign(text, f"tests/conformance/{case.file}")
    assert campaign is not None, [str(finding) for finding in findings]
    return Plan(campaign)


def told(fired: Any) -> Ends:
    return (fired.anchor, fired.completed_by if fired.due is None else (fired.due - EPOCH_MS) / MINUTE_MS)


def fired_by_replay(case: Case) -> list[Ends]:
    return [told(firing) for epoch in replay(read_log(case.lines), [plan_of(case)]) for firing in epoch.firings]


def fired_with_restarts(case: Case) -> list[Ends]:
    """Run record by record, each on an engine built anew from what the one before left in the store."""
    store, plan, out = MemoryStore(), plan_of(case), []
    records: list[Record] = [record for record, _ in read_log(case.lines)]
    for record in records:
        epoch = PartitionEngine(0, store, campaigns=[plan]).run([record])
        store.write(epoch.members, epoch.meta, epoch.hints, None)
        out += [told(firing) for firing in epoch.firings]
    return out


def fired_by_oracle(case: Case) -> list[Ends]:
    campaign = {"campaign": "flink", **case.data["campaign"]}
    out = oracle_firings([campaign], [msgspec.json.decode(text) for text in case.lines])
    return [(f["anchor"], f["completed_by"] or (f["due"] - EPOCH_MS) / MINUTE_MS) for f in out]


def test_data_files_hold_what_the_legend_says():
    for case in cases():
        assert case.data.keys() >= KEYS, case.name
        assert case.data.keys() <= KEYS | EXTRA, case.name
        assert ("fires" in case.data) == ("differs" in case.data), case.name


def test_at_least_sixty_cases_are_claimed_each_with_an_origin_of_its_own():
    claimed = [c for c in cases() if c.counts]
    assert len([c for c in claimed if "coincides" not in c.data]) >= 60
    assert max(Counter(o for c in claimed for o in c.origins).values()) == 1


def test_the_docs_list_every_case_and_count_them_right():
    text = DOCS.read_text()
    assert [c.row for c in cases() if c.row not in text] == []
    claimed = [c for c in cases() if c.counts]
    one = sum(len(c.data["theirs"]) == len(set(c.theirs)) for c in claimed)
    coincide = sum("coincides" in c.data for c in claimed)
    differ = sum("differs" in c.data for c in cases())
    assert f"**{len(claimed)} cases equal**: {one} one for one, {len(claimed) - one} by first and last event" in text
    assert f"{coincide} of them have a step of theirs that is `followedByAny`" in text
    assert f"**{differ} cases differ on purpose**" in text


@pytest.mark.parametrize("case", chosen(differs=False))
def test_a_claimed_case_fires_once_for_each_first_and_last_event_of_flinks_matches(case):
    assert Counter(fired_by_replay(case)) == Counter(set(case.theirs))


@pytest.mark.parametrize("case", chosen(differs=True))
def test_a_case_that_differs_on_purpose_fires_as_we_say_and_not_as_flink_does(case):
    ours = Counter(tuple(pair) for pair in case.data["fires"])
    assert Counter(fired_by_replay(case)) == ours
    assert ours != Counter(set(case.theirs)), "equal now: claim it"


@pytest.mark.parametrize("case", [pytest.param(c, id=f"{c.file}: {c.name}") for c in cases()])
def test_a_case_fires_the_same_after_a_restart_at_every_record(case):
    assert fired_with_restarts(case) == fired_by_replay(case)


@pytest.mark.parametrize("case", [pytest.param(c, id=f"{c.file}: {c.name}") for c in cases()])
def test_a_case_fires_the_same_by_the_independent_oracle(case):
    assert Counter(fired_by_replay(case)) == Counter(fired_by_oracle(case))
