"""A verifier without reward training: the likelihood of a step under a language model."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from math import exp, isnan, nan
from statistics import fmean
from typing import Literal

from rsd_core import ConfigurationError, Explanation, Path, Scores, Step, Verifier, VerifierError
from rsd_integrations.inprocess.calls import Output
from rsd_integrations.inprocess.checks import check_rewards, check_scored
from rsd_integrations.inprocess.engine import run
from rsd_integrations.inprocess.language_model import LanguageModel
from rsd_integrations.inprocess.marks import Marks
from rsd_integrations.inprocess.path_ids import Continued
from rsd_integrations.inprocess.runner import Runner
from rsd_integrations.inprocess.score_call import ScoreCall
from rsd_integrations.inprocess.vocabulary import Vocabulary
from rsd_integrations.prm_formats import Layout

How = Literal["min", "mean", "entropy"]


class LikelihoodVerifier(LanguageModel, Verifier):
    """Scores a step by its likelihood under a causal language model: by default, that of its least likely token.

    It is not a trained process reward model: it detects text that its language model would not have generated. It suits
    tasks with little freedom of wording, where an unlikely token is a mistake. The model may be the target, which then
    judges whether it would have generated the step, or any other. Thought markers are read by models that know them,
    but never judged.
    """

    def __init__(
        self,
        runner: Runner,
        vocabulary: Vocabulary,
        eos_ids: frozenset[int],
        flops_per_token: float,
        name: str,
        how: How = "min",
    ) -> None:
        """Take over a model.

        Args:
            runner: See `LanguageModel`.
            vocabulary: See `LanguageModel`.
            eos_ids: See `LanguageModel`.
            flops_per_token: See `LanguageModel`.
            name: See `LanguageModel`.
            how: `min` is the minimum probability of a step's tokens, `mean` the geometric mean, and `entropy` the
                model's certainty, whatever was chosen: exp(-H), with H the mean entropy in nats.

        Raises:
            ConfigurationError: `how` is none of them.
        """
        if how not in ("min", "mean", "entropy"):
            raise ConfigurationError(f"how={how!r} is unknown; choose min, mean or entropy")
        self.how: How = how
        super().__init__(runner, vocabulary, eos_ids, flops_per_token, name)
        self._marks = Marks(self.vocabulary)

    async def score(self, path: Path, steps: Sequence[Step]) -> Scores:
        """Likelihood of each candidate, given the path.

        Raises:
            PromptError: The prompt alone fills the model's context.
            VerifierError: A step is blank or only a marker, path and step exceed the context, or the score is not a
                number.
        """
        read, layouts = self._layouts(path, steps)
        check_scored(read.prompt, len(read.prefix) + max(map(len, read.feeds)), self.context, self.name)
        call = ScoreCall(path, self.runner.cache, read.prefix, read.prompt, layouts, self._rewards)
        return check_rewards(await run(self.runner, call), self.name)

    def explain(self, path: Path, step: Step) -> Explanation:
        """The input for a step. The score is read one position before each of its tokens, where it is predicted."""
        continued, (layout,) = self._layouts(path, [step])
        before = continued.prefix
        ids = [*before, *layout.feed]
        tokenizer = self.vocabulary.tokenizer
        names = tokenizer.convert_ids_to_tokens(ids)
        read = tuple(len(before) + offset for offset in layout.read[:-1])
        return Explanation(str(tokenizer.decode(ids)), tuple(zip(ids, names, strict=True)), read, len(ids))

    def _layouts(self, path: Path, steps: Sequence[Step]) -> tuple[Continued, list[Layout]]:
        """The output at a token predicts the next one; the last output is kept for the next step."""
        continued, judged = self._marks.after(path, steps)
        layouts = []
        for step, ids, own in zip(steps, continued.feeds, judged, strict=True):
            if not any(own):
                raise VerifierError(f"{self.name}: the step {step.text!r} has no token to judge")
            first = len(ids) - len(own)
            places = [first + at - 1 for at, is_judged in enumerate(own) if is_judged]
            layouts.append(Layout(ids, read=(*places, len(ids) - 1)))
        return continued, layouts

    def _rewards(self, candidates: Sequence[tuple[Output, Layout]]) -> list[float]:
        chosen = [output.part(0, len(layout.read) - 1) for output, layout in candidates]
        output = chosen[0].joined(chosen[1:]) if len(chosen) > 1 else chosen[0]
        if self.how == "entropy":
            values = [-nats for nats in output.entropies()]
        else:
            values = output.log_likelihoods(
                [layout.feed[at + 1] for _, layout in candidates for at in layout.read[:-1]]
            )
        sizes = [len(layout.read) - 1 for _, layout in candidates]
        spans = [values[end - size : end] for end, size in zip(accumulate(sizes), sizes, strict=True)]
        fold = min if self.how == "min" else fmean
        # Log-probabilities, or negative entropies; rounding may put them above 0. A NaN must not be lost in a minimum.
        return [nan if any(map(isnan, span)) else min(1.0, exp(fold(span))) for span in spans]
