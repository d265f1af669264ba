"""The picture of a run for the README and the site: what `rsd run` shows, as SVG.

    python -m tests.benchmarks.picture docs/images/run.svg

The file contains no script and needs no font or other file, so that it is shown wherever images are.
"""

from __future__ import annotations

import argparse
import io
import re
from pathlib import Path

from rich._export_format import CONSOLE_SVG_FORMAT
from rich.console import Console
from rich.terminal_theme import TerminalTheme

from rsd_core import RSDConfig
from rsd_integrations.cli.run import DEMO_SEED
from rsd_integrations.cli.show import RunView
from rsd_integrations.evaluation.tasks import find_task

FORMAT = re.sub(r"@font-face \{\{.*?\}\}\n", "", CONSOLE_SVG_FORMAT, flags=re.DOTALL).replace(
    "Fira Code, monospace", "Menlo, Consolas, 'DejaVu Sans Mono', monospace"
)

COLOURS = [(20, 24, 28), (225, 90, 90), (79, 207, 159), (240, 178, 84)]
COLOURS += [(110, 160, 240), (241, 145, 211), (90, 200, 210), (228, 232, 236)]
THEME = TerminalTheme((20, 24, 28), (228, 232, 236), COLOURS)
"""The dark colours of the HTML trace: green and magenta, which colour-blind people tell apart."""


def picture() -> str:
    """The default problem of `rsd run`, solved and drawn."""
    console = Console(record=True, width=84, file=io.StringIO(), force_terminal=True, color_system="truecolor")
    item = find_task("embedded").draw(1, DEMO_SEED)[0]
    config = RSDConfig()
    view = RunView(console, item.question, item.reference)
    with config.build() as decoder:
        view.attach(decoder)
        for event in decoder.stream(item.question):
            view.show(event)
    return console.export_svg(title="rsd run", theme=THEME, code_format=FORMAT, unique_id="rsd-run")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.parse_args().file.write_text(picture(), encoding="utf-8")
