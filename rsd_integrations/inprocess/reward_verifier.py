"""In-process reward models: every token of a path is read once."""

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

    A score depends only on the text before it: reading order, rejected candidates and later steps never change it.
    """

    def __init__(
        self, runner: Runner, rewards: RewardFunction, reader: Reader[Any], flops_per_token: float, name: str
    ) -> None:
        """Take over a model.

        Args:
            runner: The runner of its body.
            rewards: Its head: from the body's outputs to rewards.
            reader: Its format, bound to its tokenizer.
            flops_per_token: Two for each multiplied weight, including those of the head.
            name: Display name.
        """
        self.runner, self.reader, self.name = runner, reader, name
        self.flops_per_token, self.dtype = flops_per_token, runner.dtype
        self.cache = PathCache()
        self.context = runner.context
        """Maximum sequence length in tokens."""
        self.layouts = Layouts(reader)
        self._rewards = rewards

    async def score(self, path: Path, steps: Sequence[Step]) -> Scores:
        """Probability that each candidate is correct, given the path.

        Raises:
            PromptError: The prompt alone fills the model's context.
            VerifierError: A step is blank or only a thought marker, path and step exceed the context, or the score is
                not a number.
        """
        prefix, prompt = self.layouts.ids(path)
        layouts = [self.layouts.step(path, step) for step in steps]
        check_scored(prompt, len(prefix) + max(len(layout.feed) for layout in layouts), self.context, self.name)
        return check_rewards(await run(self.runner, self._call(path, prefix, prompt, layouts)), self.name)

    def _call(self, path: Path, prefix: list[int], prompt: int, layouts: Sequence[Layout]) -> ScoreCall:
        return ScoreCall(path, self.cache, prefix, prompt, layouts, self._rewards)

    def explain(self, path: Path, step: Step) -> Explanation:
        """The input for a step, and where its score is read."""
        return self.layouts.explain(path, step)
