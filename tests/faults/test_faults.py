"""The laboratory's own rules, without Kafka: what a seed means, and that a judge sees what is wrong."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from agents import failpoints
from agents.delivery_state import FORMAT, Entry
from schemas.events import Record
from tests.faults.judge import Dump, Verdict, judge, read_replay
from tests.faults.kinds import BY_NAME, CLUSTER_KINDS, KINDS
from tests.faults.load import PROBE, SEND
from tests.faults.plan import BLOCK, CLUSTER, schedule_of
from tests.faults.report import markdown, quantile
from tests.faults.window import Resend, Step, in_window, read_resends

START_MS = 1_790_000_000_000
CAMPAIGN = {"campaign": PROBE, "pattern": "app.opened as a", "send": SEND}


@pytest.mark.parametrize("block", range(7))
def test_eight_seeds_in_a_row_strike_every_kind_once(block: int) -> None:
    seeds = range(block * BLOCK + 1, (block + 1) * BLOCK + 1)
    dealt = [name for seed in seeds for name, _, _ in schedule_of(seed).faults]
    assert sorted(dealt) == sorted(kind.name for kind in KINDS)


def test_a_seed_is_always_the_same_schedule() -> None:
    assert schedule_of(11) == schedule_of(11) != schedule_of(12)


def test_seeds_of_three_brokers_strike_leaders_and_workers() -> None:
    schedule = schedule_of(CLUSTER)
    names = [name for name, _, _ in schedule.faults]
    assert schedule.cluster and {kind.name for kind in CLUSTER_KINDS} < set(names) <= BY_NAME.keys()
    assert not schedule_of(CLUSTER - 1).cluster


def test_every_point_of_the_protocols_has_a_kind_that_kills_there() -> None:
    points = {getattr(kind, "point", None) for kind in KINDS if getattr(kind, "action", None) == "kill"}
    assert points >= {*failpoints.ENGINE, *failpoints.DELIVERY, *failpoints.SINK}


def test_the_product_has_no_failpoint_set() -> None:
    assert failpoints.hit is None


def record(offset: int, event: dict[str, Any]) -> Record:
    raw = json.dumps({"occurred_at": START_MS + offset, **event}).encode()
    return Record(offset, START_MS + offset, str(event.get("member_id")).encode(), raw)


@pytest.fixture
def run() -> tuple[Dump, dict[str, int], dict[str, list[str]]]:
    """A run in which all is well: topics, mails and rows are what the log asks for."""
    data = {"campaign": PROBE, "yaml": yaml.safe_dump(CAMPAIGN), "path": "probe.yaml"}
    profile = {"email": "m1@shop.example", "consent": {"email": True}}
    records = [
        record(0, {"type": "campaign.published", "event_id": "c", "data": data}),
        record(1, {"type": "member.registered", "event_id": "r", "member_id": "m1", "data": profile}),
        record(2, {"type": "app.opened", "event_id": "o1", "member_id": "m1", "data": {}}),
        record(3, {"type": "app.opened", "event_id": "o2", "member_id": "m1", "data": {}}),
    ]
    found = Dump(events={0: records})
    wanted = read_replay(found)
    found.commands, found.decisions, found.attributions = (
        {ident: set(raws) for ident, raws in wanted[name].items()} for name in ("commands", "decisions", "attributions")
    )
    rows = {"messages": found.commands, "decisions": found.decisions, "attributions": {}, "receipts": {}}
    return found, dict.fromkeys(found.commands, 1), {table: list(ids) for table, ids in rows.items()}


def verdict_of(run: Any) -> Verdict:
    found, mailed, rows = run
    return judge(found, [CAMPAIGN], mailed, rows)


def test_a_run_in_which_all_is_well_is_judged_so(run: Any) -> None:
    verdict = verdict_of(run)
    assert verdict.wrong == {} and verdict.counts["commands"] == verdict.counts["oracle's commands"] == 2


def first(ids: Any) -> str:
    return sorted(ids)[0]


@pytest.mark.parametrize(
    ("harm", "check"),
    [
        (lambda d, m, r: d.commands.pop(first(d.commands)), "commands lost, says the oracle"),
        (lambda d, m, r: d.commands.update(x={b"{}"}), "commands not asked for, says the oracle"),
        (lambda d, m, r: d.decisions.pop(first(d.decisions)), "decisions lost, says a replay"),
        (lambda d, m, r: d.commands[first(d.commands)].add(b"{}"), "commands twice with different bytes"),
        (lambda d, m, r: d.commands.update({first(d.commands): {b"{}"}}), "commands with other bytes than a replay's"),
        (lambda d, m, r: m.pop(first(m)), "mails lost"),
        (lambda d, m, r: m.update(x=1), "mails nobody commanded"),
        (lambda d, m, r: m.update({first(m): 2}), "mails twice, outside the window"),
        (lambda d, m, r: r["messages"].pop(), "rows lost in messages"),
        (lambda d, m, r: r["decisions"].append("x"), "rows of nothing in decisions"),
    ],
)
def test_what_is_wrong_is_seen(run: Any, harm: Callable[..., Any], check: str) -> None:
    harm(*run)
    assert check in verdict_of(run).wrong


def steps(*words: str) -> list[Step]:
    """Records at offsets 10, 11, ..., appended at 1_000, 2_000, ...; each `sending` begins the next attempt."""
    found, attempt = [], 0
    for number, word in enumerate(words):
        attempt += word == "sending"
        found.append(Step(Entry(FORMAT, word, attempt, 0, 0, 0), 10 + number, 1_000 * (number + 1)))
    return found


THAWED = ("sending", "sent", "sending", "sent")


@pytest.mark.parametrize(
    ("told", "times", "resends", "inside"),
    [
        # a crash between the provider's taking it and the result; the reply was lost
        (("sending", "sending", "sent"), 2, [], True),
        (("sending", "deferred", "sending", "sent"), 2, [], True),
        # frozen between the two, and on record only after the successor had read: it thawed late
        (THAWED, 2, [Resend(1, 11, 1_500)], True),
        (("sending", "sending", "sent", "deferred", "sending", "sent"), 3, [Resend(1, 11, 1_500)], True),
        # nobody began a second attempt, or a third
        (("sending", "sent"), 2, [], False),
        (("sending", "sending", "sent"), 3, [], False),
        # it was on record as sent: nobody says why it was sent again
        (THAWED, 2, [], False),
        # the successor had read past the result
        (THAWED, 2, [Resend(1, 12, 1_500)], False),
        # the result was there before the successor began to read: it read badly
        (THAWED, 2, [Resend(1, 11, 2_500)], False),
        # it missed a result of another attempt than the one it found unfinished
        (THAWED, 2, [Resend(2, 11, 1_500)], False),
    ],
)
def test_a_mail_twice_is_in_the_window_only_if_the_records_and_the_successor_say_so(
    told: tuple[str, ...], times: int, resends: list[Resend], inside: bool
) -> None:
    assert in_window(steps(*told), times, resends) is inside


def test_what_a_successor_had_read_is_in_its_log(tmp_path: Path) -> None:
    ready = {"event": "delivery.partition-ready", "lane": "trigger", "partition": 2, "read_to": 11, "took_ms": 400}
    lines = [
        "tidings worker delivery: not JSON",
        json.dumps({"event": "delivery.uncertain", "command_id": "x", "partition": 2, "attempt": 1}),  # of before
        json.dumps({**ready, "lane": "bulk", "time": "2026-11-22T03:17:09.000000Z"}),
        json.dumps({**ready, "time": "2026-11-22T03:17:04.560891Z"}),
        json.dumps({"event": "delivery.uncertain", "command_id": "c", "partition": 2, "attempt": 1}),
        '{"event": "delivery.unce',
    ]
    (tmp_path / "delivery-0.log").write_text("\n".join(lines))
    assert read_resends([tmp_path / "delivery-0.log"]) == {"c": [Resend(1, 11, 1_795_317_424_160)]}


def test_quantile_is_the_nearest_rank() -> None:
    assert [quantile([3.0, 1.0, 2.0], share) for share in (0.5, 0.99, 1)] == [2.0, 3.0, 3.0] and quantile([], 0.5) == 0


def test_the_document_lists_the_mails_in_the_window_and_says_when_and_on_what() -> None:
    verdict = {"wrong": {}, "counts": {"mails": 2}, "window": ["c1 x2: sending/1@4 sending/2@5"]}
    result = {"seed": 7, "strikes": [], "starts_s": [1.0], "trouble": "", "verdict": verdict}
    text = markdown([result], 61.0, "Commit 1234567")
    assert text.startswith("Commit 1234567\n") and "1 in 61 s" in text and "- seed 7: c1 x2: sending/1@4" in text
