"""GGUF models as drafter, target and likelihood verifier."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rsd_integrations.inprocess.generator import Generator
from rsd_integrations.inprocess.likelihood import How, LikelihoodVerifier
from rsd_integrations.llamacpp.loading import Loaded, Options, load
from rsd_integrations.llamacpp.runner import LlamaRunner


class LlamaCppGenerator(Generator):
    """An in-process GGUF model that writes steps."""

    runner: LlamaRunner

    def __init__(self, loaded: Loaded, name: str, template: Mapping[str, Any] | None = None) -> None:
        super().__init__(*loaded.parts(name, template))
        self.batch_invariant = loaded.batch_invariant


class LlamaCppLikelihood(LikelihoodVerifier):
    """Scores a step by its likelihood under a GGUF model."""

    runner: LlamaRunner

    def __init__(self, loaded: Loaded, name: str, how: How = "min", template: Mapping[str, Any] | None = None) -> None:
        super().__init__(*loaded.parts(name, template), how)
        self.batch_invariant = loaded.batch_invariant


def load_generator(
    file: str,
    *,
    context: int | None = None,
    threads: int | None = None,
    cache_bytes: float | None = None,
    gpu_layers: int | None = None,
    lora: str | None = None,
    batch_invariant: bool = False,
    template: Mapping[str, Any] | None = None,
) -> LlamaCppGenerator:
    """Load a GGUF file as drafter or target.

    Args:
        file: A path, `package=DISTRIBUTION` or `hub=ORG/REPO:NAME.gguf` (see `files.find`).
        context: Maximum sequence length in tokens; by default the model's training length, if the cache can hold it.
        threads: Threads per forward pass; by default one below a billion weights, otherwise the free cores.
        cache_bytes: For keys and values; by default an eighth of the machine's memory. Allocated gradually.
        gpu_layers: Layers on a graphics card, if the library was built for one; by default all.
        lora: Adapters as GGUF files: `FILE` or `FILE*SCALE`, several joined by `+`.
        batch_invariant: Give every sequence its own cells, so that results are bitwise independent of concurrent
            requests. For files in Q4_0, Q4_1, Q5_0, Q5_1 and Q8_0 without attention windows; takes more memory.
        template: Chat template arguments: `{"enable_thinking": False}`.

    Raises:
        ConfigurationError: There is no such file, it cannot be run this way, or its chat template does not use an
            argument.
        MissingDependency: llama.cpp is not installed.
    """
    options = Options(context, threads, cache_bytes, gpu_layers, lora, batch_invariant)
    return LlamaCppGenerator(load(file, options, template), file, template)


def load_likelihood(
    file: str,
    *,
    how: How = "min",
    context: int | None = None,
    threads: int | None = None,
    cache_bytes: float | None = None,
    gpu_layers: int | None = None,
    lora: str | None = None,
    batch_invariant: bool = False,
    template: Mapping[str, Any] | None = None,
) -> LlamaCppLikelihood:
    """Load a GGUF file as likelihood verifier; arguments and errors as in `load_generator`.

    For `how` see `LikelihoodVerifier`.
    """
    options = Options(context, threads, cache_bytes, gpu_layers, lora, batch_invariant)
    return LlamaCppLikelihood(load(file, options, template), file, how, template)
