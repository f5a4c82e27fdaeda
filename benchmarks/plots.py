"""Curves of a result as SVG files, for docs/performance.md. Drawn by Matplotlib."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.forms import COMPILED
from benchmarks.harness import ROOT, Answer, Result, Row

PLOTS = ROOT / "docs" / "plots"
WIDTH_IN, HEIGHT_IN = 7.2, 3.4
COST = ("CPU µs per event", lambda row: row.cpu_us)
Panel = tuple[str, Callable[[Row], float | None]]
# Of questions whose cases are numbers: what they count, and what is drawn over them, side by side.
CURVES: dict[str, tuple[str, tuple[Panel, ...]]] = {
    "campaigns_curve": ("live campaigns", (COST,)),
    "instances_curve": ("live instances of the member", (COST,)),
    "members_curve": (
        "members",
        (
            COST,
            ("bytes on disk per member", lambda row: float(row.more["bytes per member"])),
            ("resident MiB", lambda row: row.peak_mb),
        ),
    ),
}
SOAK = "soak"


def has_curve(answer: Answer) -> bool:
    """Tell whether `draw` draws it beside its table; the soak's curve stands in the text."""
    return answer.name in CURVES and bool(_counted(answer))


def draw(result: Result, folder: Path = PLOTS) -> list[Path]:
    """Draw each answer that has a curve; the files written."""
    drawn = []
    for answer in result.answers:
        if answer.name == SOAK and any(row.series for row in answer.rows):
            drawn.append(_drawn(answer, folder, 1, _memory_over_time))
        elif has_curve(answer):
            drawn.append(_drawn(answer, folder, len(CURVES[answer.name][1]), _curves))
    return drawn


def _counted(answer: Answer) -> dict[str, list[tuple[float, Row]]]:
    """List the cases that are numbers: of plain Python and compiled, where both were measured."""
    found: dict[str, list[tuple[float, Row]]] = {}
    for row in answer.rows:
        name = row.case.removesuffix(COMPILED)
        if name.replace(",", "").isdigit() and row.cpu_us is not None:
            form = "compiled" if name != row.case else "plain Python"
            found.setdefault(form, []).append((float(name.replace(",", "")), row))
    return found


def _memory_over_time(answer: Answer, figure: Any, panels: list[Any]) -> None:
    axes = panels[0]
    for row in answer.rows:
        axes.plot([at / 60 for at, _ in row.series], [y for _, y in row.series], label=row.case, linewidth=1.6)
    figure.legend(loc="outside upper center", ncols=len(answer.rows), frameon=False)
    axes.set_xlabel("minutes")
    axes.set_ylabel("resident memory, MiB")


def _curves(answer: Answer, figure: Any, panels: list[Any]) -> None:
    lines = _counted(answer)
    counted, wanted = CURVES[answer.name]
    figure.supxlabel(counted, fontsize="medium")
    for axes, (label, value_of) in zip(panels, wanted, strict=True):
        for form, points in lines.items():
            shown = [(x, value) for x, row in points if (value := value_of(row)) is not None]
            axes.plot([x for x, _ in shown], [y for _, y in shown], label=form, linewidth=1.6, marker="o")
        axes.set_xscale("log")
        axes.set_title(label, fontsize="medium")
    if len(lines) > 1:
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper center", ncols=2, frameon=False)


def _drawn(answer: Answer, folder: Path, panels: int, fill: Callable[[Answer, Any, list[Any]], None]) -> Path:
    import matplotlib as mpl  # takes a second; who only measures does without

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = answer.name  # equal figures, equal bytes
    from matplotlib import pyplot

    figure, grid = pyplot.subplots(1, panels, figsize=(WIDTH_IN, HEIGHT_IN), layout="constrained", squeeze=False)
    fill(answer, figure, list(grid[0]))
    for axes in grid[0]:
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{answer.name}.svg"
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)
    return path
