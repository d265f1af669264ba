"""Verifiers without a model. They detect errors; otherwise they mostly abstain."""

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
    may_abstain = True

    @abstractmethod
    def judge(self, path: Path, step: Step) -> tuple[float | None, str]:
        """A reward, or None to abstain, and the reason."""

    async def score(self, path: Path, steps: Sequence[Step]) -> Scores:
        """The rule's judgement of each candidate."""
        return Scores(tuple(self.judge(path, step)[0] for step in steps), Usage())

    def explain(self, path: Path, step: Step) -> Explanation:
        """Why the rule judges as it does."""
        return Explanation(self.judge(path, step)[1])


class Arithmetic(Rule):
    """1 if all equations of a step hold, 0 if one does not; abstains if there is none to check.

    Equations in thoughts count as well.
    """

    name = "rule:arithmetic"

    def judge(self, path: Path, step: Step) -> tuple[float | None, str]:
        chains = equations(shown(path, step).text)
        if not chains:
            return None, "no equation to check"
        judgements = "; ".join(f"{text} {'holds' if holds else 'is wrong'}" for text, holds in chains)
        return float(all(holds for _, holds in chains)), judgements


class Format(Rule):
    """0 if a step of the answer is malformed; abstains otherwise, since form says nothing about content.

    A step is malformed if it has unbalanced braces, was cut off by its token cap, is longer than `max_chars`, or does
    not match `pattern`; the last step also if the answer does not match `answer`.

    Args:
        max_chars: Maximum number of characters in a step; None for no limit.
        pattern: A regular expression that must occur in each step.
        answer: A regular expression that must occur in a finished answer.
    """

    name = "rule:format"

    def __init__(self, max_chars: int | None = None, pattern: str | None = None, answer: str | None = None) -> None:
        self.max_chars = max_chars
        self.pattern, self.answer = _compiled(pattern), _compiled(answer)

    def judge(self, path: Path, step: Step) -> tuple[float | None, str]:
        text = shown(path, step).answer
        if step.text.strip() and not text.strip():
            return None, "part of a thought, which has no required form"
        fault = _unbalanced(text)
        if step.ending == "length":
            fault = "cut off by its token cap"
        elif self.max_chars is not None and len(text) > self.max_chars:
            fault = f"{len(text)} characters, more than {self.max_chars}"
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
    """0 if a step repeats an earlier one or repeats itself; abstains otherwise.

    Args:
        times: How many consecutive repeats of the same words count as a loop.
        words: Minimum number of words in a loop.
    """

    name = "rule:repetition"

    def __init__(self, times: int = 4, words: int = 1) -> None:
        if times < 2 or words < 1:
            raise ConfigurationError(f"times={times}, words={words}: a repetition needs at least 2 times and 1 word")
        self.times = times
        self._circle = re.compile(rf"((?:\S+\s+){{{words},20}}?)\1{{{times - 1},}}")

    def judge(self, path: Path, step: Step) -> tuple[float | None, str]:
        text = shown(path, step).text
        own = " ".join(text.split())
        if any(" ".join(known.split()) == own for known in shown_steps(path)):
            return 0.0, "repeats an earlier step"
        circle = self._circle.search(text + " ")
        if circle:
            return 0.0, f"repeats {circle[1].strip()!r} {self.times} times in a row"
        return None, "nothing is repeated"


def _compiled(pattern: str | None) -> re.Pattern[str] | None:
    try:
        return None if pattern is None else re.compile(pattern)
    except re.error as error:
        raise ConfigurationError(f"{pattern!r} is not a regular expression: {error}") from error


def _unbalanced(text: str) -> str | None:
    """An unbalanced brace outside of code, as in broken LaTeX; other brackets may legitimately be unpaired."""
    plain = re.sub(r"```.*?(?:```|\Z)|`[^`\n]*`|\\[{}]", "", text, flags=re.DOTALL)
    depth = 0
    for char in plain:
        depth += (char == "{") - (char == "}")
        if depth < 0:
            return "an unmatched closing brace"
    return "an unclosed brace" if depth else None


RULES = {"arithmetic": Arithmetic, "format": Format, "repetition": Repetition}
