"""The number of processor cores that a model may use."""

from __future__ import annotations

import os
from functools import cache


def usable_cores() -> int:
    """The value of `OMP_NUM_THREADS`, as in all numerical libraries; otherwise the cores of this process."""
    wanted = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    if wanted.isdecimal() and int(wanted):
        return int(wanted)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@cache
def free_cores() -> int:
    """The usable cores that nothing else kept busy in the minute before the first call, at least one.

    Measured once, so that models loaded with the same options run in the same way.
    """
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    return max(1, usable_cores() - round(load))
