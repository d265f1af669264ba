"""LangChain models and plain functions as verifiers."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage
from langchain_core.runnables import Runnable

from rsd_core import Path, Prompt, Scores, Step, Usage, Verifier, parts_of
from rsd_core.concurrency import run_calls
from rsd_integrations.langchain.messages import as_text, originals
from rsd_integrations.langchain.roles import as_reply
from rsd_integrations.langchain.silent_calls import call_async, call_in_thread
from rsd_integrations.langchain.wrapped_model import LangChainRole
from rsd_integrations.rubric import RUBRIC, ByFunction, Rubric


class LangChainJudge(LangChainRole, Verifier):
    """A LangChain model that scores steps by a rubric; the reward is the score divided by 9.

    A reply that states its own maximum, such as `Score: 7/10`, is divided by that. One without a score abstains, which
    is charged and counted on the ledger; if none of the first replies has a score, a warning is issued once.

    Args:
        model: A chat model or LLM.
        rubric: Instructions that end by asking for a line `Score: N`, N from 0 to 9.
        max_tokens: Maximum length of a reply, thoughts included, sent with each call; by default the model's own. Set
            it on the model if its class does not accept it per call.
        **base: `trace_inner`, `name`, `price` and `flops_per_token`.
    """

    role = "judge"
    may_abstain = True

    def __init__(
        self, model: Runnable[Any, Any], *, rubric: str = RUBRIC, max_tokens: int | None = None, **base: Any
    ) -> None:
        super().__init__(model, **base)
        self.rubric = Rubric(rubric, max_tokens)

    def _answers_differ_by(self) -> dict[str, Any]:
        return self.rubric.differs_by

    async def score(self, path: Path, steps: Sequence[Step]) -> Scores:
        """Ask for a score of each step; a reply without one abstains.

        Raises:
            VerifierError: A reply was cut before its score; the error carries the work of all replies.
        """
        scores = await run_calls(self._judge(path, step) for step in steps)
        return Scores(tuple(one.rewards[0] for one in scores), sum((one.usage for one in scores), Usage()))

    async def _judge(self, path: Path, step: Step) -> Scores:
        rubric = self.rubric
        question = rubric.question(_conversation(path.prompt), path, step)
        options = {} if rubric.max_tokens is None else {"max_tokens": rubric.max_tokens}
        asked = [SystemMessage(rubric.instructions), HumanMessage(question)]
        reply = as_reply(await self.call(self.model, asked, **options))
        return rubric.scores(self.name, reply.text, reply.usage, cut=reply.is_cut)


Scorer = Callable[[list[BaseMessage], AIMessage], float | Awaitable[float]]
"""Maps the conversation and the answer, up to and including the step in question, to a reward in [0, 1]."""


class FunctionVerifier(ByFunction):
    """A plain function as verifier: a rule, a heuristic, a call to a service. Blocking functions run in a thread.

    Models that it calls are hidden from the surrounding run, whose stream would otherwise show their verdict on
    rejected drafts.

    Args:
        function: See `Scorer`. The reply's text is the answer so far, and its thought a reasoning block. In turn
            granularity it is the model's original reply, with its tool calls.

    Raises:
        ConfigurationError: It is not callable.
    """

    def __init__(self, function: Scorer) -> None:
        super().__init__(function)

    def conversation(self, prompt: Prompt) -> list[BaseMessage]:
        return originals(prompt)

    def reply(self, path: Path, step: Step) -> AIMessage:
        return step.native if isinstance(step.native, AIMessage) else _begun(path.extend(step))

    async def in_thread(self, work: Callable[[], Any]) -> Any:
        return await call_in_thread(work, self.name)

    async def waited(self, work: Awaitable[Any]) -> Any:
        return await call_async(work, self.name)


def _begun(path: Path) -> AIMessage:
    """The response so far as a message."""
    parts = parts_of(path)
    return AIMessage(parts.answer, additional_kwargs={"reasoning_content": parts.thought} if parts.thought else {})


def _conversation(prompt: Prompt) -> str:
    parts = [f"## tools\n{message.content}" for message in prompt if message.role == "tools"]
    return "\n\n".join(parts + [f"## {message.type}\n{as_text(message)}" for message in originals(prompt)])
