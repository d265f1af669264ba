"""Errors that are both RSD's and the provider's, so that code that retries or falls back recognises them."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from rsd_core import Result, RSDError, RunError

_MAY_PASS = (408, 409, 425, 429)
"""Statuses between 400 and 499 after which the same request may succeed (RFC 9110, 8470, 6585)."""


class AnswerTimeoutError(RunError, TimeoutError):
    """A request timed out before anything was written."""

    def __reduce__(self) -> tuple[Any, ...]:  # an OSError takes its arguments when it is initialised
        return type(self), self.args, vars(self)


def late(result: Result, kind: type[AnswerTimeoutError] = AnswerTimeoutError) -> AnswerTimeoutError | None:
    """The error for a result that timed out without a step; with a step, the text so far is the answer."""
    if result.finish_reason != "max_seconds" or result.steps:
        return None
    error = kind(
        f"time was up after {result.seconds:.3g} s, with {result.ledger.total.calls} calls begun and nothing written; "
        "give a longer timeout, or fall back on another model"
    )
    error.partial = result
    return error


def mark_permanent(error: Exception) -> None:
    """Mark an error as permanent (`is_retryable` is False) if its HTTP status says so.

    LangChain's own `ModelError`s already have this attribute.
    """
    status = next(filter(None, map(_status, (error, error.__cause__))), None)
    if status is not None and 400 <= status < 500 and status not in _MAY_PASS:
        with suppress(AttributeError, TypeError):  # errors that take no new attributes
            error.is_retryable = False  # type: ignore[attr-defined]


def _status(error: BaseException | None) -> int | None:
    """The HTTP status in an error from OpenAI, Anthropic, Google, httpx or botocore."""
    response = getattr(error, "response", None)
    told = response.get("ResponseMetadata", {}).get("HTTPStatusCode") if isinstance(response, dict) else None
    for value in (getattr(error, "status_code", None), getattr(response, "status_code", None), told):
        if isinstance(value, int):
            return value
    code = getattr(error, "code", None)
    return code if isinstance(code, int) else None


@contextmanager
def providers_types() -> Iterator[None]:
    """Make a `RunError` caused by a provider's error leave this block with the provider's type as well."""
    try:
        yield
    except RunError as error:
        both = with_providers_type(error)
        raise both from both.__cause__


def with_providers_type(error: RunError) -> Exception:
    """The error, in a type that `except` also catches as the provider's error that caused it.

    It has the attributes of both, `partial` and `status_code` for example, and `__cause__` is the provider's error.
    If the two types cannot be combined, this is the provider's error with our error's `partial`. Without such a cause,
    it is the error unchanged.
    """
    cause = error.__cause__
    if not isinstance(cause, Exception) or isinstance(cause, RSDError):
        return error
    try:
        return with_type_of(cause, error)
    except TypeError:
        return _with_partial(cause, error)


def with_type_of(cause: Exception, error: RunError) -> RunError:
    """The error, also having the type of its cause.

    Raises:
        TypeError: The two types cannot be combined.
    """
    kind = _joined(type(error), type(cause))  # type: ignore[arg-type] # typeshed: classes have a hash
    both: RunError = kind.__new__(kind, *error.args)  # not __init__: providers' constructors take other arguments
    vars(both).update(getattr(cause, "__dict__", {}) | vars(error))
    both.args, both.__cause__, both.__traceback__ = error.args, cause, error.__traceback__
    return both


def _with_partial(cause: Exception, error: RunError) -> Exception:
    """A provider's error whose type cannot be subclassed, such as pydantic's ValidationError."""
    try:
        cause.partial = error.partial  # type: ignore[attr-defined]
        cause.add_note(str(error))
    except (AttributeError, TypeError):
        return error
    return cause


@functools.cache
def _joined(ours: type[RunError], providers: type[Exception]) -> type[RunError]:
    if issubclass(ours, providers):
        return ours
    own: dict[str, Any] = {"__str__": Exception.__str__, "__reduce__": _as_ours, "__module__": ours.__module__}
    return type(ours.__name__, (ours, providers), own)


def _as_ours(error: RunError) -> tuple[Any, ...]:
    """The error to pickle: without the provider's part, which may hold clients and sockets."""
    own = ("usage", "partial", "results", "errors", "models")
    told = {name: value for name, value in vars(error).items() if name in own}
    return _unpickled, (type(error).__bases__[0], error.args), told


def _unpickled(kind: type[RunError], args: tuple[Any, ...]) -> RunError:
    return kind.__new__(kind, *args)
