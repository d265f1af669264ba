"""All figures of a page at one commit: `python -m tests.benchmarks.figures FOLDER [NAME …]`.

Runs the benchmarks one after another, each in a process of its own with its JSON and log in the folder, and writes
their sections. A benchmark whose JSON of this commit is in the folder is not run again, so a run that was cut off goes
on where it was. With names, only those run.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

from tests.benchmarks import pages
from tests.benchmarks.command import commit

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "benchmarks.md"
OPTIONS = {"servers": ["--real"]}
"""What a benchmark needs beside its default sizes for all that its section tells."""


def measured(file: Path) -> str | None:
    """The commit of a whole run's figures; None where there are none."""
    if not file.exists():
        return None
    data = json.loads(file.read_text())
    return None if data["quick"] else data["commit"]


def run(name: str, folder: Path) -> int:
    """The exit status of a benchmark that writes its section and its JSON."""
    command = [sys.executable, "-m", f"tests.benchmarks.{name}", *OPTIONS.get(name, [])]
    files = ["--json", str(folder / f"{name}.json"), "--markdown", str(PAGE)]
    with (folder / f"{name}.log").open("w") as log:
        return subprocess.run([*command, *files], cwd=ROOT, stdout=log, stderr=subprocess.STDOUT).returncode


def main() -> None:
    """Run what is missing; the exit status is 1 where a benchmark failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="where JSON files and logs are kept")
    parser.add_argument("names", nargs="*", metavar="NAME", help="benchmarks of the page; all of them if none is given")
    options = parser.parse_args()
    known = list(pages.commits(PAGE))
    if unknown := [name for name in options.names if name not in known]:
        parser.error(f"{', '.join(unknown)}: not a section of {PAGE.name}, which has {', '.join(known)}")
    options.folder.mkdir(parents=True, exist_ok=True)
    failed = False
    for name in options.names or known:
        if measured(options.folder / f"{name}.json") == commit():
            continue
        began = time.monotonic()
        status = run(name, options.folder)
        failed |= bool(status)
        told = f"failed with {status}, see {options.folder / name}.log" if status else "done"
        print(f"{name}: {told}, {time.monotonic() - began:.0f} s", flush=True)
    raise SystemExit(int(failed))


if __name__ == "__main__":
    main()
