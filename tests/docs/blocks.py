"""Fenced blocks of the documentation: code and commands with what they print.

A block titled "Needs …" shows something that takes a GPU, a server, a key or a download. It is not run, but its names,
options, specs and imports are checked. A block titled with a file's name is written to that file before the next one
runs. An indented or `text` block right below a Python one is what it prints.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
FENCE = re.compile(r"^(?P<indent> *)```(?P<info>[^\n`]*)\n(?P<body>.*?)^(?P=indent)```$", re.DOTALL | re.MULTILINE)
TITLE = re.compile(r'title="([^"]*)"')


@dataclass(frozen=True)
class Block:
    """A fenced block."""

    page: str
    line: int
    language: str
    title: str
    body: str
    printed: str | None = None
    """The text block that follows at once, if any."""

    @property
    def where(self) -> str:
        """Page and line, as editors open them."""
        return f"{self.page}:{self.line}"

    @property
    def needs(self) -> bool:
        """Whether the block needs something that a test has not."""
        return self.title.startswith("Needs ")

    @property
    def file(self) -> str | None:
        """The file that the block shows, if its title is one."""
        return self.title if re.fullmatch(r"[\w./-]+\.\w+", self.title) else None


def pages() -> list[Path]:
    """README, guidelines and all pages of the documentation."""
    top = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "rsd_integrations/embedded/MODEL_CARD.md")]
    return [*top, *sorted((ROOT / "docs").rglob("*.md"))]


def blocks(page: Path) -> list[Block]:
    """The blocks of a page, in order."""
    text, found = page.read_text(), list[Block]()
    name, last = str(page.relative_to(ROOT)), -1
    for match in FENCE.finditer(text):
        language, _, rest = match["info"].strip().partition(" ")
        title = TITLE.search(rest)
        body = re.sub(f"^{match['indent']}", "", match["body"], flags=re.MULTILINE)
        if language == "text" and found and found[-1].language == "python" and not text[last : match.start()].strip():
            found[-1] = Block(**{**vars(found[-1]), "printed": body})
        else:
            line = text.count("\n", 0, match.start()) + 1
            found.append(Block(name, line, language, title[1] if title else "", body))
        last = match.end()
    return found
