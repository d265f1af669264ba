"""Proxies, in the test's process, for the program's functions, classes and objects.

Using one sends a request to the program's process. What an object says about itself is accepted, as a value. It is
never asked about the test's own data, as that would let it decide the verdict:

- An object is never equal to data, nor ordered relative to it.
- A sum or other operation of an object with data is an object, not a number, and has no truth value.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator
from typing import Any

Ask = Callable[..., Any]


class Gone(BaseException):
    """The process of the program has ended; a test that catches this still fails."""


class Unsupported(Exception):  # noqa: N818  (users see this name)
    """A test does something that cannot be done from another process."""


class RemoteClass(type):
    """Metaclass of the proxies for the program's classes."""

    _rsd_ask_class: Ask

    def __new__(cls, name: str, bases: tuple[type, ...], own: dict[str, Any]) -> Any:
        if own["__module__"] != __name__:
            raise Unsupported(f"a test cannot derive a class from the program's {bases[0].__name__}")
        return super().__new__(cls, name, bases, own)

    @staticmethod
    def rsd_made(name: str, bases: tuple[Any, ...], ask: Ask, number: int) -> Any:
        """The proxy class for one of the program's classes."""
        own = {"__slots__": (), "__module__": __name__, "_rsd_ask_class": staticmethod(ask), "_rsd_class": number}
        return RemoteClass(name, bases, own)

    def __call__(cls, /, *args: Any, **options: Any) -> Any:
        return cls._rsd_ask_class("call", cls, *args, **options)

    def __getattr__(cls, name: str) -> Any:
        return cls._rsd_ask_class("getattr", cls, name)

    def __setattr__(cls, name: str, value: Any) -> None:
        cls._rsd_ask_class("setattr", cls, name, value)

    def __iter__(cls) -> Any:
        return cls._rsd_ask_class("iter", cls)

    def __len__(cls) -> int:
        return int(cls._rsd_ask_class("len", cls))

    def __getitem__(cls, key: Any) -> Any:
        return cls._rsd_ask_class("getitem", cls, key)

    def __bool__(cls) -> bool:
        return True


class Remote(metaclass=RemoteClass):  # noqa: D101  (`__doc__` is the program's)
    __slots__ = ("_rsd_ask", "_rsd_base", "_rsd_derived", "_rsd_number")

    def __getattr__(self, name: str) -> Any:
        return self._rsd_ask("getattr", self, name)

    def __setattr__(self, name: str, value: Any) -> None:
        self._rsd_ask("setattr", self, name, value)

    def __delattr__(self, name: str) -> None:
        self._rsd_ask("delattr", self, name)

    def __call__(self, /, *args: Any, **options: Any) -> Any:
        return self._rsd_ask("call", self, *args, **options)

    def __enter__(self) -> Any:
        return self._rsd_ask("call", self._rsd_ask("getattr", self, "__enter__"))

    def __exit__(self, kind: Any, error: Any, _traceback: Any) -> Any:
        return self._rsd_ask("call", self._rsd_ask("getattr", self, "__exit__"), kind, error, None)

    def __eq__(self, other: object) -> Any:
        if isinstance(other, Remote):
            return self._rsd_ask("eq", self, other)
        return self._rsd_base is not None and _data(self) == other

    def __ne__(self, other: object) -> Any:
        if isinstance(other, Remote):
            return self._rsd_ask("ne", self, other)
        return not self == other

    def __hash__(self) -> int:
        return hash(_data(self)) if self._rsd_base is not None else int(self._rsd_ask("hash", self))

    def __contains__(self, entry: Any) -> bool:
        if not isinstance(entry, Remote):
            try:
                entries: Iterator[Any] = iter(self)
            except TypeError:  # not a collection of values, so its own answer is accepted
                return bool(self._rsd_ask("contains", self, entry))
            return any(one is entry or one == entry for one in entries)
        return bool(self._rsd_ask("contains", self, entry))


def made(kind: type, ask: Ask, number: int, base: str | None) -> Any:
    """The proxy for one of the program's objects.

    Args:
        kind: A class of `RemoteClass`.
        ask: Sends a request to the program's process.
        number: The object's number there.
        base: The plain type that its class derives from, if any.
    """
    remote: Any = object.__new__(kind)
    for name, value in (("ask", ask), ("number", number), ("base", base), ("derived", False)):
        object.__setattr__(remote, f"_rsd_{name}", value)
    return remote


