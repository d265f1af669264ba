"""LangChain's partner classes as data: what each accepts per call and by what name, and how it continues an answer.

From the classes' own code (langchain-openai 1.7.4, -anthropic 1.7.10, -google-genai 4.4.3, -aws 1.9.1, -mistralai
1.1.6, -deepseek 1.1.1, -ollama 1.1.0, -huggingface 1.2.3), and for single models from their providers' documentation of
2026-11. Tests check the table against the requests that the classes send.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import urlsplit

from langchain_core.language_models import BaseLanguageModel
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.runnables import Runnable, RunnableSequence, RunnableWithFallbacks
from langchain_core.runnables.base import RunnableBindingBase

from rsd_core import ConfigurationError
from rsd_integrations.langchain.compositions import AnyRunnable, models_in, rebuilt, unbound
from rsd_integrations.langchain.identities import model_name

SENDS = ("temperature", "top_p", "top_k", "max_tokens", "seed")
"""Fields of a step's request that may be sent with each call."""
_SAMPLING = ("temperature", "top_p", "top_k")
_NO_SEED = {"seed": "its API has no seed, so that its answers differ from call to call"}
_NO_TOP_K = {"top_k": "its API has no such field (a server's own: extra_body when creating the model)"}
_DEEPSEEK = (
    "its class drops the mark that DeepSeek's beta requires on the last message: use rsd's own client, as in "
    "'openai:deepseek-chat@https://api.deepseek.com/beta', or a subclass whose _get_request_payload keeps it"
)
_RESPONSES = "OpenAI's responses do not continue a begun answer: use_responses_api=False, for a server that does"


@dataclass(frozen=True, slots=True)
class PartnerClass:
    """What calls of one class accept; subclasses are assumed to be alike."""

    name: str
    takes: Mapping[str, str] = field(default_factory=dict)
    """Call options by our names."""
    sets: Mapping[str, str] = field(default_factory=dict)
    """Model attributes by our names, if there is no such call option: a copy of the model is called."""
    lacks: Mapping[str, str] = field(default_factory=dict)
    """What is not accepted at all, and why."""
    blank_stops: bool = True
    """Whether stop strings may consist of white space."""
    marks: bool = False
    """Whether the mark of `prefix_flag` on the last message is sent."""
    prefixes: Mapping[str, str] = field(default_factory=dict)
    """Prefix modes that the class cannot use, and why."""
    options: Callable[[dict[str, Any]], dict[str, Any]] | None = None
    """Builds call options from our fields, if renaming is not enough."""


def _pipeline_options(fields: dict[str, Any]) -> dict[str, Any]:
    """Options of transformers' pipelines, which return the prompt by default."""
    options: dict[str, Any] = {"return_full_text": False}
    if "max_tokens" in fields:
        options["max_new_tokens"] = fields["max_tokens"]
    samples = fields.get("temperature") != 0
    if "temperature" in fields:
        options["do_sample"] = samples
    if samples:
        options |= {name: fields[name] for name in _SAMPLING if name in fields}
    return {"pipeline_kwargs": options}


_PIPELINE = "HuggingFacePipeline"
_OPENAI = {name: name for name in SENDS}
_OLLAMA = {name: name for name in (*SENDS, "stop")} | {"max_tokens": "num_predict"}
_WITHOUT_SEED = {name: name for name in SENDS if name != "seed"}
_USERS_LAST = {
    "trailing_assistant": "its class requires a user's message at the end: use the pipeline itself, with 'completion'"
}
PARTNERS = (
    PartnerClass("ChatDeepSeek", _WITHOUT_SEED, lacks=_NO_TOP_K | _NO_SEED, prefixes={"prefix_flag": _DEEPSEEK}),
    PartnerClass("BaseChatOpenAI", _OPENAI, lacks=_NO_TOP_K),
    PartnerClass("BaseOpenAI", _OPENAI, lacks=_NO_TOP_K),
    PartnerClass("ChatAnthropic", _WITHOUT_SEED, lacks=_NO_SEED, blank_stops=False),
    PartnerClass("ChatBedrockConverse", _WITHOUT_SEED, lacks=_NO_TOP_K | _NO_SEED, blank_stops=False),
    PartnerClass("ChatGoogleGenerativeAI", _OPENAI | {"max_tokens": "max_output_tokens"}),
    PartnerClass(
        "ChatMistralAI",
        _OPENAI | {"seed": "random_seed"},
        lacks=_NO_TOP_K,
        marks=True,
        prefixes={
            "trailing_assistant": "Mistral refuses an assistant's message at the end without its mark: prefix_flag"
        },
    ),
    PartnerClass("ChatOllama", sets=_OLLAMA),
    PartnerClass("OllamaLLM", sets=_OLLAMA),
    PartnerClass(
        _PIPELINE,
        _WITHOUT_SEED,
        lacks={"seed": "transformers' pipelines take none", "stop": "its class ignores stop strings"},
        options=_pipeline_options,
    ),
    PartnerClass("ChatHuggingFace", _OPENAI, lacks=_NO_TOP_K, prefixes=_USERS_LAST),
)
"""The first that is a base of a model's class applies."""
_NO_MARK = "its class does not mark the last message, which Mistral and DeepSeek require"


