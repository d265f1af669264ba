"""A verifier without reward training: how likely a language model finds the least likely token of a step."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rsd_core import Path, Scores, Step, Usage, Verifier, VerifierError
from rsd_integrations.huggingface import loading
from rsd_integrations.huggingface.cache import PathCache
from rsd_integrations.huggingface.vocabulary import Vocabulary
from rsd_integrations.huggingface.worker import in_worker, threads_for


class LikelihoodVerifier(Verifier):
    """Scores a step by the probability of its least likely token under a causal language model.

    This is no trained process reward model: it says what its language model would not have written. It suits tasks
    with little freedom of wording, where an unlikely token is a mistake.
    """

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, name: str) -> None:
        self.name = name
        self.model = model
        self.vocabulary = Vocabulary(tokenizer, model.config.vocab_size)
        self.context: int = model.config.max_position_embeddings
        """Longest sequence in tokens."""
        self.flops_per_token = loading.flops_per_token(model.base_model, loading.output_head(model))
        self._cache = PathCache()

    async def score(self, path: Path, steps: Sequence[Step]) -> Scores:
        """Probability of each candidate's least likely token, given the path.

        Raises:
            VerifierError: Path and step are longer than the model's context.
        """
        return await in_worker(threads_for(self.flops_per_token), lambda stop: self._score(path, steps, stop))

    @torch.inference_mode()
    def _score(self, path: Path, steps: Sequence[Step], stop: threading.Event) -> Scores:
        started = time.perf_counter()
        before, prompt = self.vocabulary.ids(path)
        rewards: list[float] = []
        computed = reused = scored = prefix = 0
        for step in steps:
            if stop.is_set():
                break
            ids = [*before, *self.vocabulary.ids(path.extend(step))[0][len(before) :]]
            if len(ids) > self.context:
                raise VerifierError(f"{len(ids)} tokens to score, the context of {self.name} is {self.context}")
            # The last token before the step is run again: its logits are the first token's probabilities.
            known = self._cache.take(path, ids, at_most=len(before) - 1)
            kept = len(known.ids)
            out = self.model(
                input_ids=torch.tensor([ids[kept:]], device=self.model.device),
                past_key_values=known.state,
                use_cache=True,
                logits_to_keep=len(ids) - len(before) + 1,
            )
            known.ids = ids
            self._cache.put(path, known)
            logits = out.logits[0, :-1].float()
            tokens = torch.tensor(ids[len(before) :], device=logits.device)
            log_probabilities = logits.log_softmax(-1).gather(1, tokens[:, None])
            rewards.append(float(log_probabilities.min().exp().clamp(0, 1)))
            computed += len(ids) - kept
            reused += kept
            scored += len(ids) - max(kept, prompt)
            prefix = len(ids)
        return Scores(tuple(rewards), Usage(prefix, computed, reused, 0, scored, seconds=time.perf_counter() - started))


def load_likelihood(
    model: str, *, dtype: str | None = None, device: str | None = None, allow_pickles: bool = False
) -> LikelihoodVerifier:
    """Load a causal language model as likelihood verifier; arguments and errors as in `load_generator`."""
    where = loading.choose_device(device)
    kind = loading.choose_dtype(dtype, where)
    folder = loading.find(model, allow_pickles)
    loading.shards(folder, model, allow_pickles)
    return LikelihoodVerifier(
        loading.load_causal_lm(folder, kind, where, allow_pickles), loading.load_tokenizer(folder), model
    )
