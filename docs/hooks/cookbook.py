"""The cookbook as pages: notebooks with the outputs they were committed with, nothing being run."""

from __future__ import annotations

import base64
import json
import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

COOKBOOK = Path(__file__).parent.parent.parent / "cookbook"
LINK = re.compile(r"(?<!!)\[([^\]]+)\]\(([^)\s]+)\)")


def on_config(config: Any) -> Any:
    """List the notebooks in the navigation, behind the frameworks."""
    pages = [{title(notebook): page_of(notebook)} for notebook in notebooks()]
    if pages:
        at = next(i for i, section in enumerate(config.nav) if "Frameworks" in section)
        config.nav.insert(at + 1, {"Cookbook": ["cookbook/index.md", *pages]})
    return config


def on_files(files: Files, config: Any) -> Files:
    """Write a page for each notebook and each text beside them, and files for their pictures."""
    for text in COOKBOOK.rglob("*.md"):
        name = page_of(text).replace("cookbook/README", "cookbook/index")
        files.append(File.generated(config, name, content=linked(text.read_text(), text)))
    for notebook in notebooks():
        pictures: dict[str, bytes] = {}
        text = "\n\n".join(shown(cell, notebook, pictures) for cell in cells(notebook))
        files.append(File.generated(config, page_of(notebook), content=text + "\n"))
        for name, data in pictures.items():
            files.append(File.generated(config, f"cookbook/{name}", content=data))
    return files


def on_page_markdown(text: str, page: Any, **_: Any) -> str:
    """Point links into the cookbook at its pages; links to other files become plain text."""
    source = page.file.abs_src_path
    if source is None:  # a page of the cookbook itself, or of the reference
        return text

    def lead(found: re.Match[str]) -> str:
        label, target = found.groups()
        there = (Path(source).parent / target.partition("#")[0]).resolve()
        if "://" in target or not there.is_relative_to(COOKBOOK):
            return found[0]
        if there.suffix not in (".ipynb", ".md"):
            return label
        shown = page_of(there).replace("cookbook/README", "cookbook/index")
        return f"[{label}]({posixpath.relpath(shown, posixpath.dirname(page.file.src_uri))})"

    return LINK.sub(lead, text)


def notebooks() -> list[Path]:
    """The notebooks in order."""
    return sorted(COOKBOOK.glob("*.ipynb"))


def page_of(file: Path) -> str:
    """The path of a file's page."""
    return file.relative_to(COOKBOOK.parent).with_suffix(".md").as_posix()


def linked(text: str, file: Path) -> str:
    """A text whose links point at pages; links to other files become plain text."""

    def lead(found: re.Match[str]) -> str:
        label, target = found.groups()
        path, _, anchor = target.partition("#")
        if not path or "://" in target:
            return found[0]
        there = (file.parent / path).resolve()
        if there.is_relative_to(COOKBOOK.parent / "docs") and there.suffix == ".md":
            return f"[{label}](../{path.partition('docs/')[2]}{'#' * bool(anchor)}{anchor})"
        if there.is_relative_to(COOKBOOK) and there.suffix in (".ipynb", ".md") and there.exists():
            return f"[{label}]({path.replace('.ipynb', '.md')}{'#' * bool(anchor)}{anchor})"
        return label

    return LINK.sub(lead, text)


def cells(notebook: Path) -> list[dict[str, Any]]:
    """The cells of a notebook."""
    found: list[dict[str, Any]] = json.loads(notebook.read_text())["cells"]
    return found


def title(notebook: Path) -> str:
    """The first heading."""
    for cell in cells(notebook):
        if heading := re.search(r"^# (.+)$", "".join(cell["source"]), re.MULTILINE):
            return heading[1]
    return notebook.stem


def shown(cell: dict[str, Any], notebook: Path, pictures: dict[str, bytes]) -> str:
    """A cell as Markdown."""
    source = "".join(cell["source"])
    if cell["cell_type"] == "markdown":
        return linked(source, notebook)
    if cell["cell_type"] != "code":
        return source
    parts = [f"```python\n{source}\n```"] if source else []
    return "\n\n".join([*parts, *(printed(output, notebook.stem, pictures) for output in cell["outputs"])])


def printed(output: dict[str, Any], stem: str, pictures: dict[str, bytes]) -> str:
    """What a cell showed."""
    if output["output_type"] == "stream":
        return _text("".join(output["text"]))
    data = {kind: "".join(value) for kind, value in output.get("data", {}).items()}
    if "image/png" in data:
        name = f"{stem}-{len(pictures) + 1}.png"
        pictures[name] = base64.b64decode(data["image/png"])
        return f"![What the cell draws]({name})"
    for kind in ("text/html", "image/svg+xml"):
        if kind in data:
            whole = re.sub(r"\n\s*\n", "\n", data[kind])  # a blank line would end the block
            return f'<div class="notebook-output">{whole}</div>'
    return data["text/markdown"] if "text/markdown" in data else _text(data.get("text/plain", ""))


def _text(text: str) -> str:
    plain = re.sub(r"\x1b\[[0-9;]*m", "", text).rstrip("\n")
    return f"```text\n{plain}\n```" if plain else ""
