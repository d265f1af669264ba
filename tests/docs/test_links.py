"""Links of the pages that the site does not build, the figures of the README, and names that pages mention."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.docs.blocks import ROOT

TOP = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "rsd_integrations/embedded/MODEL_CARD.md")
LINK = re.compile(r"\]\(([^)\s]+)\)")


@pytest.mark.parametrize("name", TOP)
def test_relative_links_lead_somewhere(name: str) -> None:
    page = ROOT / name
    for link in LINK.findall(page.read_text()):
        if link.startswith(("http://", "https://")):
            continue
        path, _, anchor = link.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), f"{name} links to {link}"
        assert not anchor or anchor in anchors(file), f"{name} links to {link}, and there is no such heading"


def anchors(page: Path) -> set[str]:
    """The headings of a page as their links name them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_readme_tells_the_figures_of_the_benchmarks() -> None:
    table = re.search(r"\| method \|.*?\n\n", (ROOT / "README.md").read_text(), re.DOTALL)
    assert table is not None
    rows = [line.strip("| ").split(" | ") for line in table[0].splitlines()[2:] if line]
    measured = {cells[0]: cells for cells in benchmark_rows()}
    assert len(rows) >= 4
    for method, accuracy, share, paper, charged in rows:
        own = measured[method]
        assert accuracy == f"{own[1]} ({own[2]})", method
        assert share == own[3], method
        assert f"({paper} fewer)" in own[4], method
        assert f"({charged} fewer)" in own[5], method


def test_the_conclusions_of_the_benchmarks_are_figures_of_their_sections() -> None:
    text = (ROOT / "docs" / "benchmarks.md").read_text()
    conclusions, _, rest = text.partition("## How to reproduce\n")
    sections = {
        re.sub(r"[^\w -]", "", part.partition("\n")[0].lower()).replace(" ", "-"): part for part in rest.split("\n## ")
    }
    rows = re.findall(r"^\| .+ \| (.+) \| \[.+\]\(#(.+)\) \|$", conclusions, re.MULTILINE)
    assert len(rows) >= 10
    for measured, anchor in rows:
        for figure in re.findall(r"[+-]?\d[\d.,]*\d|\d+", measured):
            assert figure in sections[anchor], f"{figure} is not in the section {anchor}"
    sentences = conclusions.partition("| question")[0]
    for figure in re.findall(r"\d+\.\d+", sentences):
        assert figure in rest, f"{figure} is a conclusion, and no section has it"


def benchmark_rows() -> list[list[str]]:
    """The main table of the benchmarks: other sections tell other runs of the same methods."""
    text = (ROOT / "docs" / "benchmarks.md").read_text()
    section = re.search(r"^## The embedded family\n(.*?)^## ", text, re.DOTALL | re.MULTILINE)
    assert section is not None
    return [line.strip("| ").split(" | ") for line in section[1].splitlines() if line.count(" | ") == 5]
