"""RSD as a LangChain chat model."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Sequence
from contextlib import aclosing, closing
from typing import Any, ClassVar, Literal

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel, LanguageModelInput, ModelProfile
from langchain_core.language_models.chat_models import agenerate_from_stream, generate_from_stream
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.outputs import ChatGenerationChunk, ChatResult
from langchain_core.runnables import Runnable, RunnableConfig
from langchain_core.runnables.config import get_config_list
from langchain_core.runnables.utils import AnyConfigurableField
from langchain_core.tools import BaseTool
from langchain_core.utils.function_calling import convert_to_openai_tool

from rsd_core import Model
from rsd_integrations.answer_forms import form_of
from rsd_integrations.langchain.chat_calls import Call, RSDMessages
from rsd_integrations.langchain.configurable import ConfigurableChat
from rsd_integrations.langchain.fields import CONFIG
from rsd_integrations.langchain.language_model import RSDLanguageModel
from rsd_integrations.langchain.runs import children, configure, run_of, told_before
from rsd_integrations.langchain.structured import writes_json
from rsd_integrations.langchain.wrapped_model import binds_tools
from rsd_integrations.tool_calls import sees_tools


class ChatRSD(RSDMessages, RSDLanguageModel, BaseChatModel):
    r"""Reward-guided speculative decoding wherever LangChain takes a chat model.

    Setup:
        `pip install "rsd-decoding[langchain]"`, and `[huggingface]` for in-process models.

    Instantiate:
        ```python
        model = ChatRSD(draft="embedded:draft", target="embedded:target", verifier="embedded:verifier")
        ```

        or over any LangChain models, by name or as objects, which then write whole messages (granularity `turn`):
        `ChatRSD(draft="openai:gpt-5-nano", target=ChatAnthropic(model="…"), verifier="openai:gpt-5-mini")`.
        Models named by spec are loaded on first use.

    Invoke:
        ```python
        message = model.invoke("Mia has 20 pens. Then she buys 12 more. How many pens does Mia have now?")
        assert "\\boxed{32}" in message.text
        ```

    Stream:
        One chunk per accepted or replaced step, never a rejected one. A chunk's `additional_kwargs["rsd_steps"]` has
        the step's author, reward and tokens.

    Async:
        Native. Concurrent calls share batches if the models support it.

    Tool calling:
        In turn granularity through the inner models' own `bind_tools`. In step granularity tools are rendered by the
        models' chat templates, and calls are parsed from the text (Hermes and Qwen format). A forced call is written as
        JSON following the tools' schema, after the reasoning.

    Structured output:
        `with_structured_output(Schema)`: in steps the models reason, then write JSON following the schema; in turns
        each inner model uses its own method.

    Thoughts:
        For models that think before they answer: reasoning blocks in `message.content_blocks`, also in streamed chunks,
        and not part of `text`. `content` is only the answer, and `additional_kwargs["reasoning_content"]` the thought;
        with `output_version="v1"`, `content` is the blocks. Messages in the history keep theirs.

    Token usage:
        `usage_metadata` is that of the answer's own call: the prompt as read, and the answer, with the thought's tokens
        as `reasoning`. So `total_tokens` is the size of the context so far. The cost of all three models, including
        rejected drafts, is in `bill_of(message)`, and `get_rsd_bill_callback()` sums it.

    Response metadata:
        `response_metadata["rsd"]` is the whole trace as data; `result_of(message)` turns it back into a `Result`.

    Per call: `stop` and the fields in `CALL_OPTIONS`; in turn granularity everything else goes to the inner models.
    """

    model_config = CONFIG
    _kind: ClassVar[Literal["llm", "chat"]] = "chat"

    streaming: bool = False
    """Whether `invoke` streams as well, so that callbacks see each step."""

    @property
    def model(self) -> str:
        """The model name, under LangChain's usual attribute."""
        return self.model_name

    @property
    def _llm_type(self) -> str:
        return "rsd-chat"

    def _resolve_model_profile(self) -> ModelProfile | None:
        """The supported features: in turns those of both inner models, in steps text."""
        if self.resolved().granularity == "turn":
            inner = [getattr(role.model, "profile", None) or {} for role in self.inner_models()]
            return _common(inner) if self.all_inner() else None
        tools = all(isinstance(model, Model) and sees_tools(model, "step") for model in self.writers())
        forms = all(map(writes_json, self.writers())) and bool(self.writers())
        return ModelProfile(
            text_inputs=True,
            text_outputs=True,
            image_inputs=False,
            pdf_inputs=False,
            audio_inputs=False,
            video_inputs=False,
            tool_calling=tools and bool(self.writers()),
            tool_choice=forms,
            structured_output=forms,
        )

    def bind_tools(
        self,
        tools: Sequence[dict[str, Any] | type | Callable[..., Any] | BaseTool],
        *,
        tool_choice: str | dict[str, Any] | bool | None = None,
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, AIMessage]:
        """Let the models call tools.

        Args:
            tools: Tools as LangChain takes them.
            tool_choice: In turn granularity as for the inner models; in step granularity "auto", "none", "any" or
                "required", or a tool's name.
            **kwargs: In turn granularity for the inner models' `bind_tools`; in step granularity `response_format`,
                which applies if no tool is called, `strict`, which forced calls always are, and `parallel_tool_calls`,
                of which False is only possible if a call or the form of the answer is forced.

        Raises:
            ValueError: There is no such tool, or an inner model cannot call tools.
        """
        if self.resolved().granularity == "step":
            if others := sorted(set(kwargs) - _BOUND):
                raise ValueError(f"bind_tools takes no {others} in step granularity")
            form_of([convert_to_openai_tool(tool) for tool in tools], tool_choice)
        for role in self.inner_models():
            if not binds_tools(role.model):
                raise ValueError(f"{role.name} ({type(role.model).__name__}) cannot call tools: it has no bind_tools")
        definitions = [tool if isinstance(tool, dict) else convert_to_openai_tool(tool) for tool in tools]
        choice = {} if tool_choice is None else {"tool_choice": tool_choice}
        return self.bind(tools=definitions, **choice, **kwargs)

    def configurable_fields(self, **kwargs: AnyConfigurableField) -> ConfigurableChat[Any, Any]:
        """Like LangChain's, but the fields stay configurable when tools are bound."""
        return ConfigurableChat(default=self, fields=dict(super().configurable_fields(**kwargs).fields))  # type: ignore[attr-defined]

    def batch(
        self,
        inputs: list[LanguageModelInput],
        config: RunnableConfig | list[RunnableConfig] | None = None,
        *,
        return_exceptions: bool = False,
        **kwargs: Any,
    ) -> list[AIMessage]:
        # The threads only wait: the models batch concurrent requests. LangChain's default is a few per core.
        return super().batch(inputs, _wide(config, min(64, len(inputs))), return_exceptions=return_exceptions, **kwargs)

    async def abatch(
        self,
        inputs: list[LanguageModelInput],
        config: RunnableConfig | list[RunnableConfig] | None = None,
        *,
        return_exceptions: bool = False,
        **kwargs: Any,
    ) -> list[AIMessage]:
        return await super().abatch(inputs, _wide(config, len(inputs)), return_exceptions=return_exceptions, **kwargs)

    def invoke(self, input: LanguageModelInput, config: RunnableConfig | None = None, **kwargs: Any) -> AIMessage:
        with run_of(config):
            return super().invoke(input, self._told(config), **kwargs)

    async def ainvoke(
        self, input: LanguageModelInput, config: RunnableConfig | None = None, **kwargs: Any
    ) -> AIMessage:
        with run_of(config):
            return await super().ainvoke(input, self._told(config), **kwargs)

    def stream(
        self, input: LanguageModelInput, config: RunnableConfig | None = None, **kwargs: Any
    ) -> Iterator[AIMessageChunk]:
        yield from super().stream(input, self._told(config), **kwargs)

    async def astream(
        self, input: LanguageModelInput, config: RunnableConfig | None = None, **kwargs: Any
    ) -> AsyncIterator[AIMessageChunk]:
        async for chunk in super().astream(input, self._told(config), **kwargs):
            yield chunk

    def _told(self, config: RunnableConfig | None) -> RunnableConfig | None:
        """The configuration of a call; if traces see inner models, it identifies their parent."""
        configure(config)
        return told_before(config) if self.traces() else config

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        call = Call(self, messages, stop, kwargs, children(run_manager))
        return call.settled(generate_from_stream(self._chunks(call)))

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        call = Call(self, messages, stop, kwargs, children(run_manager))
        return call.settled(await agenerate_from_stream(self._achunks(call)))

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        call = Call(self, messages, stop, kwargs, children(run_manager))
        with closing(self._chunks(call)) as chunks:
            for chunk in chunks:
                if run_manager:  # before the consumer gets it
                    run_manager.on_llm_new_token(chunk.text, chunk=chunk)
                yield chunk

    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncGenerator[ChatGenerationChunk, None]:
        call = Call(self, messages, stop, kwargs, children(run_manager))
        async with aclosing(self._achunks(call)) as chunks:
            async for chunk in chunks:
                if run_manager:
                    await run_manager.on_llm_new_token(chunk.text, chunk=chunk)
                yield chunk


_BOUND = frozenset({"response_format", "strict", "parallel_tool_calls", "ls_structured_output_format"})


def _wide(
    config: RunnableConfig | list[RunnableConfig] | None, width: int
) -> RunnableConfig | list[RunnableConfig] | None:
    """The configurations of a batch, with its concurrency, by default the given one."""
    return [{"max_concurrency": width, **one} for one in get_config_list(config, width)] if width else config


def _common(profiles: list[Any]) -> ModelProfile | None:
    """The intersection of profiles: the smallest numbers, and features common to all."""
    shared: dict[str, Any] = {}
    for key in set.intersection(*map(set, profiles)):
        values = [profile[key] for profile in profiles]
        if isinstance(values[0], bool):
            shared[key] = all(values)
        elif isinstance(values[0], int):
            shared[key] = min(values)
    return ModelProfile(**shared) if shared else None  # type: ignore[typeddict-item]
