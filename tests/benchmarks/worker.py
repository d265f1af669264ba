"""Processes of several builds that work on command, with one JSON list per line."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

from tests.benchmarks.core import Build


class Worker:
    """A process that runs a script of this folder under a build, which answers each line with one.

    Args:
        build: The build whose packages it imports.
        script: The file's name.
        arguments: The script's arguments.
        threads: Threads of numerical libraries; None for their default.
    """

    def __init__(self, build: Build, script: str, *arguments: str, threads: int | None = 1) -> None:
        self._process = subprocess.Popen(
            build.python(str(Path(__file__).with_name(script)), *arguments),
            env=build.environment | ({} if threads is None else {"OMP_NUM_THREADS": str(threads)}),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._tree = build.tree

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(60)

    def load(self, name: str, spec: str, **options: Any) -> None:
        """Load a model under a name."""
        assert Path(self("load", name, spec, options)["file"]).is_relative_to(self._tree)

    def __call__(self, work: str, *arguments: Any) -> dict[str, Any]:
        """Do some work."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps([work, *arguments]) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"a process of {self._tree} ended while it worked on {work} {arguments[:1]}")
        answer: dict[str, Any] = json.loads(line)
        return answer
