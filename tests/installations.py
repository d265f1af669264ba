"""What an installation brings, and virtual environments with that and nothing else, made without a package index.

python -m tests.installations    # the table of docs/install.md: for each extra its packages and their size
"""

from __future__ import annotations

import tomllib
import venv
from importlib.metadata import Distribution, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from rsd_core.errors import DISTRIBUTION

ROOT = Path(__file__).parent.parent
NOT_FOR_USERS = {"dev", "docs"}


def required(extra: str = "") -> list[Distribution]:
    """The distributions that `pip install "rsd-decoding[extra]"` brings, as their metadata say."""
    names = {DISTRIBUTION}
    todo = [Requirement(f"{DISTRIBUTION}[{extra}]")]
    for requirement in todo:
        for further in map(Requirement, distribution(requirement.name).requires or ()):
            name, extras = canonicalize_name(further.name), requirement.extras or {""}
            asked = further.marker is None or any(further.marker.evaluate({"extra": one}) for one in extras)
            if asked and (name not in names or further.extras):
                names.add(name)
                todo.append(further)
    return [distribution(name) for name in names - {DISTRIBUTION}]


def environment(folder: Path, extra: str = "", *, source: bool = True) -> Path:
    """The interpreter of a virtual environment with what an installation brings and nothing else.

    Args:
        folder: Where to make it.
        extra: The extra that is installed.
        source: Whether this repository's packages are in it as well.
    """
    venv.create(folder, with_pip=False, symlinks=True)
    (site,) = folder.glob("lib/python*/site-packages")
    for installed in required(extra):
        for name in {file.parts[0] for file in installed.files or ()} - {"..", "__pycache__"}:
            if not (site / name).exists():  # several distributions may share a folder, as NVIDIA's do
                (site / name).symlink_to(str(installed.locate_file(name)))
    for name in ("rsd_core", "rsd_integrations") if source else ():
        (site / name).symlink_to(ROOT / name)
    return folder / "bin" / "python"


def extras() -> dict[str, list[str]]:
    """The extras that users install, each with the packages it names itself or by another extra, other extras apart."""
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]

    def direct(extra: str) -> set[str]:
        named = [Requirement(text) for text in declared[extra]]
        inner = {name for one in named if one.name == DISTRIBUTION for name in one.extras}
        return {one.name for one in named if one.name != DISTRIBUTION}.union(*(direct(name) for name in inner))

    return {extra: sorted(direct(extra)) for extra in declared if extra not in NOT_FOR_USERS}


def main() -> None:
    """Print, for each extra, how many distributions it brings and how large they are here."""
    print("| extra | packages | MB on disk |\n|---|---|---|")
    for extra in ("", *extras()):
        brought = required(extra)
        size = sum(file.size or 0 for one in brought for file in one.files or ())
        print(f"| {f'`{extra}`' if extra else 'none'} | {len(brought)} | {size / 1e6:,.0f} |")


if __name__ == "__main__":
    main()
