"""SpecReason (arXiv 2504.07891): the target itself judges the drafted steps, by a short prompt."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from rsd_core.algorithm import RewardGuidedDecoder
from rsd_core.baselines.spoken_scores import Abstentions, spoken_score
from rsd_core.concurrency import run_calls
from rsd_core.errors import ConfigurationError, VerifierError
from rsd_core.interfaces import Drafter, Sampling, Scores, StepRequest, Target, Verifier
from rsd_core.model import Usage
from rsd_core.paths import Message, Path, Step, begun
from rsd_core.policies import BinaryStep, FirstSteps
from rsd_core.roles import require
from rsd_core.settings import Settings
from rsd_core.thoughts.agreement import closed
from rsd_core.thoughts.reading import beginning, parts_of, split, visible

JUDGE = (
    "{question}\n\nHere is the beginning of a solution to this problem:\n\n{solution}\n\n"
    "Judge its last step only: is it correct, does it follow from what stands before it, and does it lead towards the "
    "answer? Reply with one whole number from 0 (useless) to 9 (certainly right), and nothing else.\n\nScore:"
)

CHOICE = (
    "{question}\n\nHere is the beginning of a solution to this problem:\n\n{solution}\n\n"
    "One of these may be its next step:\n\n{steps}\n\n"
    "Reply with the number of the step that is correct and leads towards the answer, or with 0 if none of them does, "
    "and nothing else.\n\nNumber:"
)


def ask(model: Target, path: Path, template: str, **parts: str) -> Path:
    """Ask a model about the response to a prompt, to be answered without a thought.

    Args:
        model: The model to ask.
        path: The prompt and the response.
        template: The question, with `{question}` for the prompt's last question.
        parts: Values of the template's other fields.
    """
    *before, last = path.prompt[:-1] if begun(path.prompt) else path.prompt
    if model.renders_tools == "turn":  # it would be asked to call them
        before = [message for message in before if message.role != "tools"]
    parts = {"question": last.content, **parts}
    question = re.sub(r"\{(\w+)\}", lambda name: parts.get(name[1], name[0]), template)
    prompt = (*before, Message(last.role, question))
    return Path(prompt, thinking=closed([model.thinking(prompt)]))


def _solution(path: Path) -> str:
    message = begun(path.prompt)
    parts = [parts_of(path)] if message is None else [split(beginning(message)), parts_of(path)]
    return "\n\n".join(text for part in parts for text in (part.thought, part.answer) if text).strip()


def _digit(reply: str) -> float | None:
    """The reward in a short reply: a score in any notation, else the first number of a sentence."""
    reward = spoken_score(reply, 9)
    number = None if reward is not None or "score" in reply.lower() else re.search(r"\d+(?:\.\d+)?", reply)
    return spoken_score(number[0], 9) if number else reward


def _step(path: Path, step: Step) -> str:
    parts = visible(path, step)
    return f"{parts.thought}{parts.answer}".strip()


class TargetJudge(Verifier):
    """Scores a step by the digit from 0 to 9 that a generating model gives it, divided by 9.

    Args:
        target: The judge.
        prompt: The question for it, with `{question}` and `{solution}`: the problem, and the solution so far ending
            with the step to judge, thoughts included, without markers.

    Raises:
        ConfigurationError: The prompt lacks one of the two.
    """

    def __init__(self, target: Target, prompt: str = JUDGE) -> None:
        require("target", target, Target)
        if not {"{question}", "{solution}"} <= set(re.findall(r"\{\w*\}", prompt)):
            raise ConfigurationError(f"the judge's prompt needs {{question}} and {{solution}} (got {prompt!r:.80})")
        self.prompt = prompt
        self.name = f"{target.name} as judge"
        self.flops_per_token, self.price = target.flops_per_token, target.price
        self._target = target
        self._abstentions = Abstentions()

    async def score(self, path: Path, steps: Sequence[Step]) -> Scores:
        """Ask for one number per step; a reply without one abstains."""
        request = StepRequest(seeds=(0,), max_tokens=8, delimiter=None, sampling=Sampling())
        questions = [self._prompt(path, step) for step in steps]
        replies = await run_calls([self._target.generate(question, request) for question in questions])
        # Replies are short and prompts long: by the paper's counting convention, a judge scores the answer tokens it
        # reads.
        usage = replace(sum((reply.usage for reply in replies), Usage()), scored=sum(step.size for step in steps))
        rewards = [_digit(reply.steps[0].text) for reply in replies]
        for reply, reward in zip(replies, rewards, strict=True):
            self._abstentions.note(self.name, reward, reply.steps[0].text)
        return Scores(tuple(rewards), usage)

    def _prompt(self, path: Path, step: Step) -> Path:
        return ask(self._target, path, self.prompt, solution=_solution(path.extend(step)))

    async def aclose(self) -> None:
        """The target is closed by whoever uses it as target."""


class TargetChoice(Verifier):
    """The target picks one of the drafted steps, or none (the idea of SpecCoT; the prompt is our own).

    The step that it picks gets the reward 1, all others 0; if none is right, it writes the step itself.
    """

    def __init__(self, target: Target) -> None:
        require("target", target, Target)
        self.name = f"{target.name} as chooser"
        self.flops_per_token, self.price = target.flops_per_token, target.price
        self._target = target

    async def score(self, path: Path, steps: Sequence[Step]) -> Scores:
        """Ask for the number of the best step.

        Raises:
            VerifierError: The reply contains neither a step's number nor 0.
        """
        request = StepRequest(seeds=(0,), max_tokens=8, delimiter=None, sampling=Sampling())
        listed = "\n\n".join(f"{i}. {_step(path, step)}" for i, step in enumerate(steps, 1))
        reply = await self._target.generate(
            ask(self._target, path, CHOICE, solution=_solution(path), steps=listed), request
        )
        usage = replace(reply.usage, scored=sum(step.size for step in steps))
        number = re.search(r"\d+", reply.steps[0].text)
        if number is None or int(number[0]) > len(steps):
            message = f"{self.name} replied {reply.steps[0].text!r} instead of a number from 0 to {len(steps)}"
            raise VerifierError(message, usage=usage)
        return Scores(tuple(float(i == int(number[0])) for i in range(1, len(steps) + 1)), usage)

    async def aclose(self) -> None:
        """The target is closed by whoever uses it as target."""


class SpecReason(RewardGuidedDecoder):
    """Speculative reasoning: RSD with the target as verifier and author of the first steps.

    Args:
        drafter: The cheap model.
        target: The strong model; it must be able to judge.
        threshold: The lowest accepted digit, 0 to 9; 7 in the paper.
        first_steps: Steps that the target writes at the beginning.
        prompt: The question about a step (see `TargetJudge`).
        settings: Everything else.
    """

    def __init__(
        self,
        *,
        drafter: Drafter,
        target: Target,
        threshold: int = 7,
        first_steps: int = 0,
        prompt: str = JUDGE,
        settings: Settings | None = None,
    ) -> None:
        super().__init__(
            drafter=drafter,
            verifier=TargetJudge(target, prompt),
            target=target,
            policy=FirstSteps(n=first_steps, then=BinaryStep(delta=threshold / 9)),
            settings=settings,
        )
