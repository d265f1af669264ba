"""Whole turns through the server: tools and formats are passed on to the models' own servers."""

from __future__ import annotations

import json
from typing import Any

from rsd_core import RSDConfig
from rsd_core.blocking import in_thread, wait_for
from rsd_integrations.serve import ServeConfig
from tests.openai_compatible.answering import scripted
from tests.openai_compatible.test_tool_calls import ADD, CALL, answered, says
from tests.serve.running import Running, events, running

HISTORY = [
    {"role": "user", "content": "1 + 2?"},
    {"role": "assistant", "content": None, "tool_calls": [CALL]},
    {"role": "tool", "tool_call_id": "c1", "content": "3"},
    {"role": "user", "content": [{"type": "text", "text": "And 3 "}, {"type": "text", "text": "+ 4?"}]},
]


def served(draft: Any, target: Any, reward: float, ask: Any) -> tuple[Any, list[dict[str, Any]], list[dict[str, Any]]]:
    """What `ask` makes of a server before two chats, and what those were sent."""

    async def run() -> tuple[Any, list[dict[str, Any]], list[dict[str, Any]]]:
        async with scripted(draft) as drafter, scripted(target) as strong:
            config = RSDConfig.parse(
                {
                    "drafter": f"openai,profile=generic,retries=0:m@{drafter.url}",
                    "verifier": "rule:arithmetic",
                    "target": f"openai,profile=generic,retries=0:m@{strong.url}",
                    "policy": "always_draft" if reward > 0.5 else "always_target",
                    "settings": {"granularity": "turn"},
                }
            )

            def work() -> Any:
                with running(ServeConfig(models={"rsd": config})) as server:
                    return ask(server)

            told = await in_thread(work)
            sent = [[body for body in one.requests if body] for one in (drafter, strong)]
            return told, sent[0], sent[1]

    return wait_for(run())


def test_tools_and_how_to_call_them_reach_the_models_and_calls_come_back() -> None:
    body = {
        "messages": HISTORY,
        "tools": [ADD],
        "tool_choice": "required",
        "parallel_tool_calls": False,
        "model": "rsd",
        "temperature": 0,
    }

    def ask(server: Running) -> Any:
        whole = server.client.post("/v1/chat/completions", json=body).json()
        return whole, events(server.client.post("/v1/chat/completions", json=body | {"stream": True}))

    drafts = answered(says(content="Let me see.", tool_calls=[CALL]))
    (whole, streamed), sent, unused = served(drafts, answered(says("stop", content="no")), 1.0, ask)
    choice = whole["choices"][0]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["content"] == "Let me see."
    assert choice["message"]["tool_calls"] == [CALL]
    delta = streamed[0]["choices"][0]["delta"]
    assert delta["content"] == "Let me see."
    assert delta["tool_calls"] == [{"index": 0, **CALL}]
    assert streamed[-2]["choices"][0]["finish_reason"] == "tool_calls"
    for one in sent:
        assert (one["tools"], one["tool_choice"], one["parallel_tool_calls"]) == ([ADD], "required", False)
        assert one["messages"][1]["tool_calls"] == [CALL]  # arguments as text again, as servers take them
        assert one["messages"][2]["tool_call_id"] == "c1"
        assert one["messages"][3]["content"] == "And 3 + 4?"
    assert not unused


def test_a_call_that_was_rejected_is_nowhere() -> None:
    target = answered(says("stop", content="It is 7."))
    other = {**CALL, "id": "rejected"}

    def ask(server: Running) -> str:
        text = server.chat(tools=[ADD]).text
        return text + server.chat(tools=[ADD], stream=True).text

    told, _, sent = served(answered(says(tool_calls=[other])), target, 0.0, ask)
    assert told.count("It is 7.") == 2
    assert "rejected" not in told
    assert "tool_calls" not in told
    assert sent


def test_a_format_and_an_effort_are_passed_on_and_refused_where_nobody_takes_them() -> None:
    answer: Any = answered(says("stop", content=json.dumps({"sum": 7})))
    fields: dict[str, Any] = {"response_format": {"type": "json_object"}, "reasoning_effort": "low"}
    told, sent, _ = served(answer, answer, 1.0, lambda server: server.chat(**fields).json())
    assert json.loads(told["choices"][0]["message"]["content"]) == {"sum": 7}
    assert all(one["response_format"] == {"type": "json_object"} for one in sent)
    assert all(one["reasoning_effort"] == "low" for one in sent)
    with running(ServeConfig(models={"rsd": RSDConfig()})) as server:
        refused = server.chat(reasoning_effort="low")
        assert refused.status_code == 400
        assert "reasoning_effort" in refused.json()["error"]["message"]


def test_thinking_is_switched_off_for_one_request_alone() -> None:
    thinkers = RSDConfig(drafter="embedded:thinking-draft", target="embedded:thinking-target")
    with running(ServeConfig(models={"rsd": thinkers})) as server:
        for off in (False, True, False):
            fields: dict[str, Any] = {"chat_template_kwargs": {"enable_thinking": False}} if off else {}
            message = server.chat(**fields).json()["choices"][0]["message"]
            assert bool(message.get("reasoning")) != off
            assert message["content"]
