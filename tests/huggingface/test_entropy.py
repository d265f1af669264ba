"""The entropy of a step's first token, read before the step is drafted."""

from __future__ import annotations

import asyncio
import math
from pathlib import Path as Folder

import pytest
import torch

from rsd_core import FirstTokenEntropy, Path, PromptError, Sampling, StepRequest, as_prompt
from rsd_integrations.huggingface import HuggingFaceGenerator, load_generator
from rsd_integrations.huggingface.from_pretrained import load_causal_lm
from tests.conftest import Counter
from tests.huggingface.tiny import copied

PROMPT = "Mia has 45 apples."
STEP = StepRequest((3,), 12, ".", Sampling(0.7))


def by_definition(checkpoint: Folder, ids: list[int]) -> float:
    """−Σ p ln p over the vocabulary, from a plain pass of transformers."""
    plain = load_causal_lm(checkpoint, torch.float32, torch.device("cpu"))
    with torch.inference_mode():
        logits = plain(input_ids=torch.tensor([ids])).logits[0, -1].double()
    probabilities = logits.softmax(-1).tolist()
    return -math.fsum(p * math.log(p) for p in probabilities if p)


def test_it_is_that_of_the_next_token_at_temperature_1(checkpoint: Folder) -> None:
    model = load_generator(str(checkpoint))
    assert isinstance(model, FirstTokenEntropy)
    path = Path(as_prompt(PROMPT))
    for _ in range(3):
        entropy = asyncio.run(model.first_token_entropy(path))
        assert entropy.nats == pytest.approx(by_definition(checkpoint, model.vocabulary.ids(path)[0]), abs=1e-4)
        assert (entropy.usage.generated, entropy.usage.scored) == (0, 0)
        path = path.extend(asyncio.run(model.generate(path, STEP)).steps[0])


@pytest.mark.parametrize("count", [1, 3])
def test_drafting_after_it_computes_no_token_twice(checkpoint: Folder, counted: Counter, count: int) -> None:
    model: HuggingFaceGenerator = load_generator(str(checkpoint))
    counted.watch("drafter", model.model)
    path = Path(as_prompt(PROMPT))
    request = StepRequest(tuple(range(count)), 12, ".", Sampling(0.7))

    async def routed(path: Path) -> Path:
        before = counted.tokens["drafter"]
        entropy = await model.first_token_entropy(path)
        again = await model.first_token_entropy(path)
        assert (again.nats, again.usage.computed) == (entropy.nats, 0)
        drafted = await model.generate(path, request)
        plain = await model.generate(copied(path), request)
        assert drafted.steps == plain.steps
        seen = counted.tokens["drafter"] - before
        assert seen == entropy.usage.computed + drafted.usage.computed + plain.usage.computed
        assert entropy.usage.computed + drafted.usage.computed + entropy.usage.reused == plain.usage.computed
        return path.extend(drafted.steps[0])

    assert asyncio.run(routed(asyncio.run(routed(path)))).depth == 2


def test_a_full_context_leaves_nothing_to_be_uncertain_about(checkpoint: Folder) -> None:
    model = load_generator(str(checkpoint))

    async def fill() -> None:
        path = Path(as_prompt(PROMPT))
        step = (await model.generate(path, StepRequest((0,), 10_000, None))).steps[0]
        entropy = await model.first_token_entropy(path.extend(step))
        assert len(model.vocabulary.ids(path.extend(step))[0]) == model.context
        assert (entropy.nats, entropy.usage.computed) == (0, 0)
        with pytest.raises(PromptError, match="context of"):
            await model.first_token_entropy(Path(as_prompt("apples " * 300)))

    model.eos_ids = frozenset()
    asyncio.run(fill())
