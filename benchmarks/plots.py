"""Curves of a result as SVG files, for docs/performance.md. Drawn by Matplotlib."""

from pathlib import Path

from benchmarks.harness import ROOT, Answer, Result

PLOTS = ROOT / "docs" / "plots"
AXES = {"soak": ("minutes", "resident memory, MiB"), "campaigns_curve": ("live campaigns", "CPU µs per event")}
WIDTH_IN, HEIGHT_IN = 7.2, 3.4


def draw(result: Result, folder: Path = PLOTS) -> list[Path]:
    """Draw each answer that has a curve; the files written."""
    return [_draw(answer, folder) for answer in result.answers if answer.name in AXES and _lines(answer)]


def _lines(answer: Answer) -> dict[str, list[tuple[float, float]]]:
    """List the curves of an answer: over time one for each case, else one through the cases that are numbers."""
    if answer.name == "soak":
        return {row.case: [(at / 60, value) for at, value in row.series] for row in answer.rows if row.series}
    points = [(float(row.case.replace(",", "")), row.cpu_us) for row in answer.rows if row.case[-1:].isdigit()]
    return {"": [(at, value) for at, value in points if value is not None]} if points else {}


def _draw(answer: Answer, folder: Path) -> Path:
    import matplotlib as mpl  # takes a second; who only measures does without

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = answer.name  # equal figures, equal bytes
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(WIDTH_IN, HEIGHT_IN), layout="constrained")
    lines = _lines(answer)
    for label, points in lines.items():
        marker = "" if label else "o"
        axes.plot([x for x, _ in points], [y for _, y in points], label=label or None, linewidth=1.6, marker=marker)
    if "" in lines:
        axes.set_xscale("log")
    else:
        figure.legend(loc="outside upper center", ncols=len(lines), frameon=False)
    axes.set_xlabel(AXES[answer.name][0])
    axes.set_ylabel(AXES[answer.name][1])
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{answer.name}.svg"
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)
    return path
