"""What the endpoints say, as plain values: readiness, campaigns, one member. No HTTP in here."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from agents.records import Counters
from schemas.instants import MAX_INSTANT_MS, instant_text

if TYPE_CHECKING:  # Faust takes 0.7 s to import, and only engines need it
    from agents.engine_worker import EngineWorker
    from agents.wiring import EngineApp

# Longer than any single slow step (a send to the broker is given up after half a session timeout, 22 s).
STALLED_MS = 60_000
Trouble = tuple[str, str]
"""(what is wrong, what to do)"""


def engine_trouble(built: "EngineApp") -> Trouble | None:
    """Say why an engine worker cannot do its work now; None when it can."""
    worker = built.worker
    if worker.failure is not None:
        return f"a partition failed (got {type(worker.failure).__name__})", "read the log; the worker is stopping"
    if not worker.recovered:
        return f"member records are being recovered{_remaining(built)}", "wait; it then answers 200"
    stalled = {p: waited for p, waited in worker.metrics.stalled_ms.items() if waited > STALLED_MS}
    if stalled:
        waited = max(stalled.values()) // 1000
        return (
            f"partitions {sorted(stalled)} have records and no progress (got {waited} s)",
            "check that the broker answers; then restart this worker",
        )
    return None


def sink_trouble(counters: Counters | None) -> Trouble | None:
    """Say why a sink cannot do its work now; None when it can. `counters`: None before its database is open."""
    if counters is None:
        return "the database is not open yet", "wait; check that ClickHouse answers"
    if counters.outage:
        return (
            f"what is in hand cannot be inserted (got {counters.failures} failures)",
            "check ClickHouse, the broker and the schema registry; nothing is lost, records wait in Kafka",
        )
    return None


def recovery_progress(built: "EngineApp") -> dict[str, Any] | None:
    """Say how far the recovery of member records is; None when there is none, or nobody knows yet."""
    standing = built.worker.recovery.standing
    return None if built.worker.recovered or standing is None else standing.page()


def _remaining(built: "EngineApp") -> str:
    """Count changelog records still to read; '' while nobody knows."""
    left = built.worker.recovery.left()
    return f" (got {left} changelog records to read)" if left > 0 else ""


def campaigns_page(worker: "EngineWorker") -> dict[str, Any]:
    """List each version of each campaign, and whether all partitions of this worker run it in the same state.

    A control record reaches each partition on its own, so for a moment they differ; where they keep differing, a copy
    was refused (see the dead letters).
    """
    views = {p: engine.campaigns_view() for p in sorted(worker.tasks) if (engine := worker.engine_of(p)) is not None}
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    for partition, view in views.items():
        for entry in view:
            row = rows.setdefault(
                (entry["campaign"], entry["version"]),
                {
                    "campaign": entry["campaign"], "version": entry["version"], "state": entry["state"], "agree": True,
                    "title": entry.get("title"), "pattern": entry.get("pattern"), "states": {}, "since_offset": {},
                },
            )  # fmt: skip
            row["states"][str(partition)] = entry["state"]
            row["since_offset"][str(partition)] = entry["since_offset"]
    for row in rows.values():
        states = set(row["states"].values())
        row["agree"] = len(states) == 1 and len(row["states"]) == len(views)
        row["state"] = states.pop() if len(states) == 1 else "mixed"
    return {"partitions": list(views), "campaigns": [rows[name] for name in sorted(rows)]}


def member_page(view: Mapping[str, Any], partition: int, clock_ms: int) -> dict[str, Any]:
    """Describe a member: each time in ms and, beside it, in RFC 3339. `clock`: how far its log was read."""
    return {
        "member_id": view["member_id"],
        "partition": partition,
        **_time("clock", clock_ms),
        "profile": view["profile"],
        "instances": [
            {
                "campaign": found["campaign"],
                "version": found["version"],
                "correlation": found["correlation"],
                "anchor": found["anchor"],
                "step": found["step"],
                **_time("due", found["due"]),
                **_time("until", found["until"]),
                **_time("fires_at", found["fires_at"]),
                "matched": [
                    {"step": m["step"], "event_id": m["event_id"], **_time("at", m["e"])} for m in found["matched"]
                ],
            }
            for found in view["instances"]
        ],
        "dates": [
            {"campaign": d["campaign"], "date": d["date"], **_time("due", d["due"])} for d in view.get("dates", ())
        ],
        "decisions": [{**_time("at", note["at"]), **_without(note, "at")} for note in view["decisions"]],
        "touches": [{**_time("at", touch["at"]), **_without(touch, "at")} for touch in view["touches"]],
    }


def error_page(place: str, message: str, remedy: str) -> dict[str, Any]:
    """Say what is wrong, in the one shape that every error has."""
    return {"error": {"place": place, "message": message, "remedy": remedy}}


def _time(name: str, at_ms: int | None) -> dict[str, Any]:
    spelled = instant_text(at_ms) if at_ms is not None and 0 <= at_ms <= MAX_INSTANT_MS else None
    return {f"{name}_ms": at_ms, name: spelled}


def _without(row: Mapping[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in row.items() if key != name}
