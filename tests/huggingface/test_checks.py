"""Prompts that fill a context and scores that are not numbers: reported by the correct error, and charged."""

import asyncio
from dataclasses import replace
from math import nan
from pathlib import Path as Folder
from typing import Any

import pytest
import torch

from rsd_core import Path, PromptError, Speculation, Step, StepRequest, VerifierError, as_prompt
from rsd_core.model import usage_of
from rsd_integrations.huggingface import load_generator, load_likelihood, load_shared, load_verifier
from rsd_integrations.huggingface.output import TorchOutput
from tests.huggingface.test_shared import with_head
from tests.huggingface.tiny import make_causal_lm, make_prm

PATH, STEP = Path(as_prompt("Mia has 45 apples.")), Step("45+12=57.\n\n", "delimiter")
VERIFIERS = ("prm", "likelihood", "shared")


@pytest.fixture
def load(tmp_path: Folder) -> Any:
    def one(kind: str) -> Any:
        if kind == "prm":
            return load_verifier(str(make_prm(tmp_path / "prm")))
        lm = str(with_head(make_causal_lm(tmp_path / "lm")))
        loads: dict[str, Any] = {"likelihood": load_likelihood, "shared": load_shared, "generator": load_generator}
        return loads[kind](lm)

    return one


@pytest.mark.parametrize("kind", VERIFIERS)
def test_a_prompt_that_fills_the_context_of_a_verifier_is_the_prompts_fault(load: Any, kind: str) -> None:
    """With one token of room it is the step that is too long."""
    model = load(kind)
    prompt = (model.layouts if kind == "prm" else model.vocabulary).ids(PATH)[1]
    model.context = prompt
    with pytest.raises(PromptError, match=f"the prompt has {prompt} tokens, the context of .* is {prompt}"):
        asyncio.run(model.score(PATH, [STEP]))
    model.context = prompt + 1
    with pytest.raises(VerifierError, match=f"tokens to score, the context of .* is {prompt + 1}. Limit the answer"):
        asyncio.run(model.score(PATH, [STEP]))


def test_a_prompt_that_leaves_room_for_one_token_is_answered_by_one(load: Any) -> None:
    model, request = load("generator"), StepRequest((0,))
    prompt = model.vocabulary.ids(PATH)[1]
    model.context = prompt
    with pytest.raises(PromptError, match=f"the prompt has {prompt} tokens"):
        asyncio.run(model.generate(PATH, request))
    with pytest.raises(PromptError, match=f"the prompt has {prompt} tokens"):
        asyncio.run(model.generate(PATH, replace(request, speculation=Speculation(drafter=model))))
    model.context = prompt + 1
    assert asyncio.run(model.generate(PATH, request)).steps[0].size == 1


@pytest.mark.parametrize("kind", ["prm", "shared"])
def test_a_head_that_gives_no_number_is_an_error_that_is_charged(load: Any, kind: str) -> None:
    model = load(kind)
    with torch.no_grad():
        next(model.head.parameters()).fill_(nan)
    with pytest.raises(VerifierError, match="gave nan for a step") as failed:
        asyncio.run(model.score(PATH, [STEP]))
    usage = usage_of(failed.value)
    assert usage is not None
    assert usage.computed > usage.scored > 0


@pytest.mark.parametrize("place", [0, -1])
@pytest.mark.parametrize("how", ["min", "mean", "entropy"])
def test_a_likelihood_that_is_not_a_number_is_not_a_reward_of_one(
    load: Any, how: Any, place: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither Python's `min(1.0, nan)` nor a minimum over tokens hides it."""
    plain = TorchOutput.entropies if how == "entropy" else TorchOutput.log_likelihoods

    def broken(self: TorchOutput, *args: Any) -> list[float]:
        values = plain(self, *args)
        values[place] = nan
        return values

    monkeypatch.setattr(TorchOutput, plain.__name__, broken)
    model = load("likelihood")
    model.how = how
    with pytest.raises(VerifierError, match="gave nan for a step"):
        asyncio.run(model.score(PATH, [STEP]))
