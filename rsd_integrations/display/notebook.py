"""A result as the output of a notebook's cell."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rsd_core import Decoder, Result
from rsd_core.control_characters import visible
from rsd_integrations.display.page import fragment
from rsd_integrations.display.reading import MARKS, Reading, read


@dataclass(frozen=True, slots=True, repr=False)
class Shown:
    """A trace that a notebook draws; printed, it is the same in plain text."""

    reading: Reading

    def _repr_html_(self) -> str:
        return fragment(self.reading)

    def __repr__(self) -> str:
        result = self.reading.result
        lines = [line for number, step in enumerate(result.steps, 1) for line in self._step(number, step)]
        lines += [f"! step {item.step + 1}: {item.kind}: {item.message}" for item in result.degradations]
        answer = "none found" if result.answer is None else result.answer
        lines += [f"Answer: {answer} ({result.finish_reason})", self.reading.summary]
        lines += [f"{saving.times} FLOPs than the target alone, {saving.convention}" for saving in self.reading.savings]
        return visible("\n".join(lines))

    def _step(self, number: int, step: Any) -> list[str]:
        lines = []
        if step.discarded_draft is not None:
            lines.append(_line(number, "rejected", step.reward, step.discarded_draft))
        lines.append(_line(number, step.author, step.own_reward, step.text))
        return lines


def _line(number: int, author: str, reward: float | None, text: str) -> str:
    shown = "    " if reward is None else f"{reward:.2f}"
    head = f"{number:>3} {MARKS[author]} {author:<8} {shown}  "
    return head + (text.strip() or "(no text)").replace("\n", "\n" + " " * len(head))


def show(result: Result, decoder: Decoder | None = None) -> Shown:
    """The trace of a result, for the last line of a notebook's cell.

    Args:
        result: What `run` gave, or `result_of` of an adapter.
        decoder: What made it, for the threshold and the names of the models.
    """
    return Shown(read(result, decoder))


def load_ipython_extension(ipython: Any) -> None:
    """Draw every result that a cell ends with: `%load_ext rsd_integrations.display`."""
    formatters = ipython.display_formatter.formatters
    formatters["text/html"].for_type(Result, lambda result: fragment(read(result)))
    formatters["text/plain"].for_type(Result, lambda result, printer, _cycle: printer.text(repr(show(result))))
