"""Requests: the OpenAI fields that can be honoured, and why the others cannot."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

import orjson
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    model_validator,
)

from rsd_core import Limits, Policy
from rsd_core.data import Data, nearest
from rsd_integrations.serve.errors import ApiError, unsupported

MAX_CHOICES = 128
"""Maximum answers per request, as in the OpenAI API."""
MAX_STOPS = 64
"""Maximum stop strings per request: each is searched for at every step."""
_MIXTURE = "an answer is a mixture of two models' steps, which has no such likelihood"
_SAMPLER = "both models sample only by temperature, top_p and top_k"
_HOLDS = "this server stores nothing"
REFUSED: dict[str, tuple[tuple[Any, ...], str]] = {
    "audio": ((), "answers are text"),
    "background": ((False,), _HOLDS),
    "best_of": ((1,), "use n, or a best_of_n model of this server"),
    "context_management": (([],), _HOLDS),
    "conversation": ((), _HOLDS),
    "echo": ((False,), "the prompt is not sent back"),
    "frequency_penalty": ((0,), _SAMPLER),
    "function_call": (("none",), "it was replaced by tool_choice"),
    "functions": (([],), "they were replaced by tools"),
    "logit_bias": (({},), _SAMPLER),
    "logprobs": ((False,), _MIXTURE),
    "max_tool_calls": ((), "no tool runs here"),
    "min_p": ((0,), _SAMPLER),
    "modalities": ((["text"],), "answers are text"),
    "prediction": ((), "drafts come from the drafter"),
    "presence_penalty": ((0,), _SAMPLER),
    "previous_response_id": ((), _HOLDS),
    "prompt_logprobs": ((), _MIXTURE),
    "repetition_penalty": ((1,), _SAMPLER),
    "store": ((False,), _HOLDS),
    "suffix": (("",), "text is written at the end"),
    "top_logprobs": ((0,), _MIXTURE),
    "web_search_options": ((), "no tool runs here"),
}
"""Fields that would change the answer but cannot be honoured: their harmless values besides null, and the reason."""
IGNORED = frozenset(
    {"metadata", "prompt_cache_key", "prompt_cache_retention", "safety_identifier", "service_tier", "user", "verbosity"}
)
"""Fields that do not affect the answer."""
_FIELDS = ("reasoning_effort", "chat_template_kwargs", "tool_choice", "parallel_tool_calls", "response_format")


def _from_client(policy: Any, parse: ValidatorFunctionWrapHandler) -> Any:
    """A policy that names no file: clients may not read this machine's files."""
    try:
        if _names_file(policy):
            raise ValueError("give a policy as text or data, not as a file on the server")
        return parse(policy)
    except RecursionError:
        raise ValueError("the policy has too many rules before it") from None


def _names_file(value: Any) -> bool:
    if isinstance(value, Mapping):
        return any(_names_file(part) for part in value.values())
    if isinstance(value, list):
        return any(_names_file(part) for part in value)
    return isinstance(value, str) and ".json" in value  # anywhere: `first_steps:then=FILE,n=1` names one as well


class Own(Data):
    """This project's extensions to a request, in the field `rsd`."""

    policy: Annotated[Policy | None, WrapValidator(_from_client)] = None
    """Overrides the model's policy: text such as `binary_step:0.7`, or data."""
    limits: Limits | None = None
    """Hard limits; they tighten those of the model, and never widen them."""
    trace: bool = False
    """Whether the answer includes its steps: author, reward, acceptance, tokens and text."""


class StreamOptions(BaseModel):
    """Streaming options."""

    model_config = ConfigDict(extra="ignore")

    include_usage: bool = False


