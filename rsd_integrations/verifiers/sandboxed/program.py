"""The program's process: runs it, and answers requests from its tests. None of its answers is a verdict.

Each incoming line requests one operation on values, and one line answers it. A program may tamper with all of this, as
it runs in the same process, but gains nothing: its tests are elsewhere, and see only values.
"""

from __future__ import annotations

import contextlib
import io
import json
import operator
import os
import sys
from collections.abc import Callable, Iterator
from types import BuiltinFunctionType, CoroutineType, FunctionType, ModuleType
from typing import Any, BinaryIO

from rsd_integrations.verifiers.sandboxed.limits import end_with, give_up, start_no_process
from rsd_integrations.verifiers.sandboxed.wire import GONE, Message, entries

_BASES: tuple[Any, ...] = (int, float, complex, str, bytes, bytearray, tuple, list, dict, set, frozenset)


def main(lines: BinaryIO, out: BinaryIO) -> None:
    """Rerun a program for each of its tests, in a fresh process each time if the system can fork."""
    job = json.loads(lines.readline())
    give_up(job["seconds"], job["memory"])
    out.write(b"ready\n")
    out.flush()
    while line := lines.readline():
        if json.loads(line)["op"] != "load":  # meant for a process that has ended
            continue
        if hasattr(os, "fork"):
            own = os.getpid()
            if (child := os.fork()) == 0:
                end_with(own)
                start_no_process()
                _run(line, lines, out)
            os.waitpid(child, 0)
        else:
            _Session(lines, out).serve(line)
        out.write(GONE)
        out.flush()


def _run(line: bytes, lines: BinaryIO, out: BinaryIO) -> None:
    try:
        _Session(lines, out).serve(line)
    finally:
        os._exit(0)


