"""What a server's finish reason means: an end, a length limit, a fault of the server, or no valid end of a step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NoReturn

from rsd_core import ConfigurationError, PromptError, RunError
from rsd_core.paths import Ending

_ENDINGS: dict[str, Ending] = {
    "stop": "end",
    "eos": "end",  # Together
    "eos_token": "end",  # text-generation-inference, as the next one
    "stop_sequence": "end",
    "end_turn": "end",  # gateways to Anthropic
    "stop_token": "end",
    "complete": "end",  # Cohere
    "completed": "end",
    "length": "length",
    "max_tokens": "length",  # gateways to Anthropic, Google and Cohere
    "max_output_tokens": "length",
    "model_length": "length",  # Mistral, when the window is full
}
"""In lower case, since some servers use capitals."""
_GAVE_UP = frozenset({"abort", "aborted", "cancelled", "canceled", "error", "repetition"})
_FILTERED = frozenset(
    {"content_filter", "content_filtered", "safety", "refusal", "recitation", "blocklist", "prohibited_content", "spii"}
    | {"guardrail_intervened"}
)
_CALLS = frozenset({"tool_calls", "tool_call", "tool_use", "function_call"})


def is_call(reason: object) -> bool:
    """Whether a finish reason says that the model called a tool."""
    return isinstance(reason, str) and reason.lower() in _CALLS


class FinishReasons:
    """The finish reasons of one server: those of its bodies, or those of its streams.

    Args:
        server: Its name in messages.
    """

    def __init__(self, server: str = "the server") -> None:
        self._server = server
        self._told = False
        self._missing = 0

    def ending(self, choice: Mapping[str, Any]) -> Ending | None:
        """The meaning of a choice's finish reason; None if it has none yet.

        Raises:
            RunError: The server gave up; a retry may help.
            PromptError: A filter stopped the answer.
            ConfigurationError: It cannot end a step, and would occur again on a retry.
        """
        reason = choice.get("finish_reason")
        if reason in (None, ""):
            return None
        self._told = True
        word = reason.lower() if isinstance(reason, str) else ""
        if word in _ENDINGS:
            return _ENDINGS[word]
        if word in _GAVE_UP:
            raise RunError(f"the server gave up: its finish reason is {reason!r}")
        if word in _FILTERED:
            raise PromptError(
                f"a filter of {self._server} stopped the answer (finish reason {reason!r}). It is not retried; use "
                "another prompt, or a server without that filter"
            )
        if is_call(reason):
            raise ConfigurationError(
                f"{self._server}: the model called a tool instead of writing a text step (finish reason {reason!r}). "
                "Remedy: remove the tools from body.NAME=…, or set body.tool_choice=none"
            )
        raise ConfigurationError(
            f"{self._server} ended its answer for the unknown reason {reason!r:.80}: an end, a length limit or a "
            f"fault? Known are {', '.join(_ENDINGS)}. It is not retried"
        )

    def missing(self) -> NoReturn:
        """Handle a complete answer without a finish reason: was it cut?

        Raises:
            RunError: The server sent them before, so this answer was cut; also the first time that one is missing.
            ConfigurationError: The server seems to send none at all.
        """
        self._missing += 1
        if self._told or self._missing == 1:
            raise RunError("the answer has no finish reason: it was cut short")
        raise ConfigurationError(
            f"{self._server} sends no finish reasons, so it is unknown whether an answer is complete. Remedies: the "
            "base URL of the server behind it, if a gateway drops them; no logprobs=true, which removes them from "
            "some streams"
        )
