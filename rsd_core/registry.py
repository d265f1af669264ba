"""From a spec string to a model: `load("embedded:draft")`, `load("hf:ORG/MODEL")`.

A spec is `KIND:REST`. Each kind belongs to a backend that is imported when it is first named, so that nothing is
needed for the kinds one does not use. Other packages add kinds through entry points in the group `rsd.backends`;
the entry's name is the kind, its object a function from the rest of the spec (and keyword options) to a model.
"""

from __future__ import annotations

import importlib
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
        "a process reward model, by hub id or folder, as verifier",
        ("prm:Qwen/Qwen2.5-Math-PRM-7B",),
    ),
    Backend(
        "likelihood",
        "rsd_integrations.huggingface:load_likelihood",
        "huggingface",
        "a causal language model as verifier: the probability of a step's least likely token",
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
        SpecError: The kind is unknown, or the rest is missing.
    """
    known = backends()
    kind, colon, rest = spec.partition(":")
    if kind not in known:
        raise SpecError(
            f"{spec!r} names no model: the part before the colon must be one of {', '.join(sorted(known))}. "
            f"Examples: {', '.join(b.examples[0] for b in known.values() if b.examples)}"
        )
    if not colon or not rest:
        raise SpecError(f"{spec!r} is incomplete: after {kind!r} and a colon comes {known[kind].summary}")
    return known[kind], rest


def load(spec: str, **options: Any) -> Any:
    """Make the model that a spec names.

    Args:
        spec: `KIND:REST`; `rsd models` lists the kinds.
        options: Passed to the backend, for example `dtype="float32"` or `device="cuda:0"` for `hf:`.

    Raises:
        SpecError: The spec names nothing known.
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
    return factory(rest, **options)
