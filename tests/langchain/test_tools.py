"""Tool calls in step granularity: their form, and a small real model that learned to make them."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from langchain.agents import create_agent
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_core.utils.function_calling import convert_to_openai_tool

from rsd_core import Message, TargetOnly
from rsd_core.testing import ScriptedTarget
from rsd_integrations.huggingface import HuggingFaceGenerator, load_generator
from rsd_integrations.langchain import ChatRSD, result_of
from rsd_integrations.langchain.tools import ToolCallStream
from tests.huggingface.tiny import make_causal_lm, tokenizer

CALL = '<tool_call>\n{"name": "add", "arguments": {"a": 1, "b": 2}}\n</tool_call>'
TEMPLATE = (
    "{% if tools %}<|im_start|>system\nTools:{% for tool in tools %}{{ tool | tojson }}{% endfor %}"
    "<|im_end|>\n{% endif %}"
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}"
    "{% for call in message.tool_calls or [] %}<tool_call>\n{{ call.function | tojson }}\n</tool_call>{% endfor %}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
QUESTION, ANSWER = "How much is 1 and 2?", "1 and 2 make 3."


@tool
def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


def parsed(pieces: list[str]) -> tuple[str, list[Any]]:
    stream = ToolCallStream()
    made = [stream.feed(piece) for piece in pieces[:-1]] + [stream.feed(pieces[-1], last=True)]
    content = "".join(text for text, _ in made)
    return content, [(call["name"], call["args"], call["index"]) for _, calls in made for call in calls]


def test_content_and_calls_are_distinguished() -> None:
    assert parsed(["Let me see.\n\n" + CALL + "\n" + CALL]) == (
        "Let me see.",
        [("add", '{"a": 1, "b": 2}', 1000), ("add", '{"a": 1, "b": 2}', 1001)],
    )


def chat(*texts: str) -> ChatRSD:
    target = ScriptedTarget(list(texts))
    target.renders_tools = True
    return ChatRSD(decoder=TargetOnly(target=target))


def test_a_call_becomes_a_tool_call_streamed_or_not() -> None:
    model = chat("Let me see.\n\n", CALL).bind_tools([add])
    streamed = list(model.stream("q"))
    whole: Any = sum(streamed[1:], streamed[0])
    for message in (model.invoke("q"), whole):
        assert [(call["name"], call["args"]) for call in message.tool_calls] == [("add", {"a": 1, "b": 2})]
        assert message.text == "Let me see."
        assert message.response_metadata["finish_reason"] == "tool_calls"
        assert result_of(message).text.endswith("</tool_call>")
    assert any(getattr(chunk, "tool_call_chunks", None) for chunk in streamed)


def test_a_call_that_is_not_json_is_reported_as_invalid() -> None:
    message = chat("<tool_call>\n{'name': add}\n</tool_call>").bind_tools([add]).invoke("q")
    assert message.tool_calls == []
    assert "{'name': add}" in str(message.invalid_tool_calls[0]["args"])


@pytest.mark.parametrize("body", ['{"name": 5}', '{"name": ""}', '{"name": null, "arguments": {}}', "[]", ""])
def test_a_call_of_nothing_is_reported_as_invalid(body: str) -> None:
    message = chat(f"<tool_call>{body}</tool_call>").bind_tools([add]).invoke("q")
    assert message.tool_calls == []
    assert message.invalid_tool_calls[0]["args"] == f"<tool_call>{body}</tool_call>"


@pytest.mark.parametrize("rest", ["", ', "arguments": null', ', "arguments": {}', ', "arguments": ""'])
def test_a_call_may_have_no_arguments(rest: str) -> None:
    message = chat(f'<tool_call>{{"name": "add"{rest}}}</tool_call>').bind_tools([add]).invoke("q")
    assert [(call["name"], call["args"]) for call in message.tool_calls] == [("add", {})]


def test_without_tools_the_text_stays_text() -> None:
    assert chat(CALL).invoke("q").text == CALL


def test_tools_and_earlier_calls_reach_the_models_as_data() -> None:
    target = ScriptedTarget(["fine"])
    target.renders_tools = True
    call: Any = {"name": "add", "args": {"a": 1, "b": 2}, "id": "c", "type": "tool_call"}
    history = [HumanMessage("q"), AIMessage("", tool_calls=[call]), ToolMessage("3", tool_call_id="c")]
    ChatRSD(decoder=TargetOnly(target=target)).bind_tools([add]).invoke(history)
    tools, *messages = target.calls[0].prompt
    assert tools == Message("tools", json.dumps([convert_to_openai_tool(add)]))
    assert [message.role for message in messages] == ["user", "assistant", "tool"]
    assert messages[1].extra["tool_calls"][0]["function"] == {"name": "add", "arguments": {"a": 1, "b": 2}}
    assert messages[2].extra["tool_call_id"] == "c"


@pytest.mark.parametrize("choice", [None, "auto"])
def test_a_free_choice_of_tools_is_honoured_bound_or_with_the_call(choice: str | None) -> None:
    model = chat(CALL)
    tools = [convert_to_openai_tool(add)]
    for message in (
        model.bind_tools([add], tool_choice=choice).invoke("q"),
        model.invoke("q", tools=tools, tool_choice=choice),
    ):
        assert [call["name"] for call in message.tool_calls] == ["add"]


def test_what_cannot_be_honoured_is_refused() -> None:
    with pytest.raises(
        ValueError, match=r"a forced call of a tool cannot be honoured: .*does not accept response_format"
    ):
        chat("x").bind_tools([add], tool_choice="any").invoke("q")
    with pytest.raises(ValueError, match="structured output cannot be honoured"):
        chat("x").with_structured_output(convert_to_openai_tool(add)).invoke("q")
    with pytest.raises(ValueError, match="unknown tool 'ad', did you mean 'add'"):
        ChatRSD().bind_tools([add], tool_choice="ad")
    with pytest.raises(ValueError, match="chat template does not show them"):
        ChatRSD().bind_tools([add]).invoke("q")


@pytest.fixture(scope="module")
def caller(tmp_path_factory: pytest.TempPathFactory) -> HuggingFaceGenerator:
    """A tiny model that learned one conversation by heart: a question, a call, its result, the answer."""
    from transformers import Qwen2ForCausalLM

    folder: Path = tmp_path_factory.mktemp("caller")
    make_causal_lm(folder, max_position_embeddings=1024, initializer_range=0.02)
    words = tokenizer()
    words.chat_template = TEMPLATE
    words.save_pretrained(folder)
    messages: list[dict[str, Any]] = [{"role": "user", "content": QUESTION}]
    call = {"type": "function", "function": {"name": "add", "arguments": {"a": 1, "b": 2}}}
    whole = words.apply_chat_template(
        [
            *messages,
            {"role": "assistant", "content": "", "tool_calls": [call]},
            {"role": "tool", "content": "3"},
            {"role": "assistant", "content": ANSWER},
        ],
        tools=[convert_to_openai_tool(add)],
        tokenize=False,
    )
    ids = torch.tensor([words(str(whole))["input_ids"]])
    model = Qwen2ForCausalLM.from_pretrained(folder)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    torch.manual_seed(0)
    for _ in range(400):
        loss = model(input_ids=ids, labels=ids).loss
        if float(loss.detach()) < 0.005:
            break
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.save_pretrained(folder)
    return load_generator(str(folder))


def test_a_real_model_calls_a_tool_in_an_agent_step_by_step(
    caller: HuggingFaceGenerator, draft: HuggingFaceGenerator
) -> None:
    assert caller.renders_tools
    assert not draft.renders_tools

    def right(_: Any, reply: AIMessage) -> float:
        return float(CALL.startswith(str(reply.text)) or ANSWER.startswith(str(reply.text)))

    model = ChatRSD(draft=caller, target=caller, verifier=right, policy="binary_step:0.5")
    assert (model.profile or {})["tool_calling"] is True
    agent: Any = create_agent(model, [add])
    state = agent.invoke({"messages": [HumanMessage(QUESTION)]})
    _, first, result, last = state["messages"]
    assert [(call["name"], call["args"]) for call in first.tool_calls] == [("add", {"a": 1, "b": 2})]
    assert result.content == "3"
    assert last.text == ANSWER
    assert {step.author for message in (first, last) for step in result_of(message).steps} == {"draft"}


def test_the_prompt_is_the_chat_templates_own(caller: HuggingFaceGenerator) -> None:
    shown: Any = caller.vocabulary.tokenizer.apply_chat_template(
        [{"role": "user", "content": QUESTION}], tools=[convert_to_openai_tool(add)], add_generation_prompt=True
    )
    prompt = (Message("tools", json.dumps([convert_to_openai_tool(add)])), Message("user", QUESTION))
    assert caller.vocabulary.prompt(prompt) == shown["input_ids"]
