"""A small run of the benchmark of agents, and that it detects what it should."""

from __future__ import annotations

from typing import Any

import pytest
from langchain.agents.middleware import AgentMiddleware
from langchain_core.messages import AIMessage

from tests.benchmarks import agent_conversations
from tests.benchmarks.agent_conversations import VARIANTS, VIOLATIONS, measure, unanswered

pytestmark = pytest.mark.filterwarnings("ignore::rsd_core.RoleWarning")  # a model's first call may find a wrong key


@pytest.mark.parametrize("variant", VARIANTS)
def test_nothing_is_executed_that_should_not_be(variant: str) -> None:
    found = measure(9, [variant])[variant]
    assert found["violations"] == dict.fromkeys(VIOLATIONS, 0)
    assert found["early_summaries"] == 0
    assert found["summaries"] > 0
    assert found["executed_by"]["draft"] > 0
    assert found["executed_by"]["target"] > 0
    assert sum(fault > 0 for fault in found["faults"].values()) >= 8


class Naive(AgentMiddleware[Any, Any]):
    """Keeps every draft, and overestimates its message threefold."""

    def __init__(self, draft: Any, *_: Any, **__: Any) -> None:
        super().__init__()
        self.draft = draft

    def wrap_model_call(self, request: Any, handler: Any) -> Any:
        return _tripled(handler(request.override(model=self.draft)))

    async def awrap_model_call(self, request: Any, handler: Any) -> Any:
        return _tripled(await handler(request.override(model=self.draft)))


def _tripled(response: Any) -> Any:
    for message in response.result:
        if isinstance(message, AIMessage) and message.usage_metadata:
            message.usage_metadata["total_tokens"] *= 3
    return response


def test_the_benchmark_finds_what_is_executed_wrongly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agent_conversations, "RSDMiddleware", Naive)
    found = measure(15, ["middleware"])["middleware"]
    assert found["violations"]["truncated"] > 0
    assert found["violations"]["rejected"] > 0
    assert found["violations"]["not_the_drafts"] > 0
    assert found["early_summaries"] > 0


CALL = {"role": "assistant", "content": "", "tool_calls": [{"id": "a"}]}
RESULT = {"role": "tool", "content": "", "tool_call_id": "a"}
USE = {"role": "assistant", "content": [{"type": "tool_use", "id": "a"}]}
USED = {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "a"}]}
USER = {"role": "user", "content": "x"}


@pytest.mark.parametrize(
    ("messages", "wrong"),
    [
        ([USER, CALL, RESULT, USER, USE, USED], 0),
        ([USER, CALL, USER], 1),
        ([USER, RESULT], 1),
        ([USE, USER, USED], 2),
        ([USE], 1),
    ],
)
def test_histories_that_providers_refuse(messages: list[dict[str, Any]], wrong: int) -> None:
    assert unanswered(messages) == wrong
