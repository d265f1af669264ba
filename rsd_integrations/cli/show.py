"""How runs and evaluations look in a terminal."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Literal, Self

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from rsd_core import (
    Decoder,
    Degraded,
    Event,
    Finished,
    Kind,
    Reader,
    Result,
    StepFinished,
    StepRecord,
    StepRejected,
    as_prompt,
)
from rsd_core.control_characters import visible
from rsd_core.thoughts.reading import reader_of
from rsd_integrations.cli.terminal import plain
from rsd_integrations.cli.thought_fold import ThoughtFold
from rsd_integrations.cli.waits import WaitingLine, Waits
from rsd_integrations.display import Reading, read
from rsd_integrations.display.reading import CLOSED, MARKER, MARKS, amount, read_step, thresholds_of

if TYPE_CHECKING:  # a single run needs none of them
    from rsd_integrations.batch import Progress as BatchProgress
    from rsd_integrations.evaluation.report import Report

STYLES = {"draft": "green", "target": "magenta", "rejected": "dim green", "limit": "yellow"}
ASCII_MARKS = {"draft": "+", "target": ">", "rejected": "x", "limit": "#"}
BAR = 8
"""Cells of a reward's bar."""


class RunView:
    """Prints the events of one run: steps by author with their rewards, rejected drafts and thoughts folded into lines.

    As a context it leaves the terminal as it was, however the run ends.

    Args:
        console: Where.
        question: What is asked.
        reference: The right answer, where it is known.
        thoughts: Whether the steps of thoughts are shown whole.
    """

    def __init__(
        self, console: Console, question: str, reference: str | None = None, *, thoughts: bool = False
    ) -> None:
        self.console, self.question, self.reference = console, question, reference
        self._whole, self._fold = thoughts, ThoughtFold(console)
        self._thresholds: dict[Kind, float | None] = {}
        self._reader = Reader()
        self._closes: int | None = None  # the step that closes the thought, which no event of its own tells
        console.print(plain(question, "bold"))
        console.print()

    def attach(self, decoder: Decoder) -> None:
        """Learn from what will decode: where thresholds are, and how thoughts begin."""
        prompt = as_prompt(self.question)
        self._thresholds, self._reader = thresholds_of(decoder), reader_of(prompt, decoder.thinking(prompt))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._fold.close()

    def show(self, event: Event) -> None:
        """Print what an event says."""
        self._close_before(event.index)
        if isinstance(event, StepFinished):
            self._finished(event)
        elif isinstance(event, StepRejected):
            kind, text = read_step(self._reader, event.step.text)
            self._put(kind, self._row(event.index, "rejected", event.reward, text, kind))
        elif isinstance(event, Degraded):
            item = event.degradation
            self._closes = item.step if item.kind == "thought_limit" else self._closes
            if item.kind == "no_answer":
                self._fold.close()
            self.console.print(plain(f"    ! {item.kind}: {item.message}", "yellow"))
        elif isinstance(event, Finished):
            self._fold.close()
            self._summary(event.result)

    def _finished(self, event: StepFinished) -> None:
        record, index = event.record, event.index
        self._reader = self._reader.read(record.text)[0]
        self._show_step(record, index)
        self._close_before(index + 2)

    def _close_before(self, index: int) -> None:
        """Show the step that closes the thought, where it comes before the given one."""
        if self._closes is not None and self._closes < index:
            self._put("thought", self._row(self._closes, "limit", None, CLOSED, "thought"))
            self._reader, self._closes = Reader(self._reader.markers, "closed"), None

    def _show_step(self, record: StepRecord, index: int) -> None:
        if record.kind == "thought":
            row = self._row(index, record.author, record.own_reward, record.thought or MARKER, "thought")
            self._put("thought", row, record)
            return
        if record.thought:  # and the answer, in one step
            self._put("thought", self._row(index, record.author, None, record.thought, "thought"), None)
        self._put("answer", self._row(index, record.author, record.own_reward, record.content, "answer"))

    def _put(self, kind: Kind, row: Table, *steps: StepRecord | None) -> None:
        """Print a row, or show it in the fold of the thought."""
        if kind == "thought" and not self._whole:
            self._fold.add(row, *steps)
        else:
            self._fold.close()
            self.console.print(row)

    def _row(self, index: int, fate: str, reward: float | None, text: str, kind: Kind) -> Table:
        thought = kind == "thought"
        line = fate == "rejected" or (thought and not self._whole)
        grid = Table.grid(padding=(0, 1))
        widths = (2, 1, 8, 4, BAR if self.console.width >= 60 else 0)
        for width in widths:
            grid.add_column(width=width, no_wrap=True)
        left = self.console.width - sum(widths) - len(widths) - 1
        grid.add_column(width=left, overflow="ellipsis" if line else "fold", no_wrap=line)
        style = f"dim {STYLES[fate]}" if thought else STYLES[fate]
        shown = _folded(text) if line else text.strip()
        body = plain(shown or "(nothing)", "dim strike" if fate == "rejected" else style)
        score = "" if reward is None else f"{reward:.2f}"
        mark = (ASCII_MARKS if self._ascii else MARKS)[fate]
        cells = (Text(word, style=style) for word in (f"{index + 1:>2}", mark, fate, score))
        grid.add_row(*cells, self._bar(reward, style, self._thresholds.get(kind)), body)
        return grid

    def _bar(self, reward: float | None, style: str, threshold: float | None) -> Text:
        """The reward as a bar, with the threshold as a notch."""
        if reward is None:
            return Text()
        full, rest, notch = "=-|" if self._ascii else "━─┃"
        bar = Text(full * round(reward * BAR), style=style).append(rest * (BAR - round(reward * BAR)), style="dim")
        if threshold is None:
            return bar
        at = min(BAR - 1, int(threshold * BAR))
        return Text.assemble(bar[:at], (notch, "bold"), bar[at + 1 :])

    @property
    def _ascii(self) -> bool:
        return self.console.options.ascii_only

    def _summary(self, result: Result) -> None:
        reading = read(result)
        answer = result.answer if result.answer is not None else "none found"
        self.console.print()
        line = Text.assemble("Answer: ", (visible(answer), "bold"), f"   ({result.finish_reason})")
        if self.reference is not None:
            right = answer == self.reference
            line.append(
                "  right" if right else visible(f"  wrong: it is {self.reference}"), style="green" if right else "red"
            )
        self.console.print(line)
        self.console.print(reading.summary, highlight=False)
        self.console.print()
        self.console.print(_ledger_table(reading))
        self.console.print()
        if reading.savings:
            self.console.print("FLOPs against the target alone (estimated)", style="dim", highlight=False)
        for saving in reading.savings:
            self.console.print(f"  {saving.convention}: [bold]{saving.times}[/]", highlight=False)


