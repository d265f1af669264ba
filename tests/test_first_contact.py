"""A newcomer's first contact: the Python that `make` chooses, and its message without one."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.installations import ROOT, extras, required

REAL = f'"{sys.executable}" -c'
PYTHONS = {
    "good": f'exec {sys.executable} "$@"',
    "old": f"exec {REAL} 'import sys; sys.version_info = (3, 10, 4); exec(sys.argv[2])' \"$@\"",
    "venvless": f'exec {REAL} \'import sys; sys.modules["ensurepip"] = None; exec(sys.argv[2])\' "$@"',
    "broken": "echo 'pyenv: python3: command not found' >&2; exit 127",
}
"""Stand-ins: what they do where they are called as `python -c CODE`."""
TOOLS = ("sh", "make", "touch", "echo")


def path_with(folder: Path, **pythons: str) -> str:
    """A search path with some interpreters, a kind for each name, and nothing else but `make` and a shell."""
    for tool in TOOLS:
        found = shutil.which(tool)
        assert found is not None
        (folder / tool).symlink_to(found)
    for name, kind in pythons.items():
        (folder / name).write_text(f"#!/bin/sh\n{PYTHONS[kind]}\n")
        (folder / name).chmod(0o755)
    return str(folder)


def find(path: str, asked: str = "") -> subprocess.CompletedProcess[str]:
    command = [str(ROOT / ".ci" / "find-python"), asked]
    return subprocess.run(command, env={"PATH": path}, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("pythons", "taken"),
    [
        ({"python3": "good", "python3.11": "good"}, "python3"),
        ({"python3": "old", "python3.12": "good"}, "python3.12"),
        ({"python3": "venvless", "python3.13": "broken", "python": "good"}, "python"),
    ],
)
def test_the_first_usable_python_is_taken(tmp_path: Path, pythons: dict[str, str], taken: str) -> None:
    done = find(path_with(tmp_path, **pythons))
    assert (done.stdout.strip(), done.stderr, done.returncode) == (taken, "", 0)


@pytest.mark.parametrize(
    ("pythons", "said"),
    [
        ({}, "No Python found (looked for: python3 "),
        ({"python3": "old"}, "python3 is Python 3.10, and 3.11 or later is needed"),
        (
            {"python3": "venvless"},
            "python3 has no venv module; on Debian and Ubuntu: apt install python{}.{}-venv".format(*sys.version_info),
        ),
        ({"python3.12": "broken"}, "python3.12 does not start"),
    ],
)
def test_missing_pythons_are_reported_with_the_remedy(tmp_path: Path, pythons: dict[str, str], said: str) -> None:
    done = find(path_with(tmp_path, **pythons))
    assert done.returncode == 1
    assert done.stdout == ""
    assert said in done.stderr
    assert "Install Python 3.11 or later" in done.stderr
    assert "make PYTHON=/path/to/python3" in done.stderr


def test_the_python_that_is_asked_for_is_taken_or_refused(tmp_path: Path) -> None:
    path = path_with(tmp_path, python3="good", **{"other": "good", "python3.9": "old"})
    assert find(path, "other").stdout.strip() == "other"
    assert "python3.9 is Python 3.10" in find(path, "python3.9").stderr
    assert "looked for: /nowhere/python3" in find(path, "/nowhere/python3").stderr


def test_make_ends_with_that_message_and_leaves_nothing_behind(tmp_path: Path) -> None:
    clone = tmp_path / "clone"
    clone.mkdir()
    for name in ("Makefile", "pyproject.toml", "constraints.txt", "weights.txt", "vocabularies.txt"):
        shutil.copy(ROOT / name, clone)
    (clone / ".ci").mkdir()
    shutil.copy(ROOT / ".ci" / "find-python", clone / ".ci")
    tools = tmp_path / "tools"
    tools.mkdir()
    environ = {**os.environ, "PATH": path_with(tools, python3="old")}
    done = subprocess.run(["make", "run"], cwd=clone, env=environ, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "python3 is Python 3.10, and 3.11 or later is needed" in done.stderr
    assert not (clone / ".venv").exists()


def test_the_page_on_installing_names_every_extra_with_its_packages() -> None:
    text = (ROOT / "docs" / "install.md").read_text()
    rows = {line.split("`")[1]: line for line in text.splitlines() if line.startswith("| `")}
    assert set(extras()) <= set(rows)
    for extra, packages in extras().items():
        if extra != "all":  # everything above it
            missing = [name for name in packages if name not in rows[extra] and not _by_other(extra, name, rows)]
            assert not missing, f"docs/install.md: {extra} brings {missing}"
        assert required(extra)


def _by_other(extra: str, package: str, rows: dict[str, str]) -> bool:
    """Whether a row names another extra that brings the package."""
    others = [other for other in extras() if other != extra and f"`{other}`" in rows[extra].split("|", 2)[2]]
    return any(package in extras()[other] for other in others)
