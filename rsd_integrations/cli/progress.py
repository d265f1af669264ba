"""The progress of an evaluation or a batch: a bar with the time left, or lines without a terminal."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape

from rsd_core.control_characters import visible
from rsd_integrations.cli.terminal import plain
from rsd_integrations.cli.waits import WaitingLine, Waits
from rsd_integrations.display.reading import duration

if TYPE_CHECKING:  # each command needs only one of them
    from rsd_integrations.batch import Progress as BatchProgress
    from rsd_integrations.evaluation.report import Report

EVERY = 60.0
"""Seconds between lines without a terminal."""
Show = Callable[[int, int, str], None]
"""Called with the total, the number done, and a short status."""


@contextlib.contextmanager
def _progress(console: Console, at_once: int) -> Iterator[Show]:
    if console.is_terminal:
        with _bar(console) as show:
            yield show
    else:
        with Waits(console):
            yield _lines(console, at_once)


@contextlib.contextmanager
def _bar(console: Console) -> Iterator[Show]:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, RenderableColumn, TextColumn, TimeRemainingColumn

    bar = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    words = (TextColumn("{task.description}"), RenderableColumn(WaitingLine()))
    progress = Progress(*bar, *words, console=console, speed_estimate_period=600)  # an answer may take minutes

    def show(total: int, completed: int, live: str) -> None:
        if not progress.tasks:  # draw nothing before there is something to show
            progress.start()
            progress.add_task("")
        progress.update(progress.task_ids[0], total=total, completed=completed, description=escape(visible(live)))

    try:
        yield show
    finally:
        if progress.tasks:
            progress.stop()


def _lines(console: Console, at_once: int) -> Show:
    began = told = time.monotonic()
    found: int | None = None

    def show(total: int, completed: int, live: str) -> None:
        nonlocal told, found
        found = completed if found is None else found
        now, done = time.monotonic(), completed - found
        if now - told < EVERY or not done or completed == total:
            return
        told = now
        words = f"{completed} of {total} done"
        if done >= at_once:  # before, most of the work so far is in answers that are not done yet
            words += f", about {duration((now - began) / done * (total - completed))} left"
        console.print(plain(f"{words}: {live.strip()}" if live else words), soft_wrap=True)

    return show


@contextlib.contextmanager
def eval_progress(console: Console, methods: int, at_once: int = 1) -> Iterator[Callable[[Report], None]]:
    """The progress of an evaluation with `at_once` answers in flight, with each method's accuracy and savings."""
    with _progress(console, at_once) as show:

        def update(report: Report) -> None:
            show(report.answers * methods, report.done, "  ".join(_live(report, name) for name in report.methods))

        yield update


@contextlib.contextmanager
def batch_progress(console: Console, at_once: int = 1) -> Iterator[Callable[[BatchProgress], None]]:
    """The progress of a batch with `at_once` answers in flight, with how many failed or were degraded."""
    with _progress(console, at_once) as show:

        def update(counts: BatchProgress) -> None:
            troubles = ((counts.failed, "failed"), (counts.degraded, "degraded"))
            live = "".join(f"  {n} {word}" for n, word in troubles if n)
            show(counts.total, counts.found + counts.done + counts.failed, live)

        yield update


def _live(report: Report, name: str) -> str:
    method, alone = report.methods[name], report.methods[report.reference]
    if not method.n:
        return f"{name} …"  # not begun yet
    label = name if method.accuracy is None else f"{name} {method.accuracy:.3f}"
    if name != report.reference and alone.n and method.flops_paper and alone.flops_paper:
        label += f" ({alone.flops_paper / alone.n / (method.flops_paper / method.n):.1f}x)"
    return label
