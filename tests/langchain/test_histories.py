"""Histories that other providers' classes made, read by models that write step by step."""

import logging
from collections.abc import Iterator
from typing import Any

import pytest
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.tools import tool

from rsd_core import Path, PromptError, StepRequest, TargetOnly
from rsd_core.testing import ScriptedTarget
from rsd_integrations.langchain import RSDLLM, ChatRSD, RSDRunnable
from rsd_integrations.langchain.messages import as_prompt
from tests.langchain.providers import CHATS, Call, Provider, Reply, provider


@pytest.fixture(scope="module")
def served() -> Iterator[Provider]:
    with provider() as running:
        yield running


class Reads(ScriptedTarget):
    """Keeps the prompts that it is asked with."""

    renders_tools = True

    def __init__(self) -> None:
        super().__init__(["fine"])
        self.read: list[Any] = []

    async def generate(self, path: Path, request: StepRequest) -> Any:
        self.read.append(path.prompt)
        return await super().generate(path, request)


def shown(*messages: BaseMessage) -> list[tuple[str, str]]:
    """What a model in steps is shown, by all three faces."""
    reader = Reads()
    for kind in (ChatRSD, RSDRunnable, RSDLLM):
        kind(decoder=TargetOnly(target=reader)).invoke(list(messages))
    assert len(set(reader.read)) == 1
    return [(message.role, message.content) for message in reader.read[0]]


@tool
def weather(city: str) -> str:
    """The weather of a city."""
    return city


@pytest.mark.parametrize("version", ["v0", "v1"])
@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("name", CHATS)
def test_what_a_partner_class_answered_is_understood(served: Provider, name: str, version: str, streamed: bool) -> None:
    thinks = name in ("ChatOpenAI, Responses", "ChatAnthropic", "ChatDeepSeek")
    served.answers(Reply("I look.", reason="tool_calls", calls=(Call("weather", '{"city": "Rome"}'),), thought="hm"))
    model = CHATS[name](served, output_version=version).bind_tools([weather])
    # Bedrock's stream is of a form that the server does not speak, and Mistral's class takes calls that come whole.
    if streamed and name not in ("ChatBedrockConverse", "ChatMistralAI"):
        first, *rest = model.stream("q")
        answer: Any = first + rest
    else:
        answer = model.invoke("q")
    (call,) = answer.tool_calls
    history = [SystemMessage("s"), HumanMessage("q"), answer, ToolMessage("It rains.", tool_call_id=call["id"])]
    assert shown(*history) == [("system", "s"), ("user", "q"), ("assistant", "I look."), ("tool", "It rains.")]
    said = as_prompt(history)[2]
    assert [(one["id"], one["function"]) for one in said.extra["tool_calls"]] == [
        (call["id"], {"name": "weather", "arguments": {"city": "Rome"}})
    ]
    if thinks:
        assert said.extra.get("reasoning_content") == "hm"


