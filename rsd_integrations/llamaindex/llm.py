"""RSD as a LlamaIndex LLM."""

from __future__ import annotations

import pickle
from collections.abc import AsyncGenerator, Callable, Generator, Mapping, Sequence
from contextlib import aclosing, closing
from typing import Annotated, Any, Self, TypeVar

from llama_index.core.base.llms.base import BaseLLM
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
    MessageRole,
)
from llama_index.core.constants import DEFAULT_CONTEXT_WINDOW, DEFAULT_NUM_OUTPUTS
from llama_index.core.llms.callbacks import llm_chat_callback, llm_completion_callback
from llama_index.core.llms.function_calling import FunctionCallingLLM
from llama_index.core.llms.llm import ToolSelection
from llama_index.core.program.utils import get_program_for_llm
from llama_index.core.prompts import PromptTemplate
from llama_index.core.tools import BaseTool
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    PrivateAttr,
    model_validator,
)

from rsd_core import (
    BinaryStep,
    ConfigurationError,
    Decoder,
    Drafter,
    Method,
    Policy,
    Prompt,
    Settings,
    Setup,
    Target,
    Verifier,
)
from rsd_core.blocking import in_thread
from rsd_core.methods import RSDMethod, as_decoder
from rsd_core.stopping import as_stop
from rsd_integrations.given_fields import checked
from rsd_integrations.llamaindex.answers import Answer
from rsd_integrations.llamaindex.calls import OPTIONS, Call, ToolDefinition
from rsd_integrations.llamaindex.classes import metadata_of, refuse
from rsd_integrations.llamaindex.fields import AS_DRAFT, AS_TARGET, AS_THOUGHTS, AS_VERIFIER, BY_NAME, MODELS
from rsd_integrations.llamaindex.judges import Scorer
from rsd_integrations.llamaindex.messages import as_prompt, text_only, tool_call_blocks
from rsd_integrations.llamaindex.replies import arguments_of
from rsd_integrations.llamaindex.roles import SENDS, LlamaIndexGenerator
from rsd_integrations.loaded_models import LoadedModels
from rsd_integrations.tool_calls import sees_tools

R = TypeVar("R", CompletionResponse, ChatResponse)
Stop = tuple[str, ...]

_OF_A_DECODER = ("draft", "target", "verifier", "policy", "thoughts", "settings")
"""Fields that a decoder object defines itself."""


