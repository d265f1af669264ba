"""RSD as a LangChain LLM."""

from __future__ import annotations

import asyncio
import hashlib
import json
import threading
from collections.abc import AsyncIterator, Iterator, Mapping
from typing import Any

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models.llms import BaseLLM
from langchain_core.outputs import Generation, GenerationChunk, LLMResult
from pydantic import ConfigDict, Field, PrivateAttr

from rsd_core import Decoder, Event, Finished, Result, RewardGuidedDecoder, RSDConfig, StepFinished, WeightingPolicy

_building = threading.Lock()


class RSDLLM(BaseLLM):
    """Reward-guided speculative decoding wherever LangChain takes an LLM.

    Instantiate:
        >>> llm = RSDLLM(draft="embedded:draft", target="embedded:target", verifier="embedded:verifier")

    or around a ready decoder, `RSDLLM(decoder=...)`. Chat prompts reach the models as messages through `prompt | llm`
    only as text; a string is one user message.

    A batch is decoded side by side. Every generation's `generation_info` holds its finish reason, token usage and the
    trace of its steps. If some prompts of a batch fail, `BatchError` is raised once the others are finished, and holds
    all results: a failed answer must not get into LangChain's cache. Models are loaded on first use.
    """

    model_config = ConfigDict(extra="forbid", arbitrary_types_allowed=True)

    draft: str = "embedded:draft"
    """Spec of the drafter, as `rsd models` lists them."""
    target: str = "embedded:target"
    """Spec of the target."""
    verifier: str = "embedded:verifier"
    """Spec of the verifier."""
    policy: str | dict[str, Any] | WeightingPolicy = "binary_step:0.7"
    """Weighting policy as text or data."""
    settings: dict[str, Any] = Field(default_factory=dict)
    """Fields of `rsd_core.Settings`, such as temperature, seed and limits."""
    decoder: Decoder | None = Field(default=None, exclude=True, repr=False)
    """A ready decoder, in place of the specs above."""

    _built: tuple[RSDConfig, Decoder] | None = PrivateAttr(default=None)

    def model_post_init(self, context: Any) -> None:  # noqa: ARG002
        """Check the configuration before anything is loaded."""
        self._config()

    @property
    def _llm_type(self) -> str:
        return "rsd"

    @property
    def _identifying_params(self) -> Mapping[str, Any]:
        """What tells two of these apart; LangChain's cache is keyed on it."""
        if self.decoder is None:
            return self._config().model_dump(mode="json")
        described = {
            "decoder": type(self.decoder).__name__,
            "models": [model.name for model in self.decoder.models],
            "settings": self.decoder.settings.model_dump(mode="json"),
        }
        if isinstance(self.decoder, RewardGuidedDecoder):
            described["policy"] = self.decoder.policy.model_dump(mode="json")
        digest = hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()
        return {**described, "fingerprint": digest[:16]}

    def _config(self) -> RSDConfig:
        return RSDConfig.parse(
            {
                "drafter": self.draft,
                "verifier": self.verifier,
                "target": self.target,
                "policy": self.policy,
                "settings": self.settings,
            }
        )

    def _decoder(self) -> Decoder:
        if self.decoder is not None:
            return self.decoder
        config = self._config()
        with _building:  # threads that come first load the models once
            if self._built is None or self._built[0] != config:  # a copy with other fields is another decoder
                self._built = (config, config.build())
            return self._built[1]

    def _generate(
        self,
        prompts: list[str],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,  # noqa: ARG002
        **kwargs: Any,
    ) -> LLMResult:
        _refuse(kwargs)
        return _result(self._decoder().run_many(prompts), stop)

    async def _agenerate(
        self,
        prompts: list[str],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,  # noqa: ARG002
        **kwargs: Any,
    ) -> LLMResult:
        _refuse(kwargs)
        decoder = await asyncio.to_thread(self._decoder)  # loading weights would hold the event loop up
        return _result(await decoder.arun_many(prompts), stop)

    def _stream(
        self,
        prompt: str,
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[GenerationChunk]:
        _refuse(kwargs)
        cutter = _Cutter(stop)
        for event in self._decoder().stream(prompt):
            for chunk in cutter.chunks(event):
                if run_manager:
                    run_manager.on_llm_new_token(chunk.text, chunk=chunk)
                yield chunk
            if cutter.done:
                return

    async def _astream(
        self,
        prompt: str,
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[GenerationChunk]:
        _refuse(kwargs)
        cutter = _Cutter(stop)
        events = (await asyncio.to_thread(self._decoder)).astream(prompt)
        try:
            async for event in events:
                for chunk in cutter.chunks(event):
                    if run_manager:
                        await run_manager.on_llm_new_token(chunk.text, chunk=chunk)
                    yield chunk
                if cutter.done:
                    return
        finally:
            await events.aclose()


class _Cutter:
    """Turns events into chunks and ends the text before the first stop string, which may straddle steps."""

    def __init__(self, stop: list[str] | None) -> None:
        self._stop = [text for text in stop or [] if text]
        self._held = ""
        self.done = False

    def chunks(self, event: Event) -> Iterator[GenerationChunk]:
        """The text that an event settles."""
        if isinstance(event, StepFinished):
            self._held += event.record.text
            text, found = _cut(self._held, self._stop)
            # What could be the beginning of a stop string waits for the next step.
            keep = 0 if found else max((_overlap(text, mark) for mark in self._stop), default=0)
            ready, self._held = text[: len(text) - keep], text[len(text) - keep :]
            self.done = found
            if ready or found:
                yield GenerationChunk(text=ready, generation_info={"finish_reason": "stop"} if found else None)
        elif isinstance(event, Finished):
            yield GenerationChunk(text=self._held, generation_info=_info(event.result))


def _cut(text: str, stop: list[str]) -> tuple[str, bool]:
    """The text before the first stop string, and whether there was one."""
    found = [at for at in (text.find(mark) for mark in stop) if at >= 0]
    return (text[: min(found)], True) if found else (text, False)


def _overlap(text: str, mark: str) -> int:
    """Length of the longest beginning of `mark` that the text ends with."""
    return next((n for n in range(min(len(mark) - 1, len(text)), 0, -1) if text.endswith(mark[:n])), 0)


def _info(result: Result) -> dict[str, Any]:
    """Metadata of one answer: finish reason, usage over all models, and the trace."""
    data = result.to_dict()
    total = result.ledger.total
    answer = sum(step.size for step in result.steps)
    return {
        "finish_reason": result.finish_reason,
        "token_usage": {
            "completion_tokens": answer,
            "generated_tokens": total.generated,
            "computed_tokens": total.computed,
        },
        "rsd": {key: data[key] for key in ("steps", "ledger", "degradations")},
    }


def _result(results: list[Result], stop: list[str] | None) -> LLMResult:
    generations = [
        [Generation(text=_cut(result.text, [text for text in stop or [] if text])[0], generation_info=_info(result))]
        for result in results
    ]
    usage: dict[str, int] = {}
    for generation in generations:
        for key, value in (generation[0].generation_info or {})["token_usage"].items():
            usage[key] = usage.get(key, 0) + value
    return LLMResult(generations=generations, llm_output={"token_usage": usage})


def _refuse(kwargs: dict[str, Any]) -> None:
    """Options of a single call would share LangChain's cache with calls without them, so there are none."""
    if kwargs:
        raise ValueError(
            f"RSDLLM takes no options per call (got {', '.join(sorted(kwargs))}); set them on the model, "
            "for example with llm.model_copy(update={...})"
        )
