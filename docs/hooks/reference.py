"""Pages of the reference: for each module of rsd_core, for each subpackage of rsd_integrations, and the commands."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parent.parent.parent


def on_config(config: Any) -> Any:
    """List the pages under Reference."""
    for section in config.nav:
        if "Reference" in section:
            section["Reference"] = [
                {"The rsd command": "reference/cli.md"},
                {"rsd_core": [{name: page} for name, page, _ in core()]},
                {"rsd_integrations": [{name: page} for name, page, _ in subpackages()]},
            ]
    return config


def on_files(files: Files, config: Any) -> Files:
    """Write the pages; mkdocstrings fills them from docstrings."""
    for name, page, modules in [*core(), *subpackages()]:
        whole, *parts = modules
        body = f"::: {whole}\n" + (INDEX + exported(whole) if parts else "\n")
        body += "".join(f"::: {part}\n{PART}\n" for part in parts)
        files.append(File.generated(config, page, content=f"# {name}\n\n{body}"))
    files.append(File.generated(config, "reference/cli.md", content=commands()))
    return files


INDEX = "    options: { members: false }\n"
PART = "    options: { show_root_heading: true, show_root_full_path: true, show_root_toc_entry: true }\n"
TABLE = "(?!RSD)[A-Z_]+"
"""Names of constants."""
Entry = tuple[str, str, list[str]]


def core() -> list[Entry]:
    """Modules of the core: name, page, and what is on it."""
    return [_entry(path) for path in _public(ROOT / "rsd_core")]


def subpackages() -> list[Entry]:
    """Subpackages of the integrations."""
    return [_entry(path) for path in _public(ROOT / "rsd_integrations") if path.is_dir()]


def _public(folder: Path) -> list[Path]:
    return [
        path
        for path in sorted(folder.iterdir())
        if not path.name.startswith("_") and (path.suffix == ".py" or (path / "__init__.py").exists())
    ]


def _entry(path: Path) -> Entry:
    name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
    inner = [f"{name}.{one.stem}" for one in _public(path)] if path.is_dir() else []
    return name.partition(".")[2], f"reference/{name}.md", [name, *inner]


def exported(package: str) -> str:
    """What a package exports, with links to where it is documented."""
    source = (ROOT / package.replace(".", "/") / "__init__.py").read_text()
    names = {
        alias.name: f"{node.module}.{alias.name}"
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(f"{package}.")
        for alias in node.names
    }
    # Tables of data explain themselves and have no entry to link to.
    links = ", ".join(
        f"`{name}`" if re.fullmatch(TABLE, name) else f"[`{name}`][{names[name]}]" for name in sorted(names)
    )
    return f"\nImport from `{package}`: {links}.\n\n" if links else "\n"


def commands() -> str:
    """The `rsd` command as its own help tells it."""
    import typer
    from typer.cli import get_docs_for_click

    from rsd_integrations.cli.app import app

    command = typer.main.get_command(app)
    text = get_docs_for_click(obj=command, ctx=typer.Context(command), name="rsd", title="The rsd command")
    return text.replace("```console\n$ rsd", "```text\nrsd")
