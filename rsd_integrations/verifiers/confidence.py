"""The drafter's own probability of what it wrote: free, since it was computed to write it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

from rsd_core import ConfigurationError, Explanation, Path, Price, Scores, Step, Usage, Verifier


class Confidence(Verifier):
    """The least (`min`) or the geometric mean (`mean`) probability of a step's tokens under the model that wrote it.

    It abstains where the step does not carry them. A drafter is often sure and wrong: calibrate, and prefer it as the
    first verifier of a cascade. For the probability under another model there is `likelihood:…`.
    """

    flops_per_token = 0.0
    price = Price(0, 0)

    def __init__(self, how: Literal["min", "mean"] = "min") -> None:
        if how not in ("min", "mean"):
            raise ConfigurationError(f"confidence:{how} is unknown; there are confidence:min and confidence:mean")
        self.name = f"confidence:{how}"
        self.how = how

    async def score(self, path: Path, steps: Sequence[Step]) -> Scores:  # noqa: ARG002 - the steps carry it
        """The confidence in each candidate."""
        return Scores(tuple(self._of(step.logprobs) for step in steps), Usage())

    def explain(self, path: Path, step: Step) -> Explanation:  # noqa: ARG002 - the step carries it
        """The probabilities that the step carries."""
        probabilities = ", ".join(f"{math.exp(logprob):.3f}" for logprob in step.logprobs)
        return Explanation(probabilities or "the step carries no probabilities of its tokens")

    def _of(self, logprobs: Sequence[float]) -> float | None:
        if not logprobs:
            return None
        return min(1.0, math.exp(min(logprobs) if self.how == "min" else math.fsum(logprobs) / len(logprobs)))
