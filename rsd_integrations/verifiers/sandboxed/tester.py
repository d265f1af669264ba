"""The tests' process: runs each test statement, and reports which of them passed.

The program is in another process, and none of its names are defined here. A name of the program's resolves to a
`Remote`, and using one sends a request to that process. The reply is data, or another `Remote`. So the statement
itself, its comparisons and the functions it uses belong to this process, and a program can only provide values.
"""

from __future__ import annotations

import builtins
import contextlib
import io
import json
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from types import CodeType
from typing import Any, BinaryIO

from rsd_integrations.verifiers.sandboxed.limits import give_up, start_no_process
from rsd_integrations.verifiers.sandboxed.remote import (
    Gone,
    Remote,
    RemoteClass,
    Unsupported,
    exception,
    exception_class,
    made,
    number_of,
)
from rsd_integrations.verifiers.sandboxed.wire import GONE, Message, fill, is_data

PURE = {
    "bisect", "builtins", "cmath", "collections", "copy", "dataclasses", "datetime", "decimal", "enum", "fractions",
    "functools", "heapq", "itertools", "json", "math", "numbers", "operator", "random", "re", "statistics", "string",
    "textwrap", "typing",
}  # fmt: skip
"""Modules whose members a test gets from its own process, whatever the program did to them. They have no side effects
on the process."""


def main(lines: BinaryIO, out: BinaryIO) -> None:
    """Run the tests of one program, and write the secret of each that passed."""
    job = json.loads(lines.readline())
    give_up(job["seconds"], job["memory"])
    start_no_process()
    sys.stdin, sys.stdout, sys.stderr = io.StringIO(), io.StringIO(), io.StringIO()
    out.write(b"ready\n")
    out.flush()
    for secret, test in job["tests"]:
        verdict = _Run(lines, out).test(job["code"], test)
        out.write(json.dumps({"passed": secret} if verdict is None else {"failed": verdict}).encode() + b"\n")
        out.flush()


