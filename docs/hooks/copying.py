"""Copy buttons of console blocks copy the commands: no prompts, no output, and a continued command whole."""

from __future__ import annotations

import html
import re
from typing import Any

BLOCK = re.compile(r'<div class="highlight">(?P<before>.*?<code>)(?P<code>.*?)</code></pre></div>', re.DOTALL)
PROMPT = '<span class="gp">$ </span>'
TAG = re.compile(r"<[^>]+>")


def on_page_content(text: str, **_: Any) -> str:
    """Tell the theme's copy button what to copy from each console block."""
    return BLOCK.sub(marked, text)


def marked(block: re.Match[str]) -> str:
    """A block as it was, or with its commands where it is a console's."""
    if PROMPT not in block["code"]:
        return block[0]
    return block[0].replace("<div ", f'<div data-copy="{html.escape(commands(block["code"]))}" ', 1)


def commands(code: str) -> str:
    """The commands of a console block, one a line.

    Args:
        code: The block as HTML. Lines after `$ ` are commands; a backslash at the end continues one.
    """
    found, continued = list[str](), False
    for line in html.unescape(TAG.sub("", code)).splitlines():
        if continued or line.startswith("$ "):
            found.append(line if continued else line[2:])
            continued = line.endswith("\\")
    return "\n".join(found)
