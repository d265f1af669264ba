"""The shipped checkpoints by name."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from rsd_core import SpecError
from rsd_core.data import unknown
from rsd_integrations.huggingface import (
    HuggingFaceGenerator,
    HuggingFaceLikelihood,
    HuggingFaceVerifier,
    bare_model,
    dtypes,
    load_verifier,
    loading,
)
from rsd_integrations.huggingface.bare_model import BareModel
from rsd_integrations.huggingface.bare_tokenizer import BareTokenizer
from rsd_integrations.inprocess.chat_template import chat_template
from rsd_integrations.inprocess.likelihood import How

FOLDER = Path(__file__).parent / "checkpoints"
EXITS = FOLDER / "prm-exits.safetensors"
"""Exits of the reward model, created by `rsd distill-exits embedded:prm --agreement 0.98`."""
NAMES = ("draft", "target", "verifier", "prm", "thinking-draft", "thinking-target")


def folder_of(name: str) -> Path:
    """The folder of the checkpoint with this name.

    Raises:
        SpecError: No such model.
    """
    if name not in NAMES:
        raise SpecError(f"embedded:{name} is unknown; there are {', '.join('embedded:' + n for n in NAMES)}")
    return FOLDER / name


def load(name: str, **options: Any) -> HuggingFaceGenerator | HuggingFaceVerifier | HuggingFaceLikelihood:
    """Load a model of the embedded family.

    Args:
        name: `draft`, `target`, `verifier` (the default: a small language model that scores a step by its least likely
            token), `prm` (the trained process reward model), `thinking-draft` or `thinking-target` (models that think
            before they answer, unless `enable_thinking=false` is given to their chat template).
        options: As for `rsd_integrations.huggingface.load_generator`, for `prm` as for `load_verifier`; there
            `exits=True` uses the exits that ship with it.

    Raises:
        SpecError: The model or an option is unknown.
    """
    folder = folder_of(name)
    _check_options(name, options)
    model: HuggingFaceGenerator | HuggingFaceVerifier | HuggingFaceLikelihood
    with _one_thread():
        if name == "prm":
            exits = options.pop("exits", None)
            model = load_verifier(str(folder), **options, exits=str(EXITS) if exits is True else exits or None)
        elif name == "verifier":
            model = _likelihood(folder, **options)
        else:
            model = _generator(folder, **options)
    model.name = f"embedded:{name}"
    return model


def _check_options(name: str, options: Mapping[str, Any]) -> None:
    makers = {"prm": (load_verifier,), "verifier": (_likelihood, _bare)}.get(name, (_generator, _bare))
    known = {
        one.name: None
        for make in makers
        for one in inspect.signature(make).parameters.values()
        if one.kind is one.KEYWORD_ONLY
    }
    for option in options:
        if option not in known:
            only = "; exits are for embedded:prm" if option == "exits" else ""
            raise SpecError(unknown(f"option of embedded:{name}", option, known) + only)


def _generator(
    folder: Path, *, cache_bytes: float | None = None, template: Mapping[str, Any] | None = None, **options: Any
) -> HuggingFaceGenerator:
    return HuggingFaceGenerator(*_bare(folder, template, **options), folder.name, cache_bytes, template)


def _likelihood(
    folder: Path,
    *,
    how: How = "min",
    cache_bytes: float | None = None,
    template: Mapping[str, Any] | None = None,
    **options: Any,
) -> HuggingFaceLikelihood:
    return HuggingFaceLikelihood(*_bare(folder, template, **options), folder.name, how, cache_bytes, template)


def _bare(
    folder: Path,
    template: Mapping[str, Any] | None,
    *,
    dtype: str | None = None,
    device: str | None = None,
    allow_pickles: bool = False,
) -> tuple[BareModel, BareTokenizer]:
    """Weights and tokenizer, read without transformers, since importing it would dominate a short run."""
    del allow_pickles  # there are none
    where = loading.choose_device(device)
    kind = dtypes.named_dtype(dtype, where)
    kind = kind or dtypes.default_dtype(where, loading.shards(folder, folder.name), f"embedded:{folder.name}")
    tokenizer = BareTokenizer(folder)
    chat_template(tokenizer, template)  # refuses invalid arguments before the weights are read
    return bare_model.load(folder, kind, where), tokenizer


@contextmanager
def _one_thread() -> Iterator[None]:
    """Keep torch to this thread: with weights this small, others would only spin waiting for work."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
