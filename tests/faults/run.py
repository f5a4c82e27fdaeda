"""One schedule from beginning to end: open, load, break, heal, settle, judge."""

import json
import shutil
import threading
import time
import traceback
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.faults.judge import Dump, Verdict, event_lines, judge, read_dump
from tests.faults.kinds import BY_NAME, Fault
from tests.faults.lab import Lab, load_of
from tests.faults.load import Load, Spoilt
from tests.faults.plan import SESSION_MS, Schedule
from tests.faults.window import read_resends

WARM_S = 1.5  # of load before the first fault
ANSWERED_S = 20.0  # after a fault's end the load goes on until its probes are answered, at most so long
ROWS = {
    "messages": "SELECT command_id FROM tidings.messages",
    "decisions": "SELECT decision_id FROM tidings.decisions",
    "attributions": "SELECT attribution_id FROM tidings.attributions",
    "receipts": "SELECT event_id FROM tidings.receipts",
}


@dataclass
class Strike:
    """One fault that happened; monotonic seconds."""

    name: str
    role: str
    began: float
    undone: float = 0.0
    told: str = ""
    stall_s: float = 0.0  # the longest that a probe waited on its account
    recovery_s: float = 0.0  # from its undoing until all probes before were answered


@dataclass
class Result:
    """What came of a seed; written as JSON."""

    seed: int
    seconds: float = 0.0
    strikes: list[Strike] = field(default_factory=list)
    verdict: Verdict = field(default_factory=Verdict)
    own_ends: list[str] = field(default_factory=list)
    stops_s: list[float] = field(default_factory=list)  # of engines, from SIGTERM to the end, under load
    starts_s: list[float] = field(default_factory=list)  # from a process's start until it was ready
    changelog: tuple[int, int] = (0, 0)
    trouble: str = ""
    spoilt: str = ""  # what the laboratory itself failed at, if it did
    begun_again: str = ""  # what had spoilt the try before this one
    renewed: int = 0  # producers of transactions that the shop had to begin anew
    phases: dict[str, float] = field(default_factory=dict)  # seconds since the beginning at the end of each

    @property
    def good(self) -> bool:
        """Nothing wrong."""
        return not self.trouble and not self.verdict.wrong


def run_schedule(schedule: Schedule, home: Path, long: bool = False) -> Result:
    """Run one seed; never raises for what the product or the laboratory did. `long`: outages last as at night."""
    result = Result(schedule.seed)
    began = time.monotonic()
    try:
        _run(schedule, home, long, result)
    except Exception as error:
        result.trouble = traceback.format_exc()
        result.spoilt = str(error) if isinstance(error, Spoilt) else ""
    result.seconds = time.monotonic() - began
    if result.good:
        shutil.rmtree(home, ignore_errors=True)
    else:
        (home / "result.json").write_text(json.dumps(spelled(result), indent=1))
        shutil.rmtree(home / "clickhouse", ignore_errors=True)
        for log in (*home.glob("kafka/log"), *home.glob("node-*/kafka/log")):
            shutil.rmtree(log, ignore_errors=True)
    return result


_PLAIN = (
    "seed",
    "seconds",
    "own_ends",
    "starts_s",
    "stops_s",
    "changelog",
    "phases",
    "spoilt",
    "begun_again",
    "renewed",
)


def spelled(result: Result) -> dict[str, Any]:
    """A result as JSON can hold it."""
    return {
        **{name: getattr(result, name) for name in _PLAIN},
        "trouble": result.trouble.replace(
            f"{Path(__file__).parents[2]}/", ""
        ),  # results are published: no path of ours
        "strikes": [vars(strike) for strike in result.strikes],
        "verdict": vars(result.verdict),
    }


