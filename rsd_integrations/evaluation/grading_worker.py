"""The program that `grading_process` runs: grades requests, one line of JSON each, until its input ends.

It runs as a file and imports nothing from this project, so that it starts at once.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

MEMORY = 4 * 2**30
"""Bytes of address space available to a mathematical comparison."""


def main() -> None:
    """Answer requests until there are no more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the caller; when it ends, so does the input
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # text that a grader prints is not an answer
    for line in sys.stdin.buffer:
        answers.write(json.dumps(_answer(json.loads(line))) + "\n")
        answers.flush()


def _answer(request: dict[str, Any]) -> dict[str, Any]:
    try:
        if "path" in request:
            sys.path[:] = request["path"]
            return {}
        grader = request["grader"]
        function = _mathematics() if grader == "math" else _of_package(grader)
        if "load" in request:
            return {}
        with _limited(request["seconds"], memory=MEMORY if grader == "math" else None):
            right = function(request["reference"], request["text"])
    except (MemoryError, RecursionError) as error:
        return {"limit": f"{type(error).__name__}: {error}"}
    except BaseException as error:
        return {"error": f"{type(error).__name__}: {error}"}
    if type(right).__name__ not in ("bool", "bool_"):  # NumPy has its own
        return {"odd": repr(right)}
    return {"right": bool(right)}


@cache
def _mathematics() -> Callable[[str, str], bool]:
    import logging

    from math_verify import parse, verify

    logging.disable()  # it warns that its own time limits, which use signals, are off

    def equal(reference: str, text: str) -> bool:
        gold, answer = (parse(one, parsing_timeout=None) for one in (reference, text))
        return bool(verify(gold, answer, timeout_seconds=None))

    return equal


@cache
def _of_package(name: str) -> Callable[[str, str], bool]:
    module, _, attributes = name.partition(":")
    part: Any = importlib.import_module(module.strip())
    for attribute in attributes.split("[")[0].strip().split("."):
        part = getattr(part, attribute)
    return part  # type: ignore[no-any-return]


@contextlib.contextmanager
def _limited(seconds: float, memory: int | None) -> Iterator[None]:
    """Have the system end this process if a computation takes longer, even if its caller is gone by then."""
    if not hasattr(signal, "setitimer"):  # Windows
        yield
        return
    import resource

    before = resource.getrlimit(resource.RLIMIT_AS)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        if memory is not None:
            with contextlib.suppress(ValueError, OSError):  # macOS lacks this limit
                resource.setrlimit(resource.RLIMIT_AS, (memory, before[1]))
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_AS, before)


if __name__ == "__main__":
    main()
