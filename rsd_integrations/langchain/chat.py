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
        `pip install "rsd-decoding[langchain]"`, and `[huggingface]` for models in process.

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
        A chunk for each accepted or replaced step, never a rejected one. `additional_kwargs["rsd_steps"]` of a chunk
        tells the step's author, reward and tokens.

    Async:
        Native. Concurrent calls share batches where the models can.

    Tool calling:
        In turn granularity through the inner models' own `bind_tools`. In step granularity tools are rendered by the
        models' chat templates, and calls read from the text (Hermes and Qwen form). A forced call is written as JSON
        by the tools' schema, after the reasoning.

    Structured output:
        `with_structured_output(Schema)`: in steps the models reason, and then write JSON by the schema; in turns each
        inner model does what its own method does.

    Thoughts:
        Of models that think before they answer: reasoning blocks of `message.content_blocks`, in streamed chunks as
        well, and no part of `text`. `content` is the answer alone, and `additional_kwargs["reasoning_content"]` the
        thought; with `output_version="v1"` `content` is the blocks. Messages of a history keep theirs.

    Token usage:
        `usage_metadata` is that of the answer's own call: the prompt as it was read, and the answer, of which
        `reasoning` are the tokens of the thought. So `total_tokens` is the size of the context so far. What all three
        models cost, rejected drafts included, is in `bill_of(message)`, and `get_rsd_bill_callback()` sums it.

    Response metadata:
        `response_metadata["rsd"]` is the whole trace as data; `result_of(message)` makes it a `Result` again.

    Of one call: `stop` and the fields in `CALL_OPTIONS`; in turn granularity everything else goes to the inner models.
    """

    model_config = CONFIG
    _kind: ClassVar[Literal["llm", "chat"]] = "chat"

    streaming: bool = False
    """Whether `invoke` streams as well, so that callbacks hear of each step."""

    @property
    def model(self) -> str:
        """The model name, as LangChain's packages call it."""
        return self.model_name

    @property
    def _llm_type(self) -> str:
        return "rsd-chat"

    def _resolve_model_profile(self) -> ModelProfile | None:
        """What can be honoured: in turns what both inner models can, in steps text."""
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
            tool_choice: In turn granularity as the inner models take it; in step granularity "auto", "none", "any" or
                "required", or a tool's name.
            **kwargs: In turn granularity for the inner models' `bind_tools`; in step granularity `response_format`,
                which the answer has where no tool is called, and `strict`, which calls are that are forced.

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
        """As LangChain's, and the fields stay configurable when tools are bound."""
        return ConfigurableChat(default=self, fields=dict(super().configurable_fields(**kwargs).fields))  # type: ignore[attr-defined]

    def batch(
        self,
        inputs: list[LanguageModelInput],
        config: RunnableConfig | list[RunnableConfig] | None = None,
        *,
        return_exceptions: bool = False,
        **kwargs: Any,
    ) -> list[AIMessage]:
        # The threads only wait: the models coalesce what is asked at once. LangChain's default is a few per core.
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
        """The configuration of a call; where traces see inner models, it says whose children those are."""
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
                if run_manager:  # before the consumer has it
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
    """The configurations of a batch, which say how wide it is: by default so wide."""
    return [{"max_concurrency": width, **one} for one in get_config_list(config, width)] if width else config


def _common(profiles: list[Any]) -> ModelProfile | None:
    """What profiles allow: the smallest number, and what all can."""
    shared: dict[str, Any] = {}
    for key in set.intersection(*map(set, profiles)):
        values = [profile[key] for profile in profiles]
        if isinstance(values[0], bool):
            shared[key] = all(values)
        elif isinstance(values[0], int):
            shared[key] = min(values)
    return ModelProfile(**shared) if shared else None  # type: ignore[typeddict-item]
