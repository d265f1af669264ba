"""A client in lock-step, like the published reference: the baseline for speed.

Each round sends one request to the drafter for the next step of every live problem, one to the verifier with all of
their texts, and one to the target for those that were rejected; then the round is over for all. Whole texts are sent
again every time. It has the reference's behaviour and acceptance rule, except for the limit on rounds without a
finished problem, since that cuts answers off.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from rsd_core import Prompt, Step


@dataclass(slots=True)
class Live:
    """A problem in progress."""

    prompt: Prompt
    steps: list[Step] = field(default_factory=list)

    @property
    def text(self) -> str:
        """The answer so far."""
        return "".join(step.text for step in self.steps)


Write = Callable[[Sequence[Live]], Awaitable[Sequence[Step]]]
"""Send one request for the next step of each."""
Score = Callable[[Sequence[tuple[Live, Step]]], Awaitable[Sequence[float]]]
"""Send one request for the reward of each drafted step."""


async def lock_step(
    prompts: Sequence[Prompt], draft: Write, score: Score, target: Write, *, delta: float, max_steps: int = 100
) -> list[str]:
    """Answer all prompts together; return the texts in order."""
    problems = [Live(prompt) for prompt in prompts]
    live = problems
    while live:
        drafts = await draft(live)
        rewards = await score(list(zip(live, drafts, strict=True)))
        rejected = [i for i, reward in enumerate(rewards) if reward < delta]
        steps = list(drafts)
        if rejected:
            for i, step in zip(rejected, await target([live[i] for i in rejected]), strict=True):
                steps[i] = step
        for problem, step in zip(live, steps, strict=True):
            problem.steps.append(step)
        live = [problem for problem in live if problem.steps[-1].ending != "end" and len(problem.steps) < max_steps]
    return [problem.text for problem in problems]
