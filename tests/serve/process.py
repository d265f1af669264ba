"""`rsd serve` as users start it: in a separate process."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.serve.running import wait_until


@contextmanager
def rsd_serve(log: Path, *options: str) -> Iterator[str]:
    """The URL of `rsd serve` at a free port of loopback, until the end of the block; it has to end well then.

    Args:
        log: File for what it says.
        options: Of `rsd serve`.
    """
    command = [sys.executable, "-m", "rsd_integrations.cli", "serve", *options, "--port", "0"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}  # as in the tests themselves
    with log.open("w") as file, subprocess.Popen(command, stderr=file, env=environment) as process:
        try:
            wait_until(lambda: "/v1\n" in log.read_text() or process.poll() is not None, 60)
            assert process.poll() is None, log.read_text()
            yield log.read_text().partition(" at ")[2].partition("/v1\n")[0]
            process.terminate()
            assert process.wait(60) == 0
            assert "Traceback" not in log.read_text()
        finally:
            process.kill()
