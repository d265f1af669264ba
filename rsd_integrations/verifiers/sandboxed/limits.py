"""What a process gives up before it runs code that is not to be trusted."""

from __future__ import annotations

import contextlib
import os
import signal
from typing import Any

NOBODY = 65534
_NEW_USER, _NEW_NETWORK = 0x10000000, 0x40000000
_SET_DEATH_SIGNAL, _SET_DUMPABLE, _SET_NO_NEW_PRIVILEGES = 1, 4, 38


def give_up(seconds: int, memory: int) -> None:
    """Take limits on time, memory and files, and give up the network and rights where the system lets it be done.

    Args:
        seconds: Of the processor.
        memory: Bytes of address space.
    """
    os.environ.clear()
    if hasattr(signal, "alarm"):
        for number in (signal.SIGALRM, signal.SIGTERM):  # which the first process of a container has no defaults for
            signal.signal(number, lambda *_: os._exit(1))
        signal.alarm(seconds + 60)  # whoever started this ends it earlier, if still there
    _give_up_rights()
    _limit(CPU=seconds, AS=memory, FSIZE=0, CORE=0, NOFILE=32)


def end_with(parent: int) -> None:
    """End when the process does that this one was forked from, whatever session it is in by then."""
    with contextlib.suppress(OSError, AttributeError):
        import ctypes

        libc: Any = ctypes.CDLL(None, use_errno=True)
        libc.prctl(_SET_DEATH_SIGNAL, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # it has ended meanwhile
        os._exit(1)


def start_no_process() -> None:
    """Start no other process from here on, nor a thread. It does not hold for the system's root."""
    _limit(NPROC=0)


def _limit(**wanted: int) -> None:
    try:
        import resource
    except ModuleNotFoundError:  # no limits of this kind on this system; the time limit of the caller holds
        return
    for name, value in wanted.items():
        with contextlib.suppress(AttributeError, ValueError, OSError):
            resource.setrlimit(getattr(resource, f"RLIMIT_{name}"), (value, value))


def _give_up_rights() -> None:
    """Leave the network, be nobody where this is root, and keep other processes out of this one's memory."""
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
            libc.unshare(_NEW_USER | _NEW_NETWORK)  # a namespace of its own, without any network in it
        libc.prctl(_SET_NO_NEW_PRIVILEGES, 1, 0, 0, 0)
        libc.prctl(_SET_DUMPABLE, 0, 0, 0, 0)


def _anybody_can_read(file: str) -> bool:
    """Whether the standard library stays there for a process that is nobody."""
    while (parent := os.path.dirname(file)) != file:
        file = parent
        if not os.stat(file).st_mode & 1:
            return False
    return True
