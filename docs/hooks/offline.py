"""What browsers would fetch from elsewhere is made at build time: formulas become MathML, Mermaid is copied in."""

from __future__ import annotations

import html
import re
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert
from mkdocs.structure.files import File, Files

FORMULA = re.compile(r'<(span|div) class="arithmatex">\\([(\[])(.*?)\\[)\]]</\1>', re.DOTALL)
MERMAID = "javascripts/mermaid.js"


def on_files(files: Files, config: Any) -> Files:
    """Add Mermaid's own file, which the wheel of mermaidx carries."""
    spec = find_spec("mermaidx")
    assert spec is not None
    assert spec.origin is not None
    source = Path(spec.origin).parent / "assets" / "mermaid.js"
    files.append(File.generated(config, MERMAID, content=source.read_bytes()))
    return files


def on_page_content(text: str, **_: Any) -> str:
    """Render the formulas of a page."""

    def mathml(found: re.Match[str]) -> str:
        display = "block" if found[2] == "[" else "inline"
        return convert(html.unescape(found[3]).strip(), display=display)

    return FORMULA.sub(mathml, text)


def on_post_page(output: str, page: Any, **_: Any) -> str:
    """Load Mermaid where a page has a diagram; the theme finds it and fetches none."""
    if 'class="mermaid"' not in output:
        return output
    depth = page.url.count("/")
    return output.replace("</head>", f'<script src="{"../" * depth}{MERMAID}"></script></head>', 1)
