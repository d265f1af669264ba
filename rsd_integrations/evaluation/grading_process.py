"""A process that grades answers, so that an endless comparison can be stopped.

Symbolic mathematics may compute for ever, in C code that no thread of the same process can interrupt. One process
serves all threads. It starts at the first call, is replaced after it is ended, and ends with its caller, however that
ends: its input ends then, and for a comparison still running it has set an alarm itself.
"""

from __future__ import annotations

import atexit
import json
import os
import queue
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from rsd_core import RunError

SECONDS = {"math": 10.0}
"""How long a grader may take over one answer."""
PACKAGE_SECONDS = 60.0
"""The same for graders from packages, which may ask a model."""
START_SECONDS = 120.0
"""How long the process may take to start, and to import a grader."""
_WORKER = Path(__file__).with_name("grading_worker.py")


class GradingError(RunError):
    """An answer could not be graded, so whether it is correct is unknown."""


class GradingLimit(GradingError):  # noqa: N818
    """A grader exceeded its time or memory on an answer; only this answer is not graded."""


class _Process:
    """The running process, and a thread that reads its answers."""

    def __init__(self) -> None:
        self.path = [str(folder) for folder in sys.path]
        self.loaded: set[str] = set()
        self._process = subprocess.Popen(  # noqa: S603
            [sys.executable, "-P", str(_WORKER)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,  # a buffer has a lock, which a fork could leave closed
        )
        self._lines: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read, name="rsd-grading", daemon=True)
        self._reader.start()
        try:
            self.ask({"path": self.path}, START_SECONDS)
        except BaseException:
            self.end()
            raise

    def _read(self) -> None:
        assert self._process.stdout is not None
        rest = b""
        while data := os.read(self._process.stdout.fileno(), 65536):
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                self._lines.put(line)
        self._lines.put(None)

    def ask(self, request: dict[str, Any], seconds: float) -> dict[str, Any]:
        """The answer to a request.

        Raises:
            TimeoutError: There was no answer in time.
            EOFError: The process has ended.
        """
        assert self._process.stdin is not None
        data = memoryview(json.dumps(request).encode() + b"\n")
        try:
            while data:
                data = data[self._process.stdin.write(data) :]
        except OSError as error:
            raise EOFError from error
        try:
            line = self._lines.get(timeout=seconds)
        except queue.Empty as error:
            raise TimeoutError(seconds) from error
        if line is None:
            raise EOFError
        answer: dict[str, Any] = json.loads(line)
        return answer

    def end(self) -> None:
        """End the process now, and wait until it is gone."""
        self._process.kill()
        self._process.wait()
        self._reader.join()
        self._close()

    def disown(self) -> None:
        """Leave the process to the one that this one was forked from."""
        self._process.returncode = 0
        self._close()

    def _close(self) -> None:
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            pipe.close()


_lock = threading.Lock()
_process: _Process | None = None


def grade_elsewhere(grader: str, name: str, reference: str, text: str) -> bool:
    """Grade in the other process.

    Args:
        grader: `math`, or `module:object` of a package's grader.
        name: The grader's name in errors.
        reference: The correct answer, as the grader accepts it.
        text: The text to grade.

    Raises:
        GradingLimit: The grader exceeded its time or memory, or ended the process.
        GradingError: The grader failed, or answered neither True nor False.
    """
    seconds = SECONDS.get(grader, PACKAGE_SECONDS)
    request = {"grader": grader, "reference": reference, "text": text, "seconds": 2 * seconds}
    with _lock:
        try:
            answer = _asked(request, grader, seconds)
        except TimeoutError as error:
            _end()
            raise GradingLimit(f"{name} took longer than {error.args[0]:g} s on {text[-80:]!r}") from error
        except EOFError as error:
            _end()
            raise GradingLimit(f"{name} ended its process on {text[-80:]!r}") from error
        except BaseException:  # Ctrl-C: the next request must not get the answer to this one
            _end()
            raise
    if "limit" in answer:
        raise GradingLimit(f"{name} exceeded its limits on {text[-80:]!r}: {answer['limit']}")
    if "error" in answer:
        raise GradingError(f"{name} failed on {text[-80:]!r}: {answer['error']}")
    if "odd" in answer:
        raise GradingError(f"{name} answered {answer['odd']}, which is neither True nor False")
    return bool(answer["right"])


def _asked(request: dict[str, Any], grader: str, seconds: float) -> dict[str, Any]:
    global _process
    if _process is not None and _process.path != [str(folder) for folder in sys.path]:  # packages were installed
        _end()
    for last in (False, True):
        began = time.monotonic()
        try:
            if _process is None:
                _process = _Process()
            if grader not in _process.loaded:
                answer = _process.ask({"grader": grader, "load": True}, START_SECONDS)
                if answer:
                    return answer
                _process.loaded.add(grader)
            return _process.ask(request, seconds)
        except EOFError:
            _end()
            if last or time.monotonic() - began > seconds:  # retried once: something else may have killed it
                raise
    raise AssertionError


def _end() -> None:
    global _process
    if _process is not None:
        _process.end()
        _process = None


def _forked() -> None:
    global _process, _lock
    _lock = threading.Lock()
    if _process is not None:
        _process.disown()
        _process = None


atexit.register(_end)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)
