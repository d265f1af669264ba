"""Errors that are RSD's and the provider's at once, so that `with_retry` and `with_fallbacks` know them."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rsd_core import RSDError, RunError


@contextmanager
def providers_types() -> Iterator[None]:
    """Let a `RunError` that a provider's own error caused leave as one that is of the provider's type as well."""
    try:
        yield
    except RunError as error:
        raise with_providers_type(error) from error.__cause__


def with_providers_type(error: RunError) -> RunError:
    """The error, which `except` finds by the type of the provider's error that caused it as well as by its own.

    It has the attributes of both, `partial` and `status_code` for example, and `__cause__` is the provider's error.
    Without such a cause, or where the two types cannot be joined, it is the error as it was.
    """
    cause = error.__cause__
    if not isinstance(cause, Exception) or isinstance(cause, RSDError):
        return error
    try:
        joined = _joined(type(error), type(cause))  # type: ignore[arg-type] # typeshed: classes have a hash
        both: RunError = joined.__new__(joined, *error.args)  # no __init__: providers' take arguments of their own
    except TypeError:
        return error
    vars(both).update(vars(cause) | vars(error))
    both.args, both.__cause__, both.__traceback__ = error.args, cause, error.__traceback__
    return both


@functools.cache
def _joined(ours: type[RunError], providers: type[Exception]) -> type[RunError]:
    if issubclass(ours, providers):
        return ours
    own: dict[str, Any] = {"__str__": Exception.__str__, "__reduce__": _as_ours, "__module__": ours.__module__}
    return type(ours.__name__, (ours, providers), own)


def _as_ours(error: RunError) -> tuple[Any, ...]:
    """What is pickled: the error without the provider's part, which may hold clients and sockets."""
    return type(error).__bases__[0], error.args, {"usage": error.usage, "partial": error.partial}
