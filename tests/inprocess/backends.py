"""The random reward models of the tests, in each backend that runs them in process."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path as Folder
from typing import Any

import torch
from safetensors.torch import save_file

from rsd_integrations.huggingface import HuggingFaceVerifier, load_verifier, to_gguf
from rsd_integrations.inprocess.reward_verifier import RewardVerifier
from rsd_integrations.llamacpp import LlamaCppVerifier
from rsd_integrations.llamacpp import load_verifier as load_gguf
from tests.conftest import Counter
from tests.huggingface.reward_models import CASES, make, put_on

BACKENDS = ("transformers", "llama.cpp")
MODELS = [(backend, name) for backend in BACKENDS for name in CASES]
"""Every layout in every backend."""


def make_safe(name: str, folder: Folder) -> Folder:
    """A checkpoint whose pickles are there as safetensors too, and without a window longer than its context."""
    make(name, folder)
    for pickle, safe in (("pytorch_model.bin", "model.safetensors"), ("reward_head.pt", "reward_head.safetensors")):
        if (folder / pickle).exists():
            save_file(torch.load(folder / pickle, weights_only=True), folder / safe, metadata={"format": "pt"})
    return put_on(folder, {}, sliding_window=None) if name == "math-shepherd" else folder


def options_of(name: str) -> dict[str, Any]:
    """What a user says to load it from a GGUF file."""
    return {key: value for key, value in CASES[name].options.items() if key != "allow_pickles"}


def body_of(name: str, folder: Folder) -> Folder:
    """The body of a checkpoint in single precision, next to its folder."""
    file = folder.with_name(f"{folder.name}.gguf")
    return file if file.exists() else to_gguf.export(str(folder), file, format=CASES[name].options.get("format"))


def load(backend: str, name: str, folder: Folder, **more: Any) -> RewardVerifier:
    """The reward model of a folder that `make_safe` has made."""
    if backend == "transformers":
        return load_verifier(str(folder), **CASES[name].options, **more)
    return load_gguf(str(body_of(name, folder)), head=str(folder), **options_of(name), **more)


@contextmanager
def tokens_read(model: RewardVerifier) -> Iterator[list[int]]:
    """Tokens of each forward pass of a model's body, counted apart from what it tells."""
    counts: list[int] = []
    if isinstance(model, HuggingFaceVerifier):
        counter = Counter()
        counter.watch("body", model.body)
        yield counts
        counts.append(counter.tokens["body"])
        counter.close()
        return
    assert isinstance(model, LlamaCppVerifier)
    context: Any = model.runner.store.context
    decode = context.decode

    def counted(spans: Any, outputs: Any) -> Any:
        counts.append(sum(len(ids) for _, _, ids in spans))
        return decode(spans, outputs)

    context.decode = counted
    try:
        yield counts
    finally:
        del context.decode
