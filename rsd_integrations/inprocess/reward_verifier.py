"""Reward models in process: every token of a path is read once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rsd_core import Explanation, Path, Scores, Step, Verifier
from rsd_integrations.inprocess.checks import check_rewards, check_scored
from rsd_integrations.inprocess.engine import run
from rsd_integrations.inprocess.path_cache import PathCache
from rsd_integrations.inprocess.runner import Runner
from rsd_integrations.inprocess.score_call import RewardFunction, ScoreCall
from rsd_integrations.loaded_models import Resident
from rsd_integrations.prm_formats import Layout, Layouts, Reader


class RewardVerifier(Resident, Verifier):
    """A reward model that reads every token of a path once.

    A score depends only on what comes before it: reading order, rejected candidates and later steps never change it.
    """

    def __init__(
        self, runner: Runner, rewards: RewardFunction, reader: Reader[Any], flops_per_token: float, name: str
    ) -> None:
        """Take over a model.

        Args:
            runner: What runs its body.
            rewards: Its head: from what the body gives to rewards.
            reader: Its format, bound to its tokenizer.
            flops_per_token: Two for each weight that multiplies, those of the head included.
            name: Shown to people.
        """
        self.runner, self.reader, self.name = runner, reader, name
        self.flops_per_token, self.dtype = flops_per_token, runner.dtype
        self.cache = PathCache()
        self.context = runner.context
        """Longest sequence in tokens."""
        self.layouts = Layouts(reader)
        self._rewards = rewards

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
        return check_rewards(await run(self.runner, self._call(path, prefix, prompt, layouts)), self.name)

    def _call(self, path: Path, prefix: list[int], prompt: int, layouts: Sequence[Layout]) -> ScoreCall:
        return ScoreCall(path, self.cache, prefix, prompt, layouts, self._rewards)

    def explain(self, path: Path, step: Step) -> Explanation:
        """What is read for a step, and where its score is."""
        return self.layouts.explain(path, step)
