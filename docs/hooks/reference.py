"""Pages of the reference: the public names by module and subpackage, the internals apart, and the commands."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parent.parent.parent
TABLE = re.compile(r"(?!RSD)[A-Z_]+")
"""Names of constants. Tables of data explain themselves and have no entry of their own."""
OPEN_MODULES = {"rsd_core.observing", "rsd_core.testing"}
"""Meant for users, and imported by their own names."""
UNSEARCHED = "---\nsearch: { exclude: true }\n---\n\n"
"""Keeps internals from crowding out the pages that users look for."""
HEADED = "show_root_heading: true, show_root_toc_entry: true"


@dataclass(frozen=True)
class Part:
    """A module of the core, or a subpackage."""

    name: str
    """As it is imported."""
    package: str
    """Where its public names are imported from."""
    modules: tuple[str, ...]
    """What it is made of, itself first."""
    public: dict[str, str]
    """Names that are meant for users, each with the path of its definition."""

    @property
    def label(self) -> str:
        """Its name within its package."""
        return self.name.partition(".")[2]

    def page(self, folder: str = "") -> str:
        """The page of its public names or, in a folder, of the rest."""
        return f"reference/{folder}{self.name}.md"

    def public_page(self) -> str:
        """What users import, with the introduction of the module itself."""
        constants = [name for name in self.public if TABLE.fullmatch(name)]
        named = ", ".join(f"`{name}`" for name in constants)
        imported = f"Imported from `{self.package}`" + (f", as are {named}" if constants else "") + ".\n\n"
        entries = "".join(
            f"::: {path}\n    options: {{ {HEADED}, show_root_full_path: false }}\n\n"
            for name, path in self.public.items()
            if name not in constants
        )
        return f"# {self.label}\n\n::: {self.name}\n    options: {{ members: false }}\n\n{imported}{entries}"

    def internal_page(self) -> str:
        """All that is documented and not public, module by module; empty where there is none."""
        shown = set(self.public.values())
        entries = ""
        for module in self.modules:
            rest = [name for name in defined(module) if f"{module}.{name}" not in shown]
            if rest or (not self.public and module == self.name):
                heading = f"{HEADED}, show_root_full_path: true"
                entries += f"::: {module}\n    options: {{ {heading}, members: {rest} }}\n\n"
        return f"{UNSEARCHED}# {self.label}\n\n{entries}" if entries else ""


def on_config(config: Any) -> Any:
    """List the pages under Reference."""
    for section in config.nav:
        if "Reference" in section:
            inner = [
                {package: [{part.label: part.page("internals/")} for part in parts if part.internal_page()]}
                for package, parts in (("rsd_core", core()), ("rsd_integrations", subpackages()))
            ]
            section["Reference"] = [
                {"The rsd command": "reference/cli.md"},
                {"rsd_core": [{part.label: part.page()} for part in core() if part.public]},
                {"rsd_integrations": [{part.label: part.page()} for part in subpackages() if part.public]},
                {"Internals": inner},
            ]
    return config


def on_files(files: Files, config: Any) -> Files:
    """Write the pages; mkdocstrings fills them from docstrings."""
    pages = {"reference/cli.md": commands()}
    for part in [*core(), *subpackages()]:
        pages |= {part.page(): part.public_page()} if part.public else {}
        pages[part.page("internals/")] = part.internal_page()
    for name, content in pages.items():
        if content:
            files.append(File.generated(config, name, content=content))
    return files


def core() -> list[Part]:
    """The modules of the core, with those of their names that `rsd_core` exports."""
    exported, found = exports("rsd_core"), list[Part]()
    for name, modules in _parts("rsd_core"):
        if name in OPEN_MODULES:
            found.append(Part(name, name, modules, {one: f"{name}.{one}" for one in defined(name)}))
        else:
            public = {one: path for one, path in exported.items() if path.rpartition(".")[0] in modules}
            found.append(Part(name, "rsd_core", modules, public))
    return found


def subpackages() -> list[Part]:
    """The subpackages of the integrations, with what each exports."""
    return [
        Part(name, name, modules, exports(name))
        for name, modules in _parts("rsd_integrations")
        if (_source(name)).is_dir() and name != "rsd_integrations.cli"  # whose reference is the command's own help
    ]


def _parts(package: str) -> Iterator[tuple[str, tuple[str, ...]]]:
    for path in _visible(_source(package)):
        name = f"{package}.{path.stem}"
        yield name, (name, *(f"{name}.{one.stem}" for one in _visible(path))) if path.is_dir() else (name,)


def _visible(folder: Path) -> list[Path]:
    return [
        path
        for path in sorted(folder.iterdir())
        if not path.name.startswith("_") and (path.suffix == ".py" or (path / "__init__.py").exists())
    ]


def _source(module: str) -> Path:
    return ROOT / module.replace(".", "/")


def _tree(module: str) -> ast.Module:
    path = _source(module)
    return ast.parse((path / "__init__.py" if path.is_dir() else path.with_suffix(".py")).read_text())


def exports(package: str) -> dict[str, str]:
    """What a package exports of its own modules, by name, with where each is defined."""
    return {
        alias.name: f"{home}.{alias.name}"
        for node in ast.walk(_tree(package))
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(f"{package}.")
        for alias in node.names
        if not alias.name.startswith("_")
        for home in [_home(node.module or "", alias.name)]
    }


def _home(module: str, name: str) -> str:
    """The module that defines a name which may reach its importer through a package."""
    for node in _tree(module).body:
        if isinstance(node, ast.ImportFrom) and name in {alias.name for alias in node.names}:
            return _home(node.module or "", name)
    return module


def defined(module: str) -> list[str]:
    """The classes, functions and documented constants of a module that are not private."""
    found, body = list[str](), _tree(module).body
    for node, after in zip(body, [*body[1:], None], strict=True):
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            found.append(node.name)
        documented = isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
        if isinstance(node, ast.Assign | ast.AnnAssign) and documented:
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            found += [target.id for target in targets if isinstance(target, ast.Name)]
    return [name for name in found if not name.startswith("_")]


def commands() -> str:
    """The `rsd` command as its own help tells it."""
    import typer
    from typer.cli import get_docs_for_click

    from rsd_integrations.cli.app import app

    command = typer.main.get_command(app)
    text = get_docs_for_click(obj=command, ctx=typer.Context(command), name="rsd", title="The rsd command")
    return text.replace("```console\n$ rsd", "```text\nrsd")
