"""Commands in the documentation: run if possible, otherwise checked against the tools' options."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from rsd_core import parse_policy
from rsd_core.registry import parse_spec
from tests.docs.blocks import ROOT, Block

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
HARNESS = "rsd_integrations.lm_eval"
"""Its command is that of lm-evaluation-harness, with its options."""
SPECS = ("--draft", "--target", "--verifier")


def sessions(block: Block) -> Iterator[tuple[str, str]]:
    """The commands of a console block, each with the output shown below it."""
    command, shown = "", list[str]()
    for line in block.body.replace("\\\n", "").splitlines():
        if line.startswith("$ "):
            if command:
                yield command, "\n".join(shown)
            command, shown = line[2:], []
        else:
            assert command, f"{block.where}: a console block begins with a command, after `$ `"
            shown.append(line)
    yield command, "\n".join(shown)


def matches(shown: str, printed: str) -> bool:
    """Whether a text is as shown, spaces at line ends apart; `...` stands for anything."""
    if not shown.strip():
        return True
    pieces = [re.escape(part) for part in _trimmed(shown).split("...")]
    return re.fullmatch(r"[\s\S]*".join(pieces).replace("\\\n", r"\s*\n"), _trimmed(printed)) is not None


def _trimmed(text: str) -> str:
    return "\n".join(line.rstrip() for line in text.strip().splitlines())


def run(command: str, place: Path, where: str) -> str:
    """Run a command and give back what it prints; what cannot be run in a test is checked.

    `rsd` runs in this process, so that models are loaded as little as possible.
    """
    name, *words = shlex.split(re.sub(r"^(?:\.venv|venv)/bin/", "", command), comments=True)
    if name == "rsd":
        check(command, where)
        return run_rsd(words, where)
    if name in ("cat", "ls", "head"):
        return subprocess.run([name, *words], cwd=place, capture_output=True, text=True, check=True).stdout
    if (name, *words[:2]) == ("pip", "install", "-e"):
        install(place / words[2])
        return ""
    check(command, where)
    return ""


def run_rsd(words: list[str], where: str) -> str:
    """Run `rsd`, which has to succeed."""
    from rsd_integrations.cli import app as cli

    out, arguments = io.StringIO(), sys.argv
    sys.argv = ["rsd", *words]
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(io.StringIO()) as err:
            cli.main()
    except SystemExit as end:
        if end.code:
            pytest.fail(f"{where}: rsd {' '.join(words)} ended with {end.code}: {err.getvalue()}")
    finally:
        sys.argv = arguments
    return out.getvalue()


def install(package: Path) -> None:
    """What installing a plugin in editable form does, without the network that a build may need.

    Its folder is on the path already; what is missing are the entry points.
    """
    about = tomllib.loads((package / "pyproject.toml").read_text())["project"]
    info = package.parent / f"{about['name'].replace('-', '_')}-{about['version']}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {about['name']}\nVersion: {about['version']}\n")
    points = about.get("entry-points", {})
    lines = [f"[{group}]\n" + "".join(f"{k} = {v}\n" for k, v in names.items()) for group, names in points.items()]
    (info / "entry_points.txt").write_text("\n".join(lines))
    sys.path.insert(0, str(package))
    importlib.invalidate_caches()


def check(command: str, where: str) -> None:
    """Hold a command to what can be known of it."""
    name, *words = shlex.split(re.sub(r"^(?:\.venv|venv)/bin/", "", command), comments=True)
    if name == "rsd":
        check_rsd(words, where)
    elif name == "pip":
        for extras in re.findall(rf"(?:{PROJECT['name']}|[\"' ]\.)\[([\w,-]+)\]", command):
            unknown = set(extras.split(",")) - set(PROJECT["optional-dependencies"])
            assert not unknown, f"{where}: there is no extra {unknown}"
    elif name == "make":
        unknown = {word for word in words if "=" not in word} - TARGETS
        assert not unknown, f"{where}: the Makefile has no {unknown}"
    elif (name, *words[:2]) == ("python", "-m", HARNESS):
        from lm_eval._cli import HarnessCLI

        HarnessCLI()._parser.parse_args(words[2:])  # exits where it knows an option not
    elif name == "python" and words[:1] == ["-m"] and words[1].startswith(("tests.", "rsd_")):
        spec = importlib.util.find_spec(words[1])
        assert spec is not None, f"{where}: there is no {words[1]}"
        assert spec.origin is not None
        source = Path(spec.origin).read_text()
        unknown = {word for word in words if word.startswith("--") and word.partition("=")[0] not in source}
        assert not unknown, f"{where}: {words[1]} has no {unknown}"
    elif name == "pytest":
        paths = [word.partition("::")[0] for word in words if not word.startswith("-")]
        assert all((ROOT / path).exists() for path in paths), f"{where}: {command}"


def check_rsd(words: list[str], where: str) -> None:
    """Commands and options exist; specs and policies can be read."""
    from rsd_integrations.cli.app import app

    root: Any = typer.main.get_command(app)
    command = root.get_command(None, words[0]) if words and not words[0].startswith("-") else root
    assert command is not None, f"{where}: rsd has no command {words[0]!r}"
    options = {name for param in command.params for name in (*param.opts, *param.secondary_opts)} | {"--help"}
    for word, value in zip(words, [*words[1:], ""], strict=True):
        option = word.partition("=")[0]
        if not option.startswith("-") or " " in option:
            continue
        assert option in options, f"{where}: rsd {words[0]} has no {option}"
        if option in SPECS:
            parse_spec(value)
        if option == "--policy" and not value.endswith(".json"):
            parse_policy(value)
