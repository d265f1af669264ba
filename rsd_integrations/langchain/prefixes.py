"""How to ask a LangChain model to continue a begun answer, and how to read its reply.

The facts are from each provider's API reference. A mode that a server ignores silently gives wrong text, so
`LangChainGenerator.probe` tests it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from langchain_core.language_models import BaseLLM
from langchain_core.messages import AIMessage, BaseMessage

from rsd_core import ConfigurationError, Path, RunError, Step, StepRequest, Usage
from rsd_integrations.langchain.compositions import AnyRunnable, ends_in_model, models_in
from rsd_integrations.langchain.partner_classes import described, prefix_fault
from rsd_integrations.turns import as_response

StopMode = Literal["kept", "told", "cut"]
"""How the end of a step is distinguished from the end of the answer. `kept`: the server is asked to leave the stop
string in the text (vLLM, SGLang). `told`: the reply's metadata names it (Anthropic). `cut`: no stop string is sent and
the text is cut here; always correct, but text beyond the step is paid for and wasted."""


@dataclass(frozen=True, slots=True)
class PrefixMode:
    """One way to send the beginning of an answer."""

    name: str
    summary: str
    """Models that support it."""
    stop: StopMode
    """Its default stop mode."""
    text: bool = False
    """Whether the model is an LLM that continues plain text, rather than a chat model."""
    exact: bool = True
    """Whether the model sees the beginning exactly; otherwise trailing white space is lost."""
    body: Mapping[str, Any] | None = None
    """Fields to add to the request's body."""
    flag: Mapping[str, Any] | None = None
    """Fields to mark the last message with."""


PREFIX_MODES = {
    mode.name: mode
    for mode in (
        PrefixMode("completion", "LLMs behind /v1/completions and local ones: OpenAI, OllamaLLM, …", "kept", text=True),
        PrefixMode(
            "continue_final_message",
            "chat models of vLLM and SGLang, through ChatOpenAI(base_url=…, use_responses_api=False)",
            "kept",
            body={"continue_final_message": True, "add_generation_prompt": False},
        ),
        PrefixMode("prefix_flag", "ChatMistralAI, DeepSeek's beta API", "cut", flag={"prefix": True}),
        PrefixMode("trailing_assistant", "Claude before 4.6, many Ollama templates", "cut", exact=False),
    )
}


def find_mode(name: str, model: AnyRunnable) -> PrefixMode:
    """The mode with this name, if the model's class supports it.

    Raises:
        ConfigurationError: The mode is unknown, or for another kind of model.
    """
    if name not in PREFIX_MODES:
        known = "; ".join(f"{mode.name} ({mode.summary})" for mode in PREFIX_MODES.values())
        raise ConfigurationError(f"prefix={name!r} is not a way to continue an answer. Ways: {known}")
    mode = PREFIX_MODES[name]
    for inner in models_in(model):
        kind = type(inner).__name__
        if mode.text != isinstance(inner, BaseLLM):
            raise ConfigurationError(
                f"prefix={name!r} is for {'LLMs' if mode.text else 'chat models'}, which {kind} is not. LLMs use "
                "completion, chat models the others."
            )
        if why := prefix_fault(inner, name):
            raise ConfigurationError(f"prefix={name!r} does not work with {described(inner)}: {why}")
    if mode.body is not None and not takes_body(model):
        raise ConfigurationError(
            f"prefix={name!r} adds fields to the request's body, and {described(model)} has no extra_body"
        )
    if not ends_in_model(model):
        raise ConfigurationError(
            f"prefix={name!r} needs the model's own answer, but the chain changes it: pass the model"
        )
    return mode


def takes_body(model: AnyRunnable) -> bool:
    """Whether a model's class can add fields to a request's body."""
    return all("extra_body" in getattr(type(inner), "model_fields", {}) for inner in models_in(model))


def with_beginning(messages: Sequence[BaseMessage], text: str, mode: PrefixMode) -> list[BaseMessage]:
    """Messages that end with the beginning of the answer."""
    if not text:
        return list(messages)
    shown = text if mode.exact else text.rstrip()
    return [*messages, AIMessage(shown, additional_kwargs=dict(mode.flag or {}))]


@dataclass(frozen=True, slots=True)
class Reply:
    """What a model wrote."""

    text: str
    reason: str | None
    """The provider's finish reason."""
    usage: Usage
    """Its usage, as reported by the provider or estimated."""
    thought: str = ""
    """The thought before the text, if separate."""

    @property
    def is_cut(self) -> bool:
        """Whether it hit its token limit."""
        return self.reason in _LENGTH


_LENGTH = {"length", "max_tokens", "MAX_TOKENS", "model_length", "max_output_tokens", "model_context_window_exceeded"}
_FAILED = {"abort", "error", "load"}


def whole(reply: Reply, path: Path, native: object = None) -> Step:
    """A reply as a turn."""
    _check(reply)
    text = as_response(reply.text, reply.thought, path, cut=reply.is_cut)
    return Step(text, "length" if reply.is_cut else "end", size=reply.usage.generated, native=native)


def first_step(reply: Reply, beginning: str, request: StepRequest, mode: PrefixMode, stop: StopMode) -> Step:
    """The first step of a reply that continues a response.

    If a reply continues beyond the step, only the step counts, with tokens in proportion to its characters.
    """
    _check(reply)
    text, splitter = reply.text, request.splitter
    assert splitter is not None
    if beginning and text.startswith(beginning):  # some APIs repeat the beginning
        text = text[len(beginning) :]
    if beginning and not mode.exact:
        text = text.lstrip("\n")
    end = splitter.end(text)
    if end is None and stop == "told" and reply.reason == "stop_sequence":
        mark = next(iter(splitter.stops), "")
        end = splitter.end(text := text + mark)
    if end is None:
        return Step(text, "length" if reply.is_cut else "end", size=reply.usage.generated)
    while isinstance(request.delimiter, str) and text[end : end + 1] == "\n":
        end += 1
    share = end / len(text)
    return Step(text[:end], "delimiter", size=max(1, round(share * reply.usage.generated)))


def _check(reply: Reply) -> None:
    if reply.reason in _FAILED:
        raise RunError(f"the model gave up: its finish reason is {reply.reason!r}", usage=reply.usage)
