"""Results as tables: on the console, and as Markdown between two marks of a page."""

from pathlib import Path
from typing import Any

import msgspec
from rich.table import Table

from benchmarks.harness import ROOT, Answer, Result, Row
from benchmarks.plots import has_curve
from schemas.errors import OperatorError

HEADS = ("case", "items", "per CPU s", "CPU µs (low–high)", "per s", "steps", "ratio (low–high)", "peak MiB", "")
OWN_PLACE = (
    "soak",
    "recovery",
    "recovery_10m",
    "latency",
    "beside_peers",
    "two_workers",
    "lanes",
)  # asked by themselves, so a page that shows them has a place for each
BEGIN, END = "<!-- figures: begin", "<!-- figures: end -->"
PAGES = (ROOT / "benchmarks" / "README.md", ROOT / "docs" / "performance.md")


def cells(row: Row) -> tuple[str, ...]:
    """Spell one row; empty where a case has no such figure."""
    cpu = rate = wall = ratio = ""
    if row.cpu_us is not None:
        rate = f"{1e6 / row.cpu_us:,.0f}"
        cpu = f"{row.cpu_us:.2f}"
        if row.cpu_us_low is not None and row.cpu_us_high is not None:
            cpu += f" ({row.cpu_us_low:.2f}–{row.cpu_us_high:.2f})"
    if row.wall_us:
        wall = f"{1e6 / row.wall_us:,.0f}"
    if row.ratio is not None:
        ratio = f"{row.ratio:.2f} ({row.ratio_low:.2f}–{row.ratio_high:.2f})"
    steps = f"{row.steps:.1f}" if row.steps is not None else ""
    peak = f"{row.peak_mb:.0f}" if row.peak_mb is not None else ""
    more = ", ".join(f"{name} {_figure(value)}" for name, value in row.more.items())
    return (row.case, f"{row.items:,} {row.unit}s", rate, cpu, wall, steps, ratio, peak, more)


def _figure(value: float | int | str) -> str:
    return f"{value:,}" if isinstance(value, int | float) else value


def console_table(answer: Answer) -> Table:
    """Lay out one answer for a terminal; columns that nothing fills are left out."""
    rows = [cells(row) for row in answer.rows]
    table = Table(title=f"{answer.name}: {answer.question}", title_justify="left", box=None, pad_edge=False)
    kept = [place for place in range(len(HEADS)) if any(row[place] for row in rows)]
    for place in kept:
        table.add_column(HEADS[place], justify="left" if place in (0, len(HEADS) - 1) else "right", overflow="fold")
    for row in rows:
        table.add_row(*(row[place] for place in kept))
    return table


def markdown(result: Result, name: str, plots: str = "plots") -> str:
    """Lay out a result for a page: machine, then each question with its method, table and curve.

    `plots`: the folder of the curves as the page sees it.
    """
    lines = [_machine(result.machine), "", _conditions(result, name), ""]
    for answer in result.answers:
        rows = [cells(row) for row in answer.rows]
        kept = [place for place in range(len(HEADS)) if any(row[place] for row in rows)]
        lines += [f"### {answer.name}", "", f"**{answer.question}** {answer.method}", ""]
        lines.append("| " + " | ".join(HEADS[place] for place in kept) + " |")
        lines.append("| " + " | ".join("---" if place in (0, len(HEADS) - 1) else "---:" for place in kept) + " |")
        lines += ["| " + " | ".join(row[place] for place in kept) + " |" for row in rows]
        lines.append("")
        if has_curve(answer):
            lines += [f"![{answer.question}]({plots}/{answer.name}.svg)", ""]
    return "\n".join(lines)


def _machine(found: dict[str, Any]) -> str:
    return (
        f"Machine: {found['cpu']}, {found['cores']} cores, {found['memory_gib']} GiB, {found['system']}; "
        f"load over the minute before the start {found['load_1m']}. Garbage collection: {found['gc']}."
        + (f" Core: {found['core']}." if "core" in found else "")
    )


def _conditions(result: Result, name: str) -> str:
    versions = ", ".join(f"{library} {number}" for library, number in result.versions.items())
    changed = f" and {result.changed_files} changed files" if result.changed_files else ""
    return (
        f"Commit {result.commit[:12]}{changed}, {result.started_at}, scale {result.scale:g} of a full run "
        f"(`benchmarks/results/{name}`). {versions[0].upper()}{versions[1:]}."
    )


def write_pages(result: Result, name: str, pages: tuple[Path, ...] = PAGES) -> list[Path]:
    """Put the figures of a result between the marks of each page: those of its own where a question has some there.

    Raises:
        OperatorError: a page has not both marks, in order.
    """
    rest = [answer for answer in result.answers if answer.name not in OWN_PLACE]
    for page in pages:
        text = page.read_text(encoding="utf-8")
        for answer in result.answers:
            if answer.name in OWN_PLACE and _own(answer)[0] in text:
                text = _placed(text, page, *_own(answer), msgspec.structs.replace(result, answers=[answer]), name)
        if rest:
            text = _placed(text, page, BEGIN, END, msgspec.structs.replace(result, answers=rest), name)
        page.write_text(text, encoding="utf-8")
    return list(pages)


def _own(answer: Answer) -> tuple[str, str]:
    """Name the marks of a place for one question alone."""
    return f"<!-- figures of {answer.name}: begin", f"<!-- figures of {answer.name}: end -->"


def _placed(text: str, page: Path, begin: str, end: str, result: Result, name: str) -> str:
    head, found, rest = text.partition(begin)
    _, ended, tail = rest.partition(end)
    if not found or not ended:
        raise OperatorError(f"{page.name}: no place for the figures; put '{begin} -->' and '{end}' into it")
    plots = "../docs/plots" if page.name == PAGES[0].name else "plots"
    return f"{head}{begin} ({name}) -->\n\n{markdown(result, name, plots)}\n{end}{tail}"
