"""How many processor cores a model may use."""

from __future__ import annotations

import os


def usable_cores() -> int:
    """What `OMP_NUM_THREADS` says, as in every library that computes; otherwise the cores of this process."""
    wanted = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    if wanted.isdecimal() and int(wanted):
        return int(wanted)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