class _Session:
    """A program, from loading to the end of its test."""

    def __init__(self, lines: BinaryIO, out: BinaryIO) -> None:
        self._lines, self._out = lines, out
        self._module = ModuleType("program")
        self._objects: list[Any] = []
        self._numbers: dict[int, int] = {}
        self._described: set[int] = set()
        self._classes: dict[int, list[Any]] = {}
        self._printed = io.StringIO()
        self._ops: dict[str, Callable[..., Any]] = {
            **{name: getattr(operator, name) for name in operator.__all__ if name != "call"},
            **{kind.__name__: kind for kind in (getattr, setattr, delattr, iter, next, len, hash, dir, repr)},
            **{kind.__name__: kind for kind in (bool, int, float, complex, str, bytes, format, round, reversed)},
            "call": lambda function, /, *args, **options: function(*args, **options),
            "await": _awaited,
            "plain": _plain,
            "load": self._load,
            "names": self._names,
        }

    def serve(self, line: bytes) -> None:
        """Answer line by line, until the test has ended."""
        sys.modules["program"] = self._module
        sys.stdin, sys.stdout, sys.stderr = io.StringIO(), self._printed, io.StringIO()
        while line and (request := json.loads(line)) and request["op"] != "end":
            self._answer(request)
            line = self._lines.readline()

    def _answer(self, request: dict[str, Any]) -> None:
        message = Message(self._encode, self._decode)
        try:
            args = [message.decode(arg) for arg in request["args"]]
            options = {name: message.decode(value) for name, value in request.get("options", {}).items()}
            before = [(value, entries(value)) for value in message.held]
            reply = {"value": message.encode(self._ops[request["op"]](*args, **options))}
            changed = [
                [number, [message.encode(entry) for entry in entries(value)]]
                for number, (value, held) in enumerate(before)
                if not _same(entries(value), held)
            ]
            if changed:
                reply["changed"] = changed
        except BaseException as error:
            reply = {"raised": self._raised(error)}
        self._send(reply)

    def _send(self, reply: dict[str, Any]) -> None:
        if self._classes:
            reply["classes"] = list(self._classes.items())
            self._classes = {}
        if text := self._printed.getvalue():
            reply["printed"] = text
            self._printed.seek(0)
            self._printed.truncate()
        self._out.write(json.dumps(reply).encode() + b"\n")
        self._out.flush()

    def _load(self, code: str) -> None:
        exec(compile(code, "program", "exec"), self._module.__dict__)  # noqa: S102

    def _names(self, *names: str) -> list[Any]:
        """The program's values for some names, preceded by a reference to all of it."""
        known = vars(self._module)
        return [self._module, *([name, _named(known[name])] for name in names if name in known)]

    def _call_back(self, number: int) -> Callable[..., Any]:
        """A function from the test, which runs in the test's process."""

        def function(*args: Any, **options: Any) -> Any:
            message = Message(self._encode, self._decode)
            given = {name: message.encode(value) for name, value in options.items()}
            self._send({"callback": number, "args": [message.encode(arg) for arg in args], "options": given})
            while "op" in (reply := json.loads(self._lines.readline())):
                self._answer(reply)
            if "raised" in reply:
                raise message.decode(reply["raised"])
            return message.decode(reply["value"])

        return function

    def _iterator(self, number: int) -> Iterator[Any]:
        following = self._call_back(number)
        while True:
            try:
                yield following()
            except StopIteration:
                return

    # -- other than plain data ---------------------------------------------------------------------------------------

    def _encode(self, value: Any) -> list[Any]:
        if isinstance(value, _Named):  # parts of the standard library named by a test are resolved there
            value = value.value
            name = getattr(value, "__qualname__", "")
            return ["named", str(value.__module__), name, self._encode(value)]
        if isinstance(value, ModuleType):
            return ["module", self._number(value), value.__name__]
        if isinstance(value, type):
            return self._class(value)
        if isinstance(value, BaseException):
            return self._raised(value)
        if isinstance(value, CoroutineType):
            return ["coroutine", self._number(value)]
        base = next((kind.__name__ for kind in type(value).__mro__[1:] if kind in _BASES), None)
        return ["object", self._number(value), self._class(type(value)), base]

    def _raised(self, error: BaseException) -> list[Any]:
        args = [arg if isinstance(arg, (str, int, float, bool, type(None))) else repr(arg) for arg in error.args]
        message = Message(self._encode, self._decode)
        return ["exception", self._number(error), self._class(type(error)), [message.encode(arg) for arg in args]]

    def _class(self, kind: type) -> list[Any]:
        if not self._own(kind):
            return ["known", kind.__module__, kind.__qualname__, self._number(kind)]
        number = self._number(kind)
        if number not in self._described:
            self._described.add(number)
            self._classes[number] = [kind.__name__, [self._class(base) for base in kind.__bases__]]
        return ["class", number]

    def _own(self, value: Any) -> bool:
        return getattr(value, "__module__", None) == "program"

    def _number(self, value: Any) -> int:
        if id(value) not in self._numbers:
            self._numbers[id(value)] = len(self._objects)
            self._objects.append(value)  # also keeps the object alive, so that its id is not reused
        return self._numbers[id(value)]

    def _decode(self, data: list[Any]) -> Any:
        kind, *rest = data
        if kind == "object":
            return self._objects[rest[0]]
        if kind == "callback":
            return self._call_back(rest[0])
        if kind == "iterator":
            return self._iterator(rest[0])
        if kind == "known":
            return getattr(sys.modules[rest[0]] if rest[0] in sys.modules else __import__(rest[0]), rest[1])
        if kind == "error":
            return self._decode(rest[0])(*rest[1])
        raise TypeError(f"unknown kind {kind}")


class _Named:
    """A function or class that a test refers to by name, possibly the same as in another module."""

    def __init__(self, value: Any) -> None:
        self.value = value


def _named(value: Any) -> Any:
    elsewhere = isinstance(value, (FunctionType, BuiltinFunctionType, type)) and value.__module__ != "program"
    return _Named(value) if elsewhere else value


def _plain(value: Any) -> Any:
    """The plain data in an object, such as the tuple of a named tuple."""
    base = next(kind for kind in type(value).__mro__ if kind in _BASES)
    return str.__str__(value) if base is str else base(value)


def _same(now: Any, before: Any) -> bool:
    return len(now) == len(before) and all(one is other for one, other in zip(now, before, strict=True))


def _awaited(value: Any) -> Any:
    import asyncio

    async def wait() -> Any:
        return await value

    return asyncio.run(wait())


def start() -> None:
    """Take the channel away from `print` and similar, and begin."""
    lines = os.fdopen(os.dup(0), "rb")
    out = os.fdopen(os.dup(1), "wb")
    with contextlib.suppress(OSError):
        os.dup2(2, 0)  # the null device, set by the parent
        os.dup2(2, 1)
    main(lines, out)