def _run(schedule: Schedule, home: Path, long: bool, result: Result) -> None:
    began = time.monotonic()

    def phase(name: str) -> None:
        result.phases[name] = round(time.monotonic() - began, 1)

    crew = schedule.engines, schedule.deliveries, schedule.sinks
    with Lab(home, schedule.seed, SESSION_MS, *crew, cluster=schedule.cluster) as lab:
        phase("opened")
        lab.long = long
        load = load_of(lab, schedule.holes)
        lab.await_ready()
        phase("ready")
        load.open_shop()
        load.start()
        time.sleep(WARM_S)
        _strike_all(schedule, lab, result)
        phase("broken")
        lab.heal()
        _await_answers(lab, load)
        load.stop()
        phase("healed")
        settled, standing = lab.settle()
        phase("settled")
        result.own_ends, result.stops_s = lab.crew.own_ends, lab.crew.stops_s
        lives = [life for worker in lab.crew.all.values() for life in worker.lives]
        result.starts_s = [life.ready - life.started for life in lives if life.ready is not None]
        if not settled:
            result.trouble = f"not settled: {standing}"
        found = read_dump(lab.settings)
        found.resends = read_resends(sorted((home / "logs").glob("delivery-*.log")))
        result.changelog = found.changelog
        mailed = Counter(lab.mailed_at.keys()) + Counter(ident for ident, _ in lab.mail_doubles)
        rows = {table: [row[0] for row in lab.clickhouse.rows(query)] for table, query in ROWS.items()}
        result.verdict = judge(found, load.campaigns, mailed, rows)
        phase("judged")
        result.renewed = load.renewed
        _measure(result, lab, load)
        if not result.good:
            _keep(home, found)


def _strike_all(schedule: Schedule, lab: Lab, result: Result) -> None:
    """Each fault in a thread of its own: the next one comes after it, or while it lasts."""
    threads: list[threading.Thread] = []
    errors: list[str] = []
    for name, pause_s, alone in schedule.faults:
        if alone:
            for thread in threads:
                thread.join()
        time.sleep(pause_s)
        fault = BY_NAME[name](lab)
        strike = Strike(name, fault.role, time.monotonic())
        result.strikes.append(strike)
        thread = threading.Thread(target=_strike, args=(fault, strike, errors), name=name, daemon=True)
        thread.start()
        threads.append(thread)
    for thread in threads:
        thread.join()
    if errors:
        raise RuntimeError("; ".join(errors))


def _strike(fault: Fault, strike: Strike, errors: list[str]) -> None:
    try:
        strike.began = time.monotonic()
        fault.apply()
        time.sleep(fault.hold_s)
        fault.undo()
    except Exception:
        errors.append(f"{strike.name}: {traceback.format_exc()}")
    strike.undone, strike.told = time.monotonic(), fault.told


def _await_answers(lab: Lab, load: Load) -> None:
    """Let the load run until every partition answers again."""
    healed = time.monotonic()

    def answered() -> bool:
        fresh = {place for ident, (place, at) in list(load.asked_at.items()) if at > healed and _answered(lab, ident)}
        return len(fresh) == lab.settings.partitions

    lab.wait(answered, ANSWERED_S)


def _answered(lab: Lab, ident: str) -> bool:
    return ident in lab.watch.answered_at


def _measure(result: Result, lab: Lab, load: Load) -> None:
    """How long probes waited: for a command (engine), for the mail (delivery); ClickHouse: between two inserts."""
    never = time.monotonic()
    commands = [(at, lab.watch.answered_at.get(ident, never)) for ident, (_, at) in load.asked_at.items()]
    mails = [
        (load.asked_at[anchor][1], lab.mailed_at.get(ident, never))
        for ident, anchor in lab.watch.anchors.items()
        if anchor in load.asked_at
    ]
    inserts = sorted(lab.clickhouse.inserted_at)
    gaps = list(zip(inserts, inserts[1:], strict=False))
    for number, strike in enumerate(result.strikes):
        later = [other.began for other in result.strikes[number + 1 :]]
        end = min([*later, strike.undone + ANSWERED_S])
        waits = {"engine": commands, "delivery": mails, "sink": gaps}[strike.role]
        hurt = [(asked, done) for asked, done in waits if done > strike.began and asked < max(end, strike.began + 1)]
        strike.stall_s = max((done - asked for asked, done in hurt), default=0.0)
        before = [done for asked, done in waits if asked <= strike.undone]
        strike.recovery_s = max(0.0, max(before, default=strike.undone) - strike.undone)


def _keep(home: Path, found: Dump) -> None:
    """Write the log down, so that the oracle and `python -m tidings replay` can be asked again."""
    for partition, records in found.events.items():
        lines = [json.dumps(line) for line in event_lines(partition, records)]
        (home / f"events-{partition}.ndjson").write_text("\n".join(lines) + "\n")
    for name, ids in (("commands", found.commands), ("decisions", found.decisions)):
        (home / f"{name}.ndjson").write_bytes(b"\n".join(raw for raws in ids.values() for raw in raws) + b"\n")