def _folded(text: str) -> str:
    """The first line of a text, and how many follow."""
    first, *more = text.strip().split("\n")
    return f"{first}  (and {len(more)} more lines)" if more else first


def _ledger_table(reading: Reading) -> Table:
    table = Table(box=None, padding=(0, 1, 0, 0), header_style="dim")
    for column in ("role", "calls", "computed", "reused", "generated", "discarded", "seconds", "FLOPs", "paper's"):
        table.add_column(column, justify="left" if column == "role" else "right")
    for role, account in reading.accounts.items():
        counts = (account.calls, account.computed, account.reused, account.generated, account.discarded)
        flops = (amount(account.flops), amount(account.flops_paper))
        table.add_row(role, *(f"{count:,}" for count in counts), f"{account.seconds:.3f}", *flops)
    return table


@contextlib.contextmanager
def _progress(console: Console) -> Iterator[Callable[[int, int, str], None]]:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, RenderableColumn, TextColumn, TimeRemainingColumn

    bar = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    progress = Progress(*bar, TextColumn("{task.description}"), RenderableColumn(WaitingLine()), console=console)

    def show(total: int, completed: int, live: str) -> None:
        if not progress.tasks:  # nothing is drawn before there is something to tell
            progress.start()
            progress.add_task("")
        progress.update(progress.task_ids[0], total=total, completed=completed, description=live)

    try:
        with contextlib.nullcontext() if console.is_terminal else Waits(console):
            yield show
    finally:
        if progress.tasks:
            progress.stop()


