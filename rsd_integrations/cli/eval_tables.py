"""The results of an evaluation in a terminal of 80 columns."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Literal

from rich import box
from rich.table import Table

from rsd_integrations.cli.terminal import plain
from rsd_integrations.display.reading import amount, counted, digits, duration
from rsd_integrations.evaluation import Comparison, Report
from rsd_integrations.evaluation.rows import Paired


def eval_tables(report: Report) -> Iterator[Table]:
    """All methods side by side, and each against the target, if that was run."""
    priced = any(method.cost for method in report.methods.values())
    title = f"{report.task}, {counted(report.n, 'problem')}, {report.seeded}\n{_setup(report)}"
    table = table_of(title, _notes(report))
    add_columns(table, ("method", "accuracy\n(95 %)", "target", "paper's\nFLOPs", "all\nFLOPs", "time"))
    if priced:
        add_columns(table, ("cost",))
    alone = report.methods[report.reference]
    for name, method in report.methods.items():
        n = max(1, method.n)
        table.add_row(
            plain(name),
            "unknown" if method.accuracy is None else with_interval(method.accuracy, report.ci95(name)),
            f"{method.by_target / max(1, method.steps):.1%}",
            _flops(method.flops_paper, n, None if method is alone else alone.flops_paper, alone.n),
            _flops(method.flops, n, None if method is alone else alone.flops, alone.n),
            duration(method.seconds / n),
            *([money(None if method.cost is None else method.cost / n)] if priced else []),
        )
    yield table
    if compared := report.comparisons():
        table = table_of(f"\naccuracy against {report.reference}, paired", f"bootstrap; {report.test}")
        add_columns(table, ("method", "difference (95 %)", "p"))
        for name, comparison in compared.items():
            table.add_row(plain(name), _difference(comparison), f"{comparison.p_value:.2g}")
        yield table


def compared_table(found: Sequence[Paired], first: str, second: str) -> Table:
    """Two evaluations side by side, method by method."""
    unpaired = sum(one.unpaired for one in found)
    tests = " and ".join(dict.fromkeys(one.test for one in found))
    table = table_of(
        f"A: {first}\nB: {second}",
        f"paired over the same problems; bootstrap intervals, {tests}"
        + f"; {counted(unpaired, 'graded answer')} without a counterpart left out" * bool(unpaired),
    )
    add_columns(table, ("method", "n", "A", "B", "A - B (95 %)", "p", "FLOPs B / A"))
    for one in found:
        comparison = one.comparison
        name = one.first if one.first == one.second else f"{one.first} / {one.second}"
        table.add_row(
            plain(name),
            str(comparison.n),
            f"{one.first_accuracy:.3f}",
            f"{one.second_accuracy:.3f}",
            _difference(comparison),
            f"{comparison.p_value:.2g}",
            _ratio(comparison),
        )
    return table


def money(amount: float | None) -> str:
    """An amount of money to four digits, in the currency of the prices."""
    return "unknown" if amount is None else digits(amount, 4)


def with_interval(value: float, ends: tuple[float, float]) -> str:
    """A proportion with its interval: `0.870 (.790–.922)`."""
    low, high = (f"{end:.3f}".removeprefix("0") for end in ends)
    return f"{value:.3f} ({low}–{high})"


def table_of(title: str, caption: str) -> Table:
    """An empty table without a frame, whose rows of figures fit into 80 columns."""
    return Table(
        box=box.SIMPLE_HEAD,
        show_edge=False,
        padding=(0, 0, 0, 1),
        title=plain(f"{title}\n", "italic"),
        title_justify="left",
        caption=plain(f"\n{caption}"),
        caption_justify="left",
    )


def add_columns(table: Table, names: Sequence[str]) -> None:
    """Add columns of figures, which stay on one line; a long `method` continues on the next."""
    for name in names:
        justify: Literal["left", "right"] = "left" if name == "method" else "right"
        table.add_column(name, justify=justify, overflow="fold", no_wrap=name != "method")


def _setup(report: Report) -> str:
    return ", ".join(f"{role} {name}" for role, name in report.setup.items())


def _notes(report: Report) -> str:
    totals = report.totals
    spent = f"{amount(totals['tokens'])} tokens"
    if totals["flops"] is not None:
        spent += f", {amount(totals['flops'])} FLOPs"
    if totals["cost"]:
        spent += f", cost {money(totals['cost'])}"
    parts = [
        f"Replayed from {report.replayed}." * bool(report.replayed),
        "Per problem: FLOPs"
        + f", and how many times fewer than {report.reference}" * (len(report.methods) > 1)
        + f"; time, {report.in_flight}"
        + "; cost" * bool(totals["cost"])
        + ".",
        f"In total: {spent}, in {duration(totals['seconds'] or 0.0)}.",
        f"{report.graded_as[:1].upper()}{report.graded_as[1:]}." * bool(report.graded_as),
    ]
    return "\n".join(filter(None, parts))


def _difference(comparison: Comparison) -> str:
    low, high = comparison.ci95
    ends = " to ".join(f"{end:+.3f}".replace("0.", ".", 1) for end in (low, high))
    return f"{comparison.difference:+.3f} ({ends})"


def _ratio(comparison: Comparison) -> str:
    if comparison.fewer_flops is None or comparison.fewer_flops_ci95 is None:
        return "unknown"
    low, high = comparison.fewer_flops_ci95
    return f"{_short(comparison.fewer_flops, 3)} ({_short(low, 3)}–{_short(high, 3)})"


def _flops(spent: float | None, n: int, alone: float | None, others: int) -> str:
    if spent is None:
        return "unknown"
    ratio = f" {_short(alone / max(1, others) / (spent / n), 2)}x" if alone and spent else ""
    return f"{amount(spent / n)}{ratio}"


def _short(ratio: float, digits: int) -> str:
    """A ratio to two digits or three: 0.91, 4.8, 35, 120."""
    whole = int(math.log10(ratio)) + 1 if ratio >= 1 else 0
    return f"{ratio:.{max(0, digits - max(whole, 0))}f}"
