"""What the requests of one model call cost, so that none is lost when the call fails, is cut or goes another way."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, TypedDict

from rsd_core import Interrupted, Model, Usage, add_usage, usage_of


class Charges:
    """The work of one model call, reply by reply, refused replies included.

    Args:
        model: Whose work it is.
    """

    def __init__(self, model: Model) -> None:
        self._model = model
        self._usages: list[Usage] = []

    def add(self, usage: Usage) -> None:
        """Note the work of one reply, or of the part of it that was received."""
        self._usages.append(usage)

    def add_reply(self, body: Mapping[str, Any], _result: object, seconds: float) -> None:
        """Note the work that a body tells, whatever was read of it."""
        self.add(usage_in(body, seconds))

    def total(self, prefix: int | None = None) -> Usage:
        """All of it. Where there was more than one reply, each is priced by itself: each read a prompt.

        Args:
            prefix: Length of what the call was about; by default what the last reply was about.
        """
        if not self._usages:
            return Usage(prefix or 0)
        last = self._usages[-1]
        if len(self._usages) == 1 and prefix in (None, last.prefix):
            return last
        parts = tuple((self._model, usage) for usage in self._usages)
        return replace(self._sum(), prefix=last.prefix if prefix is None else prefix, parts=parts)

    @contextmanager
    def carried_by_errors(self) -> Iterator[None]:
        """Let what is raised inside carry all work until then.

        Raises:
            Interrupted: In place of a plain cancellation.
        """
        try:
            yield
        except asyncio.CancelledError as cancelled:
            self._add_from(cancelled)
            if not self._usages:
                raise
            raise Interrupted(self._sum()) from None
        except Exception as error:
            self._add_from(error)
            if self._usages:
                add_usage(error, self._sum())
            raise

    def _add_from(self, error: BaseException) -> None:
        usage = usage_of(error)
        if usage is not None:
            self.add(usage)

    def _sum(self) -> Usage:
        return sum(self._usages, Usage())


class TokenCounts(TypedDict, total=False):
    """A server's counts of tokens."""

    read: int
    """Of the prompt."""
    cached: int
    """Those of them that it found in a cache."""
    wrote: int


def usage_in(body: Mapping[str, Any], seconds: float = 0.0) -> Usage:
    """The work that the body of a reply tells; nothing where it tells none."""
    counts = token_counts(body)
    read, cached, wrote = counts.get("read", 0), counts.get("cached", 0), counts.get("wrote", 0)
    return Usage(read, max(0, read - cached) + wrote, cached, wrote, seconds=seconds)


def token_counts(body: Mapping[str, Any]) -> TokenCounts:
    """The counts in a reply, as far as the server tells some: gateways leave them out, or say 0 of everything."""
    usage = body.get("usage")
    if not usage:
        timings = body.get("timings")  # llama.cpp, in the middle of a stream
        if not timings:
            return {}
        cached, fresh, wrote = (int(timings.get(name) or 0) for name in ("cache_n", "prompt_n", "predicted_n"))
        return {"read": cached + fresh, "cached": cached, "wrote": wrote}
    details = usage.get("prompt_tokens_details") or {}
    read, wrote, total = (int(usage.get(name) or 0) for name in ("prompt_tokens", "completion_tokens", "total_tokens"))
    counts = TokenCounts()
    if read:
        cached = details.get("cached_tokens") or usage.get("prompt_cache_hit_tokens") or 0  # the latter at DeepSeek
        counts |= {"read": read, "cached": int(cached)}
        wrote = max(wrote, total - read)  # some count thoughts in the total alone (Gemini, Grok)
    if wrote or (read and usage.get("completion_tokens") is not None):
        counts["wrote"] = wrote
    return counts
