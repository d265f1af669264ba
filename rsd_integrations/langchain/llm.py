"""RSD as a LangChain LLM."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import aclosing, closing, contextmanager, suppress
from types import MappingProxyType
from typing import Any, ClassVar, Literal, cast

from langchain_core.caches import BaseCache
from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.globals import get_llm_cache
from langchain_core.language_models import LanguageModelInput
from langchain_core.language_models.llms import BaseLLM
from langchain_core.outputs import Generation, GenerationChunk, LLMResult
from langchain_core.prompt_values import PromptValue
from langchain_core.runnables import Runnable, RunnableConfig
from langchain_core.runnables.config import get_config_list

from rsd_core import BatchError, Decoder, Event, Finished, Result, RunError, StepFinished, TextStream
from rsd_core.ledger import Role
from rsd_integrations.langchain.bill import model_names, naming
from rsd_integrations.langchain.chat_text import as_asked, keep_messages
from rsd_integrations.langchain.failures import FailedGeneration, FinishedOnly, LateAnswerError
from rsd_integrations.langchain.fields import CALL_OPTIONS, CONFIG, RSDFields
from rsd_integrations.langchain.language_model import RSDLanguageModel
from rsd_integrations.langchain.runnable import RSDRunnable
from rsd_integrations.langchain.runs import children, configure, run_of
from rsd_integrations.langchain.silent_calls import errors_as_raised
from rsd_integrations.langchain.trace import answer_usage, metadata, step_data
from rsd_integrations.provider_errors import late, with_providers_type, with_type_of


class RSDLLM(RSDLanguageModel, BaseLLM):
    r"""Reward-guided speculative decoding wherever LangChain takes an LLM.

    Instantiate:
        ```python
        llm = RSDLLM(draft="embedded:draft", target="embedded:target", verifier="embedded:verifier")
        ```

        or around a decoder object, `RSDLLM(decoder=...)`. Models named by spec are loaded on first use.

    Invoke:
        ```python
        text = llm.invoke("Mia has 20 pens. Then she buys 12 more. How many pens does Mia have now?")
        assert "\\boxed{32}" in text
        ```

        A string is one user message. Chat prompts reach the models as messages, rendered by each model's chat template.

    Batch:
        One `_generate` for all prompts, decoded concurrently. A failed prompt does not affect others: `batch(…,
        return_exceptions=True)` returns its error in its place; otherwise `BatchError` is raised once the others are
        finished, with all results. `generate` puts the error into `generation_info`. Failed answers are never cached.

    Metadata:
        `generation_info` of each generation holds its finish reason, the token usage of its prompt and text, its trace
        with what it cost, and under
        `reasoning_content` the thought before the answer. The text is only the answer: streams put thoughts into chunks
        with empty text.

    Per call: `stop` and the fields in `CALL_OPTIONS`.
    """

    model_config = CONFIG
    _kind: ClassVar[Literal["llm", "chat"]] = "llm"

    @property
    def _llm_type(self) -> str:
        return "rsd"

    def with_structured_output(self, schema: Any = None, **kwargs: Any) -> Runnable[LanguageModelInput, Any]:
        """The same models with objects as answers; see `RSDRunnable.with_structured_output`."""
        own = {name: getattr(self, name) for name in RSDFields.model_fields}
        return RSDRunnable.model_validate(own).with_structured_output(schema, **kwargs)

    def _convert_input(self, model_input: LanguageModelInput) -> PromptValue:
        return keep_messages(super()._convert_input(model_input))

    def generate_prompt(self, prompts: list[PromptValue], *args: Any, **kwargs: Any) -> LLMResult:
        return super().generate_prompt([keep_messages(prompt) for prompt in prompts], *args, **kwargs)

    async def agenerate_prompt(self, prompts: list[PromptValue], *args: Any, **kwargs: Any) -> LLMResult:
        return await super().agenerate_prompt([keep_messages(prompt) for prompt in prompts], *args, **kwargs)

    def generate(self, prompts: list[str], *args: Any, **kwargs: Any) -> LLMResult:
        return super(RSDLLM, self._for_call(kwargs)).generate(prompts, *args, **kwargs)

    async def agenerate(self, prompts: list[str], *args: Any, **kwargs: Any) -> LLMResult:
        return await super(RSDLLM, self._for_call(kwargs)).agenerate(prompts, *args, **kwargs)

    def invoke(self, input: LanguageModelInput, config: RunnableConfig | None = None, **kwargs: Any) -> str:
        with run_of(config):
            return super().invoke(input, config, **kwargs)

    async def ainvoke(self, input: LanguageModelInput, config: RunnableConfig | None = None, **kwargs: Any) -> str:
        with run_of(config):
            return await super().ainvoke(input, config, **kwargs)

    def stream(self, input: LanguageModelInput, config: RunnableConfig | None = None, **kwargs: Any) -> Iterator[str]:
        configure(config)
        yield from super().stream(input, config, **kwargs)

    async def astream(
        self, input: LanguageModelInput, config: RunnableConfig | None = None, **kwargs: Any
    ) -> AsyncIterator[str]:
        configure(config)
        async for text in super().astream(input, config, **kwargs):
            yield text

    def batch(
        self,
        inputs: list[LanguageModelInput],
        config: RunnableConfig | list[RunnableConfig] | None = None,
        *,
        return_exceptions: bool = False,
        **kwargs: Any,
    ) -> list[str]:
        if not inputs:
            return []
        configure(get_config_list(config, len(inputs))[0])
        prompts = [self._convert_input(one) for one in inputs]
        return _answers(
            self.generate_prompt(prompts, **_as_arguments(config, len(inputs)), **kwargs), return_exceptions
        )

    async def abatch(
        self,
        inputs: list[LanguageModelInput],
        config: RunnableConfig | list[RunnableConfig] | None = None,
        *,
        return_exceptions: bool = False,
        **kwargs: Any,
    ) -> list[str]:
        if not inputs:
            return []
        configure(get_config_list(config, len(inputs))[0])
        prompts = [self._convert_input(one) for one in inputs]
        result = await self.agenerate_prompt(prompts, **_as_arguments(config, len(inputs)), **kwargs)
        return _answers(result, return_exceptions)

    def _generate(
        self,
        prompts: list[str],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> LLMResult:
        call = _Call(self, stop, kwargs)
        decoder = call.by(self.make_decoder(callbacks=children(run_manager)))
        with call.errors():
            try:
                results = decoder.run_many([as_asked(prompt) for prompt in prompts], **call.options)
            except BatchError as error:
                return call.result(error.results, error.errors)
            return call.result(results)

    async def _agenerate(
        self,
        prompts: list[str],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> LLMResult:
        call = _Call(self, stop, kwargs)
        decoder = call.by(await self.amake_decoder(callbacks=children(run_manager)))
        with call.errors():
            try:
                results = await decoder.arun_many([as_asked(prompt) for prompt in prompts], **call.options)
            except BatchError as error:
                return call.result(error.results, error.errors)
            return call.result(results)

    def _stream(
        self,
        prompt: str,
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[GenerationChunk]:
        model = self._for_call(kwargs)
        call = _Call(model, stop, kwargs)
        decoder = call.by(model.make_decoder(callbacks=children(run_manager)))
        with call.errors(), closing(decoder.stream(as_asked(prompt), stop=call.stop)) as events:
            for chunk in filter(None, map(_Chunks(call).feed, events)):
                if run_manager:  # before the consumer gets it
                    run_manager.on_llm_new_token(chunk.text, chunk=chunk)
                yield chunk

    async def _astream(
        self,
        prompt: str,
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[GenerationChunk]:
        model = self._for_call(kwargs)
        call = _Call(model, stop, kwargs)
        decoder = call.by(await model.amake_decoder(callbacks=children(run_manager)))
        chunks = _Chunks(call)
        with call.errors():
            async with aclosing(decoder.astream(as_asked(prompt), stop=call.stop)) as events:
                async for event in events:
                    chunk = chunks.feed(event)
                    if chunk is None:
                        continue
                    if run_manager:
                        await run_manager.on_llm_new_token(chunk.text, chunk=chunk)
                    yield chunk

    def _for_call(self, kwargs: dict[str, Any]) -> RSDLLM:
        """The model with this call's fields, which are removed from `kwargs`.

        LangChain's cache does not see call options, so they must be fields of the model called.
        """
        model = self.with_options({name: kwargs.pop(name) for name in CALL_OPTIONS if name in kwargs})
        if unknown := set(kwargs) - _OF_LANGCHAIN:
            raise ValueError(
                f"RSDLLM does not accept {sorted(unknown)} with a call, only stop, {', '.join(CALL_OPTIONS)}"
            )
        cache = (
            self.cache if isinstance(self.cache, BaseCache) else get_llm_cache() if self.cache is not False else None
        )
        return model if cache is None else model.model_copy(update={"cache": FinishedOnly(cache)})


_OF_LANGCHAIN = {"stop", "callbacks", "tags", "metadata", "run_name", "run_id", "max_concurrency"}


class _Call:
    """One call's request."""

    def __init__(self, model: RSDLLM, stop: list[str] | None, kwargs: dict[str, Any]) -> None:
        self.stop = (model.stop if stop is None else stop) or []
        self.options: Any = {"stop": self.stop}
        self.rejected = model.trace_inner
        self.models: dict[Role, str] = {}
        """Names of the models in the roles."""
        if kwargs.get("max_concurrency"):
            self.options["concurrency"] = kwargs["max_concurrency"]
        self._keep_errors = "max_concurrency" in kwargs  # a batch reports errors in their places

    def by(self, decoder: Decoder) -> Decoder:
        """The decoder that answers the call."""
        self.models = model_names(decoder)
        return decoder

    @contextmanager
    def errors(self) -> Iterator[None]:
        """Convert errors to the types callers expect, with what bills need."""
        with errors_as_raised(), naming(self.models):
            yield

    def result(self, results: list[Result], errors: Mapping[int, Exception] = MappingProxyType({})) -> LLMResult:
        """The results in LangChain's format; the error of a single prompt is raised."""
        failed = {**{i: error for i, one in enumerate(results) if (error := late(one, LateAnswerError))}, **errors}
        if failed and len(results) == 1 and not self._keep_errors:
            raise failed[0]
        failed = {
            i: with_providers_type(error) if isinstance(error, RunError) else error for i, error in failed.items()
        }
        generations = [[self._generation(result, failed.get(i))] for i, result in enumerate(results)]
        total: dict[str, int] = {}
        for result in results:
            for name, count in _openai_usage(result).items():
                total[name] = total.get(name, 0) + count
        return LLMResult(generations=generations, llm_output={"token_usage": total})

    def info(self, result: Result) -> dict[str, Any]:
        """A generation's info."""
        return metadata(result, self.models, rejected=self.rejected) | {"token_usage": _openai_usage(result)}

    def _generation(self, result: Result, error: Exception | None) -> Generation:
        info = _thought(result.thought) | self.info(result)
        if error is None:
            return Generation(text=result.text, generation_info=info)
        info |= {"finish_reason": "error", "error": f"{type(error).__name__}: {error}"}
        return FailedGeneration(text=result.text, generation_info=info, error=error)


