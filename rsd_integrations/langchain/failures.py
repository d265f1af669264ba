"""Failed prompts: timeouts, and failures in a batch, which keep their places and stay out of caches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from langchain_core.caches import BaseCache
from langchain_core.exceptions import ModelTimeoutError
from langchain_core.outputs import Generation
from pydantic import ConfigDict, Field

from rsd_integrations.provider_errors import AnswerTimeoutError


class LateAnswerError(AnswerTimeoutError, ModelTimeoutError):
    """A request timed out before anything was written; also a LangChain timeout error."""


class FailedGeneration(Generation):
    """Stands for a failed prompt in a result, with its text so far and its error."""

    error: Exception = Field(exclude=True)

    model_config = ConfigDict(arbitrary_types_allowed=True)


class FinishedOnly(BaseCache):
    """A cache wrapper that keeps failed answers out."""

    def __init__(self, cache: BaseCache) -> None:
        self._cache = cache

    def lookup(self, prompt: str, llm_string: str) -> Any:
        return self._cache.lookup(prompt, llm_string)

    async def alookup(self, prompt: str, llm_string: str) -> Any:
        return await self._cache.alookup(prompt, llm_string)

    def update(self, prompt: str, llm_string: str, return_val: Sequence[Generation]) -> None:
        if not isinstance(return_val[0], FailedGeneration):
            self._cache.update(prompt, llm_string, return_val)

    async def aupdate(self, prompt: str, llm_string: str, return_val: Sequence[Generation]) -> None:
        if not isinstance(return_val[0], FailedGeneration):
            await self._cache.aupdate(prompt, llm_string, return_val)

    def clear(self, **kwargs: Any) -> None:
        self._cache.clear(**kwargs)
