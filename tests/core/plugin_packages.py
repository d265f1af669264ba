"""Small packages with entry points, as an installation creates them."""

import os
import subprocess
import sys
from pathlib import Path


def install(folder: Path, package: str, module: str, **groups: dict[str, str]) -> None:
    """Write a distribution: its module of the same name, and its entry points in groups such as `policies`."""
    info = folder / f"{package.replace('-', '_')}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
    lines = [f"[rsd.{group}]\n" + "".join(f"{k} = {v}\n" for k, v in names.items()) for group, names in groups.items()]
    (info / "entry_points.txt").write_text("\n".join(lines))
    if module:
        (folder / f"{package.replace('-', '_')}.py").write_text(module)


def python(folder: Path, code: str, *flags: str) -> str:
    """What a new process prints that finds the packages of a folder."""
    path = os.pathsep.join([str(folder), *filter(None, sys.path)])
    done = subprocess.run(
        [sys.executable, *flags, "-c", code], capture_output=True, text=True, env=os.environ | {"PYTHONPATH": path}
    )
    assert done.returncode == 0, done.stderr
    return (done.stdout + done.stderr).strip()
