"""The cost of one model call's requests, so that none is lost if the call fails, is cut or takes another route."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Self, TypedDict

from rsd_core import Interrupted, Model, Usage, add_usage, usage_of


class Charges:
    """The work of one model call, reply by reply, including refused replies.

    Args:
        model: The model that did the work.
    """

    def __init__(self, model: Model) -> None:
        self._model = model
        self._usages: list[Usage] = []

    def add(self, usage: Usage) -> None:
        """Add the work of one reply, or of the part received."""
        self._usages.append(usage)

    def add_reply(self, body: Mapping[str, Any], _result: object, seconds: float) -> None:
        """Add the work reported in a body, however much of it was used."""
        self.add(usage_in(body, seconds))

    def total(self, prefix: int | None = None) -> Usage:
        """The total. With more than one reply, each is priced separately, since each read a prompt.

        Args:
            prefix: Length of the call's prefix; by default that of the last reply.
        """
        if not self._usages:
            return Usage(prefix or 0)
        last = self._usages[-1]
        if len(self._usages) == 1 and prefix in (None, last.prefix):
            return last
        parts = tuple((self._model, usage) for usage in self._usages)
        return replace(self._sum(), prefix=last.prefix if prefix is None else prefix, parts=parts)

    def __enter__(self) -> Self:
        """Make exceptions raised inside carry all work so far; a plain cancellation becomes `Interrupted`."""
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if error is None:
            return
        cancelled = isinstance(error, asyncio.CancelledError)
        if not cancelled and not isinstance(error, Exception):
            return
        self._add_from(error)
        if not self._usages:
            return
        if cancelled:
            raise Interrupted(self._sum()) from None
        add_usage(error, self._sum())

    def _add_from(self, error: BaseException) -> None:
        usage = usage_of(error)
        if usage is not None:
            self.add(usage)

    def _sum(self) -> Usage:
        return sum(self._usages, Usage())


class TokenCounts(TypedDict, total=False):
    """A server's counts of tokens."""

    read: int
    """Prompt tokens."""
    cached: int
    """Those of them that it found in a cache."""
    wrote: int


def usage_in(body: Mapping[str, Any], seconds: float = 0.0) -> Usage:
    """The work reported in the body of a reply; nothing if there is none."""
    counts = token_counts(body)
    read, cached, wrote = counts.get("read", 0), counts.get("cached", 0), counts.get("wrote", 0)
    return Usage(read, max(0, read - cached) + wrote, cached, wrote, seconds=seconds)


def token_counts(body: Mapping[str, Any]) -> TokenCounts:
    """The counts in a reply, if any: gateways omit them, or report 0 for everything."""
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
        wrote = max(wrote, total - read)  # some count thoughts only in the total (Gemini, Grok)
    if wrote or (read and usage.get("completion_tokens") is not None):
        counts["wrote"] = wrote
    return counts
