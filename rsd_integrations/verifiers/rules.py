"""Verifiers without a model. They know what is wrong, or nothing: then they abstain."""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Sequence

from rsd_core import ConfigurationError, Explanation, Path, Price, Scores, Step, Usage, Verifier
from rsd_integrations.prm_formats import shown, shown_response, shown_steps
from rsd_integrations.verifiers.arithmetic import equations


class Rule(Verifier):
    """Base of all rules. They cost nothing."""

    flops_per_token = 0.0
    price = Price(0, 0)

    @abstractmethod
    def judge(self, path: Path, step: Step) -> tuple[float | None, str]:
        """A reward, or None to abstain, and why."""

    async def score(self, path: Path, steps: Sequence[Step]) -> Scores:
        """The rule's judgement of each candidate."""
        return Scores(tuple(self.judge(path, step)[0] for step in steps), Usage())

    def explain(self, path: Path, step: Step) -> Explanation:
        """Why the rule judges as it does."""
        return Explanation(self.judge(path, step)[1])


class Arithmetic(Rule):
    """1 where all equations of a step hold, 0 where one does not; abstains where there is none to check.

    Equations count in thoughts as in the answer.
    """

    name = "rule:arithmetic"

    def judge(self, path: Path, step: Step) -> tuple[float | None, str]:
        chains = equations(shown(path, step).text)
        if not chains:
            return None, "no equation to check"
        judgements = "; ".join(f"{text} {'holds' if holds else 'is wrong'}" for text, holds in chains)
        return float(all(holds for _, holds in chains)), judgements


class Format(Rule):
    """0 where a step of the answer is malformed; abstains elsewhere, since form says nothing of substance.

    Malformed is a step with braces that do not close, one that is cut off by its token cap, one longer than
    `max_chars`, one that does not match `pattern`, and a last step without what `answer` finds.

    Args:
        max_chars: Longest step in characters; None is no limit.
        pattern: A regular expression found somewhere in each step.
        answer: A regular expression found somewhere in the text of a finished answer.
    """

    name = "rule:format"

    def __init__(self, max_chars: int | None = None, pattern: str | None = None, answer: str | None = None) -> None:
        self.max_chars = max_chars
        self.pattern, self.answer = _compiled(pattern), _compiled(answer)

    def judge(self, path: Path, step: Step) -> tuple[float | None, str]:
        text = shown(path, step).answer
        if step.text.strip() and not text.strip():
            return None, "part of a thought, which has no form"
        fault = _unbalanced(text)
        if step.ending == "length":
            fault = "cut off by its token cap"
        elif self.max_chars is not None and len(text) > self.max_chars:
            fault = f"{len(text)} characters, of at most {self.max_chars}"
        elif self.pattern is not None and not self.pattern.search(text):
            fault = f"does not match {self.pattern.pattern!r}"
        elif (
            step.ending == "end"
            and self.answer is not None
            and not self.answer.search(shown_response(path.extend(step)).answer)
        ):
            fault = f"the answer does not match {self.answer.pattern!r}"
        return (0.0, fault) if fault else (None, "well formed")


class Repetition(Rule):
    """0 where a step says what an earlier one said, or goes round in circles; abstains elsewhere.

    Args:
        times: How often in a row the same words make a circle.
        words: The fewest words that make one.
    """

    name = "rule:repetition"

    def __init__(self, times: int = 4, words: int = 1) -> None:
        if times < 2 or words < 1:
            raise ConfigurationError(f"times={times}, words={words}: a repetition takes 2 times and 1 word at least")
        self.times = times
        self._circle = re.compile(rf"((?:\S+\s+){{{words},20}}?)\1{{{times - 1},}}")

    def judge(self, path: Path, step: Step) -> tuple[float | None, str]:
        text = shown(path, step).text
        own = " ".join(text.split())
        if any(" ".join(known.split()) == own for known in shown_steps(path)):
            return 0.0, "says what an earlier step said"
        circle = self._circle.search(text + " ")
        if circle:
            return 0.0, f"says {circle[1].strip()!r} {self.times} times in a row"
        return None, "nothing is repeated"


def _compiled(pattern: str | None) -> re.Pattern[str] | None:
    try:
        return None if pattern is None else re.compile(pattern)
    except re.error as error:
        raise ConfigurationError(f"{pattern!r} is no regular expression: {error}") from error


def _unbalanced(text: str) -> str | None:
    """A brace outside of code that does not close, as in broken LaTeX; other brackets have honest uses alone."""
    plain = re.sub(r"```.*?(?:```|\Z)|`[^`\n]*`|\\[{}]", "", text, flags=re.DOTALL)
    depth = 0
    for char in plain:
        depth += (char == "{") - (char == "}")
        if depth < 0:
            return "a brace that closes nothing"
    return "a brace that does not close" if depth else None


RULES = {"arithmetic": Arithmetic, "format": Format, "repetition": Repetition}