@contextlib.contextmanager
def eval_progress(console: Console, methods: int) -> Iterator[Callable[[Report], None]]:
    """A progress bar with each method's live accuracy and savings."""
    with _progress(console) as show:

        def update(report: Report) -> None:
            live = escape(visible("  ".join(_live(report, name) for name in report.methods)))
            show(report.n * methods, report.done, live)

        yield update


@contextlib.contextmanager
def batch_progress(console: Console) -> Iterator[Callable[[BatchProgress], None]]:
    """A progress bar over a batch, with what failed or was degraded so far."""
    with _progress(console) as show:

        def update(counts: BatchProgress) -> None:
            troubles = ((counts.failed, "failed"), (counts.degraded, "degraded"))
            live = "".join(f"  {n} {word}" for n, word in troubles if n)
            show(counts.total, counts.found + counts.done + counts.failed, live)

        yield update


def _live(report: Report, name: str) -> str:
    method, alone = report.methods[name], report.methods[report.reference]
    if not method.n:
        return f"{name} …"  # not begun
    label = name if method.accuracy is None else f"{name} {method.accuracy:.3f}"
    if name != report.reference and alone.n and method.flops_paper and alone.flops_paper:
        label += f" ({alone.flops_paper / alone.n / (method.flops_paper / method.n):.1f}x)"
    return label


def eval_tables(report: Report) -> Iterator[Table]:
    """All methods side by side, and each of them against the target, where that was run."""
    from rsd_integrations.evaluation.statistics import wilson

    table = Table(
        box=box.SIMPLE_HEAD,
        padding=(0, 1),
        title=plain(f"{report.task}, {report.n} problems, seed {report.seed}", "italic"),
        caption=plain(
            f"FLOPs per problem, and how many times fewer than {report.reference}; seconds: {report.in_flight}"
            + f"; {report.graded_as}" * bool(report.graded_as)
        ),
    )
    # Widths below which a figure would be cut in two; together they fit into 80 columns.
    widths = {"method": 12, "accuracy (95 %)": 13, "target": 6, "paper's FLOPs": 7, "all FLOPs": 7, "s/problem": 9}
    for column, width in widths.items():
        justify: Literal["left", "right"] = "left" if column == "method" else "right"
        table.add_column(column, justify=justify, min_width=width, overflow="fold")
    alone, compared = report.methods[report.reference], report.comparisons()
    for name, method in report.methods.items():
        low, high = wilson(method.right, method.graded)
        table.add_row(
            plain(name),
            "unknown" if method.accuracy is None else f"{method.accuracy:.3f} ({low:.3f}–{high:.3f})",
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
        title=plain(f"accuracy against {report.reference}, paired", "italic"),
        caption="bootstrap; McNemar's exact test",
    )
    for column in ("method", "difference (95 %)", "p"):
        table.add_column(column, justify="left" if column == "method" else "right", overflow="fold")
    for name, comparison in compared.items():
        low, high = comparison.ci95
        table.add_row(
            plain(name), f"{comparison.difference:+.3f} ({low:+.3f} to {high:+.3f})", f"{comparison.p_value:.2g}"
        )
    yield table


def _cost(amount: float | None, n: int, alone: float | None) -> str:
    if amount is None:
        return "unknown"
    ratio = f" {alone / amount:.2f}x" if alone and amount else ""
    return f"{amount / max(1, n) / 1e6:,.0f} M{ratio}"
