"""Starting and ending quickly: when Python need not look for garbage."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def without_collection() -> Iterator[None]:
    """While modules are imported and models loaded: hundreds of thousands of objects, and none of them garbage."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()  # nor need any later search look at them again
        if enabled:
            gc.enable()
