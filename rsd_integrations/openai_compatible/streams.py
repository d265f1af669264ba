"""Long-lived streams: one request for step after step, so that a draft begins when the previous one ends.

A stream is keyed by the path whose step it wrote last. A request for the step after that one is served from it;
continuing with another step, or leaving, ends it.
"""

from __future__ import annotations

import asyncio
import weakref
from collections import deque
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any

from rsd_core import ConfigurationError, Path, RunError, Step, StepRequest, Usage
from rsd_core.concurrency import settle

Write = Callable[["Stream"], Coroutine[Any, Any, object]]
"""A function that sends a stream's request and puts steps into it."""


class NoIdsError(ConfigurationError):
    """A server streams text without ids, so that steps cannot be cut at tokens."""


class Stream:
    """A running request, and its steps not yet taken.

    Args:
        request: The request for each of its steps.
        write: Sends the request; called with the stream.
    """

    def __init__(self, request: StepRequest, write: Write) -> None:
        self.request = request
        self.last: Step | None = None
        """The step taken last."""
        self.unfinished: Callable[[], Usage] = Usage
        """The work since the last step."""
        self.awaited = False
        """Whether a call waits for its next step."""
        self._ready: deque[tuple[Step, Usage]] = deque()
        self._failed = Usage()
        """The work of attempts that failed before any of their steps was taken."""
        self._changed = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self.task = asyncio.create_task(write(self))
        self.task.add_done_callback(self._over)

    def again(self) -> bool:
        """Whether the request may be resent after a fault: not once a step was taken, since it would be repeated."""
        if self.last is None:
            self._failed = self.unused()
        return self.last is None

    def put(self, step: Step, usage: Usage) -> bool:
        """Add a step; True if so many are waiting that the stream should end."""
        self._ready.append((step, usage))
        self._changed.set()
        return len(self._ready) - self.awaited > self.request.ahead

    async def next_step(self) -> tuple[Step, Usage] | None:
        """The next step with its work, including that of failed attempts; None if the stream is over.

        Raises:
            Exception: The request failed before any of its steps was taken.
        """
        self.awaited = True
        try:
            while not self._ready:
                if self.task.done():
                    if self.task.cancelled() and self.last is None:
                        raise RunError("the stream was closed before its first step")
                    if self.last is None:
                        self.task.result()
                    return None
                self._changed.clear()
                await self._changed.wait()
        finally:
            self.awaited = False
        self.last, usage = self._ready.popleft()
        usage, self._failed = usage + self._failed, Usage()
        return self.last, usage

    def abandon(self) -> None:
        """Cancel the request, from any thread, without waiting for it to end."""
        with suppress(RuntimeError):  # its loop is closed
            self._loop.call_soon_threadsafe(self.task.cancel)

    def unused(self) -> Usage:
        """The unused work, returned once."""
        unused = sum((usage for _, usage in self._ready), self._failed + self.unfinished())
        self._ready.clear()
        self._failed, self.unfinished = Usage(), Usage
        return unused

    def _over(self, task: asyncio.Task[object]) -> None:
        self._changed.set()
        if not task.cancelled():
            task.exception()  # raised when the first step is taken, otherwise irrelevant


class Streams:
    """The streams of one model. For use on one event loop."""

    def __init__(self) -> None:
        self._by_path: weakref.WeakKeyDictionary[Path, Stream] = weakref.WeakKeyDictionary()
        self._open: set[Stream] = set()

    async def step(self, path: Path, request: StepRequest, write: Write, charge: Callable[[Usage], None]) -> Step:
        """The step after a path, from the stream that wrote the previous step, or from a new one.

        Args:
            path: The path that the step follows.
            request: The request for the step.
            write: Sends a new stream's request.
            charge: Records the work: of the step, and of a stream's unused steps, which this step replaces; also if the
                call fails or is cancelled, which ends its stream.

        Raises:
            Exception: A new request failed.
        """
        stream = await self._continued(path, request, charge) or self._start(request, write)
        try:
            ready = await stream.next_step()
            if ready is None or ready[0].size > request.max_tokens:  # it is over, or allows longer steps
                if ready is not None:
                    charge(ready[1])
                await _end(stream, charge)
                stream = self._start(request, write)
                ready = await stream.next_step()
            if ready is None:
                raise RunError("a stream ended before its first step")
        except BaseException:
            await _end(stream, charge)
            raise
        step, usage = ready
        charge(usage)
        previous = self._by_path.get(path)
        self._by_path[path] = stream
        weakref.finalize(path, stream.abandon).atexit = False
        if previous is not None and previous is not stream and not previous.awaited:
            await _end(previous, charge)
        return step

    async def aclose(self) -> None:
        """End all streams, and wait for them."""
        await settle([stream.task for stream in self._open])

    def _start(self, request: StepRequest, write: Write) -> Stream:
        stream = Stream(request, write)
        self._open.add(stream)
        stream.task.add_done_callback(lambda _: self._open.discard(stream))
        return stream

    async def _continued(self, path: Path, request: StepRequest, charge: Callable[[Usage], None]) -> Stream | None:
        """The stream that wrote the previous step, if it fits the request; otherwise it is ended."""
        stream = None if path.parent is None else self._by_path.get(path.parent)
        if stream is None or stream.awaited:  # already taken by another call for the same step
            return None
        if stream.last is path.step and _includes(stream.request, request):
            return stream
        await _end(stream, charge)
        return None


async def _end(stream: Stream, charge: Callable[[Usage], None]) -> None:
    """End a stream and wait for it; its unused work is charged."""
    try:
        await settle([stream.task])
    finally:
        unused = stream.unused()
        if unused != Usage():
            charge(unused)


def _includes(one: StepRequest, other: StepRequest) -> bool:
    """Whether the steps of one request fit another, apart from those that are too long."""
    same = (one.splitter, one.sampling) == (other.splitter, other.sampling)
    return same and other.max_tokens <= one.max_tokens
