"""Tables of results for people: on the terminal and as markdown."""

import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Group
from rich.table import Table

JOINS = ("rolling restart", "scale 1-3-2")


def problems(result: dict[str, Any], home: Path) -> str:
    """One line for a seed that is well; for another one what is wrong, where it is kept, how to repeat it."""
    verdict = result["verdict"]
    counts = verdict["counts"]
    line = (
        f"seed {result['seed']}: {result['seconds']:.0f} s, {len(result['strikes'])} faults, "
        f"{counts.get('events', 0)} events, {counts.get('commands', 0)} commands, "
        f"{len(verdict['window'])} mails twice in the window"
    )
    if not result["trouble"] and not verdict["wrong"]:
        return f"ok    {line}"
    told = [f"WRONG {line}"]
    told += [f"      {check}: {len(ids)}, first {ids[0]}" for check, ids in verdict["wrong"].items()]
    if result["trouble"]:
        told.append(f"      {result['trouble'].strip()}")
    told.append(f"      kept in {home / ('seed-' + str(result['seed']))}")
    told.append(f"      again: python -m tests.faults --seeds {result['seed']}")
    return "\n".join(told)


def totals(results: Sequence[dict[str, Any]], seconds: float) -> list[tuple[str, str]]:
    """The numbers that matter."""
    wrong: Counter[str] = Counter()
    counts: Counter[str] = Counter()
    for result in results:
        counts.update(result["verdict"]["counts"])
        wrong.update({check: len(ids) for check, ids in result["verdict"]["wrong"].items()})
    strikes = [strike for result in results for strike in result["strikes"]]
    engine = [s["stall_s"] for s in strikes if s["role"] == "engine"]
    joins = [s["stall_s"] for s in strikes if s["name"] in JOINS]
    starts = [s for result in results for s in result["starts_s"]]
    stops = [s for result in results for s in result.get("stops_s", [])]
    lost = sum(number for check, number in wrong.items() if "lost" in check)
    doubled = sum(number for check, number in wrong.items() if "twice" in check)
    rest = sum(wrong.values()) - lost - doubled
    return [
        ("schedules", f"{len(results)} in {seconds:.0f} s"),
        ("faults", f"{len(strikes)} of {len({s['name'] for s in strikes})} kinds"),
        ("events, commands, mails", f"{counts['events']:,}, {counts['commands']:,}, {counts['mails']:,}"),
        ("lost", f"{lost}"),
        ("doubled (different bytes, or mails outside the window)", f"{doubled}"),
        ("mails twice, inside the window", f"{counts['mails twice, inside the window']}"),
        ("commands written twice with equal bytes", f"{counts['commands repeated']}"),
        ("differing from the oracle or a replay", f"{rest}"),
        ("schedules that did not come to rest", f"{sum(1 for r in results if r['trouble'])}"),
        ("schedules that the laboratory itself spoilt, and began again", _again(results)),
        ("producers of transactions that the laboratory began anew", f"{sum(r.get('renewed', 0) for r in results)}"),
        (
            "without progress per engine fault, p50 / max",
            f"{quantile(engine, 0.5):.1f} / {quantile(engine, 1):.1f} s",
        ),
        ("at a move of partitions, p50 / p99", f"{quantile(joins, 0.5):.1f} / {quantile(joins, 0.99):.1f} s"),
        (
            "from SIGTERM to an engine's end, p50 / max",
            f"{quantile(stops, 0.5):.1f} / {quantile(stops, 1):.1f} s" if stops else "not measured",
        ),
        ("from a process's start to ready, p50 / max", f"{quantile(starts, 0.5):.1f} / {quantile(starts, 1):.1f} s"),
    ]


def _again(results: Sequence[dict[str, Any]]) -> str:
    found = [f"seed {result['seed']}: {result['begun_again']}" for result in results if result.get("begun_again")]
    return "; ".join([str(len(found)), *found])


def by_kind(results: Sequence[dict[str, Any]]) -> list[tuple[str, int, float, float, float]]:
    """Per kind: how often, time without progress p50 and max, recovery p50."""
    kinds: dict[str, list[dict[str, Any]]] = {}
    for result in results:
        for strike in result["strikes"]:
            kinds.setdefault(strike["name"], []).append(strike)
    return [
        (
            name, len(found), quantile([s["stall_s"] for s in found], 0.5), quantile([s["stall_s"] for s in found], 1),
            quantile([s["recovery_s"] for s in found], 0.5),
        )
        for name, found in sorted(kinds.items())
    ]  # fmt: skip


def quantile(values: Sequence[float], share: float) -> float:
    """Nearest rank; 0 of nothing."""
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)] if values else 0.0


HEADS = ("fault", "times", "without progress p50, s", "max, s", "recovery p50, s")


def summary(results: Sequence[dict[str, Any]], seconds: float) -> Group:
    """Both tables, for a terminal."""
    table, numbers = Table(*HEADS), Table("what", "measured")
    for name, times, middle, most, recovery in by_kind(results):
        table.add_row(name, str(times), f"{middle:.1f}", f"{most:.1f}", f"{recovery:.1f}")
    for name, value in totals(results, seconds):
        numbers.add_row(name, value)
    return Group(table, numbers)


def markdown(results: Sequence[dict[str, Any]], seconds: float, taken: str) -> str:
    """The same for a document, and each mail that came twice inside the window. `taken`: when and on what."""
    lines = [taken, "", "| what | measured |", "|---|---|"]
    lines += [f"| {name} | {value} |" for name, value in totals(results, seconds)]
    lines += ["", "| " + " | ".join(HEADS) + " |", "|---|---|---|---|---|"]
    lines += [f"| {n} | {t} | {a:.1f} | {b:.1f} | {c:.1f} |" for n, t, a, b, c in by_kind(results)]
    window = [f"- seed {r['seed']}: {told}" for r in results for told in r["verdict"]["window"]]
    lines += ["", "Mails that came twice inside the window, by command id, with delivery's steps/attempts@offsets:", ""]
    return "\n".join(lines + (window or ["none"])) + "\n"
