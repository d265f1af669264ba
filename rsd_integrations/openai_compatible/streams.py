"""Streams that go on: one request for step after step, so that a draft begins when the one before it ends.

A stream is found by the path whose step it wrote last. Whoever asks for the step after that one gets it from there;
whoever goes on with another step, or goes away, ends it.
"""

from __future__ import annotations

import asyncio
import weakref
from collections import deque
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import replace
from typing import Any

from rsd_core import ConfigurationError, Interrupted, Path, RunError, Step, StepRequest, Usage


class NoIdsError(ConfigurationError):
    """A server streams text without ids, so that its steps cannot be told apart at tokens."""


class Stream:
    """A request at work, and the steps of it that nobody has taken.

    Args:
        asked: What each of its steps is asked for with.
        work: Sends the request, given the stream to put steps into.
    """

    def __init__(self, asked: StepRequest, work: Callable[[Stream], Coroutine[Any, Any, object]]) -> None:
        self.asked = asked
        self.last: Step | None = None
        """The step that was taken last."""
        self.begun: Callable[[], Usage] = Usage
        """The work since the last step that was put in."""
        self._ready: deque[tuple[Step, Usage]] = deque()
        self._wanted = 0
        """Steps that are waited for: one at most."""
        self._changed = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._task = asyncio.ensure_future(work(self))
        self._task.add_done_callback(self._over)

    def again(self) -> bool:
        """Whether the request may be sent anew after a fault: not once a step was taken, since it would come again."""
        if self.last is None:
            self._ready.clear()
        return self.last is None

    def put(self, step: Step, usage: Usage) -> bool:
        """Hand a step over; True where so many are left over that the stream is to end."""
        self._ready.append((step, usage))
        self._changed.set()
        return len(self._ready) - self._wanted > self.asked.ahead

    async def take(self) -> tuple[Step, Usage] | None:
        """The next step with its work; None where the stream is over.

        Raises:
            Exception: The request failed before any step of it was taken.
        """
        self._wanted = 1
        while not self._ready:
            if self._task.done():
                if self.last is None:
                    self._task.result()
                return None
            self._changed.clear()
            await self._changed.wait()
        self._wanted = 0
        step, usage = self._ready.popleft()
        self.last = step
        return step, usage

    def close(self) -> Usage:
        """End the request; the work that was done for nobody, told once."""
        unused = sum((usage for _, usage in self._ready), self.begun())
        self._ready.clear()
        self.begun = Usage
        self._task.cancel()
        return unused

    def abandon(self) -> None:
        """End the request, from any thread; its work is told when it is closed."""
        with suppress(RuntimeError):  # its loop is closed
            self._loop.call_soon_threadsafe(self._task.cancel)

    def _over(self, task: asyncio.Task[object]) -> None:
        self._changed.set()
        if not task.cancelled():
            task.exception()  # told to whoever takes the first step, and else of no interest


class Streams:
    """The streams of one model. To be used on one event loop."""

    def __init__(self) -> None:
        self._by_path: weakref.WeakKeyDictionary[Path, Stream] = weakref.WeakKeyDictionary()

    async def step(
        self, path: Path, asked: StepRequest, work: Callable[[Stream], Coroutine[Any, Any, object]]
    ) -> tuple[Step, Usage]:
        """The step after a path, from the stream that wrote the step before it, else from a new one.

        What a stream wrote and nobody came for is work of the draft that is written in its place.

        Raises:
            Interrupted: The call was cancelled; the stream is ended.
            Exception: A new request failed.
        """
        stream, wasted = self._that_goes_on(path, asked)
        stream = stream or Stream(asked, work)
        try:
            taken = await stream.take()
            if taken is None or taken[0].size > asked.max_tokens:  # it is over, or was asked for longer steps
                wasted += stream.close() if taken is None else taken[1] + stream.close()
                stream = Stream(asked, work)
                taken = await stream.take()
        except asyncio.CancelledError:
            raise Interrupted(stream.close() + wasted) from None
        if taken is None:
            raise RunError("a stream ended before its first step")
        self._by_path[path] = stream
        weakref.finalize(path, stream.abandon).atexit = False
        step, usage = taken
        return step, replace(
            usage, computed=usage.computed + wasted.computed, generated=usage.generated + wasted.generated
        )

    async def aclose(self) -> None:
        """End all of them."""
        for stream in list(self._by_path.values()):
            stream.close()

    def _that_goes_on(self, path: Path, asked: StepRequest) -> tuple[Stream | None, Usage]:
        """The stream that wrote the step before, if it does as asked; and the work of one that does not."""
        stream = None if path.parent is None else self._by_path.get(path.parent)
        if stream is None:
            return None, Usage()
        if stream.last is path.step and _includes(stream.asked, asked):
            return stream, Usage()
        return None, stream.close()


def _includes(one: StepRequest, other: StepRequest) -> bool:
    """Whether the steps of one request serve another, but for those that are too long for it."""
    same = (one.delimiter, one.sampling) == (other.delimiter, other.sampling)
    return same and other.max_tokens <= one.max_tokens
