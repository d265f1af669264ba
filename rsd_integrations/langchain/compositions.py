"""Models inside LangChain's wrappers: `bind`, `with_retry`, `with_fallbacks`, configurations and chains.

The whole composition plays a role, and call arguments go to the models inside: tools and fields are bound to each,
under the names in its class.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from typing import Any

from langchain_core.language_models import BaseLanguageModel
from langchain_core.output_parsers import BaseOutputParser
from langchain_core.prompts import BasePromptTemplate, ChatPromptTemplate, MessagesPlaceholder
from langchain_core.runnables import Runnable, RunnableConfig, RunnableSequence, RunnableWithFallbacks
from langchain_core.runnables.base import RunnableBindingBase
from langchain_core.runnables.config import ensure_config, merge_configs
from langchain_core.runnables.configurable import DynamicRunnable

from rsd_core import ConfigurationError

AnyRunnable = Runnable[Any, Any]


def models_in(model: AnyRunnable) -> list[AnyRunnable]:
    """The models that may be called, in calling order; for a chain without any, the chain."""
    return list(_models(settled(model)))


def unbound(model: AnyRunnable) -> AnyRunnable:
    """The model called first, without wrappers."""
    return models_in(model)[0]


def rebuilt(model: AnyRunnable, change: Callable[[AnyRunnable], AnyRunnable]) -> AnyRunnable:
    """The same composition with each model inside replaced."""
    if isinstance(model, RunnableBindingBase):
        return model.model_copy(update={"bound": rebuilt(model.bound, change)})
    if isinstance(model, RunnableWithFallbacks):
        others = [rebuilt(other, change) for other in model.fallbacks]
        return model.model_copy(update={"runnable": rebuilt(model.runnable, change), "fallbacks": others})
    if isinstance(model, RunnableSequence) and any(map(_has_model, model.steps)):
        return _chain([rebuilt(step, change) if _has_model(step) else step for step in model.steps])
    return change(model)


def settled(model: AnyRunnable, config: RunnableConfig | None = None) -> AnyRunnable:
    """The model as configured by the current run, no longer configurable.

    Args:
        model: A model or composition.
        config: Additional configuration.
    """
    if isinstance(model, DynamicRunnable):
        prepared, config = model.prepare(ensure_config(config))
        return settled(prepared, config)
    if type(model).__name__ == "_ConfigurableModel":  # what init_chat_model(configurable_fields=…) makes
        return settled(model._model(config))  # type: ignore[attr-defined]
    if isinstance(model, RunnableBindingBase):
        bound = settled(model.bound, merge_configs(config, model.config))
        return model if bound is model.bound else model.model_copy(update={"bound": bound})
    if isinstance(model, RunnableWithFallbacks):
        every = [settled(one, config) for one in model.runnables]
        if all(new is old for new, old in zip(every, model.runnables, strict=True)):
            return model
        return model.model_copy(update={"runnable": every[0], "fallbacks": every[1:]})
    if isinstance(model, RunnableSequence):
        steps = [settled(step, config) for step in model.steps]
        return model if all(new is old for new, old in zip(steps, model.steps, strict=True)) else _chain(steps)
    return model


def ends_in_model(model: AnyRunnable) -> bool:
    """Whether the output is the model's own answer, tool calls included: not if a chain continues after its model."""
    model = settled(model)
    if isinstance(model, RunnableBindingBase):
        return ends_in_model(model.bound)
    if isinstance(model, RunnableWithFallbacks):
        return all(map(ends_in_model, model.runnables))
    return not isinstance(model, RunnableSequence) or (_has_model(model.last) and ends_in_model(model.last))


def check_composition(model: AnyRunnable) -> None:
    """Refuse chains that cannot play a role, which takes messages and returns a message or a text.

    Raises:
        ConfigurationError: A chain begins with a prompt with other inputs, has several models, or ends in a parser
            whose output is not text; or it is a graph.
    """
    model = settled(model)
    if isinstance(model, RunnableBindingBase):
        return check_composition(model.bound)
    langgraph = sys.modules.get("langgraph.pregel.protocol")  # without it there are no graphs
    if langgraph is not None and isinstance(model, langgraph.PregelProtocol):
        raise ConfigurationError(
            "a graph maps states to states, but a role maps messages to a message. Pass RunnableLambda(lambda "
            "messages: graph.invoke({'messages': messages})['messages'][-1])"
        )
    if isinstance(model, RunnableWithFallbacks):
        for one in model.runnables:
            check_composition(one)
    if not isinstance(model, RunnableSequence):
        return None
    first, last = model.first, model.last
    if isinstance(first, BasePromptTemplate) and not _takes_messages(first):
        raise ConfigurationError(
            f"the chain begins with a prompt of the variables {sorted(first.input_variables)}, but a role gets "
            "messages. Pass only the model and put the prompt before RSD, prompt | ChatRSD(...); or a prompt with a "
            "single MessagesPlaceholder"
        )
    if sum(map(_has_model, model.steps)) > 1:
        raise ConfigurationError("the chain has several models, so it is unclear which of them writes. Pass one")
    if isinstance(last, BaseOutputParser) and _output(last) is not str:
        raise ConfigurationError(
            f"the chain ends in {type(last).__name__}, whose output is neither a message nor a text. Pass only the "
            "model and put the parser after RSD, ChatRSD(...) | parser"
        )
    for step in model.steps:
        check_composition(step)
    return None


def _models(model: AnyRunnable) -> Iterator[AnyRunnable]:
    if isinstance(model, RunnableBindingBase):
        yield from _models(model.bound)
    elif isinstance(model, RunnableWithFallbacks):
        for one in model.runnables:
            yield from _models(one)
    elif isinstance(model, RunnableSequence) and any(map(_has_model, model.steps)):
        for step in filter(_has_model, model.steps):
            yield from _models(step)
    else:
        yield model


def _has_model(step: AnyRunnable) -> bool:
    return any(isinstance(model, BaseLanguageModel) for model in _models(settled(step)))


def _takes_messages(prompt: BasePromptTemplate[Any]) -> bool:
    """Whether a prompt accepts messages directly: if they are its only variable."""
    return isinstance(prompt, ChatPromptTemplate) and prompt.input_variables == [
        message.variable_name for message in prompt.messages if isinstance(message, MessagesPlaceholder)
    ]


def _output(parser: BaseOutputParser[Any]) -> object:
    try:
        return parser.OutputType
    except TypeError:  # unspecified
        return None


def _chain(steps: list[AnyRunnable]) -> AnyRunnable:
    return RunnableSequence(*steps)
