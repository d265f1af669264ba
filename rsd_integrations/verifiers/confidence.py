"""The drafter's own probability of what it wrote: free, since it was computed during generation."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Literal

from rsd_core import ConfigurationError, Explanation, Path, Price, Scores, Step, Usage, Verifier
from rsd_core.baselines.spoken_scores import Abstentions
from rsd_core.thoughts.reading import reader_at

_UNTOLD = "cannot tell which tokens are thought markers"


class Confidence(Verifier):
    """The minimum (`min`) or geometric mean (`mean`) probability of a step's tokens under the model that wrote it.

    A drafter is often confident and wrong: calibrate, and preferably use this as the first verifier of a cascade. For
    the probability under another model, use `likelihood:…`.

    Thought markers do not count. A step does not say which of its tokens they are: each marker is taken to be one
    token, and so is the white space after it, as in the vocabularies of the models that write them. It abstains if a
    thought ends inside a step; if that happens in all of a drafter's first steps, it warns once.
    """

    flops_per_token = 0.0
    price = Price(0, 0)
    may_abstain = True

    def __init__(self, how: Literal["min", "mean"] = "min") -> None:
        if how not in ("min", "mean"):
            raise ConfigurationError(f"confidence:{how} is unknown; there are confidence:min and confidence:mean")
        self.name = f"confidence:{how}"
        self.how = how
        self._abstentions = Abstentions()

    async def score(self, path: Path, steps: Sequence[Step]) -> Scores:
        """The confidence in each candidate.

        Raises:
            ConfigurationError: The drafter does not report the probabilities of what it wrote.
        """
        if any(step.text.strip() and not step.logprobs for step in steps):
            raise ConfigurationError(
                f"{self.name} needs the log-probabilities of the drafter's tokens, but its steps carry none. "
                "In-process models report them; one behind a URL does with logprobs=true in its spec "
                "(openai,logprobs=true:…), if its server supports that. likelihood:… asks another model."
            )
        return Scores(tuple(self._judge(path, step) for step in steps), Usage())

    def explain(self, path: Path, step: Step) -> Explanation:
        """The probabilities that are used."""
        if not step.logprobs:
            return Explanation("the step carries no token probabilities")
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
    """Log-probabilities of the tokens that are not markers; empty if that cannot be determined."""
    markers = reader_at(path.extend(step)).markers
    if markers is None or not step.logprobs:
        return step.logprobs
    names = "|".join(
        re.escape(name) for name in (markers.ending.strip(), markers.open, markers.close, markers.answer) if name
    )
    parts = re.split(rf"((?:{names})\s*)", step.text)  # texts, with the markers between them
    begin, end = 0, len(step.logprobs)
    while len(parts) > 1 and not parts[0].strip():
        begin += bool(parts[0]) + _tokens(parts[1])
        del parts[:2]
    while len(parts) > 1 and not parts[-1].strip():
        end -= _tokens(parts[-2])
        del parts[-2:]
    return step.logprobs[begin:end] if len(parts) == 1 else ()


def _tokens(marker: str) -> int:
    """The assumed number of tokens of a marker, with the white space after it."""
    return len(re.findall(r"<[^<>]*>|\[[^\[\]]*\]|[^<>\[\]\s]+", marker)) + marker[-1:].isspace()
