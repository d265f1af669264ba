"""The privileges a process gives up before it runs untrusted code."""

from __future__ import annotations

import contextlib
import os
import signal
from typing import Any

NOBODY = 65534
_NEW_USER, _NEW_NETWORK = 0x10000000, 0x40000000
_SET_DEATH_SIGNAL, _SET_DUMPABLE, _SET_NO_NEW_PRIVILEGES = 1, 4, 38


def give_up(seconds: int, memory: int) -> None:
    """Set limits on time, memory and files, and give up network and privileges if the system permits.

    Args:
        seconds: Processor time.
        memory: Bytes of address space.
    """
    os.environ.clear()
    if hasattr(signal, "alarm"):
        for number in (signal.SIGALRM, signal.SIGTERM):  # a container's first process has no default handlers
            signal.signal(number, lambda *_: os._exit(1))
        signal.alarm(seconds + 60)  # its parent, if still alive, ends it earlier
    _give_up_rights()
    _limit(CPU=seconds, AS=memory, FSIZE=0, CORE=0, NOFILE=32)


def end_with(parent: int) -> None:
    """End together with the parent process, even from another session."""
    with contextlib.suppress(OSError, AttributeError):
        import ctypes

        libc: Any = ctypes.CDLL(None, use_errno=True)
        libc.prctl(_SET_DEATH_SIGNAL, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # the parent has already ended
        os._exit(1)


def start_no_process() -> None:
    """Forbid starting processes and threads from here on. This has no effect for the system's root."""
    _limit(NPROC=0)


def _limit(**wanted: int) -> None:
    try:
        import resource
    except ModuleNotFoundError:  # not available on this system; the caller's time limit still applies
        return
    for name, value in wanted.items():
        with contextlib.suppress(AttributeError, ValueError, OSError):
            resource.setrlimit(getattr(resource, f"RLIMIT_{name}"), (value, value))


def _give_up_rights() -> None:
    """Leave the network, become nobody if this is root, and protect this process's memory from other processes."""
    if os.name != "posix":
        return
    with contextlib.suppress(OSError, AttributeError):
        import ctypes

        libc: Any = ctypes.CDLL(None, use_errno=True)
        root = os.geteuid() == 0
        alone = libc.unshare(_NEW_NETWORK) == 0 if root else False
        if root and _anybody_can_read(os.__file__):
            with contextlib.suppress(OSError):
                os.setgroups([])
                os.setresgid(NOBODY, NOBODY, NOBODY)
                os.setresuid(NOBODY, NOBODY, NOBODY)
        if not alone:
            libc.unshare(_NEW_USER | _NEW_NETWORK)  # a new namespace without any network
        libc.prctl(_SET_NO_NEW_PRIVILEGES, 1, 0, 0, 0)
        libc.prctl(_SET_DUMPABLE, 0, 0, 0, 0)


def _anybody_can_read(file: str) -> bool:
    """Whether the user nobody can still read the standard library."""
    while (parent := os.path.dirname(file)) != file:
        file = parent
        if not os.stat(file).st_mode & 1:
            return False
    return True
