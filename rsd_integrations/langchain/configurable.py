"""`ChatRSD(...).configurable_fields(...)`, with tools as well."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from langchain_core.language_models import BaseChatModel, LanguageModelInput
from langchain_core.messages import AIMessage
from langchain_core.runnables import Runnable, RunnableBinding
from langchain_core.runnables.configurable import RunnableConfigurableFields
from langchain_core.runnables.utils import Input, Output


class ConfigurableChat(RunnableConfigurableFields[Input, Output]):
    """A chat model that stays configurable when tools are bound to it.

    LangChain's own class delegates `bind_tools` to the model inside, whose result ignores the configuration.
    """

    def bind_tools(self, tools: Sequence[Any], **kwargs: Any) -> Runnable[LanguageModelInput, AIMessage]:
        """See `ChatRSD.bind_tools`."""
        model = cast("BaseChatModel", self.default)
        bound = cast("RunnableBinding[LanguageModelInput, AIMessage]", model.bind_tools(tools, **kwargs))
        return cast("Runnable[LanguageModelInput, AIMessage]", self.bind(**bound.kwargs))

    def with_structured_output(self, schema: Any, **kwargs: Any) -> Runnable[LanguageModelInput, Any]:
        """See `BaseChatModel.with_structured_output`."""
        return BaseChatModel.with_structured_output(cast("BaseChatModel", self), schema, **kwargs)