class Asked(BaseModel):
    """Fields common to all routes."""

    model_config = ConfigDict(extra="allow", json_schema_extra={"additionalProperties": False})

    model: str
    temperature: Annotated[float, Field(ge=0, le=5)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=-1), AfterValidator(lambda k: max(0, k))] | None = None
    """0 and -1 for all tokens."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] | None = None
    stream: bool | None = None
    reasoning_effort: str | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    rsd: Own = Own()

    @model_validator(mode="before")
    @classmethod
    def _plain(cls, data: Any) -> Any:
        """Reject lone surrogates and endless nesting here, before they reach any model."""
        try:
            orjson.dumps(data, default=repr)  # non-JSON objects occur only in requests made in-process
        except TypeError as error:
            raise ValueError(f"the body is not JSON that other programs accept: {error}") from None
        return data

    @model_validator(mode="after")
    def _supported(self) -> Self:
        for name, value in (self.model_extra or {}).items():
            if value is None or name in IGNORED:
                continue
            if name not in REFUSED:
                known = list(type(self).model_fields)
                near = nearest(name, [*known, *REFUSED, *IGNORED])
                what = f"did you mean {near}?" if near else f"known are {', '.join(known)}"
                raise ApiError(400, f"unknown field {name!r:.80}: {what}", param=name[:80], code="unknown_parameter")
            harmless, why = REFUSED[name]
            if not any(value == one and isinstance(value, bool) == isinstance(one, bool) for one in harmless):
                raise unsupported(name, why)
        return self

    @property
    def fields(self) -> dict[str, Any]:
        """Additional fields for the models (see `Generator.with_fields`)."""
        return {name: value for name in _FIELDS if (value := getattr(self, name, None)) is not None}

    @property
    def longest(self) -> int | None:
        """Maximum tokens of the response."""
        return None


class _Choices(Asked):
    n: Annotated[int, Field(ge=1, le=MAX_CHOICES)] | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    stop: (
        str | Annotated[list[Annotated[str, Field(min_length=1)]], Field(max_length=MAX_STOPS, fail_fast=True)] | None
    ) = None
    stream_options: StreamOptions | None = None

    @property
    def stops(self) -> tuple[str, ...]:
        """The stop strings."""
        return (self.stop,) if isinstance(self.stop, str) and self.stop else tuple(self.stop or ())

    @property
    def longest(self) -> int | None:
        return self.max_tokens


class ChatRequest(_Choices):
    """The body of /v1/chat/completions."""

    messages: Annotated[list[dict[str, Any]], Field(min_length=1, fail_fast=True)]
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    tools: Annotated[list[dict[str, Any]], Field(fail_fast=True)] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    response_format: dict[str, Any] | None = None

    @property
    def longest(self) -> int | None:
        given = [most for most in (self.max_tokens, self.max_completion_tokens) if most is not None]
        return min(given, default=None)


def _texts(prompt: Any) -> Any:
    """Reject prompts of token ids, which evaluation clients send by default."""
    if isinstance(prompt, list) and any(isinstance(part, int | list) for part in prompt):
        raise ValueError(
            "a prompt must be text, not token ids: two models read it, each with its own tokenizer; "
            "lm-evaluation-harness sends texts with tokenizer_backend=None"
        )
    return prompt


class CompletionRequest(_Choices):
    """The body of /v1/completions. A prompt is one user message, rendered by the models' chat templates."""

    prompt: Annotated[str | Annotated[list[str], Field(min_length=1, max_length=MAX_CHOICES)], BeforeValidator(_texts)]

    @property
    def prompts(self) -> list[str]:
        """One or several."""
        return [self.prompt] if isinstance(self.prompt, str) else self.prompt


class ResponsesRequest(Asked):
    """The body of /v1/responses."""

    input: str | Annotated[list[dict[str, Any]], Field(min_length=1, fail_fast=True)]
    instructions: str | None = None
    max_output_tokens: Annotated[int, Field(ge=1)] | None = None
    reasoning: dict[str, Any] | None = None
    text: dict[str, Any] | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    include: list[str] | None = None
    truncation: Literal["auto", "disabled"] | None = None
    stream_options: StreamOptions | None = None
