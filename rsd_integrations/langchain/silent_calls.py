"""Calls of users' models and functions: hidden from the surrounding run, safe for the loop, with converted errors."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.runnables.config import var_child_runnable_config
from langsmith import tracing_context

from rsd_core import RunError
from rsd_core.blocking import in_thread
from rsd_integrations.provider_errors import mark_permanent, providers_types

T = TypeVar("T")
logger = logging.getLogger(__name__)


async def call_async(work: Awaitable[T], owner: str, *, traced: bool = False) -> T:
    """Await a call of a user's model or function.

    Args:
        work: The call.
        owner: The called object, for errors.
        traced: Whether it is visible to callbacks and traces of the surrounding run.

    Raises:
        RunError: It raised `SystemExit`.
    """

    async def call() -> T:
        with _exits_are_errors(owner):
            if traced:
                return await work
            with tracing_context(enabled=False):  # LangSmith's tracing is not controlled by callbacks
                return await work

    # A separate context needs a task, which ends before this returns: cancelling one cancels the other.
    return await (call() if traced else asyncio.create_task(call(), context=_without_callbacks()))


async def call_in_thread(work: Callable[[], T], owner: str, *, traced: bool = False) -> T:
    """The same for blocking work, in a thread that a cancelled caller waits for.

    If the work's result or error has a `usage`, a cancelled caller's `Interrupted` carries it.

    Raises:
        RunError: It raised `SystemExit`, `KeyboardInterrupt` or `StopIteration`.
    """

    def call() -> T:
        with _exits_are_errors(owner):
            if traced:
                return work()
            with tracing_context(enabled=False):
                return work()

    try:
        return await in_thread(call, None if traced else _without_callbacks())
    except asyncio.CancelledError:
        logger.info("the blocking call of %s outlasted its request; its work is charged but unused", owner)
        raise


class Signal(BaseException):
    """A LangGraph signal, such as an interrupt, passing through a decoder: not a role's fault."""

    def __init__(self, signal: Exception) -> None:
        self.signal = signal
        super().__init__(signal)


@contextmanager
def errors_as_raised() -> Iterator[None]:
    """Make roles' errors leave a decoder in the types callers expect.

    LangGraph's signals are restored, and errors caused by a provider's error also get its type.
    """
    try:
        with providers_types():
            yield
    except Signal as passing:
        raise passing.signal from passing.signal.__cause__


def _is_signal(error: Exception) -> bool:
    """Whether an error is a LangGraph signal; if it is not imported, there are none."""
    langgraph = sys.modules.get("langgraph.errors")
    return langgraph is not None and isinstance(error, langgraph.GraphBubbleUp)


@contextmanager
def _exits_are_errors(owner: str) -> Iterator[None]:
    """Turn exceptions that would end the event loop, or be lost in a thread, into ordinary errors.

    Ctrl-C arrives only in the main thread, and is unchanged there. LangGraph's signals become `Signal`.
    """
    try:
        yield
    except Exception as error:
        if _is_signal(error):
            raise Signal(error) from None
        mark_permanent(error)
        if not isinstance(error, StopIteration):
            raise
        raise RunError(f"{owner} raised {error!r}, which is no way to end a request") from error
    except (SystemExit, KeyboardInterrupt) as error:
        if isinstance(error, KeyboardInterrupt) and threading.current_thread() is threading.main_thread():
            raise
        raise RunError(f"{owner} raised {error!r}, which is no way to end a request") from error


def _without_callbacks() -> contextvars.Context:
    """The current context without callbacks, whether from the surrounding run or other variables.

    Passing none is not enough: a binding would merge in the surrounding run's, and usage counters are separate
    variables.
    """
    context = contextvars.copy_context()
    for variable, value in list(context.items()):
        if isinstance(value, BaseCallbackHandler):
            context.run(variable.set, None)
    around = context.get(var_child_runnable_config)
    if around:
        context.run(var_child_runnable_config.set, {**around, "callbacks": None})
    return context
