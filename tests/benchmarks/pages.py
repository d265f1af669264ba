"""Sections of a page, each written by one benchmark."""

from __future__ import annotations

import re
from pathlib import Path


def put(file: Path, section: str, text: str) -> None:
    """Write a section: in place of its older version, or at the end."""
    begin, end = f"<!-- {section} -->", f"<!-- end of {section} -->"
    fresh = f"{begin}\n\n{text.strip()}\n\n{end}\n"
    before = file.read_text() if file.exists() else "# Benchmarks\n"
    older = re.compile(f"{re.escape(begin)}.*?{re.escape(end)}\n", re.DOTALL)
    if older.search(before):
        file.write_text(older.sub(lambda _: fresh, before))
    else:
        file.write_text(f"{before.rstrip()}\n\n{fresh}")
