"""SpecReason (arXiv 2504.07891): the target itself judges the drafted steps, by a short prompt."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

from rsd_core.algorithm import RewardGuidedDecoder
from rsd_core.baselines.spoken_scores import Abstentions, spoken_score
from rsd_core.concurrency import run_calls
from rsd_core.errors import ConfigurationError, VerifierError
from rsd_core.interfaces import Drafter, Sampling, Scores, StepRequest, Target, Verifier
from rsd_core.model import Usage, add_usage, usage_of
from rsd_core.paths import Message, Path, Step, begun
from rsd_core.policies import BinaryStep, FirstSteps
from rsd_core.roles import require
from rsd_core.settings import Settings
from rsd_core.thoughts.agreement import closed
from rsd_core.thoughts.markers import MARKERS
from rsd_core.thoughts.reading import beginning, parts_of, reader_at, split, visible

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

NUMBER, THOUGHT = 8, 8192
"""Tokens of a reply that is a number, and of a thought before a reply; a cap is no cost."""


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


def answer_of(question: Path, reply: Step) -> str:
    """What a reply says after its thoughts."""
    answer = parts_of(question.extend(reply)).answer
    # A server that does not separate them omits their beginning where the chat template has written it.
    return next((answer.rpartition(m.close)[2] for m in MARKERS.values() if m.close in answer), answer)


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


class _Reply(NamedTuple):
    text: str
    usage: Usage


class _Asks(Verifier):
    """Base of verifiers that ask a generating model for a number."""

    may_abstain = True

    def __init__(self, target: Target, kind: str) -> None:
        require("target", target, Target)
        self.name = f"{target.name} as {kind}"
        self.flops_per_token, self.price = target.flops_per_token, target.price
        self._target, self._room = target, NUMBER

    async def _ask(self, question: Path) -> _Reply:
        """A reply without its thought. A model that turns out to think anyway has room for it from then on."""
        request = StepRequest(seeds=(0,), max_tokens=self._room, delimiter=None, sampling=Sampling())
        reply = await self._target.generate(question, request)
        step, read = reply.steps[0], question.extend(reply.steps[0])
        thinks = reader_at(read).in_thought or (not step.text and step.size > 0)  # servers may hide it
        if step.ending == "length" and thinks and request.max_tokens == NUMBER:
            self._room = NUMBER + THOUGHT
            try:
                text, usage = await self._ask(question)
            except BaseException as error:
                add_usage(error, reply.usage + (usage_of(error) or Usage()))
                raise
            return _Reply(text, reply.usage + usage)
        return _Reply(answer_of(question, step), reply.usage)

    async def aclose(self) -> None:
        """Nothing to close here: the target is closed in its own role."""


class TargetJudge(_Asks):
    """Scores a step by the digit from 0 to 9 that a generating model gives it, divided by 9.

    Args:
        target: The judge.
        prompt: The question for it, with `{question}` and `{solution}`: the problem, and the solution so far ending
            with the step to judge, thoughts included, without markers.

    Raises:
        ConfigurationError: The prompt lacks one of the two.
    """

    def __init__(self, target: Target, prompt: str = JUDGE) -> None:
        super().__init__(target, "judge")
        if not {"{question}", "{solution}"} <= set(re.findall(r"\{\w*\}", prompt)):
            raise ConfigurationError(f"the judge's prompt needs {{question}} and {{solution}} (got {prompt!r:.80})")
        self.prompt = prompt
        self._abstentions = Abstentions()

    async def score(self, path: Path, steps: Sequence[Step]) -> Scores:
        """Ask for one number per step; a reply without one abstains."""
        replies = await run_calls([self._ask(self._prompt(path, step)) for step in steps])
        # Short replies to long prompts: by the paper's convention of counting, a judge scores what it reads of answers.
        usage = replace(sum((reply.usage for reply in replies), Usage()), scored=sum(step.size for step in steps))
        rewards = [_digit(reply.text) for reply in replies]
        for reply, reward in zip(replies, rewards, strict=True):
            self._abstentions.note(self.name, reward, reply.text)
        return Scores(tuple(rewards), usage)

    def _prompt(self, path: Path, step: Step) -> Path:
        return ask(self._target, path, self.prompt, solution=_solution(path.extend(step)))


class TargetChoice(_Asks):
    """The target picks one of the drafted steps, or none (the idea of SpecCoT; the prompt is our own).

    The step that it picks gets the reward 1, all others 0; if none is right, it writes the step itself.
    """

    def __init__(self, target: Target) -> None:
        super().__init__(target, "chooser")

    async def score(self, path: Path, steps: Sequence[Step]) -> Scores:
        """Ask for the number of the best step.

        Raises:
            VerifierError: The reply contains neither a step's number nor 0.
        """
        listed = "\n\n".join(f"{i}. {_step(path, step)}" for i, step in enumerate(steps, 1))
        reply, usage = await self._ask(ask(self._target, path, CHOICE, solution=_solution(path), steps=listed))
        usage = replace(usage, scored=sum(step.size for step in steps))
        number = re.search(r"\d+", reply)
        if number is None or int(number[0]) > len(steps):
            message = f"{self.name} replied {reply!r} instead of a number from 0 to {len(steps)}"
            raise VerifierError(message, usage=usage)
        return Scores(tuple(float(i == int(number[0])) for i in range(1, len(steps) + 1)), usage)


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
