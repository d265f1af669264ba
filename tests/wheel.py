"""Install a wheel as a user would, into a bare environment, and run `rsd run` there, far from the repository.

    make wheel    # builds the wheel and calls this with it

The packages that the wheel asks for are linked in from the environment that runs this, so that no index is asked and
pip has to find every requirement of the wheel met.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import tempfile
import zipfile
from pathlib import Path

from rsd_core import __version__
from rsd_core.errors import DISTRIBUTION
from tests.installations import environment

EXTRA = "huggingface"
PACKAGES = {"rsd_core", "rsd_integrations"}


def check(wheel: Path, folder: Path) -> str:
    """What `rsd run` prints from an installed wheel.

    Raises:
        SystemExit: The wheel holds what it should not, cannot be installed, or does not run.
    """
    tops = {name.partition("/")[0] for name in zipfile.ZipFile(wheel).namelist()}
    if stray := {top for top in tops - PACKAGES if not top.endswith(".dist-info")}:
        raise SystemExit(f"{wheel.name} holds {sorted(stray)} beside {sorted(PACKAGES)}")
    python = environment(folder / "venv", EXTRA, source=False)
    pip = ("pip", "--disable-pip-version-check", "--python", str(python), "install", "--quiet", "--no-index")
    _run(*pip, f"{DISTRIBUTION}[{EXTRA}] @ {wheel.resolve().as_uri()}", cwd=folder)
    _run(*pip, f"{DISTRIBUTION}[cli]", cwd=folder)  # the line that errors about a missing extra name
    rsd = str(python.with_name("rsd"))
    version = _run(rsd, "--version", cwd=folder)
    if __version__ not in version:
        raise SystemExit(f"rsd --version says {version.strip()!r}, and the repository is at {__version__}")
    printed = _run(rsd, "run", cwd=folder)
    if not re.search(r"^Answer: 183 .*right", printed, re.MULTILINE):
        raise SystemExit(f"rsd run did not solve its problem:\n{printed}")
    return printed


def _run(*command: str, cwd: Path) -> str:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    return done.stdout


def main() -> None:
    """Check the wheel that was named."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("wheel", type=Path)
    wheel = parser.parse_args().wheel
    with tempfile.TemporaryDirectory() as folder:
        print(check(wheel, Path(folder)))
    print(f"{wheel.name} installs and runs")


if __name__ == "__main__":
    main()
