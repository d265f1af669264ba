"""Verifiers made of a chat model and a rubric, or of a plain function, whatever framework they come from."""

from __future__ import annotations

import inspect
import math
from abc import abstractmethod
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from rsd_core import (
    ConfigurationError,
    Parts,
    Path,
    Prompt,
    Scores,
    Step,
    Usage,
    Verifier,
    VerifierError,
    parts_of,
    split,
    visible,
)
from rsd_core.baselines.spoken_scores import Abstentions, spoken_score
from rsd_core.blocking import in_thread

RUBRIC = (
    "You judge the work of an assistant. Rate its latest step alone: is it correct, does it follow from what comes "
    "before, and does it bring the answer closer? 9 means certainly right and useful, 5 undecided, 0 certainly wrong. "
    "Think briefly, then end with one line of the form: Score: N"
)
"""The default instructions: scores from 0 to 9, as SpecReason (arXiv 2504.07891) asks for them."""
BEST = 9
"""The maximum score, unless a reply states another (`Score: 7/10`)."""


class Rubric:
    """The question to a chat model about a step, and the reading of its reply.

    Args:
        instructions: The system message; it ends by asking for a line `Score: N`, N from 0 to 9.
        max_tokens: Maximum length of a reply, thoughts included; None leaves it to the model.

    Raises:
        ConfigurationError: `max_tokens` leaves no room to reply.
    """

    def __init__(self, instructions: str = RUBRIC, max_tokens: int | None = None) -> None:
        if max_tokens is not None and max_tokens < 1:
            raise ConfigurationError(f"max_tokens={max_tokens} leaves a judge no room to reply; it must be at least 1")
        self.instructions, self.max_tokens = instructions, max_tokens
        self._abstentions = Abstentions()

    @property
    def differs_by(self) -> dict[str, Any]:
        """What differs from the default, for fingerprints."""
        own = {} if self.instructions == RUBRIC else {"rubric": self.instructions}
        return own | ({} if self.max_tokens is None else {"max_tokens": self.max_tokens})

    def question(self, conversation: str, path: Path, step: Step) -> str:
        """The user message about a step that follows the path.

        Args:
            conversation: The prompt as the judge reads it.
            path: Prompt and accepted steps.
            step: The step to judge.
        """
        return (
            f"# Conversation\n{conversation}\n\n"
            f"# The assistant's work so far\n{_work(parts_of(path)) or '(nothing)'}\n\n"
            f"# The latest step\n{_work(visible(path, step))}"
        )

    def scores(self, judge: str, reply: str, usage: Usage, *, cut: bool) -> Scores:
        """The reward of one step, None if the reply contains no score.

        Args:
            judge: The name of the model.
            reply: Its text, possibly including a thought.
            usage: The work of the reply.
            cut: Whether the reply used up its tokens.

        Raises:
            VerifierError: The reply was cut before its score, which a higher cap fixes; the error carries the usage.
        """
        said = split(reply)
        reward = spoken_score(said.answer, BEST)
        if reward is None and (cut or said.open):
            where = "in its thoughts" if said.open or not said.answer.strip() else "before its score"
            cap = "" if self.max_tokens is None else f", max_tokens={self.max_tokens} of them its cap"
            raise VerifierError(
                f"the judge {judge} was cut {where} after {usage.generated} tokens{cap}: raise max_tokens of the "
                "judge or of the model itself, or switch its thinking off",
                usage=usage,
            )
        self._abstentions.note(f"the judge {judge}", reward, said.answer)
        return Scores((reward,), usage)


def _work(parts: Parts) -> str:
    """Thought and answer as a judge reads them."""
    return "\n\n".join(filter(None, [parts.thought and f"(thinking) {parts.thought.strip()}", parts.answer]))


class ByFunction(Verifier):
    """Base of verifiers that are a plain function of a framework's messages.

    Args:
        function: Maps the conversation and the reply, up to and including the step in question, to a reward in [0, 1]
            or an awaitable of one. Blocking functions run in a thread.

    Raises:
        ConfigurationError: It is not callable.
    """

    flops_per_token = 0.0

    def __init__(self, function: Callable[..., Any]) -> None:
        if not callable(function):
            raise ConfigurationError(
                f"an object of the class {type(function).__name__} is not a function of (messages, reply)"
            )
        self.function = function
        self.name = getattr(function, "__name__", type(function).__name__)

    @abstractmethod
    def conversation(self, prompt: Prompt) -> Any:
        """A prompt as messages of the framework."""

    @abstractmethod
    def reply(self, path: Path, step: Step) -> Any:
        """The reply up to and including a step, as a message of the framework."""

    async def in_thread(self, work: Callable[[], Any]) -> Any:
        """Call the function, which may block."""
        return await in_thread(work)

    async def waited(self, work: Awaitable[Any]) -> Any:
        """Await what the function returned."""
        return await work

    async def score(self, path: Path, steps: Sequence[Step]) -> Scores:
        """Call the function for each step in turn.

        Raises:
            VerifierError: It returned something other than a number in [0, 1].
        """
        messages = self.conversation(path.prompt)
        return Scores(tuple([await self._reward(messages, self.reply(path, step)) for step in steps]), Usage())

    async def _reward(self, messages: Any, reply: Any) -> float:
        reward = await self.in_thread(lambda: self.function(messages, reply))
        if inspect.isawaitable(reward):
            reward = await self.waited(reward)
        return _checked(reward, self.name)


def _checked(reward: Any, name: str) -> float:
    """A reward as a plain float; numbers from other libraries are accepted, texts are not."""
    try:
        number = math.nan if isinstance(reward, str | bytes | bytearray) else float(reward)
    except (TypeError, ValueError, OverflowError, RuntimeError):
        number = math.nan
    if not 0 <= number <= 1:  # also false for NaN
        raise VerifierError(f"verifier function {name} returned {reward!r:.80}; it must return a number from 0 to 1")
    return number
