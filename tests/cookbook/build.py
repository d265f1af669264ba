"""From the sources of the cookbook to its notebooks, run from clean.

    python -m tests.cookbook.build              # all of them, each in its own kernel
    python -m tests.cookbook.build 06           # those whose name begins so
    python -m tests.cookbook.build --one-kernel --into FOLDER   # quicker: libraries are imported once

A source is a script with cells (`# %%`, jupytext's percent format). It is the only thing one edits; the notebook beside
it is made from it and committed with its outputs. The tests run every notebook anew and compare.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import re
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jupytext
import nbformat
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient

ROOT = Path(__file__).parent.parent.parent
FOLDER = ROOT / "cookbook"
SOURCES = sorted((FOLDER / "sources").glob("[0-9]*.py"))
_SECONDS = re.compile(r"\d+\.\d+( s\b)")
_DECIMAL = re.compile(r"\d+\.\d+")
SURROUNDINGS = {
    "PYTHONPATH": str(ROOT),
    "HF_HUB_OFFLINE": "1",  # a recipe that reaches for the network fails
    "OMP_NUM_THREADS": "1",
    "COLUMNS": "100",
    "NO_COLOR": "1",
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    "PYTHONWARNINGS": "ignore:IProgress not found",  # an invisible bar
}


def notebook(source: Path) -> Any:
    """The notebook of a source, without outputs."""
    made = jupytext.read(source)
    made.metadata = nbformat.from_dict(
        {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
    )
    for number, cell in enumerate(made.cells):
        cell.id, cell.metadata = f"cell-{number}", {}
    return made


def run(made: Any, kernel: AsyncKernelManager, folder: Path) -> Any:
    """Run a notebook and return it with its outputs.

    Args:
        made: The notebook.
        kernel: Started where it is not running. One that ran other notebooks forgets their names first.
        folder: Where the notebook reads and writes files.

    Raises:
        CellExecutionError: A cell failed.
    """
    made.cells.insert(0, nbformat.v4.new_code_cell(f"%reset -f\n%cd -q {folder}"))
    NotebookClient(made, km=kernel, timeout=400, record_timing=False, coalesce_streams=True).execute()
    made.cells.pop(0)
    for cell in made.cells:
        if cell.cell_type == "code":
            cell.execution_count = None
            for output in cell.outputs:
                output.pop("execution_count", None)
                if output.output_type == "execute_result":
                    output.execution_count = None
    made.metadata.pop("language_info", None)
    return made


def told(made: Any) -> list[tuple[str, list[Any]]]:
    """Cells with what their outputs say, without what differs from run to run: seconds, and the bytes of pictures."""
    return [(cell.source, [_output(output) for output in cell.get("outputs", ())]) for cell in made.cells]


def _output(output: Any) -> Any:
    if output.output_type == "stream":
        return output.name, _SECONDS.sub(r"#\1", output.text)
    data = dict(output.get("data", {}))
    pictures = sorted(kind for kind in data if kind.startswith("image/"))
    plain = _SECONDS.sub(r"#\1", data.get("text/plain", ""))
    return output.output_type, pictures or plain, _DECIMAL.sub("#", data.get("text/html", ""))


async def stop(kernel: AsyncKernelManager) -> None:
    """End a kernel."""
    await kernel.shutdown_kernel(now=True)


def build(sources: Sequence[Path], into: Path, workplace: Path, one_kernel: bool) -> None:
    """Run sources, each in its own folder, and write their notebooks."""
    os.environ.update(SURROUNDINGS)
    kernel = None
    for source in sources:
        started = time.monotonic()
        kernel = kernel or AsyncKernelManager(kernel_name="python3", transport="ipc")
        folder = workplace / source.stem
        folder.mkdir()
        made = run(notebook(source), kernel, folder)
        if not one_kernel or source is sources[-1]:
            asyncio.run(stop(kernel))
            kernel = None
        nbformat.write(made, into / f"{source.stem}.ipynb")
        print(f"{source.stem:32} {time.monotonic() - started:5.1f} s", flush=True)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="beginnings of names; all by default")
    parser.add_argument("--into", type=Path, default=FOLDER, help="folder of the notebooks; cookbook/ by default")
    parser.add_argument("--one-kernel", action="store_true", help="run them in one kernel, one after the other")
    given = parser.parse_args()
    names = tuple(given.names)
    chosen = [one for one in SOURCES if not names or one.name.startswith(names)]
    with tempfile.TemporaryDirectory() as workplace:
        build(chosen, given.into, Path(workplace), given.one_kernel)


if __name__ == "__main__":
    main()
