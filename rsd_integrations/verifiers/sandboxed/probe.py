"""Reports what a process in the sandbox can access but should not."""

from __future__ import annotations

import json
import os
import socket
import sys

from rsd_integrations.verifiers.sandboxed.limits import give_up


def start() -> None:
    """Print it as a JSON list, which should be empty."""
    sought = json.load(sys.stdin)
    give_up(10, 512 << 20)
    found = []
    if os.path.exists(sought["file"]):
        found.append("it sees the user's files")
    try:
        os.close(os.open("/written", os.O_CREAT | os.O_WRONLY))
        found.append("it writes files")
    except OSError:
        pass
    try:
        socket.create_connection(("127.0.0.1", sought["port"]), timeout=1).close()
        found.append("it reaches the network")
    except OSError:
        pass
    if os.getppid() > 1:
        found.append("it sees other processes")
    print(json.dumps(found))
