"""The drafter's own probability of what it wrote: free, since it was computed to write it."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Literal

from rsd_core import ConfigurationError, Explanation, Path, Price, Scores, Step, Usage, Verifier
from rsd_core.baselines.spoken_scores import Abstentions
from rsd_core.thoughts.reading import reader_at

_UNTOLD = "which of the tokens are markers of a thought cannot be told"


class Confidence(Verifier):
    """The least (`min`) or the geometric mean (`mean`) probability of a step's tokens under the model that wrote it.

    A drafter is often sure and wrong: calibrate, and prefer it as the first verifier of a cascade. For the probability
    under another model there is `likelihood:…`.

    Markers of thoughts do not count. A step does not say which of its tokens they are: each of their names is taken for
    one token, and so is white space after them, as in the vocabularies of the models that write them. It abstains where
    a thought ends inside of a step; a drafter all of whose first steps are such is warned of once.
    """

    flops_per_token = 0.0
    price = Price(0, 0)

    def __init__(self, how: Literal["min", "mean"] = "min") -> None:
        if how not in ("min", "mean"):
            raise ConfigurationError(f"confidence:{how} is unknown; there are confidence:min and confidence:mean")
        self.name = f"confidence:{how}"
        self.how = how
        self._abstentions = Abstentions()

    async def score(self, path: Path, steps: Sequence[Step]) -> Scores:
        """The confidence in each candidate.

        Raises:
            ConfigurationError: The drafter does not tell how likely it found what it wrote.
        """
        if any(step.text.strip() and not step.logprobs for step in steps):
            raise ConfigurationError(
                f"{self.name} reads the log-probabilities of the drafter's tokens, and its steps carry none. Models in "
                "process tell them; one behind a URL does with logprobs=true in its spec (openai,logprobs=true:…), "
                "where its server tells them at all. likelihood:… asks another model."
            )
        return Scores(tuple(self._judge(path, step) for step in steps), Usage())

    def explain(self, path: Path, step: Step) -> Explanation:
        """The probabilities that count."""
        if not step.logprobs:
            return Explanation("the step carries no probabilities of its tokens")
        probabilities = ", ".join(f"{math.exp(logprob):.3f}" for logprob in _judged(path, step))
        return Explanation(probabilities or _UNTOLD)

    def _judge(self, path: Path, step: Step) -> float | None:
        reward = self._of(_judged(path, step))
        if step.text.strip():
            self._abstentions.note(self.name, reward, _UNTOLD)
        return reward

    def _of(self, logprobs: Sequence[float]) -> float | None:
        if not logprobs:
            return None
        return min(1.0, math.exp(min(logprobs) if self.how == "min" else math.fsum(logprobs) / len(logprobs)))


def _judged(path: Path, step: Step) -> Sequence[float]:
    """Log-probabilities of the tokens that are no markers; none where that cannot be told."""
    markers = reader_at(path.extend(step)).markers
    if markers is None or not step.logprobs:
        return step.logprobs
    names = "|".join(
        re.escape(name) for name in (markers.ending.strip(), markers.open, markers.close, markers.answer) if name
    )
    parts = re.split(rf"((?:{names})\s*)", step.text)  # texts, and between them the markers
    begin, end = 0, len(step.logprobs)
    while len(parts) > 1 and not parts[0].strip():
        begin += bool(parts[0]) + _tokens(parts[1])
        del parts[:2]
    while len(parts) > 1 and not parts[-1].strip():
        end -= _tokens(parts[-2])
        del parts[-2:]
    return step.logprobs[begin:end] if len(parts) == 1 else ()


def _tokens(marker: str) -> int:
    """How many tokens a marker is taken to be, with the white space after it."""
    return len(re.findall(r"<[^<>]*>|\[[^\[\]]*\]|[^<>\[\]\s]+", marker)) + marker[-1:].isspace()
