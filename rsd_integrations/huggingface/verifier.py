"""Process reward models in process."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rsd_core import ConfigurationError, Path, Scores, Step, Verifier, VerifierError
from rsd_integrations.huggingface import loading
from rsd_integrations.huggingface.cache import PathCache
from rsd_integrations.huggingface.calls import Layout, Output, Reading
from rsd_integrations.huggingface.engine import engine_of, threads_for
from rsd_integrations.huggingface.runner import Runner
from rsd_integrations.huggingface.vocabulary import PathIds, Vocabulary
from rsd_integrations.prm_formats import PRMFormat


class Layouts:
    """How a reward model of some format reads paths, each text encoded once."""

    def __init__(self, vocabulary: Vocabulary, format: PRMFormat, name: str) -> None:
        separator = vocabulary.encode(format.separator)
        if len(separator) != 1:
            raise ConfigurationError(
                f"{name}: its tokenizer has no token {format.separator!r}, which the format {format.name} reads scores "
                "at. Use the tokenizer that was published with the reward model."
            )
        self._separator = separator[0]
        self._vocabulary, self._format = vocabulary, format
        self.step = lru_cache(4096)(self._step)
        """The layout of a step's text."""
        self.ids = PathIds(self._kept)
        """Ids of a path."""

    def _step(self, text: str) -> Layout:
        """A step with its separator, where its score is read."""
        ids = self._vocabulary.encode(self._format.step_text(text))
        return Layout((*ids, self._separator), read=(len(ids),))

    def _kept(self, node: Path) -> Sequence[int]:
        """The prompt up to the open assistant turn, or an accepted step."""
        if node.step is None:
            return self._vocabulary.prompt(self._format.messages(node.prompt))
        return self.step(node.step.text).kept if self._format.step_text(node.step.text) else ()


class HuggingFaceVerifier(Verifier):
    """A process reward model that reads every token of a path once.

    The body runs in its own dtype, the head in fp32. A score depends only on what comes before it: reading order,
    rejected candidates and later steps never change it.
    """

    def __init__(
        self,
        body: PreTrainedModel,
        head: nn.Module,
        tokenizer: PreTrainedTokenizerBase,
        format: PRMFormat,
        name: str,
        cache_bytes: float | None = None,
    ) -> None:
        self.name = name
        self.body, self.head, self.format = body, head, format
        self.vocabulary = Vocabulary(tokenizer, body.config.vocab_size)
        self.flops_per_token = loading.flops_per_token(body, head)
        self.layouts = Layouts(self.vocabulary, format, name)
        self.runner = Runner.of(body, threads=threads_for(self.flops_per_token), budget=cache_bytes)
        self.cache = PathCache()
        self.context = self.runner.context
        """Longest sequence in tokens."""

    async def score(self, path: Path, steps: Sequence[Step]) -> Scores:
        """Probability that each candidate is right, given the path.

        Raises:
            VerifierError: Path and step are longer than the model's context.
        """
        before, prompt = self.layouts.ids(path)
        layouts = [self.layouts.step(step.text) for step in steps]
        longest = len(before) + max(len(layout.feed) for layout in layouts)
        if longest > self.context:
            raise VerifierError(f"{longest} tokens to score, the context of {self.name} is {self.context}")
        call = Reading(path, self.cache, before, prompt, layouts, self._judge)
        return await engine_of(self.body.device).perform(self.runner, call)

    def _judge(self, read: Sequence[tuple[Output, Layout]]) -> list[float]:
        hidden = torch.cat([output.hidden for output, _ in read if output.hidden is not None])
        logits: Tensor = self.head(hidden.float())
        rewards: list[float] = torch.softmax(logits, -1)[:, self.format.positive].tolist()
        return rewards
