"""A thought in the terminal: its last steps, dimmed, while it is written, and one line once it is over."""

from __future__ import annotations

from collections import deque

from rich.console import Console, Group, RenderableType
from rich.live import Live

from rsd_core import StepRecord
from rsd_integrations.cli.terminal import plain
from rsd_integrations.display.reading import folded_thought

TAIL = 5
"""Rows of a thought that are shown while it is written."""


class ThoughtFold:
    """What is shown of a thought in place of all its steps.

    Args:
        console: Where. Only a terminal is redrawn; elsewhere nothing but the last line is printed.
    """

    def __init__(self, console: Console) -> None:
        self.console = console
        self._rows: deque[RenderableType] = deque(maxlen=TAIL)
        self._steps: list[StepRecord | None] = []
        self._live: Live | None = None

    def add(self, row: RenderableType, *steps: StepRecord | None) -> None:
        """Show one more row.

        Args:
            row: Of a step, or of a rejected draft.
            steps: What became part of the thought by it; None for a part of a step.
        """
        self._rows.append(row)
        self._steps += steps
        if self._live is None:
            self._live = Live(console=self.console, transient=True, auto_refresh=False)
            self._live.start()
        self._live.update(Group(self._summary, *self._rows), refresh=True)

    def close(self) -> None:
        """Leave one line of the thought, if there was one."""
        if self._live is not None:
            self._live.stop()
            self._live = None
        if self._rows:
            self.console.print(self._summary)
        self._rows.clear()
        self._steps.clear()

    @property
    def _summary(self) -> RenderableType:
        return plain(f"    {folded_thought(self._steps)}", "dim")
