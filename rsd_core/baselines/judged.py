"""SpecReason (arXiv 2504.07891): the target itself judges the drafted steps, by a short prompt."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from rsd_core.algorithm import RewardGuidedDecoder
from rsd_core.concurrency import run_calls
from rsd_core.decoder import require
from rsd_core.errors import VerifierError
from rsd_core.interfaces import Drafter, Sampling, Scores, StepRequest, Target, Usage, Verifier
from rsd_core.paths import Message, Path, Step
from rsd_core.policies import BinaryStep, FirstSteps
from rsd_core.settings import Settings

JUDGE = (
    "{question}\n\nHere is the beginning of a solution to this problem:\n\n{solution}\n\n"
    "Judge its last step only: is it correct, does it follow from what stands before it, and does it lead towards the "
    "answer? Reply with one whole number from 0 (useless) to 9 (certainly right), and nothing else.\n\nScore:"
)


class TargetJudge(Verifier):
    """Scores a step by the digit from 0 to 9 that a generating model gives it, divided by 9."""

    def __init__(self, target: Target) -> None:
        require("target", target, Target)
        self.name = f"{target.name} as judge"
        self.flops_per_token, self.price = target.flops_per_token, target.price
        self._target = target

    async def score(self, path: Path, steps: Sequence[Step]) -> Scores:
        """Ask for one number per step.

        Raises:
            VerifierError: A reply holds no digit.
        """
        request = StepRequest(seeds=(0,), max_tokens=8, delimiter=None, sampling=Sampling())
        questions = [self._prompt(path, step) for step in steps]
        replies = await run_calls([self._target.generate(question, request) for question in questions])
        # Short replies to long prompts: by the paper's convention of counting, a judge scores what it reads of answers.
        usage = replace(sum((reply.usage for reply in replies), Usage()), scored=sum(step.size for step in steps))
        rewards = []
        for reply in replies:
            digit = re.search(r"\d", reply.steps[0].text)
            if digit is None:
                message = f"{self.name} replied {reply.steps[0].text!r} where a digit was asked for"
                raise VerifierError(message, usage=usage)
            rewards.append(int(digit[0]) / 9)
        return Scores(tuple(rewards), usage)

    def _prompt(self, path: Path, step: Step) -> Path:
        *before, last = path.prompt
        question = JUDGE.format(question=last.content, solution=f"{path.text}{step.text}".strip())
        return Path((*before, Message(last.role, question)))

    async def aclose(self) -> None:
        """The target is closed by whoever uses it as target."""


class SpecReason(RewardGuidedDecoder):
    """Speculative reasoning: RSD with the target as its own verifier, and the first steps by the target.

    Args:
        drafter: The cheap model.
        target: The strong model; it has to be able to judge.
        threshold: The least digit that is accepted, 0 to 9; 7 in the paper.
        first_steps: Steps that the target writes at the beginning.
        settings: Everything else.
    """

    def __init__(
        self,
        *,
        drafter: Drafter,
        target: Target,
        threshold: int = 7,
        first_steps: int = 0,
        settings: Settings | None = None,
    ) -> None:
        super().__init__(
            drafter=drafter,
            verifier=TargetJudge(target),
            target=target,
            policy=FirstSteps(n=first_steps, then=BinaryStep(delta=threshold / 9)),
            settings=settings,
        )