def number_of(value: Any) -> int | None:
    """The number of a proxy's object in the program's process; None for the test's own values."""
    own: int | None = None
    if isinstance(value, Remote):
        own = value._rsd_number
    elif isinstance(value, RemoteClass) or (isinstance(value, type) and issubclass(value, BaseException)):
        own = vars(value).get("_rsd_class")
    elif isinstance(value, BaseException):
        own = vars(value).get("_rsd_number")
    return own


def exception_class(name: str, base: type[BaseException], ask: Ask, number: int) -> type[BaseException]:
    """The proxy class for one of the program's exceptions: a real exception class, so that it can be caught."""

    def attribute(self: BaseException, name: str) -> Any:
        if name.startswith("__") or number_of(self) is None:
            raise AttributeError(name)
        return ask("getattr", self, name)

    def text(self: BaseException) -> str:
        return base.__str__(self) if number_of(self) is None else str(ask("str", self))

    own = {"__module__": "program", "_rsd_class": number, "__getattr__": attribute, "__str__": text}
    return type(name, (base,), own)


def exception(kind: type[BaseException], number: int, args: list[Any]) -> BaseException:
    """The proxy for an exception raised by the program."""
    error = kind.__new__(kind, *args)
    error.args = tuple(args)
    vars(error)["_rsd_number"] = number
    return error


def _data(remote: Remote) -> Any:
    """The plain data in an object."""
    value = remote._rsd_ask("plain", remote)
    if isinstance(value, Remote):
        raise Unsupported(f"{remote._rsd_base} expected from an object derived from it")
    return value


# -- operators --------------------------------------------------------------------------------------------------------


def _of_itself(name: str, op: str) -> Callable[..., Any]:
    """An operation on the object alone."""

    def method(self: Remote, *args: Any) -> Any:
        if self._rsd_derived and name in _NUMBERS:
            raise Unsupported(_ONLY_AN_OBJECT)
        value = self._rsd_ask(op, self, *args)
        return _derived(value) if self._rsd_derived and name in _SIGNS else value

    return method


def _with_other(op: str, turned: bool) -> Callable[[Remote, Any], Any]:
    """An operation with a second operand."""

    def method(self: Remote, other: Any) -> Any:
        both = isinstance(other, Remote)
        if self._rsd_base is not None and not both:
            return getattr(operator, op)(*((other, _data(self)) if turned else (_data(self), other)))
        value = self._rsd_ask(op, *((other, self) if turned else (self, other)))
        return _derived(value) if self._rsd_derived or not both or other._rsd_derived else value

    return method


def _in_order(op: str) -> Callable[[Remote, Any], Any]:
    def method(self: Remote, other: Any) -> Any:
        if isinstance(other, Remote):
            return self._rsd_ask(op, self, other)
        return getattr(operator, op)(_data(self), other) if self._rsd_base is not None else NotImplemented

    return method


def _derived(value: Any) -> Any:
    """The result of an operation of an object with the test's data."""
    if not isinstance(value, Remote):
        raise Unsupported(_ONLY_AN_OBJECT)
    object.__setattr__(value, "_rsd_derived", True)
    return value


_ONLY_AN_OBJECT = (
    "the result of a program object's operation on test data is not data: get data from an attribute or a method"
)
_NUMBERS = ("__bool__", "__int__", "__float__", "__complex__", "__index__", "__abs__", "__round__")
_SIGNS = ("__neg__", "__pos__", "__invert__")
for _name in (*_NUMBERS, *_SIGNS, "__str__", "__repr__", "__bytes__", "__format__"):
    type.__setattr__(Remote, _name, _of_itself(_name, _name.strip("_")))
for _name in (
    "__iter__",
    "__next__",
    "__reversed__",
    "__len__",
    "__dir__",
    "__getitem__",
    "__setitem__",
    "__delitem__",
):
    type.__setattr__(Remote, _name, _of_itself(_name, _name.strip("_")))
for _name in (
    "add",
    "sub",
    "mul",
    "truediv",
    "floordiv",
    "mod",
    "pow",
    "matmul",
    "and_",
    "or_",
    "xor",
    "lshift",
    "rshift",
):
    type.__setattr__(Remote, f"__{_name.strip('_')}__", _with_other(_name, turned=False))
    type.__setattr__(Remote, f"__r{_name.strip('_')}__", _with_other(_name, turned=True))
for _name in ("lt", "le", "gt", "ge"):
    type.__setattr__(Remote, f"__{_name}__", _in_order(_name))
type.__setattr__(Remote, "__await__", lambda self: _waiting(self).__await__())
type.__setattr__(Remote, "__doc__", property(lambda self: self._rsd_ask("getattr", self, "__doc__")))


async def _waiting(remote: Remote) -> Any:
    return remote._rsd_ask("await", remote)