class _Run:
    """One test, with the program freshly loaded."""

    def __init__(self, lines: BinaryIO, out: BinaryIO) -> None:
        self._lines, self._out = lines, out
        self._spoiled = self._ended = False
        self._remotes: dict[int, Any] = {}
        self._descriptions: dict[int, list[Any]] = {}
        self._given: list[Any] = []

    def test(self, code: str, test: str) -> str | None:
        """Why the test failed; None if it passed."""
        why = None
        try:
            self.ask("load", code)
            compiled = compile(test, "test", "exec")
            exec(compiled, self._names(compiled))  # noqa: S102
        except BaseException as error:
            why = type(error).__name__
            with contextlib.suppress(BaseException):  # the text may come from the program
                why = f"{why}: {error}"[:500]
        if not self._ended:
            self._write({"op": "end", "args": []})
            self._lines.readline()
        return why or ("the program ended" if self._spoiled else None)  # even if the test ignored it

    def ask(self, op: str, /, *args: Any, **options: Any) -> Any:
        """Send a request to the program's process.

        Raises:
            Gone: The process has ended, or violates the protocol.
            BaseException: Whatever it raised.
        """
        if self._spoiled:
            raise self._gone("the program ended")
        message = Message(self._encode, self._decode_named if op == "names" else self._decode)
        given = {name: message.encode(value) for name, value in options.items()}
        self._write({"op": op, "args": [message.encode(arg) for arg in args], "options": given})
        while "callback" in (reply := self._read()):
            self._call_back(reply)
        try:
            value = message.decode(reply.get("value"))
            raised = message.decode(reply["raised"]) if "raised" in reply else None
            for number, held in reply.get("changed", ()):
                fill(message.held[number], [message.decode(entry) for entry in held])
        except Exception as error:
            raise self._gone(f"the program's answer is not a value: {error!r}") from error
        if isinstance(raised, BaseException):
            raise raised
        return value

    def _read(self) -> dict[str, Any]:
        line = self._lines.readline()
        self._ended = line in (GONE, b"")
        reply: dict[str, Any] = {}
        with contextlib.suppress(ValueError, RecursionError, TypeError, AttributeError):
            reply = json.loads(line)
            self._descriptions |= dict(reply.get("classes", ()))
            sys.stdout.write(str(reply.get("printed", "")))  # where the test can read it
        if not isinstance(reply, dict) or not {"value", "raised", "callback"} & reply.keys():
            raise self._gone("the program ended")
        return reply

    def _gone(self, why: str) -> Gone:
        self._spoiled = True
        return Gone(why)

    def _write(self, request: dict[str, Any]) -> None:
        self._out.write(json.dumps(request).encode() + b"\n")
        self._out.flush()

    def _call_back(self, asked: dict[str, Any]) -> None:
        message = Message(self._encode, self._decode)
        try:
            args = [message.decode(arg) for arg in asked["args"]]
            options = {str(name): message.decode(value) for name, value in asked["options"].items()}
            reply = {"value": message.encode(self._given[asked["callback"]](*args, **options))}
        except Gone:
            raise
        except BaseException as error:
            reply = {"raised": self._encode(error)}
        self._write(reply)

    def _names(self, test: CodeType) -> dict[str, Any]:
        """Names available to a test: the program's, unless they are the test's own or Python's."""
        program, *found = self.ask("names", *sorted(_names(test) - vars(builtins).keys()))
        return {
            "__name__": "test",
            "program": program,
            **{name: value for name, value in found if name in _names(test)},
        }

    # -- other than plain data ---------------------------------------------------------------------------------------

    def _encode(self, value: Any) -> list[Any]:
        number = number_of(value)
        if number is not None:
            return ["object", number]
        if isinstance(value, BaseException):
            known = next(kind for kind in type(value).__mro__ if kind.__module__ == "builtins")
            return ["error", ["known", "builtins", known.__name__], [str(arg) for arg in value.args]]
        module, name = getattr(value, "__module__", None), getattr(value, "__qualname__", "")
        if module in PURE and getattr(import_module(module), name, None) is value:
            return ["known", module, name]
        if not callable(value) and not isinstance(value, Iterator):
            raise Unsupported(f"a test cannot pass a value of type {type(value).__qualname__} to a program")
        self._given.append(value if callable(value) else value.__next__)
        return ["callback" if callable(value) else "iterator", len(self._given) - 1]

    def _decode(self, data: list[Any]) -> Any:
        kind, *rest = data
        if kind in ("class", "known"):
            own = self._class(data)
            return own if own is not Remote else self._object(rest[-1])
        number = rest[0]
        if kind == "object":
            return self._object(number, self._class(rest[1]), rest[2])
        if kind == "exception":
            known = self._class(rest[1])
            return self._kept(number, lambda: exception(Exception if known is Remote else known, number, rest[2]))
        if kind == "coroutine":
            return self._awaitable(self._object(number))
        if kind == "module":
            return self._object(number)
        raise TypeError(f"unknown kind {kind}")

    def _decode_named(self, data: list[Any]) -> Any:
        """A value that a test refers to by name; members of the standard library come from the test's process."""
        kind, *rest = data
        if kind == "module" and rest[1] in PURE:
            return import_module(rest[1])
        if kind == "named":
            module, name, otherwise = rest
            own = getattr(import_module(module), name, None) if module in PURE else None
            return self._decode(otherwise) if own is None else own
        return self._decode(data)

    def _kept(self, number: int, make: Callable[[], Any]) -> Any:
        """The same remote object always has the same proxy here."""
        if number not in self._remotes:
            self._remotes[number] = make()
        return self._remotes[number]

    def _object(self, number: int, kind: Any = Remote, base: str | None = None) -> Any:
        return self._kept(
            number, lambda: made(kind if isinstance(kind, RemoteClass) else Remote, self.ask, number, base)
        )

    async def _awaitable(self, remote: Any) -> Any:
        return self.ask("await", remote)

    def _class(self, data: list[Any]) -> Any:
        """The proxy class for a remote class; `Remote` for those of the standard library that are not data."""
        kind, *rest = data
        if kind == "class":
            return self._kept(rest[0], lambda: self._derived(rest[0]))
        module, name, _ = rest
        known = getattr(import_module(module), name, None) if module in PURE else None
        return known if isinstance(known, type) and (issubclass(known, BaseException) or is_data(known)) else Remote

    def _derived(self, number: int) -> Any:
        name, parents = self._descriptions[number]
        bases = [self._class(parent) for parent in parents]
        error = next(
            (base for base in bases if not isinstance(base, RemoteClass) and issubclass(base, BaseException)), None
        )
        if error is not None:
            return exception_class(name, error, self.ask, number)
        own = tuple(base for base in bases if isinstance(base, RemoteClass) and base is not Remote)
        return RemoteClass.rsd_made(name, own or (Remote,), self.ask, number)


def _names(code: CodeType) -> set[str]:
    """All names in a piece of code, including attributes: parsing it would take longer than running it."""
    inner = (_names(one) for one in code.co_consts if isinstance(one, CodeType))
    return {*code.co_names}.union(*inner)


def start() -> None:
    """Take the channel away from `print` and similar, and begin."""
    main(sys.stdin.buffer, sys.stdout.buffer)
