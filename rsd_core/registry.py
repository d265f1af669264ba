"""From a spec string to a model: `load("embedded:draft")`, `load("hf:ORG/MODEL")`.

A spec is `KIND:REST`, with options of the kind as `KIND,KEY=VALUE,…:REST`. Kinds that are made of other models take
specs as their rest, with `|` between several of them and parentheses around one that has a `|` of its own:
`judge:hf:ORG/MODEL`, `cascade,low=0.2:rule:arithmetic|(ensemble,how=min:prm:A|prm:B)`.

Each kind belongs to a backend that is imported when it is first named, so that nothing is needed for the kinds one
does not use. Other packages add kinds through entry points in the group `rsd.backends`; the entry's name is the kind,
its object a function from the rest of the spec (and keyword options) to a model.
"""

from __future__ import annotations

import ast
import importlib
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import Any

from rsd_core.errors import MissingDependency, SpecError
from rsd_core.interfaces import Model

GROUP = "rsd.backends"


@dataclass(frozen=True, slots=True)
class Backend:
    """A kind of spec."""

    kind: str
    module: str
    """Module and function that make the model, as `module:function`."""
    extra: str
    """The extra of the distribution that brings what the backend needs."""
    summary: str
    """What the rest of the spec says, for people."""
    examples: tuple[str, ...] = ()
    nested: bool = False
    """Whether the rest is made of specs."""


BUILT_IN = (
    Backend(
        "embedded",
        "rsd_integrations.embedded.models:load",
        "huggingface",
        "a model that ships with the package: draft, target, verifier or prm",
        ("embedded:draft", "embedded:target", "embedded:verifier", "embedded:prm"),
    ),
    Backend(
        "hf",
        "rsd_integrations.huggingface:load_generator",
        "huggingface",
        "a causal language model, by hub id or folder, as drafter or target",
        ("hf:Qwen/Qwen2.5-Math-1.5B-Instruct", "hf:./my-model"),
    ),
    Backend(
        "prm",
        "rsd_integrations.huggingface:load_verifier",
        "huggingface",
        "a process or outcome reward model, by hub id or folder, as verifier",
        ("prm:Qwen/Qwen2.5-Math-PRM-7B", "prm,format=trl,separator=\\n:./my-prm"),
    ),
    Backend(
        "likelihood",
        "rsd_integrations.huggingface:load_likelihood",
        "huggingface",
        "a causal language model as verifier: the probability of a step's least likely token, or how=mean, entropy",
        ("likelihood:Qwen/Qwen2.5-Math-7B-Instruct",),
    ),
    Backend(
        "shared",
        "rsd_integrations.huggingface:load_shared",
        "huggingface",
        "the reward head of a checkpoint that `rsd merge` made; with hf: of the same one, they share body and cache",
        ("shared:./merged",),
    ),
    Backend(
        "pooling",
        "rsd_integrations.openai_compatible.reward_loading:load_pooling",
        "openai",
        "a reward model behind vLLM's /pooling, as MODEL@BASE_URL; format=, tokenizer= and separator= as for prm:",
        ("pooling:Qwen/Qwen2.5-Math-PRM-7B@http://127.0.0.1:8000/v1",),
    ),
    Backend(
        "token_logits",
        "rsd_integrations.openai_compatible.reward_loading:load_token_logits",
        "openai",
        "a reward model that judges by words of its language model, behind /v1/completions, as MODEL@BASE_URL",
        ("token_logits:peiyi9979/math-shepherd-mistral-7b-prm@http://127.0.0.1:8000/v1",),
    ),
    Backend(
        "judge",
        "rsd_integrations.verifiers.loading:judge",
        "",
        "any generator as verifier; mode=digit (SpecReason), yes_no, rubric, thinkprm or genprm",
        ("judge:hf:Qwen/Qwen2.5-7B-Instruct", "judge,mode=yes_no:hf:Qwen/Qwen2.5-7B-Instruct"),
        nested=True,
    ),
    Backend(
        "confidence",
        "rsd_integrations.verifiers.loading:confidence",
        "",
        "the drafter's own probability of a step, where it tells it: min (of a token) or mean",
        ("confidence:mean",),
    ),
    Backend(
        "rule",
        "rsd_integrations.verifiers.loading:rule",
        "",
        "a check without a model: arithmetic, format or repetition; it abstains where it has nothing to say",
        ("rule:arithmetic", "rule,max_chars=2000:format", "rule:repetition"),
    ),
    Backend(
        "code",
        "rsd_integrations.verifiers.loading:code",
        "",
        "unit tests, run in a restricted process on the Python blocks of a step; the rest is a JSONL file of tests",
        ("code:tests.jsonl",),
    ),
    Backend(
        "cascade",
        "rsd_integrations.verifiers.loading:cascade",
        "",
        "verifiers from cheap to dear: the next one is asked where a reward is between low and high, or missing",
        ("cascade,low=0.1,high=0.9:rule:arithmetic|embedded:verifier",),
        nested=True,
    ),
    Backend(
        "ensemble",
        "rsd_integrations.verifiers.loading:ensemble",
        "",
        "the mean, min or product of several verifiers' rewards",
        ("ensemble,how=min:rule:arithmetic|embedded:verifier",),
        nested=True,
    ),
    Backend(
        "cached",
        "rsd_integrations.verifiers.loading:cached",
        "",
        "a verifier whose rewards are kept: the same step after the same text is scored once",
        ("cached:embedded:verifier",),
        nested=True,
    ),
    Backend(
        "openai",
        "rsd_integrations.openai_compatible:load_generator",
        "openai",
        "a model behind a URL as drafter or target: vLLM, SGLang, llama.cpp, Ollama, hosted APIs; MODEL@BASE_URL",
        (
            "openai,tokenizer=Qwen/Qwen2.5-Math-7B-Instruct:Qwen/Qwen2.5-Math-7B-Instruct@http://127.0.0.1:8000/v1",
            "openai,profile=ollama:qwen2.5:0.5b@http://127.0.0.1:11434/v1",
        ),
    ),
    Backend(
        "langchain",
        "rsd_integrations.langchain.roles:load",
        "agents",
        "a chat model that LangChain's init_chat_model makes, as drafter or target, in turns",
        ("langchain:openai:gpt-5-nano",),
    ),
    Backend(
        "scripted",
        "rsd_core.testing:load",
        "",
        "a fake that plays a script, for trying things out: draft, target or verifier",
        ("scripted:draft", "scripted:target", "scripted:verifier"),
    ),
)


