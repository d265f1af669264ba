"""Reward models in process: every token of a path is read once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rsd_core import Explanation, Path, Scores, Step, Verifier
from rsd_integrations.huggingface import loading
from rsd_integrations.huggingface.checks import check_rewards, check_scored
from rsd_integrations.huggingface.engine import engine_of, threads_for
from rsd_integrations.huggingface.heads import RewardHead
from rsd_integrations.huggingface.path_cache import PathCache
from rsd_integrations.huggingface.runner import Runner
from rsd_integrations.huggingface.score_call import ScoreCall
from rsd_integrations.huggingface.vocabulary import Vocabulary
from rsd_integrations.prm_formats import Layouts, Reader

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


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
        reader: Reader[Any],
        name: str,
        cache_bytes: float | None = None,
    ) -> None:
        self.name = name
        self.body, self.head, self.reader = body, head, reader
        self.vocabulary = Vocabulary(tokenizer, body.config.vocab_size)
        self.flops_per_token = loading.flops_per_token(body, head)
        self.runner = Runner.of(body, threads=threads_for(self.flops_per_token), budget=cache_bytes)
        self.cache = PathCache()
        self.context = self.runner.context
        """Longest sequence in tokens."""
        self.layouts = Layouts(reader)

    async def score(self, path: Path, steps: Sequence[Step]) -> Scores:
        """Probability that each candidate is right, given the path.

        Raises:
            PromptError: The prompt alone fills the model's context.
            VerifierError: A step is blank, or a marker of a thought alone; path and step are longer than the context;
                or the score is no number.
        """
        prefix, prompt = self.layouts.ids(path)
        layouts = [self.layouts.step(path, step) for step in steps]
        check_scored(prompt, len(prefix) + max(len(layout.feed) for layout in layouts), self.context, self.name)
        call = ScoreCall(path, self.cache, prefix, prompt, layouts, self.head.rewards)
        return check_rewards(await engine_of(self.runner.device).run(self.runner, call), self.name)

    def explain(self, path: Path, step: Step) -> Explanation:
        """What is read for a step, and where its score is."""
        return self.layouts.explain(path, step)
