"""The recorded run of the documentation, drawn from a real one.

python -m tests.docs.picture [--out docs/images/run.svg]
"""

from __future__ import annotations

import argparse
import io
import re
from pathlib import Path

from rich.console import Console

from rsd_core import RSDConfig
from rsd_integrations.cli.app import DEMO_SEED
from rsd_integrations.cli.show import RunView
from rsd_integrations.evaluation import find_task


def main() -> None:
    """Decode the default problem of `rsd run` and draw what the terminal shows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("docs/images/run.svg"))
    out: Path = parser.parse_args().out
    console = Console(record=True, width=100, file=io.StringIO(), force_terminal=True, color_system="truecolor")
    (problem,) = find_task("embedded").draw(1, DEMO_SEED)
    with RSDConfig().build() as decoder:
        view = RunView(console, problem.question, problem.reference)
        for event in decoder.stream(problem.question):
            view.show(event)
    picture = console.export_svg(title="rsd run", unique_id="run")
    out.write_text(re.sub(r"@font-face \{.*?\}\s*", "", picture, flags=re.DOTALL))  # no fonts from elsewhere


if __name__ == "__main__":
    main()
