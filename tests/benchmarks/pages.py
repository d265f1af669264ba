"""Sections of a page, each written by one benchmark."""

from __future__ import annotations

import re
from pathlib import Path


def put(file: Path, section: str, text: str, commit: str) -> None:
    """Write a section over its older version, or at the end of the page.

    Args:
        file: The page.
        section: Name of the benchmark.
        text: The section.
        commit: Of the code that was measured; a comment in the page keeps it.
    """
    end = f"<!-- end of {section} -->"
    fresh = f"<!-- {section}, commit {commit} -->\n\n{text.strip()}\n\n{end}\n"
    before = file.read_text() if file.exists() else "# Benchmarks\n"
    older = re.compile(rf"<!-- {re.escape(section)}(, commit \S+)? -->.*?{re.escape(end)}\n", re.DOTALL)
    if older.search(before):
        file.write_text(older.sub(lambda _: fresh, before))
    else:
        file.write_text(f"{before.rstrip()}\n\n{fresh}")


def commits(file: Path) -> dict[str, str]:
    """The commit that each section was measured at, by the name of its benchmark; empty where the page names none."""
    found = re.findall(r"^<!-- (?!end of )(\w+)(?:, commit (\S+))? -->$", file.read_text(), re.MULTILINE)
    return dict(found)
