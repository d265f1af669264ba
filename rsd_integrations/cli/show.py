"""Shows a run in a terminal."""

from __future__ import annotations

from typing import Self

from rich.console import Console
from rich.table import Table
from rich.text import Text

from rsd_core import (
    Decoder,
    Degraded,
    Event,
    Finished,
    Kind,
    PromptLike,
    Reader,
    Result,
    StepFinished,
    StepRecord,
    StepRejected,
    as_prompt,
)
from rsd_core.control_characters import visible
from rsd_core.thoughts.reading import reader_of, split_unopened
from rsd_integrations.cli.terminal import plain
from rsd_integrations.cli.thought_fold import ThoughtFold
from rsd_integrations.display import Reading, read
from rsd_integrations.display.reading import CLOSED, MARKER, MARKS, amount, read_step, thresholds_of
from rsd_integrations.final_answers import final_answer

STYLES = {"draft": "green", "target": "magenta", "rejected": "dim green", "limit": "yellow"}
ASCII_MARKS = {"draft": "+", "target": ">", "rejected": "x", "limit": "#"}
BAR = 8
"""Width of a reward's bar, in characters."""


class RunView:
    """Prints the events of one run: steps by author with their rewards, rejected drafts and thoughts folded into lines.

    As a context manager, it leaves the terminal as it was, however the run ends.

    Args:
        console: Where to print.
        question: The question.
        reference: The correct answer, if known.
        thoughts: Whether to show the steps of thoughts in full.
    """

    def __init__(
        self, console: Console, question: str, reference: str | None = None, *, thoughts: bool = False
    ) -> None:
        self.console, self.question, self.reference = console, question, reference
        self._whole, self._fold = thoughts, ThoughtFold(console)
        self._thresholds: dict[Kind, float | None] = {}
        self._reader = Reader()
        self._closes: int | None = None  # the step that closes the thought, which has no event
        console.print(plain(question, "bold"))
        console.print()

    def attach(self, decoder: Decoder, prompt: PromptLike | None = None) -> None:
        """Get the decoder's thresholds, and how thoughts begin after the prompt, by default the question."""
        prompt = as_prompt(self.question if prompt is None else prompt)
        self._thresholds, self._reader = thresholds_of(decoder), reader_of(prompt, decoder.thinking(prompt))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._fold.close()

    def show(self, event: Event) -> None:
        """Print an event."""
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
        """Show the step that closes the thought, if it comes before the given one."""
        if self._closes is not None and self._closes < index:
            self._put("thought", self._row(self._closes, "limit", None, CLOSED, "thought"))
            self._reader, self._closes = Reader(self._reader.markers, "closed"), None

    def _show_step(self, record: StepRecord, index: int) -> None:
        if record.kind == "thought":
            row = self._row(index, record.author, record.own_reward, record.thought or MARKER, "thought")
            self._put("thought", row, record)
            return
        if record.thought:  # and the answer in the same step
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
        found = result.answer if result.answer is not None else final_answer(split_unopened(result.text).answer)
        answer = "none found" if found is None else found
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
    """The first line of a text, and the number of lines that follow."""
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
