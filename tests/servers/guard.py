"""Runs a command in its own session for as long as its standard input stays open.

    python -m tests.servers.guard COMMAND...

Whoever starts it holds the other end of that pipe, so the command's whole process group ends with the holder, however
that ends: by its own will, by Ctrl-C, by SIGTERM, even by SIGKILL. The first line of output is the group's id.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time

GRACE = 10.0
"""Seconds between SIGTERM and SIGKILL."""


def main() -> None:
    """Start the command, wait for its end or that of the holder, and leave nothing of it behind."""
    for name in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # only the pipe counts
        signal.signal(name, signal.SIG_IGN)
    # The command's output goes where the guard's errors go: only the first line of the pipe is read.
    child = subprocess.Popen(
        sys.argv[1:], stdin=subprocess.DEVNULL, stdout=sys.stderr, start_new_session=True, preexec_fn=_default
    )
    print(child.pid, flush=True)
    threading.Thread(target=_hold, args=(child.pid,), daemon=True).start()
    status = child.wait()
    # Workers outlive their server where it was killed.
    _end(child.pid)
    sys.exit(status if status >= 0 else 128 - status)


def _default() -> None:
    """Ignored signals are inherited, and the command is to be ended by them."""
    for name in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(name, signal.SIG_DFL)


def _hold(group: int) -> None:
    with contextlib.suppress(OSError):
        while os.read(0, 4096):
            pass
    _end(group)


def _end(group: int) -> None:
    """SIGTERM, a grace to clean up in, SIGKILL."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, signal.SIGTERM)
        patience = time.monotonic() + GRACE
        while time.monotonic() < patience:
            time.sleep(0.1)
            os.killpg(group, 0)  # raises once no process is left
        os.killpg(group, signal.SIGKILL)


if __name__ == "__main__":
    main()