@dataclass(frozen=True, slots=True)
class _Rule:
    """What some models of a provider refuse, whatever their class accepts."""

    models: str
    """A regular expression found in their names."""
    why: str
    fields: tuple[str, ...] = ()
    prefixes: tuple[str, ...] = ()
    unless: Callable[[Any], bool] = lambda _: False


def _thinks_not(model: Any) -> bool:
    effort = getattr(model, "reasoning_effort", None) or (getattr(model, "reasoning", None) or {}).get("effort")
    return effort == "none"


_RULES = (
    _Rule(
        r"^(?!.*-chat)(o\d|gpt-[5-9])",
        "OpenAI's reasoning models refuse it (without reasoning_effort='none')",
        fields=(*_SAMPLING, "seed", "stop"),
        unless=_thinks_not,
    ),
    _Rule(
        r"claude-(opus-4-[7-9](?!\d)|opus-[5-9]|fable|sonnet-5-5)",
        "Claude since Opus 4.7 has no sampling parameters",
        fields=_SAMPLING,
    ),
    _Rule(
        r"claude-[a-z]+-(4-[6-9](?!\d)|[5-9](?!\d))",
        "Claude refuses the beginning of an answer since 4.6: granularity='turn', or an earlier model",
        prefixes=("trailing_assistant",),
    ),
    _Rule(
        r"gemini-(3\.5-flash-lite|3\.6-flash)",
        "Gemini since 3.5 Flash-Lite and 3.6 Flash ignores sampling parameters and does not continue a begun answer",
        fields=_SAMPLING,
        prefixes=("trailing_assistant",),
    ),
)


def partner_of(model: AnyRunnable) -> PartnerClass | None:
    """The row of a model's class, or of its nearest base with one."""
    names = [kind.__name__ for kind in type(model).__mro__ if kind.__module__.startswith("langchain_")]
    known = next((known for name in names for known in PARTNERS if known.name == name), None)
    inside = getattr(model, "llm", None)  # ChatHuggingFace passes the fields on
    if known is not None and type(inside).__name__ == _PIPELINE:
        return replace(next(one for one in PARTNERS if one.name == _PIPELINE), prefixes=known.prefixes)
    return known


def lacking(model: AnyRunnable, name: str) -> str | None:
    """Why a model's calls do not accept a field; None if they do, or if unknown."""
    for rule in _rules(model):
        if name in rule.fields:
            return rule.why
    if name in ("seed", "stop") and _uses_responses(model):
        return "OpenAI's responses have no seed and no stop strings"
    partner = partner_of(model)
    return None if partner is None else partner.lacks.get(name)


def check_fields(model: AnyRunnable, names: Iterable[str]) -> None:
    """Refuse fields that a model, or one of several, does not accept per call.

    Raises:
        ConfigurationError: Names the class, the field and what to do.
    """
    for inner in models_in(model):
        for name in names:
            if why := lacking(inner, name):
                raise ConfigurationError(
                    f"{described(inner)} does not accept {name} with a call: {why}. Remove {name} for it, or set its "
                    "own option when creating the model"
                )


def check_stops(model: AnyRunnable, stops: Sequence[str]) -> None:
    """Refuse stop strings that a model, or one of several, would ignore or refuse.

    Raises:
        ConfigurationError: Names the class, the string and what to do.
    """
    for inner in models_in(model):
        partner = partner_of(inner)
        blank = (
            next((mark for mark in stops if not mark.strip()), None) if partner and not partner.blank_stops else None
        )
        why = lacking(inner, "stop") or (blank and f"its API refuses stop strings of white space alone ({blank!r})")
        if why:
            raise ConfigurationError(f"{described(inner)} does not accept such a stop string: {why}. Use stop='cut'")


