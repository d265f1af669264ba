"""The program that `grading_process` runs: grades what comes in, a line of JSON each, until its input ends.

It is run as a file and imports nothing of this project, so that it starts at once.
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
"""Bytes of address space in which a mathematical comparison has to do."""


def main() -> None:
    """Answer requests until there are no more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the caller, whose end is the end of the input
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what a grader prints is no answer
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
    if type(right).__name__ not in ("bool", "bool_"):  # NumPy has one of its own
        return {"odd": repr(right)}
    return {"right": bool(right)}


@cache
def _mathematics() -> Callable[[str, str], bool]:
    import logging

    from math_verify import parse, verify

    logging.disable()  # it warns that its own time limits, which are signals, are switched off

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
    """The system ends this process where a computation goes on for longer, even where its caller is gone by then."""
    if not hasattr(signal, "setitimer"):  # Windows
        yield
        return
    import resource

    before = resource.getrlimit(resource.RLIMIT_AS)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        if memory is not None:
            with contextlib.suppress(ValueError, OSError):  # macOS has no such limit
                resource.setrlimit(resource.RLIMIT_AS, (memory, before[1]))
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_AS, before)


if __name__ == "__main__":
    main()
