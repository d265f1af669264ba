"""LlamaIndex models and plain functions as verifiers."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from llama_index.core.base.llms.base import BaseLLM
from llama_index.core.base.llms.types import ChatMessage, ChatResponse, MessageRole, TextBlock, ThinkingBlock

from rsd_core import Path, Prompt, Scores, Step, Usage, Verifier, parts_of
from rsd_core.concurrency import run_calls
from rsd_integrations.llamaindex.classes import asked_with, refuse
from rsd_integrations.llamaindex.messages import as_text, originals
from rsd_integrations.llamaindex.replies import is_cut
from rsd_integrations.llamaindex.roles import LlamaIndexRole
from rsd_integrations.rubric import RUBRIC, ByFunction, Rubric


class LlamaIndexJudge(LlamaIndexRole, Verifier):
    """A LlamaIndex model that scores messages, or steps, by a rubric; the reward is the score divided by 9.

    A reply that states its own maximum, such as `Score: 7/10`, is divided by that. One without a score abstains, which
    is charged and counted on the ledger; if none of the first replies has a score, a warning is issued once.

    Args:
        llm: Any LlamaIndex LLM.
        rubric: Instructions that end by asking for a line `Score: N`, N from 0 to 9.
        max_tokens: Maximum length of a reply, thoughts included; by default the model's own.
        **base: `name`, `price` and `flops_per_token`.
    """

    may_abstain = True

    def __init__(self, llm: BaseLLM, *, rubric: str = RUBRIC, max_tokens: int | None = None, **base: Any) -> None:
        super().__init__(llm, **base)
        self.rubric = Rubric(rubric, max_tokens)
        self._fields = {} if max_tokens is None else {"max_tokens": max_tokens}
        refuse(llm, self._fields)
        self._asked = asked_with(llm, self._fields)

    async def score(self, path: Path, steps: Sequence[Step]) -> Scores:
        """Ask for a score of each step; a reply without one abstains.

        Raises:
            VerifierError: A reply was cut before its score; the error carries the work of all replies.
        """
        scores = await run_calls(self._judge(path, step) for step in steps)
        return Scores(tuple(one.rewards[0] for one in scores), sum((one.usage for one in scores), Usage()))

    async def _judge(self, path: Path, step: Step) -> Scores:
        question = self.rubric.question(_conversation(path.prompt), path, step)
        llm, options = self._asked
        asked = [
            ChatMessage(role=MessageRole.SYSTEM, content=self.rubric.instructions),
            ChatMessage(role=MessageRole.USER, content=question),
        ]
        response, usage = await self.ask(llm, asked, **options)
        return self.rubric.scores(self.name, response.message.content or "", usage, cut=is_cut(response))


Scorer = Callable[[list[ChatMessage], ChatMessage], float | Awaitable[float]]
"""Maps the conversation and the reply, up to and including the step in question, to a reward in [0, 1]."""


class FunctionVerifier(ByFunction):
    """A plain function as verifier: a rule, a heuristic, a call to a service. Blocking functions run in a thread.

    Args:
        function: See `Scorer`. In turn granularity the reply is the model's original message, with its tool calls;
            otherwise the text so far, with any thought as a separate block.

    Raises:
        ConfigurationError: It is not callable.
    """

    def __init__(self, function: Scorer) -> None:
        super().__init__(function)

    def conversation(self, prompt: Prompt) -> list[ChatMessage]:
        return originals(prompt)

    def reply(self, path: Path, step: Step) -> ChatMessage:
        return step.native.message if isinstance(step.native, ChatResponse) else _begun(path.extend(step))


def _begun(path: Path) -> ChatMessage:
    """The response so far as a message."""
    parts = parts_of(path)
    thought = [ThinkingBlock(content=parts.thought)] if parts.thought else []
    return ChatMessage(role=MessageRole.ASSISTANT, blocks=[*thought, TextBlock(text=parts.answer)])


def _conversation(prompt: Prompt) -> str:
    parts = [f"## tools\n{message.content}" for message in prompt if message.role == "tools"]
    return "\n\n".join(parts + [f"## {message.role.value}\n{as_text(message)}" for message in originals(prompt)])
