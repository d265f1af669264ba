"""The shipped checkpoints by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rsd_core import SpecError
from rsd_integrations.huggingface import (
    HuggingFaceGenerator,
    HuggingFaceVerifier,
    LikelihoodVerifier,
    load_generator,
    load_likelihood,
    load_verifier,
)

FOLDER = Path(__file__).parent / "checkpoints"
NAMES = ("draft", "target", "verifier", "prm")


def load(name: str, **options: Any) -> HuggingFaceGenerator | HuggingFaceVerifier | LikelihoodVerifier:
    """Load a model of the embedded family.

    Args:
        name: `draft`, `target`, `verifier` (the default: a small language model that scores a step by its least likely
            token) or `prm` (the trained process reward model).
        options: As for `rsd_integrations.huggingface.load_generator`.

    Raises:
        SpecError: No such model.
    """
    if name not in NAMES:
        raise SpecError(f"embedded:{name} is unknown; there are {', '.join('embedded:' + n for n in NAMES)}")
    folder = str(FOLDER / name)
    model: HuggingFaceGenerator | HuggingFaceVerifier | LikelihoodVerifier
    if name == "prm":
        model = load_verifier(folder, **options)
    elif name == "verifier":
        model = load_likelihood(folder, **options)
    else:
        model = load_generator(folder, **options)
    model.name = f"embedded:{name}"
    return model
