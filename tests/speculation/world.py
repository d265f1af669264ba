"""A world of five tokens in the engine itself: models that write nothing else, and the exact law of what they write."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from itertools import product
from pathlib import Path as Folder
from typing import Any

import torch
from torch import Tensor

from rsd_core import Path, Sampling, Speculation, StepRequest, as_prompt
from rsd_integrations.huggingface import HuggingFaceGenerator, load_generator
from rsd_integrations.huggingface.attention import Batch
from tests.huggingface.tiny import make_causal_lm
from tests.speculation.five_tokens import SIZE, p_value, truncated

WORDS = (11, 23, 48, 95, 130)
"""The tokens of the world; none of them ends an answer."""
LENGTH = 3
BATCH = 128
PATH = Path(as_prompt("Mia has 45 apples."))


class World:
    """A target and a drafter over random weights, whose logits of all other tokens are minus infinity.

    Args:
        folder: Where the checkpoints go.
        sharpness: What the logits are multiplied by: random models are nearly indifferent.
    """

    def __init__(self, folder: Folder, sharpness: float = 0.4) -> None:
        self._sharpness = sharpness
        self.drafter, self.target = (self._load(folder / str(seed), seed) for seed in (3, 4))
        self._probabilities = self._plain()

    def _load(self, folder: Folder, seed: int) -> HuggingFaceGenerator:
        model = load_generator(str(make_causal_lm(folder, seed)))
        runner, inner = model.runner, model.runner._run
        others = torch.ones(model.vocabulary.size, dtype=torch.bool)
        others[list(WORDS)] = False

        def run(batch: Batch, indices: list[int]) -> Any:
            output = inner(batch, indices)
            if output.logits is not None:
                output.logits = (output.logits * self._sharpness).masked_fill(others, -torch.inf)
            return output

        runner._run = run  # type: ignore[method-assign]
        return model

    @torch.inference_mode()
    def _plain(self) -> Tensor:
        """The target's probabilities at temperature 1 along each text, [25, LENGTH, 5], by transformers' own pass."""
        prefix = self.target.vocabulary.ids(PATH, goes_on=True)[0]
        ids = torch.tensor([[*prefix, *text] for text in product(WORDS, repeat=LENGTH - 1)])
        logits = self.target.model(ids, attention_mask=torch.ones_like(ids)).logits[:, len(prefix) - 1 :, list(WORDS)]
        probabilities: Tensor = (logits * self._sharpness).softmax(-1)
        return probabilities

    def law(self, sampling: Sampling) -> Tensor:
        """Probability of each text of `LENGTH` tokens, [5, 5, 5]."""
        p = truncated(self._probabilities.flatten(0, 1), sampling.temperature, sampling.top_k or SIZE, sampling.top_p)
        p = p.view(5, 5, LENGTH, 5)
        return p[0, 0, 0][:, None, None] * p[:, 0, 1][:, :, None] * p[:, :, 2]

    def p_value(self, draws: int, sampling: Sampling, speculation: Speculation | None, first: int = 0) -> float:
        """Of the chi-square test that texts written with speculation come from the target's own law."""
        found = torch.zeros(5, 5, 5)
        for text, count in self.written(draws, sampling, speculation, first).items():
            found[tuple(WORDS.index(token) for token in text)] = count
        return p_value(found, self.law(sampling))

    def written(
        self, draws: int, sampling: Sampling, speculation: Speculation | None, first: int = 0
    ) -> Counter[tuple[int, ...]]:
        """So many texts, by seeds from the first on, many at once."""

        async def some(seeds: Sequence[int]) -> list[tuple[int, ...]]:
            requests = [
                StepRequest((seed,), LENGTH, delimiter=None, sampling=sampling, speculation=speculation)
                for seed in seeds
            ]
            made = await asyncio.gather(*(self.target.generate(PATH, request) for request in requests))
            return [generation.steps[0].tokens for generation in made]

        counts = Counter[tuple[int, ...]]()
        for begin in range(first, first + draws, BATCH):
            counts.update(asyncio.run(some(range(begin, min(begin + BATCH, first + draws)))))
        return counts
