"""How runs and evaluations look in a terminal."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from rsd_core import Degraded, Event, Finished, Ledger, Result, StepAccepted, StepRejected, StepReplaced
from rsd_integrations.batch import Progress as BatchProgress
from rsd_integrations.evaluation.report import Report
from rsd_integrations.evaluation.statistics import wilson
from rsd_integrations.evaluation.tables import times

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


@contextlib.contextmanager
def eval_progress(console: Console, methods: int) -> Iterator[Callable[[Report], None]]:
    """A progress bar with each method's live accuracy and savings."""
    columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), TextColumn("{task.description}"))
    progress = Progress(*columns, console=console)

    def update(report: Report) -> None:
        if not progress.tasks:  # nothing is drawn before there is something to tell
            progress.start()
            progress.add_task("", total=report.n * methods)
        live = "  ".join(_live(report, name) for name in report.methods)
        progress.update(progress.task_ids[0], completed=report.done, description=live)

    try:
        yield update
    finally:
        if progress.tasks:
            progress.stop()


@contextlib.contextmanager
def batch_progress(console: Console) -> Iterator[Callable[[BatchProgress], None]]:
    """A progress bar over a batch, with what failed or was degraded so far."""
    columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), TextColumn("{task.description}"))
    with Progress(*columns, console=console) as progress:
        bar = progress.add_task("")

        def update(told: BatchProgress) -> None:
            live = "".join(f"  {n} {word}" for n, word in ((told.failed, "failed"), (told.degraded, "degraded")) if n)
            progress.update(bar, total=told.total, completed=told.found + told.done + told.failed, description=live)

        yield update


def _live(report: Report, name: str) -> str:
    method, alone = report.methods[name], report.methods[report.reference]
    told = f"{name} {method.accuracy:.3f}"
    if name != report.reference and method.n and alone.n and method.flops_paper and alone.flops_paper:
        told += f" ({alone.flops_paper / alone.n / (method.flops_paper / method.n):.1f}x)"
    return told


def eval_tables(report: Report) -> Iterator[Table]:
    """All methods side by side, and each of them against the target, where that was run."""
    table = Table(
        box=box.SIMPLE_HEAD,
        padding=(0, 1),
        title=f"{report.task}, {report.n} problems, seed {report.seed}",
        caption=f"FLOPs per problem, and how many times fewer than {report.reference}; seconds: {report.in_flight}",
    )
    for column in ("method", "accuracy (95 %)", "target", "paper's FLOPs", "all FLOPs", "s/problem"):
        first = column == "method"
        width = 14 if first else None
        table.add_column(column, justify="left" if first else "right", min_width=width, overflow="fold")
    alone, compared = report.methods[report.reference], report.comparisons()
    for name, method in report.methods.items():
        low, high = wilson(method.right, method.n)
        table.add_row(
            name,
            f"{method.accuracy:.3f} ({low:.3f}–{high:.3f})",
            f"{method.by_target / max(1, method.steps):.1%}",
            _cost(method.flops_paper, method.n, alone.flops_paper),
            _cost(method.flops, method.n, alone.flops),
            f"{method.seconds / max(1, method.n):.3f}",
        )
    yield table
    if not compared:
        return
    table = Table(
        box=box.SIMPLE_HEAD,
        title=f"accuracy against {report.reference}, paired",
        caption="bootstrap; McNemar's exact test",
    )
    for column in ("method", "difference (95 %)", "p"):
        table.add_column(column, justify="left" if column == "method" else "right", overflow="fold")
    for name, found in compared.items():
        low, high = found.ci95
        table.add_row(name, f"{found.difference:+.3f} ({low:+.3f} to {high:+.3f})", f"{found.p_value:.2g}")
    yield table


def _cost(amount: float | None, n: int, alone: float | None) -> str:
    if amount is None:
        return "unknown"
    ratio = f" {alone / amount:.2f}x" if alone and amount else ""
    return f"{amount / max(1, n) / 1e6:,.0f} M{ratio}"
