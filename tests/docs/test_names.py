"""Files that pages name exist, and maps of the code are complete: renaming a file leaves no prose behind."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.docs.blocks import FENCE, ROOT

PAGES = ("CONTRIBUTING.md", "docs/design.md", "docs/engine.md", "docs/scheduling.md", "docs/servers.md")
NAMED = re.compile(r"`([\w./-]+(?:\.(?:py|toml)|/))`")
MAPPED = {
    "rsd_core": "CONTRIBUTING.md",
    "rsd_integrations": "CONTRIBUTING.md",
    "rsd_integrations/evaluation": "CONTRIBUTING.md",
    "rsd_integrations/huggingface": "docs/engine.md",
    "rsd_integrations/inprocess": "docs/engine.md",
    "rsd_integrations/langchain": "CONTRIBUTING.md",
    "rsd_integrations/llamacpp": "docs/engine.md",
    "rsd_integrations/llamaindex": "CONTRIBUTING.md",
    "rsd_integrations/openai_compatible": "CONTRIBUTING.md",
    "rsd_integrations/recorded": "CONTRIBUTING.md",
    "rsd_integrations/ray": "CONTRIBUTING.md",
    "rsd_integrations/serve": "CONTRIBUTING.md",
    "rsd_integrations/speculation": "CONTRIBUTING.md",
}
"""Folders with a table of their files, by the page that has it."""


def named(page: str) -> set[str]:
    """The files and folders that a page names outside of its blocks of code; folders end with a slash."""
    return set(NAMED.findall(FENCE.sub("", (ROOT / page).read_text())))


def tree() -> list[str]:
    """The files and folders of the repository that a page may name."""
    found = [path for top in ("rsd_core", "rsd_integrations", "tests", "docs") for path in (ROOT / top).rglob("*")]
    found += ROOT.iterdir()
    return [f"/{path.relative_to(ROOT)}{'/' * path.is_dir()}" for path in found]


@pytest.mark.parametrize("page", PAGES)
def test_files_that_a_page_names_exist(page: str) -> None:
    there = tree()
    missing = {name for name in named(page) if not any(path.endswith(f"/{name}") for path in there)}
    assert not missing, f"{page} names {sorted(missing)}"


@pytest.mark.parametrize("folder", MAPPED)
def test_maps_of_the_code_are_complete(folder: str) -> None:
    files = {path.name for path in (ROOT / folder).glob("*.py")} - {"__init__.py"}
    mentioned = {Path(name).name for name in named(MAPPED[folder])}
    assert files
    assert not files - mentioned, f"{MAPPED[folder]} leaves out {sorted(files - mentioned)} of {folder}"
