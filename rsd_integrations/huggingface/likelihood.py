"""A verifier without reward training: how likely a language model finds the least likely token of a step."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rsd_core import Path, Scores, Step, Verifier, VerifierError
from rsd_integrations.huggingface import loading
from rsd_integrations.huggingface.calls import Layout, Output, Reading
from rsd_integrations.huggingface.engine import engine_of, threads_for
from rsd_integrations.huggingface.runner import Runner
from rsd_integrations.huggingface.vocabulary import Vocabulary


class LikelihoodVerifier(Verifier):
    """Scores a step by the probability of its least likely token under a causal language model.

    This is no trained process reward model: it says what its language model would not have written. It suits tasks
    with little freedom of wording, where an unlikely token is a mistake.
    """

    def __init__(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, name: str, cache_bytes: float | None = None
    ) -> None:
        self.name = name
        self.model = model
        self.vocabulary = Vocabulary(tokenizer, model.config.vocab_size)
        self.flops_per_token = loading.flops_per_token(model.base_model, loading.output_head(model))
        self.runner = Runner.of(model, threads=threads_for(self.flops_per_token), budget=cache_bytes)
        self.context = self.runner.context
        """Longest sequence in tokens."""

    async def score(self, path: Path, steps: Sequence[Step]) -> Scores:
        """Probability of each candidate's least likely token, given the path.

        Raises:
            VerifierError: Path and step are longer than the model's context.
        """
        before, prompt = self.vocabulary.ids(path)
        layouts = [self._layout(self.vocabulary.step(step)) for step in steps]
        longest = len(before) + max(len(layout.feed) for layout in layouts)
        if longest > self.context:
            raise VerifierError(f"{longest} tokens to score, the context of {self.name} is {self.context}")
        return await engine_of(self.model.device).perform(
            self.runner, Reading(path, self.runner.cache, before, prompt, layouts, self._judge)
        )

    @staticmethod
    def _layout(ids: Sequence[int]) -> Layout:
        """What a model gives at a token is its opinion on the next; the last one's is of use to the next step."""
        return Layout(tuple(ids), read=tuple(range(-1, len(ids))))

    def _judge(self, read: Sequence[tuple[Output, Layout]]) -> list[float]:
        logits = torch.cat([output.logits[:-1] for output, _ in read if output.logits is not None])
        tokens = torch.tensor([id_ for _, layout in read for id_ in layout.feed], device=logits.device)
        likely = logits.float().log_softmax(-1).gather(1, tokens[:, None]).squeeze(1).exp().tolist()
        ends = accumulate(len(layout.feed) for _, layout in read)
        return [min((1.0, *likely[end - len(layout.feed) : end])) for end, (_, layout) in zip(ends, read, strict=True)]


def load_likelihood(
    model: str,
    *,
    dtype: str | None = None,
    device: str | None = None,
    allow_pickles: bool = False,
    cache_bytes: float | None = None,
) -> LikelihoodVerifier:
    """Load a causal language model as likelihood verifier; arguments and errors as in `load_generator`."""
    where = loading.choose_device(device)
    kind = loading.choose_dtype(dtype, where)
    folder = loading.find(model, allow_pickles)
    loading.shards(folder, model, allow_pickles)
    return LikelihoodVerifier(
        loading.load_causal_lm(folder, kind, where, allow_pickles), loading.load_tokenizer(folder), model, cache_bytes
    )
