"""Values as JSON between two processes, one of them untrusted: plain data by value, never code.

A value that JSON supports is written as is; anything else is a list that begins with its kind. Only exact types go by
value: an instance of the program's own class is not data, whatever the class derives from. Mutable containers are
numbered in order of appearance, the same on both sides, so that a list that occurs twice is one list there too, and a
function may change its arguments.
"""

from __future__ import annotations

import collections
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any

MUTABLE: dict[str, Any] = {
    "list": list,
    "dict": dict,
    "set": set,
    "bytearray": bytearray,
    "deque": collections.deque,
    "OrderedDict": collections.OrderedDict,
    "Counter": collections.Counter,
    "defaultdict": collections.defaultdict,
}
_MUTABLE_NAMES = {kind: name for name, kind in MUTABLE.items()}
_MORE = {"deque": "maxlen", "defaultdict": "default_factory"}
"""An attribute sent in addition to the entries."""

FROZEN: dict[str, tuple[Callable[[Any], tuple[object, ...]], Callable[..., object]]] = {
    "int": (lambda value: (hex(value),), lambda text: int(text, 16)),  # long JSON numbers are slow to parse
    "complex": (lambda value: (value.real, value.imag), complex),
    "bytes": (lambda value: (value.hex(),), bytes.fromhex),
    "tuple": (tuple, lambda *entries: entries),
    "frozenset": (tuple, lambda *entries: frozenset(entries)),
    "range": (lambda value: (value.start, value.stop, value.step), range),
    "slice": (lambda value: (value.start, value.stop, value.step), slice),
    "ellipsis": (lambda _: (), lambda: ...),
    "decimal.Decimal": (lambda value: (str(value),), lambda text: _made("decimal", "Decimal")(text)),
    "fractions.Fraction": (
        lambda value: (value.numerator, value.denominator),
        lambda *parts: _made("fractions", "Fraction")(*parts),
    ),
    "datetime.timedelta": (
        lambda value: (value.days, value.seconds, value.microseconds),
        lambda *parts: _made("datetime", "timedelta")(*parts),
    ),
    "datetime.date": (lambda value: (value.isoformat(),), lambda text: _made("datetime", "date").fromisoformat(text)),
    "datetime.time": (
        lambda value: (value.isoformat(), value.fold),
        lambda text, fold: _made("datetime", "time").fromisoformat(text).replace(fold=fold),
    ),
    "datetime.datetime": (
        lambda value: (value.isoformat(), value.fold),
        lambda text, fold: _made("datetime", "datetime").fromisoformat(text).replace(fold=fold),
    ),
}
"""Immutable data: its parts, and how to rebuild it from them."""

_SMALL = 1 << 62

GONE = b'{"gone": true}\n'
"""The line sent instead of an answer if the program's process has ended."""


class Message:
    """The containers of one message and its reply, by number.

    Args:
        other: Encodes a value that is not data, as a list that begins with its own kind.
        made: Decodes such a list.
    """

    def __init__(self, other: Callable[[Any], list[Any]], made: Callable[[list[Any]], Any]) -> None:
        self._other, self._made = other, made
        self.held: list[Any] = []
        self._numbers: dict[int, int] = {}

    def encode(self, value: Any) -> Any:
        """A value as JSON data."""
        kind = type(value)
        if value is None or kind in (bool, str, float) or (kind is int and -_SMALL < value < _SMALL):
            return value
        if kind in _MUTABLE_NAMES:
            if id(value) in self._numbers:
                return ["same", self._numbers[id(value)]]
            self._hold(value)
            name = _MUTABLE_NAMES[kind]
            more = self.encode(getattr(value, _MORE[name])) if name in _MORE else None
            return [name, more, *map(self.encode, entries(value))]
        name = kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__name__}"
        if name in FROZEN and is_data(kind):
            return [name, *map(self.encode, FROZEN[name][0](value))]
        return self._other(value)

    def decode(self, data: Any) -> Any:
        """The value of JSON data.

        Raises:
            Exception: It is invalid: the sender violated the protocol.
        """
        if not isinstance(data, list):
            if isinstance(data, dict):
                raise TypeError("a value is not a JSON object")
            return data
        name, *rest = data
        if name == "same":
            return self.held[rest[0]]
        if name in MUTABLE:
            kind, more = MUTABLE[name], rest[0]
            value = kind([], self.decode(more)) if name == "deque" else kind()
            self._hold(value)
            if name == "defaultdict":
                value.default_factory = self.decode(more)
            fill(value, [self.decode(entry) for entry in rest[1:]])
            return value
        if name in FROZEN:
            return FROZEN[name][1](*map(self.decode, rest))
        return self._made(data)

    def _hold(self, value: Any) -> None:
        self._numbers[id(value)] = len(self.held)
        self.held.append(value)


def is_data(kind: type) -> bool:
    """Whether values of exactly this type go by value."""
    if kind in _MUTABLE_NAMES or kind in (bool, str, float, type(None)):
        return True
    name = kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__name__}"
    if name not in FROZEN:
        return False
    module, _, own = name.rpartition(".")
    return kind is type(...) if name == "ellipsis" else kind is _made(module or "builtins", own)


def entries(value: Any) -> Sequence[Any]:
    """The contents of a container as a flat sequence: keys and values of a dict alternate."""
    if isinstance(value, bytearray):
        return [bytes(value)]
    if isinstance(value, dict):
        return [part for item in value.items() for part in item]
    return list(value)


def fill(value: Any, held: Sequence[Any]) -> None:
    """Replace the contents of a container."""
    value.clear()
    if isinstance(value, bytearray):
        value += held[0]
    elif isinstance(value, dict):
        value.update(dict(zip(held[::2], held[1::2], strict=True)))
    elif isinstance(value, set):
        value.update(held)
    else:
        value.extend(held)


def _made(module: str, name: str) -> Any:
    return getattr(import_module(module), name)
