"""Plots of reports: accuracy against cost, with the Pareto front."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rsd_core import ConfigurationError, MissingDependency
from rsd_integrations.evaluation.report import MethodReport, Report
from rsd_integrations.output_files import write_output

Point = tuple[str, float, float, tuple[float, float]]
"""Name, cost, accuracy and its interval."""


def pareto(points: Sequence[Point]) -> list[Point]:
    """The points that no other point beats by being cheaper and at least as accurate."""
    front: list[Point] = []
    for point in sorted(points, key=lambda p: (p[1], -p[2])):
        if not front or point[2] > front[-1][2]:
            front.append(point)
    return front


def figure(columns: int) -> tuple[Any, Any]:
    """A figure with some panels side by side, drawn without a display."""
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise MissingDependency("matplotlib", "eval", "drawing a plot") from error
    make: Any = Figure
    drawing = make(figsize=(4.8 * columns, 4.6), layout="constrained", dpi=150)
    return drawing, drawing.subplots(1, columns, squeeze=False)[0]


def check_format(file: Path) -> None:
    """Check that a plot can be drawn into a file, before the work that it will show.

    Raises:
        ConfigurationError: The name does not end with a known format, or matplotlib is not installed.
    """
    figure(1)
    from matplotlib.backend_bases import FigureCanvasBase

    known = sorted(FigureCanvasBase.get_supported_filetypes())
    if file.suffix.removeprefix(".").lower() not in known:
        raise ConfigurationError(f"{file}: a plot's name must end with its format, one of {', '.join(known)}")


def accuracy_against_cost(report: Report, file: Path) -> None:
    """Plot accuracy against FLOPs (the paper's convention, and everything charged) and against seconds.

    Raises:
        RSDError: The file cannot be written; the message says where the plot is instead.
    """
    check_format(file)
    costs: dict[str, Callable[[MethodReport], float | None]] = {
        "FLOPs per problem, paper's convention": lambda m: m.flops_paper,
        "FLOPs per problem, everything charged": lambda m: m.flops,
        f"seconds per problem, {report.in_flight}": lambda m: m.seconds,
    }
    charts = {
        label: [
            (name, spent / m.n, m.accuracy, report.ci95(name))
            for name, m in report.methods.items()
            if m.accuracy is not None and (spent := cost(m))
        ]
        for label, cost in costs.items()
    }
    charts = {label: points for label, points in charts.items() if points}
    drawing, panels = figure(max(1, len(charts)))
    for panel, (label, points) in zip(panels, charts.items(), strict=False):
        _panel(panel, points)
        panel.set_xlabel(label)
    panels[0].set_ylabel("accuracy (bars: 95 %)")
    drawing.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=8)
    drawing.suptitle(f"{report.task}, {report.n} problems", fontsize=11)
    write_output(file, drawing.savefig)


def _panel(panel: Any, points: Sequence[Point]) -> None:
    front = pareto(points)
    panel.plot([p[1] for p in front], [p[2] for p in front], color="0.6", lw=1.2, zorder=1, label="Pareto front")
    for i, (name, cost, accuracy, (low, high)) in enumerate(points):
        bars = [[max(0.0, accuracy - low)], [max(0.0, high - accuracy)]]
        panel.errorbar(
            [cost], [accuracy], yerr=bars, fmt="osD^vP*"[i % 7], color=f"C{i % 10}", ms=6, capsize=2, label=name
        )
    panel.set_xscale("log")
    panel.grid(alpha=0.25, which="both", lw=0.5)
