"""How runs and evaluations look in a terminal."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from rsd_core import Degraded, Event, Finished, Ledger, Result, StepAccepted, StepRejected, StepReplaced
from rsd_integrations.evaluation.report import Report, wilson

DRAFT, TARGET = "green", "magenta"


class RunView:
    """Prints the events of one run: steps coloured by author with their rewards, rejected drafts dimmed."""

    def __init__(self, console: Console, question: str, reference: str | None = None) -> None:
        self.console = console
        self.reference = reference
        console.print(Text(question, style="bold"))
        console.print()

    def show(self, event: Event) -> None:
        """Print what an event says."""
        if isinstance(event, StepAccepted):
            self._step("draft", event.record.reward, event.record.text, DRAFT)
        elif isinstance(event, StepRejected):
            self._step("draft", event.reward, event.step.text, "dim strike")
        elif isinstance(event, StepReplaced):
            self._step("target", None, event.record.text, TARGET)
        elif isinstance(event, Degraded):
            item = event.degradation
            self.console.print(Text(f"  ! {item.kind}: {item.message}", style="yellow"))
        elif isinstance(event, Finished):
            self._summary(event.result)

    def _step(self, author: str, reward: float | None, text: str, style: str) -> None:
        shown = "    " if reward is None else f"{reward:.2f}"
        line = Text(f"{author:>6} {shown}  ", style=DRAFT if author == "draft" else TARGET)
        line.append(text.strip().replace("\n", "\n" + " " * 13) or "(nothing)", style=style)
        self.console.print(line)

    def _summary(self, result: Result) -> None:
        answer = result.answer if result.answer is not None else "none found"
        self.console.print()
        line = Text.assemble("Answer: ", (answer, "bold"), f"   ({result.finish_reason})")
        if self.reference is not None:
            right = answer == self.reference
            line.append("  right" if right else f"  wrong: it is {self.reference}", style="green" if right else "red")
        self.console.print(line)
        rate = result.acceptance_rate
        accepted = "" if rate is None else f", {rate:.0%} of drafts accepted"
        self.console.print(
            f"{len(result.steps)} steps, {result.target_share:.0%} by the target{accepted}, {result.seconds:.2f} s"
        )
        self.console.print(_ledger_table(result.ledger))
        saved = _saved(result.ledger)
        if saved:
            self.console.print(saved)


def _ledger_table(ledger: Ledger) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for column in ("role", "calls", "computed", "cached", "generated", "discarded", "seconds", "MFLOPs"):
        table.add_column(column, justify="left" if column == "role" else "right")
    rows = {"drafter": ledger.drafter, "verifier": ledger.verifier, "target": ledger.target, "total": ledger.total}
    for role, account in rows.items():
        flops = "?" if account.flops is None else f"{account.flops / 1e6:,.0f}"
        counts = (account.calls, account.computed, account.reused, account.generated, account.discarded)
        table.add_row(role, *(f"{count:,}" for count in counts), f"{account.seconds:.3f}", flops)
    return table


def _saved(ledger: Ledger) -> str | None:
    """The comparison with the target alone, called the estimate that it is."""
    alone, total = ledger.target_only_flops, ledger.total
    alone_paper = ledger.target_only_flops_paper
    if not alone or not alone_paper or not total.flops or not total.flops_paper:
        return None
    return (
        f"FLOPs against the target alone (estimated): {times(alone / total.flops)} with everything charged, "
        f"{times(alone_paper / total.flops_paper)} by the paper's convention"
    )


def times(ratio: float) -> str:
    """A ratio of costs in words."""
    return f"{ratio:.2f}x fewer" if ratio >= 1 else f"{1 / ratio:.2f}x more"


@contextlib.contextmanager
def eval_progress(console: Console, n: int) -> Iterator[Callable[[Report], None]]:
    """A progress bar with each method's live accuracy."""
    columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), TextColumn("{task.description}"))
    progress = Progress(*columns, console=console)

    def update(report: Report) -> None:
        if not progress.tasks:  # nothing is drawn before there is something to tell
            progress.start()
            progress.add_task("", total=n)
        live = "  ".join(f"{name} {method.accuracy:.3f}" for name, method in report.methods.items())
        progress.update(progress.task_ids[0], completed=len(report.problems), description=live)

    try:
        yield update
    finally:
        if progress.tasks:
            progress.stop()


def eval_table(report: Report) -> Table:
    """All methods side by side; FLOPs ratios are against `target` where it was run."""
    table = Table(title=f"{report.task}, {report.n} problems, seed {report.seed}")
    for column in ("method", "accuracy", "95 %", "target steps", "FLOPs", "paper's FLOPs", "s/problem"):
        table.add_column(column, justify="left" if column == "method" else "right")
    alone = report.methods.get("target")
    for name, method in report.methods.items():
        low, high = wilson(method.right, method.n)
        table.add_row(
            name,
            f"{method.accuracy:.3f}",
            f"{low:.3f}–{high:.3f}",
            f"{method.by_target / max(1, method.steps):.1%}",
            _flops(method.flops, method.n, alone.flops if alone else None),
            _flops(method.flops_paper, method.n, alone.flops_paper if alone else None),
            f"{method.seconds / max(1, method.n):.3f}",
        )
    return table


def _flops(flops: float | None, n: int, alone: float | None) -> str:
    if flops is None:
        return "unknown"
    ratio = f" ({times(alone / flops)})" if alone and flops else ""
    return f"{flops / max(1, n) / 1e6:,.0f} M{ratio}"
