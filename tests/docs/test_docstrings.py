"""Python blocks in docstrings run in the namespace of their module, those of one docstring after each other."""

from __future__ import annotations

import ast
import importlib
import inspect

import pytest

from tests.docs.blocks import FENCE, ROOT, Block
from tests.docs.test_blocks import run_python

DOCUMENTED = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def examples() -> list[list[Block]]:
    """The Python blocks of each docstring that has some."""
    found = []
    for file in sorted([*(ROOT / "rsd_core").rglob("*.py"), *(ROOT / "rsd_integrations").rglob("*.py")]):
        module = ".".join(file.relative_to(ROOT).with_suffix("").parts)
        for node in ast.walk(ast.parse(file.read_text())):
            docstring = ast.get_docstring(node, clean=False) if isinstance(node, DOCUMENTED) else None
            blocks = [
                Block(module, getattr(node, "lineno", 1), "python", "", inspect.cleandoc("\n" + match["body"]) + "\n")
                for match in FENCE.finditer(docstring or "")
                if match["info"].startswith("python")
            ]
            found += [blocks] if blocks else []
    return found


@pytest.mark.parametrize("blocks", examples(), ids=lambda blocks: blocks[0].where)
def test_docstring(blocks: list[Block]) -> None:
    shared = dict(vars(importlib.import_module(blocks[0].page)))
    for block in blocks:
        run_python(block, shared)


def test_no_example_is_written_in_a_form_that_nobody_runs() -> None:
    for folder in ("rsd_core", "rsd_integrations"):
        for file in (ROOT / folder).rglob("*.py"):
            assert ">>> " not in file.read_text(), f"{file}: write a ```python block"
