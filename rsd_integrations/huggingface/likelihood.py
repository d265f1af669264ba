"""A verifier without reward training: how likely a language model finds a step."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rsd_core import ConfigurationError, Explanation, Path, Scores, Step, Usage, Verifier, VerifierError
from rsd_integrations.huggingface import loading
from rsd_integrations.huggingface.cache import PathCache
from rsd_integrations.huggingface.vocabulary import Vocabulary
from rsd_integrations.huggingface.worker import in_worker, threads_for

How = Literal["min", "mean", "entropy"]


def likelihood(logits: Tensor, tokens: Tensor, how: How) -> float:
    """One number in [0, 1] for the tokens of a step.

    Args:
        logits: [tokens, vocabulary], from which each token was to be chosen.
        tokens: The ids that were.
        how: `min` is the least of their probabilities, `mean` their geometric mean, and `entropy` says how sure the
            model was, whatever was chosen: exp(-H), with H the mean entropy in nats.
    """
    logprobs = logits.float().log_softmax(-1)
    if how == "entropy":
        return float((logprobs.exp() * logprobs).sum(-1).mean().exp().clamp(0, 1))
    own = logprobs.gather(1, tokens[:, None])
    return float((own.min() if how == "min" else own.mean()).exp().clamp(0, 1))


class LikelihoodVerifier(Verifier):
    """Scores a step by its likelihood under a causal language model: by default, that of its least likely token.

    This is no trained process reward model: it says what its language model would not have written. It suits tasks
    with little freedom of wording, where an unlikely token is a mistake. The model may be the target, which then says
    whether it would have written the step, or any other.
    """

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, name: str, how: How = "min") -> None:
        if how not in ("min", "mean", "entropy"):
            raise ConfigurationError(f"how={how!r} is unknown; choose min, mean or entropy")
        self.name = name
        self.how: How = how
        self.model = model
        self.vocabulary = Vocabulary(tokenizer, model.config.vocab_size)
        self.context: int = model.config.max_position_embeddings
        """Longest sequence in tokens."""
        self.flops_per_token = loading.flops_per_token(model.base_model, loading.output_head(model))
        self._cache = PathCache()

    async def score(self, path: Path, steps: Sequence[Step]) -> Scores:
        """Likelihood of each candidate, given the path.

        Raises:
            VerifierError: Path and step are longer than the model's context.
        """
        return await in_worker(threads_for(self.flops_per_token), lambda stop: self._score(path, steps, stop))

    def explain(self, path: Path, step: Step) -> Explanation:
        """What is read for a step. The score is read where its tokens are chosen, each one place before the token."""
        before, ids = self.vocabulary.ids(path)[0], self.vocabulary.ids(path.extend(step))[0]
        tokenizer = self.vocabulary.tokenizer
        names = tokenizer.convert_ids_to_tokens(ids)
        read = tuple(range(len(before) - 1, len(ids) - 1))
        return Explanation(str(tokenizer.decode(ids)), tuple(zip(ids, names, strict=True)), read, len(ids))

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
            tokens = torch.tensor(ids[len(before) :], device=out.logits.device)
            rewards.append(likelihood(out.logits[0, :-1], tokens, self.how))
            computed += len(ids) - kept
            reused += kept
            scored += len(ids) - max(kept, prompt)
            prefix = len(ids)
        return Scores(tuple(rewards), Usage(prefix, computed, reused, 0, scored, seconds=time.perf_counter() - started))


def load_likelihood(
    model: str, *, how: How = "min", dtype: str | None = None, device: str | None = None, allow_pickles: bool = False
) -> LikelihoodVerifier:
    """Load a causal language model as likelihood verifier.

    Args:
        model: Hub id or folder.
        how: See `likelihood`.
        dtype: As in `load_generator`, and so are the others and the errors.
        device: The same.
        allow_pickles: The same.
    """
    where = loading.choose_device(device)
    kind = loading.choose_dtype(dtype, where)
    folder = loading.find(model, allow_pickles)
    loading.shards(folder, model, allow_pickles)
    return LikelihoodVerifier(
        loading.load_causal_lm(folder, kind, where, allow_pickles), loading.load_tokenizer(folder), model, how
    )
