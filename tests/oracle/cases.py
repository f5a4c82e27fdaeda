"""Short hands for the oracle's own tests: campaigns of one pattern, events of one letter, times in seconds."""

from typing import Any

from tests.oracle.evaluate import firings

Event = dict[str, Any]
DAY = 86_400


def ev(type_: str, e: float, a: float | None = None, *, id: str | None = None, m: str = "m", **data: Any) -> Event:
    """Write an event; `e`, `a` in seconds, `a` = `e` if not given; the id is type and e (`A10`) if not given."""
    return {
        "event_id": id if id is not None else f"{type_}{e:g}",
        "type": type_,
        "member_id": m,
        "occurred_at": round(e * 1000),
        "appended_at": round((e if a is None else a) * 1000),
        "data": data,
    }


def tick(a: float) -> Event:
    """Write a tick; `a` in seconds."""
    return {"type": "tick", "member_id": None, "occurred_at": round(a * 1000)}


def run(pattern: str, *events: Event, **keys: Any) -> list[tuple[Any, ...]]:
    """Fire one campaign: (anchor, due or completed_by, fired_at) per firing; times in seconds."""
    campaign = {"campaign": "c", "pattern": pattern, **{k.replace("_if_", "if "): v for k, v in keys.items()}}
    return [short(x) for x in firings([campaign], events)]


def short(x: Event) -> tuple[Any, ...]:
    """Cut a firing to what most tests are about."""
    return (x["anchor"], x["completed_by"] or x["due"] / 1000, x["fired_at"] / 1000)


def correlations(pattern: str, *events: Event, **keys: Any) -> list[Any]:
    """Fire one campaign and give the correlation of each firing."""
    return [x["correlation"] for x in firings([{"campaign": "c", "pattern": pattern, **keys}], events)]
