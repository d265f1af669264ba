"""One call's request, and the chunks that answer it: shared by everything here that returns messages."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator, Iterator
from contextlib import aclosing, closing, contextmanager
from typing import Any, Literal

from langchain_core.callbacks import BaseCallbackManager
from langchain_core.language_models import LanguageModelInput
from langchain_core.messages import BaseMessage
from langchain_core.outputs import ChatGenerationChunk, ChatResult
from langchain_core.runnables import Runnable
from langchain_core.utils.function_calling import convert_to_openai_tool

from rsd_core import Decoder, Drafter, Prompt, Target
from rsd_core.stopping import as_stop
from rsd_integrations.answer_forms import AnswerForm, form_of
from rsd_integrations.chat_fields import TURN_FIELDS
from rsd_integrations.langchain.bill import model_names, naming
from rsd_integrations.langchain.chunks import MessageChunks
from rsd_integrations.langchain.fields import CALL_OPTIONS, RSDFields
from rsd_integrations.langchain.messages import as_prompt, text_only
from rsd_integrations.langchain.silent_calls import errors_as_raised
from rsd_integrations.langchain.structured import structured
from rsd_integrations.tool_calls import sees_tools


class RSDMessages(RSDFields):
    """The fields, with the conversion from messages to chunks."""

    def with_structured_output(
        self,
        schema: Any = None,
        *,
        method: Literal["json_schema", "function_calling", "json_mode"] | None = None,
        include_raw: bool = False,
        strict: bool | None = None,
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, Any]:
        """Return an object as the answer.

        In steps the models reason first, then write JSON following the schema: it is the message's `content`, and the
        reasoning its thought. In turns each LangChain model uses its own `with_structured_output`.

        Args:
            schema: A Pydantic class, a `TypedDict`, or a JSON Schema, as in LangChain.
            method: In turns as for the inner models. In steps all three follow the schema.
            include_raw: Return `raw`, `parsed` and `parsing_error`, as LangChain does.
            strict: In turns as for the inner models. In steps every answer follows the schema.
            **kwargs: For the inner models, in turns.

        Raises:
            ValueError: A schema is missing, or an argument is only for inner models.
        """
        return structured(self, schema, method=method, include_raw=include_raw, strict=strict, **kwargs)

    def _chunks(self, call: Call) -> Generator[ChatGenerationChunk, None, None]:
        decoder = call.model.make_decoder(**call.inner)
        call.chunks.models, decoder = model_names(decoder), call.shaped(decoder)
        with _errors(call), closing(decoder.stream(call.prompt(decoder), stop=call.stop)) as events:
            for event in events:
                yield from call.chunks.feed(event)

    async def _achunks(self, call: Call) -> AsyncGenerator[ChatGenerationChunk, None]:
        decoder = await call.model.amake_decoder(**call.inner)
        call.chunks.models, decoder = model_names(decoder), call.shaped(decoder)
        with _errors(call):
            async with aclosing(decoder.astream(call.prompt(decoder), stop=call.stop)) as events:
                async for event in events:
                    for chunk in call.chunks.feed(event):
                        yield chunk


@contextmanager
def _errors(call: Call) -> Iterator[None]:
    """Convert errors to the types callers expect, with what bills need."""
    with errors_as_raised(), naming(call.chunks.models):
        yield


class Call:
    """One call: fields of the model, options of inner models, tools, stop strings, callbacks of inner runs."""

    def __init__(
        self,
        model: RSDMessages,
        messages: list[BaseMessage],
        stop: list[str] | None,
        kwargs: dict[str, Any],
        callbacks: BaseCallbackManager | None = None,
    ) -> None:
        own = {name: kwargs.pop(name) for name in CALL_OPTIONS if name in kwargs}
        self.model = model.with_options(own)
        self.messages = messages
        if "model" in kwargs:
            raise ValueError("RSD does not accept model with a call: two models write, set by `draft` and `target`")
        self.tools: list[dict[str, Any]] = kwargs.pop("tools", None) or []
        self.stop = list(as_stop(self.model.stop if stop is None else stop))
        self.callbacks = callbacks
        self.inner: dict[str, Any] = {"callbacks": callbacks}
        """Arguments for inner models. They get messages, tools and options unchanged, and stop by themselves."""
        settings = self.model.resolved()
        self.granularity = settings.granularity
        self.passes_on = self.granularity == "turn" and self.model.all_inner()
        kwargs.pop("ls_structured_output_format", None)  # for traces; chat models remove it themselves
        self.form: AnswerForm | None = None
        if self.passes_on:
            stop_option = {"stop": self.stop} if self.stop else {}
            self.inner |= {"options": kwargs | stop_option, "tools": self.tools}
        else:
            text_only(messages)
            fields = {name: value for name in TURN_FIELDS if (value := kwargs.pop(name, None)) is not None}
            if self.granularity == "step":
                self.form = form_of([convert_to_openai_tool(tool) for tool in self.tools], **fields)
                kwargs.pop("strict", None)  # answers with a form are always strict
            elif fields and not self.model.writers():
                raise ValueError(
                    f"RSD does not accept {sorted(fields)} with a given decoder in turns, whose models cannot be "
                    "changed"
                )
            else:
                self.inner |= {"fields": fields}
            if fields.get("tool_choice") == "none":
                self.tools = []
            if kwargs:
                raise ValueError(
                    f"RSD does not accept {sorted(kwargs)} in calls of models other than LangChain's; it accepts "
                    f"stop, {', '.join((*CALL_OPTIONS, *TURN_FIELDS))}"
                )
        self.chunks = MessageChunks(
            self.model.model_name,
            self.stop,
            tools=bool(self.tools) and not self.passes_on,
            form=self.form,
            traced=self.model.trace_inner,
            markers=settings.thoughts.markers,
        )

    def settled(self, result: ChatResult) -> ChatResult:
        """The chunks' result, with its message as if it had never been in chunks."""
        self.chunks.settle(result.generations[0].message)
        return result

    def shaped(self, decoder: Decoder) -> Decoder:
        """A decoder that answers in the required form."""
        return decoder if self.form is None else self.form.decoder(decoder)

    def prompt(self, decoder: Decoder) -> Prompt:
        """The messages, and the tools if the models see them."""
        blind = [
            model.name
            for model in decoder.models
            if isinstance(model, Drafter | Target) and not sees_tools(model, self.granularity)
        ]
        if not self.tools or self.passes_on or not blind:
            return as_prompt(self.messages, self.tools)
        if self.form is not None and self.form.calls:  # the form describes them
            return as_prompt(self.messages)
        raise ValueError(
            f"{blind[0]} cannot choose tools to call: its chat template does not show them. Use models whose template "
            'does, tool_choice="any", or chat models with granularity="turn".'
        )
