"""Runs a program and its tests in this process, which has given up what they do not need. Started by `programs`.

It reads `{"code": …, "tests": […], "seconds": …, "memory": …}` from its input and prints one JSON list of booleans.
It imports nothing of this project, so that it starts at once, isolated from its environment (`python -I -S`).
"""

import contextlib
import io
import json
import os
import sys


def give_up(seconds: int, memory: int) -> None:
    """Limits on this process, and no network where the system lets it be given up."""
    try:
        import resource
    except ModuleNotFoundError:  # no limits of this kind on this system; the time limit of the caller holds
        return
    wanted = {
        "RLIMIT_CPU": seconds,
        "RLIMIT_AS": memory,
        "RLIMIT_FSIZE": 0,
        "RLIMIT_NPROC": 0,
        "RLIMIT_CORE": 0,
        "RLIMIT_NOFILE": 32,
    }
    if hasattr(os, "unshare"):  # Python 3.12
        unshare = os.unshare
    else:
        import ctypes

        libc = ctypes.CDLL(None, use_errno=True)
        unshare = getattr(libc, "unshare", None)
    if unshare is not None:
        with contextlib.suppress(OSError):
            unshare(0x10000000 | 0x40000000)  # a user and a network namespace of its own: there is no network in it
    for name, value in wanted.items():
        with contextlib.suppress(AttributeError, ValueError, OSError):
            resource.setrlimit(getattr(resource, name), (value, value))


def main() -> None:
    """Run each test after the program, in a namespace of its own."""
    job = json.load(sys.stdin)
    sys.stdin = io.StringIO()
    out, sys.stdout, sys.stderr = sys.stdout, io.StringIO(), io.StringIO()
    give_up(job["seconds"], job["memory"])
    passed, own = [], os.getpid()
    for test in job["tests"]:
        try:
            exec(compile(f"{job['code']}\n\n{test}", "program", "exec"), {"__name__": "program"})  # noqa: S102
            passed.append(True)
        except BaseException:
            passed.append(False)
    if os.getpid() == own:  # a process that the program started has nothing to say
        out.write(json.dumps(passed))
        out.flush()
    os._exit(0)


main()
