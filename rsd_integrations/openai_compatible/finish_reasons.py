"""What a server's finish reason means: an end, a length, a fault of the server, or what no step can be made of."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NoReturn

from rsd_core import ConfigurationError, PromptError, RunError
from rsd_core.paths import Ending

_ENDINGS: dict[str, Ending] = {
    "stop": "end",
    "eos": "end",  # Together
    "eos_token": "end",  # text-generation-inference, as is the next one
    "stop_sequence": "end",
    "end_turn": "end",  # gateways to Anthropic
    "stop_token": "end",
    "complete": "end",  # Cohere
    "completed": "end",
    "length": "length",
    "max_tokens": "length",  # gateways to Anthropic, Google and Cohere
    "max_output_tokens": "length",
    "model_length": "length",  # Mistral, where the window is full
}
"""In lower case: some shout."""
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
        server: What messages call it.
    """

    def __init__(self, server: str = "the server") -> None:
        self._server = server
        self._told = False
        self._missing = 0

    def ending(self, choice: Mapping[str, Any]) -> Ending | None:
        """What the finish reason of a choice means; None where it has none yet.

        Raises:
            RunError: The server gave up, and may be asked again.
            PromptError: A filter stopped the answer.
            ConfigurationError: It means nothing that a step could end by; asked again, it would come again.
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
                f"a filter of {self._server} stopped the answer (finish reason {reason!r}). It is not asked again; "
                "another prompt, or a server without that filter"
            )
        if is_call(reason):
            raise ConfigurationError(
                f"{self._server}: the model called a tool where a step is text (finish reason {reason!r}). Remedy: "
                "leave the tools out of body.NAME=…, or body.tool_choice=none"
            )
        raise ConfigurationError(
            f"{self._server} ended its answer for the reason {reason!r:.80}, of which nothing is known: an end, a "
            f"length or a fault? Known are {', '.join(_ENDINGS)}. It is not asked again"
        )

    def missing(self) -> NoReturn:
        """An answer that is all there has none: was it cut?

        Raises:
            RunError: The server told them before, so this answer is cut; also the first time that one is missing.
            ConfigurationError: The server seems to tell none at all.
        """
        self._missing += 1
        if self._told or self._missing == 1:
            raise RunError("the answer has no finish reason: it was cut short")
        raise ConfigurationError(
            f"{self._server} tells no finish reasons, so that nobody knows whether an answer is whole. Remedies: the "
            "base URL of the server behind it, if a gateway leaves them out; no logprobs=true, which costs some "
            "streams theirs"
        )
