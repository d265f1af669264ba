"""Reports as Markdown."""

from __future__ import annotations

from rsd_integrations.display.reading import counted, times
from rsd_integrations.evaluation.report import Report


def flops(amount: float | None, n: int, alone: float | None) -> str:
    """FLOPs per problem, and their ratio."""
    if amount is None:
        return "unknown"
    ratio = f" ({times(alone / amount)})" if alone and amount else ""
    return f"{amount / max(1, n) / 1e6:,.0f} M{ratio}"


def markdown(report: Report) -> str:
    """The report as a table of methods and a table of comparisons."""
    lines = [
        f"{counted(report.n, 'problem')} of {report.task}, {report.seeded}; seconds: {report.in_flight}."
        + f" {report.graded_as[:1].upper()}{report.graded_as[1:]}." * bool(report.graded_as)
        + f" Replayed from {report.replayed}." * bool(report.replayed),
        "",
        ", ".join(f"{role} `{name}`" for role, name in report.setup.items()),
        "",
        "| method | accuracy | 95 % | steps by the target | FLOPs, paper's convention | FLOPs, everything charged "
        f"| seconds per problem |{' failed | degraded |' * bool(report.faults)}",
        f"|---|---|---|---|---|---|---|{'---|---|' * bool(report.faults)}",
    ]
    alone = report.methods[report.reference]
    for name, method in report.methods.items():
        accuracy, spread = "–", "–"
        if method.accuracy is not None:
            low, high = report.ci95(name)
            accuracy, spread = f"{method.accuracy:.3f}", f"{low:.3f}–{high:.3f}"
        paper = flops(method.flops_paper, method.n, alone.flops_paper)
        lines.append(
            f"| {name} | {accuracy} | {spread} | {method.by_target / max(1, method.steps):.1%} "
            f"| {paper} | {flops(method.flops, method.n, alone.flops)} "
            f"| {method.seconds / max(1, method.n):.3f} |"
            + (f" {method.errors} | {method.degraded} |" if report.faults else "")
        )
    compared = report.comparisons()
    if compared:
        lines += [
            "",
            f"Against {report.reference}, paired over the same problems (bootstrap intervals, {report.test}):",
            "",
            "| method | difference in accuracy | 95 % | p | only it correct | only the other correct |",
            "|---|---|---|---|---|---|",
        ]
    for name, comparison in compared.items():
        low, high = comparison.ci95
        lines.append(
            f"| {name} | {comparison.difference:+.3f} | {low:+.3f} to {high:+.3f} | {comparison.p_value:.3g} "
            f"| {comparison.only_first} | {comparison.only_second} |"
        )
    if report.faults:
        lines += ["", "Faults:", "", *(f"- {line}" for line in report.faults)]
    return "\n".join(lines) + "\n"
