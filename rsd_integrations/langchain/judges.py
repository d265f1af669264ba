"""LangChain models and plain functions as verifiers."""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage
from langchain_core.runnables import Runnable

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
from rsd_core.concurrency import run_calls
from rsd_integrations.langchain.messages import as_text, originals
from rsd_integrations.langchain.roles import as_reply
from rsd_integrations.langchain.silent_calls import call_async, call_in_thread
from rsd_integrations.langchain.wrapped_model import LangChainRole

RUBRIC = (
    "You judge the work of an assistant. Rate its latest step alone: is it correct, does it follow from what comes "
    "before, and does it bring the answer closer? 9 means certainly right and useful, 5 undecided, 0 certainly wrong. "
    "Think briefly, then end with one line of the form: Score: N"
)
"""The default instructions of `LangChainJudge`: scores from 0 to 9, as SpecReason (arXiv 2504.07891) asks for them."""
_SCORE = re.compile(r"score\W{0,6}([0-9])(?![0-9.])", re.IGNORECASE)


class LangChainJudge(LangChainRole, Verifier):
    """A LangChain model that scores steps by a rubric; the reward is the score divided by 9.

    Args:
        model: A chat model or LLM.
        rubric: Instructions that end in asking for a line `Score: N`, N from 0 to 9.
        max_tokens: Cap of a reply, thoughts included, sent along with each call; by default the model's own. Models
            whose class takes none with a call get theirs where they are made.
        **base: `trace_inner`, `name`, `price` and `flops_per_token`.
    """

    role = "judge"

    def __init__(
        self, model: Runnable[Any, Any], *, rubric: str = RUBRIC, max_tokens: int | None = None, **base: Any
    ) -> None:
        super().__init__(model, **base)
        if max_tokens is not None and max_tokens < 1:
            raise ConfigurationError(f"max_tokens={max_tokens} leaves a judge no room to reply; it takes 1 and more")
        self.rubric, self.max_tokens = rubric, max_tokens

    def _answers_differ_by(self) -> dict[str, Any]:
        rubric = {} if self.rubric == RUBRIC else {"rubric": self.rubric}
        return rubric | ({} if self.max_tokens is None else {"max_tokens": self.max_tokens})

    async def score(self, path: Path, steps: Sequence[Step]) -> Scores:
        """Ask for a score of each step.

        Raises:
            VerifierError: A reply holds no score, or was cut before it; the error carries the work of all replies.
        """
        scores = await run_calls(self._judge(path, step) for step in steps)
        return Scores(tuple(one.rewards[0] for one in scores), sum((one.usage for one in scores), Usage()))

    async def _judge(self, path: Path, step: Step) -> Scores:
        question = (
            f"# Conversation\n{_conversation(path.prompt)}\n\n"
            f"# The assistant's work so far\n{_work(parts_of(path)) or '(nothing)'}\n\n"
            f"# The latest step\n{_work(visible(path, step))}"
        )
        options = {} if self.max_tokens is None else {"max_tokens": self.max_tokens}
        reply = as_reply(await self.call(self.model, [SystemMessage(self.rubric), HumanMessage(question)], **options))
        said = split(reply.text)
        scores = _SCORE.findall(said.answer) or re.findall(r"^\s*([0-9])\s*$", said.answer)
        if scores:
            return Scores((int(scores[-1]) / 9,), reply.usage)
        if reply.is_cut or said.open:
            where = "in its thoughts" if said.open or not said.answer.strip() else "before its score"
            cap = "" if self.max_tokens is None else f", max_tokens={self.max_tokens} of them its cap"
            raise VerifierError(
                f"the judge {self.name} was cut {where} after {reply.usage.generated} tokens{cap}: give it more by "
                "max_tokens of LangChainJudge or of the model itself, or switch its thinking off",
                usage=reply.usage,
            )
        raise VerifierError(
            f"the judge {self.name} gave no line 'Score: N' with N from 0 to 9, but {said.answer[-200:]!r}",
            usage=reply.usage,
        )


Scorer = Callable[[list[BaseMessage], AIMessage], float | Awaitable[float]]
"""From the conversation and the answer, up to and including the step in question, to a reward in [0, 1]."""


class FunctionVerifier(Verifier):
    """A plain function as verifier: a rule, a heuristic, a call to a service. Blocking ones run in a thread.

    Models that it calls are not seen by the surrounding run, whose stream would show what they say of a rejected draft.

    Args:
        function: See `Scorer`. The reply's text is the answer so far, and its thought a reasoning block. In turn
            granularity it is the reply as the model gave it, with its tool calls.
    """

    flops_per_token = 0.0

    def __init__(self, function: Scorer) -> None:
        if not callable(function):
            raise ConfigurationError(f"{function!r} is no function of (messages, reply)")
        self.function = function
        self.name = getattr(function, "__name__", type(function).__name__)

    async def score(self, path: Path, steps: Sequence[Step]) -> Scores:
        """Call the function for one step after the other.

        Raises:
            VerifierError: It gave something that is no number in [0, 1].
        """
        messages = originals(path.prompt)
        return Scores(tuple([await self._reward(messages, path, step) for step in steps]), Usage())

    async def _reward(self, messages: list[BaseMessage], path: Path, step: Step) -> float:
        reply = step.native if isinstance(step.native, AIMessage) else _begun(path.extend(step))
        reward = await call_in_thread(lambda: self.function(messages, reply), self.name)
        if inspect.isawaitable(reward):
            reward = await call_async(reward, self.name)
        return _checked(reward, self.name)


def _begun(path: Path) -> AIMessage:
    """The response so far as a message."""
    parts = parts_of(path)
    return AIMessage(parts.answer, additional_kwargs={"reasoning_content": parts.thought} if parts.thought else {})


def _work(parts: Parts) -> str:
    """Thought and answer as a judge reads them."""
    return "\n\n".join(filter(None, [parts.thought and f"(thinking) {parts.thought.strip()}", parts.answer]))


def _checked(reward: Any, name: str) -> float:
    """A reward as a plain float; numbers of other libraries are numbers, texts never are."""
    try:
        number = math.nan if isinstance(reward, str | bytes | bytearray) else float(reward)
    except (TypeError, ValueError, OverflowError, RuntimeError):
        number = math.nan
    if not 0 <= number <= 1:  # NaN fails this as well
        raise VerifierError(f"the verifier function {name} gave {reward!r:.80}; it must return a number from 0 to 1")
    return number


def _conversation(prompt: Prompt) -> str:
    parts = [f"## tools\n{message.content}" for message in prompt if message.role == "tools"]
    return "\n\n".join(parts + [f"## {message.type}\n{as_text(message)}" for message in originals(prompt)])
