"""A thought in the terminal: its last steps, dimmed, while it is being written, and one line afterwards."""

from __future__ import annotations

from collections import deque

from rich.console import Console, Group, RenderableType
from rich.live import Live

from rsd_core import StepRecord
from rsd_integrations.cli.terminal import plain
from rsd_integrations.display.reading import folded_thought

TAIL = 5
"""Rows of a thought that are shown while it is being written."""


class ThoughtFold:
    """Shows a thought in place of all its steps.

    Args:
        console: Where to print. Only a terminal is redrawn; elsewhere only the last line is printed.
    """

    def __init__(self, console: Console) -> None:
        self.console = console
        self._rows: deque[RenderableType] = deque(maxlen=TAIL)
        self._steps: list[StepRecord | None] = []
        self._live: Live | None = None

    def add(self, row: RenderableType, *steps: StepRecord | None) -> None:
        """Show another row.

        Args:
            row: The row of a step, or of a rejected draft.
            steps: The steps that it adds to the thought; None for a part of a step.
        """
        self._rows.append(row)
        self._steps += steps
        if self._live is None:
            self._live = Live(console=self.console, transient=True, auto_refresh=False)
            self._live.start()
        self._live.update(Group(self._summary, *self._rows), refresh=True)

    def close(self) -> None:
        """Leave one line for the thought, if there was one."""
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
