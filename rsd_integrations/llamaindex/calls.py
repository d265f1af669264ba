"""Arguments of one `RSDLLM` call besides its fields: tools, and options of LlamaIndex models in the roles."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from typing import Any

from llama_index.core.tools import BaseTool

from rsd_core import ConfigurationError, Decoder, Drafter, Message, Prompt, Target
from rsd_integrations.llamaindex.roles import LlamaIndexGenerator
from rsd_integrations.tool_calls import sees_tools

logger = logging.getLogger(__name__)

OPTIONS = ("temperature", "top_p", "top_k", "max_tokens", "seed", "stop", "timeout", "max_retries")
"""Fields that may also be given per call."""
_CHOICES = ("tool_choice", "tool_required", "allow_parallel_tool_calls")
"""How tools are called."""


class ToolDefinition(dict[str, Any]):
    """A tool's definition in OpenAI's format, as shown by LlamaIndex events, with the tool itself."""

    def __init__(self, tool: BaseTool) -> None:
        super().__init__(tool.metadata.to_openai_tool(skip_length_check=True))
        self.tool = tool


class Call:
    """The options of one call, sorted.

    Args:
        options: All options given.
        passes_on: Whether LlamaIndex models write the whole answer: they get the options unknown to `RSDLLM`.

    Raises:
        ConfigurationError: An option is unknown.
    """

    def __init__(self, options: Mapping[str, Any], *, passes_on: bool) -> None:
        rest = {name: value for name, value in options.items() if name not in OPTIONS and value is not None}
        self.own = {name: value for name, value in options.items() if name in OPTIONS}
        self.tools: Sequence[BaseTool] = [_tool(tool) for tool in rest.pop("tools", ())]
        choice = {name: rest.pop(name) for name in _CHOICES if name in rest}
        self.inner: dict[str, Any] = {}
        """Options of the models' own calls."""
        self.single = choice.get("allow_parallel_tool_calls") is False and not passes_on
        """Whether only the first call of an answer may be executed."""
        if passes_on:
            self.inner = rest | (choice if self.tools else {})
            return
        if rest:
            raise ConfigurationError(
                f"a call of RSDLLM does not accept {', '.join(sorted(rest))}; it accepts {', '.join(OPTIONS)}"
            )
        if choice.get("tool_choice") not in (None, "auto", "none"):
            raise ConfigurationError(
                f"tool_choice={choice['tool_choice']!r} cannot be honoured: text models choose their calls "
                "themselves. Remove it, or use LlamaIndex LLMs as draft and target"
            )
        if choice.get("tool_choice") == "none":
            self.tools = ()
        if choice.get("tool_required"):
            logger.warning("a tool call is required, but text models cannot be forced to make one")

    def prompt(self, messages: Prompt, decoder: Decoder) -> Prompt:
        """The messages, with tools for models that read definitions from the prompt.

        Raises:
            ConfigurationError: A model cannot see the tools.
        """
        if not self.tools:
            return messages
        granularity = decoder.settings.granularity
        readers = [model for model in decoder.models if isinstance(model, Drafter | Target)]
        for model in readers:
            if not sees_tools(model, granularity):
                raise ConfigurationError(
                    f"{model.name} cannot call tools: its template does not show them. Use models whose chat "
                    "template does, or LlamaIndex's function-calling LLMs as draft and target"
                )
        if all(isinstance(model, LlamaIndexGenerator) for model in readers):
            return messages
        return (Message("tools", json.dumps([ToolDefinition(tool) for tool in self.tools])), *messages)


def _tool(tool: object) -> BaseTool:
    tool = tool.tool if isinstance(tool, ToolDefinition) else tool
    if not isinstance(tool, BaseTool):
        raise ConfigurationError(
            f"{tool!r:.80} is not a LlamaIndex tool such as FunctionTool.from_defaults(function); give tools to "
            "chat_with_tools"
        )
    return tool
