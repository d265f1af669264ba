"""A small enumerable world, in which the law of RSD can be written down."""

import random
from collections.abc import Sequence

from rsd_core import Generation, Path, Scores, Step, StepRequest, Usage
from rsd_core.interfaces import Drafter, Target, Verifier

STEPS = ("a\n\n", "b\n\n", "c\n\n", "d\n\n")
DRAFT = (0.4, 0.3, 0.2, 0.1)
TARGET = (0.1, 0.2, 0.3, 0.4)
REWARDS = dict(zip(STEPS, (0.1, 0.5, 0.8, 0.9), strict=True))


class Dice(Drafter, Target):
    """Draws a step from a fixed law, and ends after the second."""

    def __init__(self, law: Sequence[float]) -> None:
        self.law = law

    async def generate(self, path: Path, request: StepRequest) -> Generation:
        steps = []
        for seed in request.seeds:
            (text,) = random.Random(seed).choices(STEPS, self.law)
            steps.append(Step(text, "end" if path.depth else "delimiter", size=1))
        return Generation(tuple(steps), Usage(computed=len(steps), generated=len(steps)))


class Table(Verifier):
    """Looks the reward up."""

    async def score(self, path: Path, steps: Sequence[Step]) -> Scores:
        return Scores(tuple(REWARDS[step.text] for step in steps), Usage(computed=len(steps), scored=len(steps)))
