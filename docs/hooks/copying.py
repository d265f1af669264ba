"""Copy buttons of console blocks copy the commands: no prompts, no output, and a continued command whole."""

from __future__ import annotations

import html
import re
from typing import Any

CONSOLE = re.compile(r'<div class="language-console highlight">(.*?)</pre></div>', re.DOTALL)
TAG = re.compile(r"<[^>]+>")


def on_page_content(text: str, **_: Any) -> str:
    """Tell the theme's copy button what to copy from each console block."""
    return CONSOLE.sub(
        lambda found: found[0].replace("<div ", f'<div data-copy="{html.escape(commands(found[1]))}" ', 1), text
    )


def commands(block: str) -> str:
    """The commands of a rendered console block, one a line.

    Args:
        block: HTML of the block. Lines after `$ ` are commands; a backslash at the end continues one.
    """
    found, continued = list[str](), False
    for line in html.unescape(TAG.sub("", block)).splitlines():
        if continued or line.startswith("$ "):
            found.append(line if continued else line[2:])
            continued = line.endswith("\\")
    return "\n".join(found)