def default_sends(model: AnyRunnable) -> tuple[str, ...]:
    """Fields sent by default with a call for a step: the cap, if each class is known to accept one."""
    known = [partner_of(inner) for inner in models_in(model)]
    capped = all(partner and "max_tokens" in {**partner.takes, **partner.sets} for partner in known)
    return ("max_tokens",) if capped else ()


def with_fields(model: AnyRunnable, fields: Mapping[str, Any], options: Mapping[str, Any]) -> AnyRunnable:
    """A model whose calls have these fields, under the names in each inner model's class.

    Fields that a class or a model does not accept are omitted there.

    Args:
        model: A settled model or composition.
        fields: Values by the names in `SENDS`; stop strings as `stop`.
        options: Keyword options of the call, unchanged.
    """
    if isinstance(model, RunnableBindingBase):
        if isinstance(_inside(model), RunnableWithFallbacks | RunnableSequence):
            return model.model_copy(update={"bound": with_fields(model.bound, fields, options)})
        return _with_fields(model, fields, options)
    return rebuilt(model, lambda inner: _with_fields(inner, fields, options))


def _with_fields(model: AnyRunnable, fields: Mapping[str, Any], options: Mapping[str, Any]) -> AnyRunnable:
    leaf = unbound(model)
    partner = partner_of(leaf) or PartnerClass("any", _OPENAI)
    taken = {name: value for name, value in fields.items() if not lacking(leaf, name)}
    if "stop" in taken and not partner.blank_stops:
        taken["stop"] = [mark for mark in taken["stop"] if mark.strip()]
    if not taken.get("stop", True):
        del taken["stop"]
    attributes = {partner.sets[name]: value for name, value in taken.items() if name in partner.sets}
    if "stop" in attributes:  # the class uses either the model's or the call's
        attributes["stop"] = [*(leaf.stop or ()), *attributes["stop"]]  # type: ignore[attr-defined]
    if attributes:
        model = rebuilt(model, lambda inner: inner.model_copy(update=attributes))  # type: ignore[attr-defined]
    rest = {name: value for name, value in taken.items() if name not in partner.sets}
    of_class = (
        partner.options(rest) if partner.options else {partner.takes.get(name, name): rest[name] for name in rest}
    )
    named = {name: value for name, value in options.items() if name not in taken} | of_class
    return model.bind(**named) if named else model


def prefix_fault(model: AnyRunnable, mode: str) -> str | None:
    """Why a model cannot continue an answer in this way; None if it can, or if unknown."""
    for rule in _rules(model):
        if mode in rule.prefixes:
            return rule.why
    if mode == "prefix_flag" and hasattr(model, "_get_request_payload"):  # what a class sends, also users' subclasses
        payload = model._get_request_payload([HumanMessage("x"), AIMessage("y", additional_kwargs={"prefix": True})])
        if (payload.get("messages") or [{}])[-1].get("prefix"):
            return None
    if _uses_responses(model):
        return _RESPONSES
    host = _host(model)
    if host == "api.deepseek.com" and mode != "prefix_flag":
        return f"DeepSeek continues only a marked message, and {_DEEPSEEK}"
    if mode != "completion" and f".{host}".endswith((".api.openai.com", ".azure.com")):  # regional hosts included
        return "OpenAI's API does not continue a begun answer: base_url=… names a server that does"
    partner = partner_of(model)
    if partner is None:
        return None
    unmarked = _NO_MARK if mode == "prefix_flag" and not partner.marks else None
    return partner.prefixes.get(mode, unmarked)


def described(model: Runnable[Any, Any]) -> str:
    """A model's class, and its name."""
    name, kind = model_name(model), type(unbound(model)).__name__
    return kind if name == kind else f"{kind} {name!r}"


def _rules(model: AnyRunnable) -> list[_Rule]:
    if not isinstance(model, BaseLanguageModel):
        return []
    name = model_name(model)
    return [rule for rule in _RULES if re.search(rule.models, name) and not rule.unless(model)]


def _uses_responses(model: AnyRunnable) -> bool:
    uses = getattr(model, "_use_responses_api", None)  # for a minimal payload
    return bool(uses and uses({}))


def _host(model: AnyRunnable) -> str:
    """The host of a chat model of OpenAI's classes."""
    address = getattr(getattr(model, "root_client", None), "base_url", None)
    return urlsplit(str(address or "")).hostname or ""


def _inside(model: AnyRunnable) -> AnyRunnable:
    while isinstance(model, RunnableBindingBase):
        model = model.bound
    return model
