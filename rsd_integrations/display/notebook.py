"""A result as the output of a notebook's cell."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rsd_core import Decoder, Result
from rsd_core.control_characters import visible
from rsd_integrations.display.page import fragment
from rsd_integrations.display.reading import MARKS, Reading, Row, read


@dataclass(frozen=True, slots=True, repr=False)
class Shown:
    """A trace for a notebook to render; printed, it is the same in plain text."""

    reading: Reading
    thoughts: bool = False
    """Whether thoughts are shown whole; they are folded into a line otherwise."""

    def _repr_html_(self) -> str:
        return fragment(self.reading, thoughts=self.thoughts)

    def __repr__(self) -> str:
        result, rows = self.reading.result, self.reading.rows
        shown = rows if self.thoughts else [row for row in rows if row.kind == "answer"]
        lines = [f"    {self.reading.thought_summary}"] if len(shown) < len(rows) else []
        lines += [line for row in shown for line in _lines(row)]
        lines += [f"! step {item.step + 1}: {item.kind}: {item.message}" for item in result.degradations]
        answer = "none found" if result.answer is None else result.answer
        lines += [f"Answer: {answer} ({result.finish_reason})", self.reading.summary]
        lines += [f"{saving.times} FLOPs than the target alone, {saving.convention}" for saving in self.reading.savings]
        return visible("\n".join(lines))


def _lines(row: Row) -> list[str]:
    step = row.step
    if step is None:
        return [_line(row.number, "", None, row.text)]
    lines = [] if row.rejected is None else [_line(row.number, "rejected", step.reward, row.rejected)]
    return [*lines, _line(row.number, step.author, step.own_reward, row.text)]


def _line(number: int, author: str, reward: float | None, text: str) -> str:
    shown = "    " if reward is None else f"{reward:.2f}"
    head = f"{number:>3} {MARKS.get(author, ' ')} {author:<8} {shown}  "
    return head + (text.strip() or "(no text)").replace("\n", "\n" + " " * len(head))


def show(result: Result, decoder: Decoder | None = None, *, thoughts: bool = False) -> Shown:
    """The trace of a result, as the last line of a notebook cell.

    Args:
        result: The result of `run`, or of an adapter's `result_of`.
        decoder: The decoder behind it, for the threshold and the model names.
        thoughts: Whether thoughts are shown whole; they are folded into a line otherwise.
    """
    return Shown(read(result, decoder), thoughts)


def load_ipython_extension(ipython: Any) -> None:
    """Render every result at the end of a cell: `%load_ext rsd_integrations.display`."""
    formatters = ipython.display_formatter.formatters
    formatters["text/html"].for_type(Result, lambda result: fragment(read(result)))
    formatters["text/plain"].for_type(Result, lambda result, printer, _cycle: printer.text(repr(show(result))))