class _Chunks:
    """From the decoder's events to LangChain's chunks."""

    def __init__(self, call: _Call) -> None:
        self._call, self._text = call, TextStream(call.stop)
        self._steps = 0

    def feed(self, event: Event) -> GenerationChunk | None:
        """The chunk for an event, if any."""
        pieces = self._text.feed_parts(event)
        text = "".join(text for kind, text in pieces if kind == "answer")
        info = _thought("".join(text for kind, text in pieces if kind == "thought"))
        if isinstance(event, StepFinished):
            self._steps += 1
            info["rsd_steps"] = [step_data(event.record, self._steps - 1)]
        elif isinstance(event, Finished):
            if (error := late(event.result, LateAnswerError)) is not None:
                raise error
            info |= self._call.info(event.result)
        else:
            return None
        return GenerationChunk(text=text, generation_info=info)


def _as_arguments(config: RunnableConfig | list[RunnableConfig] | None, count: int) -> dict[str, Any]:
    """The configurations of a batch as arguments for `generate_prompt`."""
    configs = get_config_list(config, count)
    names = ("callbacks", "tags", "metadata", "run_name")
    return {name: [one.get(name) for one in configs] for name in names} | {
        "max_concurrency": configs[0].get("max_concurrency")
    }


def _answers(result: LLMResult, return_exceptions: bool) -> list[Any]:
    """The texts of a batch, with errors in place of failed prompts.

    Raises:
        BatchError: Some failed and errors are not to be returned. It also has the type of the first error.
    """
    generations = [generation[0] for generation in result.generations]
    errors = {i: one.error for i, one in enumerate(generations) if isinstance(one, FailedGeneration)}
    if errors and not return_exceptions:
        failed = BatchError([Result.from_dict((one.generation_info or {})["rsd"]) for one in generations], errors)
        with suppress(TypeError):  # also the type of the first error, unless that cannot be subclassed
            failed = cast("BatchError", with_type_of(errors[min(errors)], failed))
        raise failed
    return [errors.get(i, one.text) for i, one in enumerate(generations)]


def _thought(text: str) -> dict[str, Any]:
    """The thought before the answer, under the name that LangChain's chat models use."""
    return {"reasoning_content": text} if text else {}


def _openai_usage(result: Result) -> dict[str, int]:
    tokens = answer_usage(result)
    return {
        "prompt_tokens": tokens["input_tokens"],
        "completion_tokens": tokens["output_tokens"],
        "total_tokens": tokens["total_tokens"],
    }