class RSDLLM(FunctionCallingLLM):
    """Reward-guided speculative decoding wherever LlamaIndex takes an LLM.

    Instantiate:
        ```python
        llm = RSDLLM(draft="embedded:draft", target="embedded:target", verifier="embedded:verifier")
        ```

    or over any LlamaIndex LLMs, which then write whole messages, tool calls included: `RSDLLM(draft=Ollama(...),
    target=Anthropic(...), verifier=lambda messages, reply: ...)`, or around a decoder object, `RSDLLM(decoder=...)`.
    Everything is checked at once; models given by spec are loaded on first use, and shared by copies.

    Each model renders messages with its own chat template. The prompt of `complete` is one user message, after
    `completion_to_prompt` unless it is `formatted`. A custom `messages_to_prompt` turns a chat into one user message.

    A model's thought is a `ThinkingBlock` of a message, also in histories, and not part of the text: streams have it in
    `additional_kwargs["thinking_delta"]`. A completion has `additional_kwargs["thinking"]`.

    Tool calls are `ToolCallBlock`s of the message. Those that were cut or are not JSON are not executed: they are in
    the response's `additional_kwargs["invalid_tool_calls"]`, as are those of a text after the first if
    `allow_parallel_tool_calls` is false, as it is by default in `chat_with_tools` and `predict_and_call`.

    Responses contain the usage of their own call in `raw["usage"]` and `additional_kwargs`, and the trace of all steps
    with the cost of all models in `raw["rsd"]` (see `result_of`); for a stream, the last response does. Every step is
    an `RSDStepEvent` of the instrumentation. `rsd_bill` sums the cost of several requests.

    A single call takes the options in `OPTIONS`, such as `llm.complete(prompt, stop=["Observation:"])`; if LlamaIndex
    LLMs write the answer, everything else goes to them.

    Raises:
        RunError: From any call: a role failed for good; the error's `partial` has what was generated. If a provider's
            error was the cause, it also has that type.
        TimeoutError: The request timed out before anything was written; also a `RunError`.
    """

    # Values are kept out of pydantic's messages, since they may contain secrets.
    model_config = ConfigDict(extra="forbid", validate_assignment=True, hide_input_in_errors=True)

    draft: Annotated[str | Drafter | BaseLLM, AS_DRAFT, BY_NAME] = "embedded:draft"
    """The cheap model: a spec as listed by `rsd models`, a `Drafter`, or any LlamaIndex LLM."""
    target: Annotated[str | Target | BaseLLM, AS_TARGET, BY_NAME] = "embedded:target"
    """The strong model: a spec, a `Target`, or any LlamaIndex LLM."""
    verifier: Annotated[str | Verifier | BaseLLM | Scorer, AS_VERIFIER, BY_NAME] = "embedded:verifier"
    """The judge: a spec, a `Verifier`, an LLM, or a function of (messages, reply) to a reward in [0, 1]."""
    policy: Policy = Field(default_factory=BinaryStep)
    """Weighting policy: an object, data, or text such as `"binary_step:0.7"`."""
    decoder: Annotated[Decoder | Method | None, BeforeValidator(as_decoder), BY_NAME] = None
    """The method to build from these models, policy and settings, as for `rsd eval --methods`: `"majority:8"`; RSD by
    default. Or a decoder object instead of models, policy and settings."""
    thoughts: Annotated[dict[str, Any], AS_THOUGHTS, BY_NAME] = Field(default_factory=dict)
    """Overrides for thoughts of `draft`, `target`, `verifier` and `policy`. Overrides for the steps of thoughts are in
    `settings`."""
    settings: Settings = Settings()
    """Everything else: step delimiter and length, candidates, limits, faults."""
    temperature: float | None = None
    """0 means greedy decoding. This and the next fields override the settings."""
    top_p: float | None = None
    top_k: int | None = None
    max_tokens: int | None = None
    """Maximum length of the whole answer, in tokens."""
    seed: int | None = None
    stop: list[str] | None = None
    """The answer ends before the first of these strings."""
    timeout: float | None = None
    """Seconds an answer may take; what is written by then is the answer; if nothing is, `TimeoutError` is raised."""
    max_retries: int | None = None
    """How often to retry a failed call of the target."""
    context_window: int | None = Field(default=None, ge=1)
    """The smallest context of the models, in tokens, into which query engines pack their findings. By default that of
    the LlamaIndex LLMs in the roles, else 3900."""
    is_function_calling_model: bool | None = None
    """Whether the models can call tools. By default as they report, those given by spec once loaded."""

    _loaded: LoadedModels = PrivateAttr(default_factory=LoadedModels)

    @model_validator(mode="wrap")
    @classmethod
    def _as_given(cls, data: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        return checked(data, cls, handler)

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
        inner = [told for role in self._inner() if (told := metadata_of(role.llm))]
        window = min((one.context_window for one in inner), default=DEFAULT_CONTEXT_WINDOW)
        return LLMMetadata(
            context_window=self.context_window or window,
            num_output=self.max_tokens or min((one.num_output for one in inner), default=DEFAULT_NUM_OUTPUTS),
            is_chat_model=True,
            is_function_calling_model=self._calls_tools(),
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

    def _prepare_chat_with_tools(
        self,
        tools: Sequence[BaseTool],
        user_msg: str | ChatMessage | None = None,
        chat_history: list[ChatMessage] | None = None,
        verbose: bool = False,  # noqa: ARG002 - LlamaIndex's interface
        allow_parallel_tool_calls: bool = False,
        tool_required: bool = False,
        **kwargs: Any,
    ) -> dict[str, Any]:
        asked = ChatMessage(role=MessageRole.USER, content=user_msg) if isinstance(user_msg, str) else user_msg
        return {
            "messages": [*(chat_history or []), *([asked] if asked else [])],
            "tools": [ToolDefinition(tool) for tool in tools],
            "allow_parallel_tool_calls": allow_parallel_tool_calls,
            "tool_required": tool_required,
            **kwargs,
        }

    def get_tool_calls_from_response(
        self,
        response: ChatResponse,
        error_on_no_tool_call: bool = True,
        **kwargs: Any,  # noqa: ARG002 - LlamaIndex's interface
    ) -> list[ToolSelection]:
        """The calls of a response that may be executed: none that was cut or has arguments other than an object.

        Raises:
            ValueError: There is none, with `error_on_no_tool_call`.
        """
        told = [(call, arguments_of(call)) for call in tool_call_blocks(response.message)]
        calls = [
            ToolSelection(tool_id=call.tool_call_id or call.tool_name, tool_name=call.tool_name, tool_kwargs=arguments)
            for call, arguments in told
            if arguments is not None
        ]
        if not calls and error_on_no_tool_call:
            invalid = response.additional_kwargs.get("invalid_tool_calls") or [call.tool_name for call, _ in told]
            why = f"; cut or broken were {invalid!r:.300}" if invalid else f", but {response.message.content!r:.200}"
            raise ValueError(f"Expected at least one tool call, but got 0 tool calls{why}")
        return calls

    def _structured_stream_call(
        self,
        output_cls: type[BaseModel],
        prompt: PromptTemplate,
        llm_kwargs: dict[str, Any] | None = None,
        **prompt_args: Any,
    ) -> Generator[Any, None, None]:
        # LlamaIndex's own looks for streamed calls where its newer models no longer put them, and returns blank
        # objects. Here a call arrives in one piece, so there is nothing to read before its end.
        if not self.metadata.is_function_calling_model:
            yield from super()._structured_stream_call(output_cls, prompt, llm_kwargs, **prompt_args)
            return
        program = get_program_for_llm(output_cls, prompt, self, pydantic_program_mode=self.pydantic_program_mode)
        yield program(llm_kwargs=llm_kwargs, **prompt_args)

    async def _structured_astream_call(
        self,
        output_cls: type[BaseModel],
        prompt: PromptTemplate,
        llm_kwargs: dict[str, Any] | None = None,
        **prompt_args: Any,
    ) -> AsyncGenerator[Any, None]:
        if not self.metadata.is_function_calling_model:
            return await super()._structured_astream_call(output_cls, prompt, llm_kwargs, **prompt_args)
        program = get_program_for_llm(output_cls, prompt, self, pydantic_program_mode=self.pydantic_program_mode)

        async def objects() -> AsyncGenerator[Any, None]:
            yield await program.acall(llm_kwargs=llm_kwargs, **prompt_args)

        return objects()

    def _inner(self) -> list[LlamaIndexGenerator]:
        """The LlamaIndex LLMs that draft and replace."""
        return [role for role in self._writers() if isinstance(role, LlamaIndexGenerator)]

    def _writers(self) -> list[Any]:
        """The models that draft and replace, as far as the decoder uses them; none for a given decoder."""
        if isinstance(self.decoder, Decoder):
            return []
        return [getattr(self, name) for name in ("draft", "target") if MODELS[name] in self._method().roles]

    def _calls_tools(self) -> bool:
        if self.is_function_calling_model is not None:
            return self.is_function_calling_model
        granularity, writers = self._resolve({})[0].granularity, self._writers()
        return bool(writers) and all(
            role.can_call_tools
            if isinstance(role, LlamaIndexGenerator)
            else self._loaded.has(role) and sees_tools(self._loaded.get(role), granularity)
            for role in writers
        )

    def _prompt(self, prompt: str, formatted: bool) -> Prompt:
        text = prompt if formatted or self.completion_to_prompt is None else self.completion_to_prompt(prompt)
        return as_prompt([ChatMessage(role=MessageRole.USER, content=text)] if text else [])

    def _messages(self, messages: Sequence[ChatMessage]) -> Prompt:
        # LlamaIndex's default prompt from messages is not any model's chat template.
        if self.messages_to_prompt not in (None, default_messages_to_prompt):
            return self._prompt(self.messages_to_prompt(messages), formatted=True)
        if not self._passes_on():
            text_only(messages)
        return as_prompt(messages)

    def _passes_on(self) -> bool:
        """Whether LlamaIndex LLMs write the whole answer."""
        return bool(self._inner()) and len(self._inner()) == len(self._writers())

    def _call(self, options: Mapping[str, Any]) -> Call:
        return Call(options, passes_on=self._passes_on())

    def _run(self, prompt: Prompt, options: dict[str, Any], make: Callable[[Answer], R]) -> R:
        call = self._call(options)
        decoder, answer = self._decoder(call)
        with answer.errors(), closing(decoder.stream(call.prompt(prompt, decoder), stop=answer.stop)) as events:
            for event in events:
                answer.feed(event)
        return make(answer)

    def _stream(
        self, prompt: Prompt, options: dict[str, Any], make: Callable[[Answer, str], R]
    ) -> Generator[R, None, None]:
        call = self._call(options)
        decoder, answer = self._decoder(call)
        asked = call.prompt(prompt, decoder)

        def responses() -> Generator[R, None, None]:
            with answer.errors(), closing(decoder.stream(asked, stop=answer.stop)) as events:
                for event in events:
                    if answer.feed(event):
                        yield make(answer, answer.delta)

        return responses()

    async def _arun(self, prompt: Prompt, options: dict[str, Any], make: Callable[[Answer], R]) -> R:
        call = self._call(options)
        decoder, answer = await self._adecoder(call)
        with answer.errors():
            async with aclosing(decoder.astream(call.prompt(prompt, decoder), stop=answer.stop)) as events:
                async for event in events:
                    answer.feed(event)
        return make(answer)

    async def _astream(
        self, prompt: Prompt, options: dict[str, Any], make: Callable[[Answer, str], R]
    ) -> AsyncGenerator[R, None]:
        call = self._call(options)
        decoder, answer = await self._adecoder(call)
        asked = call.prompt(prompt, decoder)

        async def responses() -> AsyncGenerator[R, None]:
            with answer.errors():
                async with aclosing(decoder.astream(asked, stop=answer.stop)) as events:
                    async for event in events:
                        if answer.feed(event):
                            yield make(answer, answer.delta)

        return responses()

    def _decoder(self, call: Call) -> tuple[Decoder, Answer]:
        """The decoder of one call and its answer; models given by spec are loaded on first use."""
        settings, stop = self._resolve(call.own)
        answer = Answer(stop, tools=bool(call.tools), single=call.single)
        if isinstance(self.decoder, Decoder):
            return self.decoder.with_settings(settings), answer
        set_here = [name for name in SENDS if call.own.get(name, getattr(self, name)) is not None]

        def load(model: Any) -> Any:
            model = self._loaded.get(model)
            if not isinstance(model, LlamaIndexGenerator):
                return model
            options = {**model.options, **call.inner}
            return model.using(sends=(*model.sends, *set_here), tools=call.tools, stop=stop, options=options)

        return self._loaded.watched(self._method().build(self._setup(settings, load))), answer

    async def _adecoder(self, call: Call) -> tuple[Decoder, Answer]:
        """The same without blocking the event loop while weights are loaded."""
        if isinstance(self.decoder, Decoder):
            return self._decoder(call)
        if self._loaded.has(*self._method().models(self._setup(self.settings, self._loaded.get))):
            return self._decoder(call)
        return await in_thread(lambda: self._decoder(call))

    def _method(self) -> Method:
        return self.decoder if isinstance(self.decoder, Method) else RSDMethod()

    def _setup(self, settings: Settings, load: Callable[[Any], Any]) -> Setup:
        thoughts = {MODELS.get(name, name): part for name, part in self.thoughts.items()}
        draft: Any = self.draft  # a spec or a model, like the other roles: anything else has been converted
        verifier: Any = self.verifier
        target: Any = self.target
        return Setup(draft, verifier, target, self.policy, settings, load=load, thoughts=thoughts)

    def _resolve(self, options: Mapping[str, Any]) -> tuple[Settings, Stop]:
        """The settings and stop strings, including the fields and a call's options."""
        ready = self.decoder if isinstance(self.decoder, Decoder) else None
        if ready and (redundant := [name for name in _OF_A_DECODER if self._differs(name)]):
            raise ConfigurationError(
                f"a decoder has its own models, policy and settings; remove {', '.join(redundant)}"
            )
        own = {name: value for name, value in options.items() if value is not None}
        value = {name: own.get(name, getattr(self, name)) for name in OPTIONS}
        base = self.settings if ready is None else ready.settings
        inner = self._inner()
        settings = base.updated(
            temperature=value["temperature"],
            top_p=value["top_p"],
            top_k=value["top_k"],
            seed=value["seed"],
            max_tokens=value["max_tokens"],
            max_seconds=value["timeout"],
            target_retries=value["max_retries"],
            granularity="turn" if inner else None,
        )
        for role in inner:
            refuse(role.llm, [name for name in SENDS if value[name] is not None])
        if self.thoughts and (inner or not isinstance(self._method(), RSDMethod)):
            raise ConfigurationError(
                "remove thoughts: only RSD in steps supports separate models for them; other methods have their "
                "own, and LlamaIndex LLMs write thought and answer in one piece"
            )
        if ready is None:
            self._method().settings(settings)
        else:
            ready.with_settings(settings)  # validates them
        return settings, as_stop(value["stop"])

    def _differs(self, name: str) -> bool:
        default = type(self).model_fields[name].get_default(call_default_factory=True)
        return bool(getattr(self, name) != default)

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """A copy over the same models; updates are validated like constructor arguments."""
        copied = super().model_copy(deep=deep)
        for name, value in (update or {}).items():
            setattr(copied, name, value)
        return copied

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> Self:
        """Copies share their models, so that weights exist once."""
        memo = {} if memo is None else memo
        models = (self.draft, self.target, self.verifier, self.decoder, *self.thoughts.values())
        memo.update({id(model): model for model in models})
        return super().__deepcopy__(memo)

    def __getstate__(self) -> dict[str, Any]:
        # LlamaIndex drops what does not pickle, even from this object, and the copy would use the defaults.
        for name in (*_OF_A_DECODER, "decoder"):
            value = getattr(self, name)
            try:
                pickle.dumps(value)
            except Exception as error:
                raise pickle.PicklingError(
                    f"the {name} {value!r} cannot be pickled ({error}); give models by spec, so that they are loaded "
                    "again"
                ) from error
        return super().__getstate__()