def backends() -> dict[str, Backend]:
    """All known kinds, those of installed plugins included."""
    found = {backend.kind: backend for backend in BUILT_IN}
    for point in entry_points(group=GROUP):
        found.setdefault(point.name, Backend(point.name, point.value, "", f"plugin {point.value}"))
    return found


def parse_spec(spec: str) -> tuple[Backend, str]:
    """Split a spec into its backend and the rest, importing nothing.

    Raises:
        SpecError: The kind is unknown, an option is no `KEY=VALUE`, or the rest is missing; also of a spec inside.
    """
    known = backends()
    head, colon, rest = spec.partition(":")
    kind, *options = head.split(",")
    if kind not in known:
        raise SpecError(
            f"{spec!r} names no model: the part before the colon must be one of {', '.join(sorted(known))}. "
            f"Examples: {', '.join(b.examples[0] for b in known.values() if b.examples)}"
        )
    if not colon or not rest:
        raise SpecError(f"{spec!r} is incomplete: after {kind!r} and a colon comes {known[kind].summary}")
    if wrong := [option for option in options if "=" not in option]:
        raise SpecError(f"{spec!r}: {wrong[0]!r} is no option; options are written {kind},KEY=VALUE:{rest}")
    if known[kind].nested:
        for part in parts_of(rest):
            parse_spec(part)
    return known[kind], rest


def _options(spec: str) -> dict[str, Any]:
    """The options that a spec names."""
    pairs = (option.partition("=") for option in spec.partition(":")[0].split(",")[1:])
    return {key: _value(value) for key, _, value in pairs}


def parts_of(rest: str) -> list[str]:
    """The specs that a spec is made of: split at every `|` that is not in parentheses."""
    parts, depth = [""], 0
    for char in rest:
        depth += (char == "(") - (char == ")")
        if char == "|" and depth == 0:
            parts.append("")
        else:
            parts[-1] += char
    return [part[1:-1] if part.startswith("(") and part.endswith(")") else part for part in parts]


def _value(text: str) -> Any:
    r"""The value of an option: a number, `true` or `false`, or a text in which `\n` is a line's end."""
    try:
        return ast.literal_eval({"true": "True", "false": "False"}.get(text, text))
    except (ValueError, SyntaxError):
        return text.replace("\\n", "\n").replace("\\t", "\t")


def load(spec: str, **options: Any) -> Any:
    """Make the model that a spec names.

    Args:
        spec: `KIND:REST` or `KIND,KEY=VALUE:REST`; `rsd models` lists the kinds.
        options: Passed to the backend, for example `dtype="float32"` or `device="cuda:0"` for `hf:`. They go before
            those of the spec.

    Raises:
        SpecError: The spec names nothing known, or an option that the kind does not have.
        MissingDependency: The backend needs a package that is not installed.
    """
    backend, rest = parse_spec(spec)
    module, _, name = backend.module.partition(":")
    try:
        factory: Callable[..., Model] = getattr(importlib.import_module(module), name)
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if not backend.extra or missing in ("", "rsd_core", "rsd_integrations"):
            raise
        raise MissingDependency(missing, backend.extra, f"{spec!r}") from error
    options = _options(spec) | options
    try:
        inspect.signature(factory).bind(rest, **options)
    except TypeError as error:
        takes = list(inspect.signature(factory).parameters)[1:]
        raise SpecError(f"{spec!r}: {error}; options of {backend.kind} are {', '.join(takes) or 'none'}") from error
    return factory(rest, **options)
