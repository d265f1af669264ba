"""RSD as a LlamaIndex LLM."""

from __future__ import annotations

import pickle
from collections.abc import AsyncGenerator, Callable, Generator, Mapping, Sequence
from contextlib import aclosing, closing
from typing import Annotated, Any, Self, TypeVar

from llama_index.core.base.llms.generic_utils import messages_to_prompt as default_messages_to_prompt
from llama_index.core.base.llms.types import (
    ChatMessage,
    ChatResponse,
    ChatResponseAsyncGen,
    ChatResponseGen,
    CompletionResponse,
    CompletionResponseAsyncGen,
    CompletionResponseGen,
    LLMMetadata,
)
from llama_index.core.constants import DEFAULT_CONTEXT_WINDOW, DEFAULT_NUM_OUTPUTS
from llama_index.core.llms import CustomLLM
from llama_index.core.llms.callbacks import llm_chat_callback, llm_completion_callback
from pydantic import BeforeValidator, ConfigDict, Field, PlainSerializer, PlainValidator, PrivateAttr, model_validator

from rsd_core import (
    BinaryStep,
    ConfigurationError,
    Decoder,
    Drafter,
    Method,
    Model,
    Policy,
    Prompt,
    PromptLike,
    Settings,
    Setup,
    Target,
    Verifier,
    WeightingPolicy,
    parse_policy,
)
from rsd_core.blocking import in_thread
from rsd_core.ledger import Role
from rsd_core.methods import RSDMethod, as_decoder
from rsd_core.registry import parse_spec
from rsd_core.roles import require
from rsd_core.stopping import as_stop
from rsd_integrations.llamaindex.answers import Answer
from rsd_integrations.llamaindex.messages import as_prompt
from rsd_integrations.loaded_models import LoadedModels

R = TypeVar("R", CompletionResponse, ChatResponse)
Stop = tuple[str, ...]

CALL_OPTIONS = ("temperature", "top_p", "max_tokens", "seed", "stop", "timeout", "max_retries")
"""Fields that may be given with a single call as well."""
_OF_A_DECODER = ("draft", "target", "verifier", "policy", "thoughts", "settings")
"""Fields that a ready decoder brings itself."""


def _role(role: Role, kind: type[Model]) -> PlainValidator:
    """Checks a spec without loading it, or that a model can play the role."""
    return PlainValidator(lambda value: _check_role(value, role, kind))


def _check_role(value: Any, role: Role, kind: type[Model]) -> Any:
    if isinstance(value, str):
        parse_spec(value, role)
    else:
        require(role, value, kind)
    return value


_MODELS: dict[str, tuple[Role, type[Model]]] = {
    "draft": ("drafter", Drafter),
    "target": ("target", Target),
    "verifier": ("verifier", Verifier),
}


def _thoughts(value: Any) -> Any:
    """Models and a policy of the thoughts' own, each checked like that of the answer."""
    if not isinstance(value, Mapping) or set(value) - {*_MODELS, "policy"}:
        raise ConfigurationError(f"thoughts takes a dictionary of {', '.join(_MODELS)} and policy (got {value!r:.80})")
    for name in _MODELS.keys() & value.keys():
        _check_role(value[name], *_MODELS[name])
    return {name: parse_policy(part) if name == "policy" else part for name, part in value.items()}


def _named(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _named(part) for name, part in value.items()}
    if isinstance(value, Method | WeightingPolicy):
        return value.model_dump(mode="json")
    return value if value is None or isinstance(value, str) else repr(value)


_BY_NAME = PlainSerializer(_named)
"""An object is no data: it is written by its name, in a form that cannot be taken for a spec when it is read back."""


