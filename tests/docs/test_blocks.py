"""Every Python block of the documentation runs and prints what stands under it, and so does every command."""

from __future__ import annotations

import ast
import asyncio
import contextlib
import importlib
import io
import logging
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from rsd_core import SpecError, backends
from rsd_core.registry import parse_spec
from tests.docs.blocks import Block, blocks, pages
from tests.docs.commands import check, matches, run, sessions

PAGES = [page for page in pages() if blocks(page)]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty working folder that modules can be imported from, and a terminal of known width."""
    before = set(sys.modules)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")
    yield tmp_path
    for name in list(logging.root.manager.loggerDict):
        if name.startswith("rsd_"):
            logging.getLogger(name).setLevel(logging.NOTSET)  # which pages show how to set
    for name in set(sys.modules) - before:
        if str(tmp_path) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_page(page: Path, place: Path) -> None:
    shared: dict[str, object] = {"__name__": page.stem}
    for block in blocks(page):
        if block.needs:
            check_block(block)
        elif block.file is not None:
            (place / block.file).parent.mkdir(parents=True, exist_ok=True)
            (place / block.file).write_text(block.body)
            importlib.invalidate_caches()
        elif block.language == "python":
            run_python(block, shared)
        elif block.language == "console":
            for command, shown in sessions(block):
                printed = run(command, place, block.where)
                assert matches(shown, printed), f"{block.where}: {command} printed\n{printed}"


def run_python(block: Block, shared: dict[str, object]) -> None:
    """Run a block in its page's namespace."""
    source = "\n" * block.line + block.body  # so that a traceback tells the line of the page
    with asyncio.Runner() as runner, contextlib.redirect_stdout(io.StringIO()) as out:
        runner.get_loop()  # LlamaIndex's blocking methods would make one and leave it open
        exec(compile(source, block.page, "exec", dont_inherit=True), shared)
    told = out.getvalue().strip()
    if block.printed is None:
        assert not told, f"{block.where} prints, and the page does not say what:\n{told}"
    else:
        assert matches(block.printed, told), f"{block.where} printed\n{told}"


def check_block(block: Block) -> None:
    """What can be known of a block without running it: its imports, its specs, its commands and their options."""
    if block.language == "console":
        for command, _ in sessions(block):
            check(command, block.where)
    if block.language != "python":
        return
    for node in ast.walk(ast.parse(block.body)):
        if isinstance(node, ast.ImportFrom) and node.module and available(node.module):
            module = importlib.import_module(node.module)
            missing = [alias.name for alias in node.names if not hasattr(module, alias.name)]
            assert not missing, f"{block.where}: {node.module} has no {missing}"
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and is_spec(node.value):
            check_spec(node.value, block.where)


def available(module: str) -> bool:
    """Whether a module is one of ours or installed; those of providers need not be."""
    return module.startswith("rsd_") or importlib.util.find_spec(module.partition(".")[0]) is not None


def is_spec(text: str) -> bool:
    """Whether a string names a model."""
    return text.partition(":")[0].partition(",")[0] in backends() and not text.endswith(":")


def check_spec(spec: str, where: str) -> None:
    """A spec that is shown names something known."""
    try:
        parse_spec(spec)
    except SpecError as error:
        pytest.fail(f"{where}: {error}")