TEXT: Any = {"type": "text", "text": "It rains."}
CITED: Any = {**TEXT, "annotations": [{"type": "citation", "url": "https://example.org"}]}
CALL: Any = {"name": "f", "args": {"a": 1}, "id": "call_1", "type": "tool_call"}
MADE_BY_PROVIDERS: list[tuple[list[Any], str]] = [
    ([{"type": "function_call", "call_id": "call_1", "name": "f", "arguments": '{"a": 1}'}, TEXT], "It rains."),
    ([{"type": "web_search_call", "id": "ws", "status": "completed", "action": {"query": "x"}}, TEXT], "It rains."),
    ([{"type": "file_search_call", "id": "fs"}, {"type": "code_interpreter_call", "id": "ci"}, TEXT], "It rains."),
    ([{"type": "image_generation_call", "id": "ig", "result": "aGk="}, TEXT], "It rains."),
    ([{"type": "mcp_call", "id": "m"}, {"type": "mcp_list_tools", "id": "l"}, CITED], "It rains."),
    ([{"type": "refusal", "refusal": "I will not."}], "I will not."),
    ([TEXT, {"type": "refusal", "refusal": " I will not."}], "It rains. I will not."),
    ([{"type": "thinking", "thinking": "hm", "signature": "s"}, TEXT], "It rains."),
    ([{"type": "redacted_thinking", "data": "x"}, TEXT], "It rains."),
    ([{"type": "reasoning", "id": "rs", "summary": [], "encrypted_content": "x"}, TEXT], "It rains."),
    ([{"type": "server_tool_use", "id": "st", "name": "web_search", "input": {}}, CITED], "It rains."),
    ([{"type": "web_search_tool_result", "tool_use_id": "st", "content": []}, TEXT], "It rains."),
    ([{"type": "server_tool_call", "id": "1", "name": "s", "args": {}}, TEXT], "It rains."),
    ([{"type": "server_tool_result", "tool_call_id": "1", "status": "success"}, TEXT], "It rains."),
    ([{"type": "tool_use", "id": "call_1", "name": "f", "input": {"a": 1}}, TEXT], "It rains."),
    ([{"type": "tool_result", "tool_use_id": "1", "content": "x"}, TEXT], "It rains."),
    ([{"type": "non_standard", "value": {"type": "redacted_thinking", "data": "x"}}, TEXT], "It rains."),
    ([{"type": "non_standard", "value": {"type": "refusal", "refusal": "No. "}}, TEXT], "No. It rains."),
    ([{"type": "image", "base64": "aGk=", "mime_type": "image/png"}, TEXT], "It rains."),
    ([{"type": "executable_code", "executable_code": "1"}, "It ", "rains."], "It rains."),
    ([{"no": "type"}, TEXT], "It rains."),
]


@pytest.mark.parametrize("provider_name", [None, "openai", "anthropic", "google_genai", "bedrock_converse", "nobody"])
@pytest.mark.parametrize(("blocks", "text"), MADE_BY_PROVIDERS, ids=lambda value: str(value)[:40])
def test_blocks_of_providers_are_understood_or_left_out(
    blocks: list[Any], text: str, provider_name: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    about = {"model_provider": provider_name} if provider_name else {}
    answer = AIMessage(blocks, tool_calls=[CALL], response_metadata=about)
    with caplog.at_level(logging.INFO, "rsd_integrations.langchain.messages"):
        assert shown(HumanMessage("q"), answer, ToolMessage("x", tool_call_id="call_1"))[1] == ("assistant", text)
    assert as_prompt([answer])[0].extra["tool_calls"][0]["function"]["arguments"] == {"a": 1}
    dropped = any("call" in str(block.get("type")) for block in blocks if isinstance(block, dict))
    if dropped and "function_call" not in str(blocks) and "tool_call'" not in str(blocks):
        assert "is not shown to text models" in caplog.text


def test_a_refusal_apart_from_the_content_is_what_was_said() -> None:
    answer = AIMessage("", additional_kwargs={"refusal": "I will not."})
    assert shown(HumanMessage("q"), answer)[1] == ("assistant", "I will not.")


def test_nothing_of_a_tools_result_is_lost() -> None:
    blocks: list[Any] = [{"type": "text", "text": "Found: "}, {"type": "search_result", "title": "Rome"}, {"n": 5}]
    (message,) = as_prompt([ToolMessage(blocks, tool_call_id="c")])
    assert message.content == 'Found: {"type": "search_result", "title": "Rome"}{"n": 5}'


@pytest.mark.parametrize("kind", ["image", "image_url", "input_image", "audio", "file", "video", "document", "media"])
@pytest.mark.parametrize("message", [HumanMessage, lambda content: ToolMessage(content, tool_call_id="c")])
def test_media_of_users_and_tools_are_refused_clearly(kind: str, message: Any) -> None:
    for model in (ChatRSD, RSDRunnable, RSDLLM):
        with pytest.raises(PromptError, match=f"a block of type '{kind}'.*granularity=\"turn\""):
            model(decoder=TargetOnly(target=Reads())).invoke([message([{"type": kind, "data": "x"}])])
