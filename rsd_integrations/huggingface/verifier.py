"""Reward models in process: every token of a path is read once."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rsd_core import Explanation, Path, PromptError, Scores, Step, Usage, Verifier, VerifierError
from rsd_integrations.huggingface import loading
from rsd_integrations.huggingface.cache import PathCache
from rsd_integrations.huggingface.reward_models import RewardHead, load_parts
from rsd_integrations.huggingface.vocabulary import PathIds, Vocabulary
from rsd_integrations.huggingface.worker import in_worker, threads_for
from rsd_integrations.prm_formats import Layout, Reader


class HuggingFaceVerifier(Verifier):
    """A reward model that reads every token of a path once.

    The body runs in its own dtype, the head in fp32. A score depends only on what comes before it: reading order,
    rejected candidates and later steps never change it.
    """

    def __init__(
        self,
        body: PreTrainedModel,
        head: RewardHead,
        tokenizer: PreTrainedTokenizerBase,
        reader: Reader,
        name: str,
        context: int | None = None,
    ) -> None:
        self.name = name
        self.body, self.head, self.reader = body, head, reader
        self.vocabulary = Vocabulary(tokenizer, body.config.vocab_size)
        self.context: int = context or body.config.max_position_embeddings
        """Longest sequence in tokens."""
        self.flops_per_token = loading.flops_per_token(body, head)
        self._cache = PathCache()
        self._ids = PathIds(self._encode_node)

    async def score(self, path: Path, steps: Sequence[Step]) -> Scores:
        """Probability that each candidate is right, given the path.

        Raises:
            PromptError: The prompt alone fills the model's context.
            VerifierError: A step is blank, path and step are longer than the context, or the score is no number.
        """
        return await in_worker(threads_for(self.flops_per_token), lambda stop: self._score(path, steps, stop))

    def explain(self, path: Path, step: Step) -> Explanation:
        """What is read for a step, and where its score is."""
        before, _ = self._ids(path)
        layout = self._layout(path, step)
        ids = [*before, *layout.feed]
        names = self.reader.tokenizer.convert_ids_to_tokens(ids)
        at = tuple(len(before) + offset for offset in layout.read)
        kept = len(before) + len(layout.kept)
        return Explanation(self.reader.tokenizer.decode(ids), tuple(zip(ids, names, strict=True)), at, kept)

    def _encode_node(self, node: Path) -> Sequence[int]:
        """The prompt, or what stays of a step; nothing of a blank one."""
        if node.step is None:
            return self.reader.prompt(node.prompt)
        assert node.parent is not None
        return self._layout(node.parent, node.step).kept if node.step.text.strip() else ()

    def _layout(self, path: Path, step: Step) -> Layout:
        if not step.text.strip():
            raise VerifierError(f"{self.name}: the step is blank, and reward models give a lone separator no meaning")
        return self.reader.step(step.text, 1 + sum(bool(known.text.strip()) for known in path.steps))

    @torch.inference_mode()
    def _score(self, path: Path, steps: Sequence[Step], stop: threading.Event) -> Scores:
        started = time.perf_counter()
        rewards: list[float] = []
        computed = reused = scored = prefix = 0
        before, prompt = self._ids(path)
        if prompt >= self.context:
            raise PromptError(f"the prompt has {prompt} tokens, the context of {self.name} is {self.context}")
        for step in steps:
            if stop.is_set():
                break
            layout = self._layout(path, step)
            ids = [*before, *layout.feed]
            prefix = len(ids)
            if prefix > self.context:
                raise VerifierError(
                    f"{prefix} tokens to score, the context of {self.name} is {self.context}. Limit the answer "
                    "(limits.max_tokens), or load the model with a larger context=… if its positions allow it"
                )
            at = len(before) + layout.read[0]
            known = self._cache.take(path, ids, at_most=at)
            kept = len(known.ids)
            hidden = self.body(
                input_ids=torch.tensor([ids[kept:]], device=self.body.device),
                past_key_values=known.state,
                use_cache=True,
            ).last_hidden_state
            known.ids = ids
            known.keep(len(before) + len(layout.kept))
            self._cache.put(path, known)
            reward = float(self.head(hidden[0, at - kept][None])[0])
            if not 0 <= reward <= 1:
                raise VerifierError(f"{self.name} gave {reward} for a step; load it with dtype=float32 or bfloat16")
            rewards.append(reward)
            computed += prefix - kept
            reused += kept
            scored += prefix - max(kept, prompt)
        return Scores(tuple(rewards), Usage(prefix, computed, reused, 0, scored, seconds=time.perf_counter() - started))


def load_verifier(
    model: str,
    *,
    dtype: str | None = None,
    device: str | None = None,
    format: str | None = None,
    separator: str | None = None,
    context: int | None = None,
    allow_pickles: bool = False,
) -> HuggingFaceVerifier:
    """Load a process or outcome reward model by the tensors in its weights, without remote code.

    Args:
        model: Hub id or folder.
        dtype: Of the body; by default fp32 on a CPU and bf16 elsewhere. The head is always fp32.
        device: As torch names it; by default a GPU where there is one.
        format: Name of its format, where its weights and its name do not tell; `rsd models` lists them.
        separator: What it was trained to read scores at, where models of its format differ in that.
        context: Longest sequence in tokens, in place of the checkpoint's `max_position_embeddings`.
        allow_pickles: Also read weights that are no safetensors. They can run code: only for sources you trust.

    Raises:
        ConfigurationError: No such checkpoint, no safetensors in it, no reward head that is known, a body that is not
            whole, or a tokenizer that does not know the format's separator or words.
    """
    parts = load_parts(model, dtype, device, format, separator, allow_pickles)
    return HuggingFaceVerifier(*parts, model, context)
