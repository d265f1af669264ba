"""The site's hooks: the text that copy buttons copy, and the public names of the reference."""

from __future__ import annotations

import html
import sys
from importlib.util import module_from_spec, spec_from_file_location
from typing import Any

import pytest
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import get_lexer_by_name

import rsd_core
from tests.docs.blocks import ROOT, blocks, pages
from tests.docs.commands import sessions


def hook(name: str) -> Any:
    """A hook as MkDocs loads it, by its file."""
    spec = spec_from_file_location(name, ROOT / "docs" / "hooks" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[name] = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


copying, reference = hook("copying"), hook("reference")


def rendered(source: str, language: str) -> str:
    """A block as the site has it."""
    made = str(highlight(source, get_lexer_by_name(language), HtmlFormatter()))
    return made.replace("<pre><span></span>", "<pre><span></span><code>").replace("</pre>", "</code></pre>")


CONSOLES = [block for page in pages() for block in blocks(page) if block.language == "console"]


@pytest.mark.parametrize("block", CONSOLES, ids=lambda block: block.where)
def test_copy_buttons_of_consoles_copy_commands_alone(block: Any) -> None:
    made = copying.on_page_content(rendered(block.body, "console"))
    copied = html.unescape(made.partition('data-copy="')[2].partition('"')[0])
    assert copied.replace("\\\n", "").splitlines() == [command for command, _ in sessions(block)]


@pytest.mark.parametrize("language", ["python", "text", "yaml"])
def test_other_blocks_are_copied_whole(language: str) -> None:
    made = rendered('print("$ ls")\n', language)
    assert copying.on_page_content(made) == made


def test_every_public_name_of_the_core_is_in_the_reference_once() -> None:
    listed = [name for part in reference.core() if part.package == "rsd_core" for name in part.public]
    assert sorted(listed) == rsd_core.__all__


def test_internals_leave_public_names_out() -> None:
    internal = {part.name: part.internal_page() for part in reference.core()}
    assert "'boxed'" not in internal["rsd_core.results"]
    assert "::: rsd_core.concurrency" in internal["rsd_core.concurrency"]
    for part in reference.core():
        modules = dict.fromkeys(path.rpartition(".")[0] for path in part.public.values())
        for module in modules:
            shown = [name for name, path in part.public.items() if path == f"{module}.{name}"]
            rest = set(reference.defined(module)) - set(shown)
            assert (f"::: {module}\n" in internal[part.name]) == bool(rest), module