class RSDLLM(CustomLLM):
    """Reward-guided speculative decoding wherever LlamaIndex takes an LLM.

    Instantiate:
        ```python
        llm = RSDLLM(draft="embedded:draft", target="embedded:target", verifier="embedded:verifier")
        ```

    or around a ready decoder, `RSDLLM(decoder=...)`. Everything is checked at once; models given by spec are loaded on
    first use, and shared by copies.

    Messages reach the models as messages, and each model renders them with its own chat template. The prompt of
    `complete` is one user message, after `completion_to_prompt` unless it is `formatted`. A `messages_to_prompt` of
    your own turns a chat into one user message.

    What a model thinks before it answers is a `ThinkingBlock` of a message, in histories as well, and no part of the
    text: a stream tells it in `additional_kwargs["thinking_delta"]`. A completion has `additional_kwargs["thinking"]`.

    Responses hold token usage in `raw["usage"]` and `additional_kwargs`, and the trace of all steps in `raw["rsd"]`,
    see `result_of`; of a stream, the last response does. Every step is an `RSDStepEvent` of the instrumentation.

    A single call takes the options in `CALL_OPTIONS`, such as `llm.complete(prompt, stop=["Observation:"])`.

    Raises:
        RunError: From any call: a role failed for good; `partial` of the error holds what was generated.
    """

    # Values are kept out of pydantic's messages, since a secret may be among them.
    model_config = ConfigDict(extra="forbid", validate_assignment=True, hide_input_in_errors=True)

    draft: Annotated[str | Drafter, _role("drafter", Drafter), _BY_NAME] = "embedded:draft"
    """The cheap model: a spec as `rsd models` lists them, or a `Drafter`."""
    target: Annotated[str | Target, _role("target", Target), _BY_NAME] = "embedded:target"
    """The strong model: a spec, or a `Target`."""
    verifier: Annotated[str | Verifier, _role("verifier", Verifier), _BY_NAME] = "embedded:verifier"
    """The judge: a spec, or a `Verifier`."""
    policy: Policy = Field(default_factory=BinaryStep)
    """Weighting policy: an object, data, or text such as `"binary_step:0.7"`."""
    decoder: Annotated[Decoder | Method | None, BeforeValidator(as_decoder), _BY_NAME] = None
    """Which decoder to make of these models, policy and settings, as text of `rsd eval --methods`: `"majority:8"`; RSD
    by default. Or a ready decoder in place of the models, the policy and the settings."""
    thoughts: Annotated[dict[str, Any], BeforeValidator(_thoughts), _BY_NAME] = Field(default_factory=dict)
    """What is different while the models think, out of `draft`, `target`, `verifier` and `policy`. What is different
    about the steps of thoughts is in `settings`."""
    settings: Settings = Settings()
    """Everything else: step delimiter and length, candidates, limits, faults."""
    temperature: float | None = None
    """0 takes the most likely token. This and the next fields go before the settings."""
    top_p: float | None = None
    max_tokens: int | None = None
    """Cap of the whole answer."""
    seed: int | None = None
    stop: list[str] | None = None
    """The answer ends before the first of these strings."""
    timeout: float | None = None
    """Seconds an answer may take; what is written by then is the answer."""
    max_retries: int | None = None
    """How often a failed call of the target is tried again."""
    context_window: int = Field(default=DEFAULT_CONTEXT_WINDOW, ge=1)
    """Tokens that the smallest of the models takes. Query engines pack what they found into it."""

    _loaded: LoadedModels = PrivateAttr(default_factory=LoadedModels)

    @model_validator(mode="after")
    def _check(self) -> Self:
        """Refuse what cannot work before anything is loaded."""
        self._resolve({})
        return self

    @classmethod
    def class_name(cls) -> str:
        return "RSDLLM"

    @property
    def metadata(self) -> LLMMetadata:
        return LLMMetadata(
            context_window=self.context_window,
            num_output=self.max_tokens or DEFAULT_NUM_OUTPUTS,
            is_chat_model=True,
            model_name="rsd",
        )

    @llm_completion_callback()
    def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        return self._run(self._prompt(prompt, formatted), kwargs, Answer.completion)

    @llm_completion_callback()
    def stream_complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponseGen:
        return self._stream(self._prompt(prompt, formatted), kwargs, Answer.completion)

    @llm_completion_callback()
    async def acomplete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        return await self._arun(self._prompt(prompt, formatted), kwargs, Answer.completion)

    @llm_completion_callback()
    async def astream_complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponseAsyncGen:
        return await self._astream(self._prompt(prompt, formatted), kwargs, Answer.completion)

    @llm_chat_callback()
    def chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        return self._run(self._messages(messages), kwargs, Answer.chat)

    @llm_chat_callback()
    def stream_chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponseGen:
        return self._stream(self._messages(messages), kwargs, Answer.chat)

    @llm_chat_callback()
    async def achat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        return await self._arun(self._messages(messages), kwargs, Answer.chat)

    @llm_chat_callback()
    async def astream_chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponseAsyncGen:
        return await self._astream(self._messages(messages), kwargs, Answer.chat)

    def _prompt(self, prompt: str, formatted: bool) -> str:
        return prompt if formatted or self.completion_to_prompt is None else self.completion_to_prompt(prompt)

    def _messages(self, messages: Sequence[ChatMessage]) -> str | Prompt:
        # LlamaIndex's own way to make a prompt of messages is no model's chat template.
        if self.messages_to_prompt in (None, default_messages_to_prompt):
            return as_prompt(messages)
        return self.messages_to_prompt(messages)

    def _run(self, prompt: PromptLike, options: dict[str, Any], make: Callable[[Answer], R]) -> R:
        decoder, stop = self._decoder(options)
        answer = Answer(stop)
        with closing(decoder.stream(prompt, stop=stop)) as events:
            for event in events:
                answer.feed(event)
        return make(answer)

    def _stream(
        self, prompt: PromptLike, options: dict[str, Any], make: Callable[[Answer, str], R]
    ) -> Generator[R, None, None]:
        decoder, stop = self._decoder(options)
        answer = Answer(stop)

        def responses() -> Generator[R, None, None]:
            with closing(decoder.stream(prompt, stop=stop)) as events:
                for event in events:
                    if answer.feed(event):
                        yield make(answer, answer.delta)

        return responses()

    async def _arun(self, prompt: PromptLike, options: dict[str, Any], make: Callable[[Answer], R]) -> R:
        decoder, stop = await self._adecoder(options)
        answer = Answer(stop)
        async with aclosing(decoder.astream(prompt, stop=stop)) as events:
            async for event in events:
                answer.feed(event)
        return make(answer)

    async def _astream(
        self, prompt: PromptLike, options: dict[str, Any], make: Callable[[Answer, str], R]
    ) -> AsyncGenerator[R, None]:
        decoder, stop = await self._adecoder(options)
        answer = Answer(stop)

        async def responses() -> AsyncGenerator[R, None]:
            async with aclosing(decoder.astream(prompt, stop=stop)) as events:
                async for event in events:
                    if answer.feed(event):
                        yield make(answer, answer.delta)

        return responses()

    def _decoder(self, options: dict[str, Any]) -> tuple[Decoder, Stop]:
        """The decoder and the stop strings of one call; models given by spec are loaded on first use."""
        settings, stop = self._resolve(options)
        if isinstance(self.decoder, Decoder):
            return self.decoder.with_settings(settings), stop
        return self._loaded.watched(self._method().build(self._setup(settings))), stop

    async def _adecoder(self, options: dict[str, Any]) -> tuple[Decoder, Stop]:
        """The same without holding the event loop up while weights are loaded."""
        if isinstance(self.decoder, Decoder) or self._loaded.has(*self._method().models(self._setup(self.settings))):
            return self._decoder(options)
        return await in_thread(lambda: self._decoder(options))

    def _method(self) -> Method:
        return self.decoder if isinstance(self.decoder, Method) else RSDMethod()

    def _setup(self, settings: Settings) -> Setup:
        thoughts = {_MODELS[name][0] if name in _MODELS else name: part for name, part in self.thoughts.items()}
        load = self._loaded.get
        return Setup(self.draft, self.verifier, self.target, self.policy, settings, load=load, thoughts=thoughts)

    def _resolve(self, options: Mapping[str, Any]) -> tuple[Settings, Stop]:
        """The settings and stop strings, with the fields and a call's own options worked in."""
        if unknown := sorted(set(options) - set(CALL_OPTIONS)):
            raise ConfigurationError(
                f"a call of RSDLLM takes no {', '.join(unknown)}; it takes {', '.join(CALL_OPTIONS)}"
            )
        ready = self.decoder if isinstance(self.decoder, Decoder) else None
        if ready and (redundant := [name for name in _OF_A_DECODER if self._differs(name)]):
            raise ConfigurationError(
                f"a decoder brings its own models, policy and settings; leave out {', '.join(redundant)}"
            )
        own = {name: value for name, value in options.items() if value is not None}
        value = {name: own.get(name, getattr(self, name)) for name in CALL_OPTIONS}
        base = self.settings if ready is None else ready.settings
        settings = base.updated(
            temperature=value["temperature"],
            top_p=value["top_p"],
            seed=value["seed"],
            max_tokens=value["max_tokens"],
            max_seconds=value["timeout"],
            target_retries=value["max_retries"],
        )
        if self.thoughts and not isinstance(self._method(), RSDMethod):
            raise ConfigurationError(
                "RSD itself takes models for thoughts, other methods bring theirs; leave out thoughts"
            )
        if ready is None:
            self._method().settings(settings)
        else:
            ready.with_settings(settings)  # which checks them
        return settings, as_stop(value["stop"])

    def _differs(self, name: str) -> bool:
        default = type(self).model_fields[name].get_default(call_default_factory=True)
        return bool(getattr(self, name) != default)

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """A copy over the same models; what is updated is checked like the constructor's arguments."""
        copied = super().model_copy(deep=deep)
        for name, value in (update or {}).items():
            setattr(copied, name, value)
        return copied

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> Self:
        """Copies share their models: weights exist once."""
        memo = {} if memo is None else memo
        models = (self.draft, self.target, self.verifier, self.decoder, *self.thoughts.values())
        memo.update({id(model): model for model in models})
        return super().__deepcopy__(memo)

    def __getstate__(self) -> dict[str, Any]:
        # LlamaIndex drops what does not pickle, from this very object too, and the copy would take the defaults.
        for name in (*_OF_A_DECODER, "decoder"):
            value = getattr(self, name)
            try:
                pickle.dumps(value)
            except Exception as error:
                raise pickle.PicklingError(
                    f"the {name} {value!r} cannot be pickled ({error}); give models by spec, and they are loaded again"
                ) from error
        return super().__getstate__()
