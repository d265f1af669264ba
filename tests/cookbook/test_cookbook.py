"""Every notebook of the cookbook is rerun: it works offline, and prints its committed outputs."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from tests.cookbook.build import FOLDER, ROOT, SOURCES, SURROUNDINGS, notebook, told

pytestmark = pytest.mark.timeout(1200)  # a minute and a half of work, which a crowded machine stretches
NAMES = [source.stem for source in SOURCES]
LINK = re.compile(r"\]\(([^)#]+)\)")


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with all notebooks, run one after the other in one kernel."""
    folder = tmp_path_factory.mktemp("cookbook")
    words = [sys.executable, "-m", "tests.cookbook.build", "--one-kernel", "--into", str(folder)]
    done = subprocess.run(
        words, cwd=ROOT, env=os.environ | SURROUNDINGS, capture_output=True, text=True, check=False, timeout=1100
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return folder


@pytest.mark.parametrize("name", NAMES)
def test_what_is_committed_is_what_a_fresh_run_prints(name: str, fresh: Path) -> None:
    committed, again = (nbformat.read(folder / f"{name}.ipynb", as_version=4) for folder in (FOLDER, fresh))
    nbformat.validate(committed)
    for (cell, outputs), (cell_again, outputs_again) in zip(told(committed), told(again), strict=True):
        assert cell == cell_again
        assert outputs == outputs_again, f"run `make cookbook`: the output of this cell is stale:\n{cell}"


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_is_made_from_its_source_and_is_clean(name: str) -> None:
    committed = nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)
    cells = notebook(FOLDER / "sources" / f"{name}.py").cells
    assert [(cell.cell_type, cell.source) for cell in committed.cells] == [
        (cell.cell_type, cell.source) for cell in cells
    ]
    outputs = [output for cell in committed.cells for output in cell.get("outputs", ())]
    assert not [output for output in outputs if output.output_type == "error" or output.get("name") == "stderr"]
    said = nbformat.writes(nbformat.from_dict({**committed, "cells": [{**c, "source": ""} for c in committed.cells]}))
    assert not re.search(r"(?<![\w.~:/])/(home|root|tmp|usr|work|Users)/", said)
    first, last = committed.cells[0].source, committed.cells[-1].source
    assert first.startswith("# ")
    assert "\nLearn " in first
    assert "## What next" in last
    for link in LINK.findall("".join(cell.source for cell in committed.cells if cell.cell_type == "markdown")):
        assert (FOLDER / link).exists(), link


def test_the_list_names_every_recipe() -> None:
    listed = set(LINK.findall((FOLDER / "README.md").read_text()))
    there = {path.name for path in FOLDER.glob("*.ipynb")}
    assert there == {f"{name}.ipynb" for name in NAMES}
    assert there <= listed
    assert all((FOLDER / link).exists() for link in listed)
