"""Tools: agents and programs of LlamaIndex over `RSDLLM`; which calls are executed, and which never are."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from llama_index.core import PromptTemplate
from llama_index.core.agent.workflow import AgentStream, AgentWorkflow, FunctionAgent
from llama_index.core.base.llms.types import ToolCallBlock
from llama_index.core.instrumentation import get_dispatcher  # type: ignore[attr-defined]
from llama_index.core.instrumentation.event_handlers import BaseEventHandler
from llama_index.core.instrumentation.events import BaseEvent
from llama_index.core.instrumentation.events.llm import LLMChatStartEvent
from llama_index.core.llms import ChatMessage, ChatResponse, MockLLM
from llama_index.core.llms.mock import MockFunctionCallingLLM
from llama_index.core.memory import ChatMemoryBuffer
from llama_index.core.tools import FunctionTool
from pydantic import BaseModel

from rsd_core import ConfigurationError
from rsd_core.testing import ScriptedDrafter, ScriptedTarget, ScriptedVerifier
from rsd_integrations.llamaindex import RSDLLM, result_of, rsd_bill
from rsd_integrations.llamaindex.replies import arguments_of
from tests.langchain.providers import Asked, Call, Provider, Reply, provider
from tests.llamaindex.partners import LLMS, openai_rules

CLASSES = tuple(LLMS)
FACES = ("chat_with_tools", "achat_with_tools", "stream_chat_with_tools", "astream_chat_with_tools")


@pytest.fixture
def served() -> Iterator[Provider]:
    with provider() as made:
        yield made


@pytest.fixture
def cheap() -> Iterator[Provider]:
    with provider() as made:
        yield made


class Bank:
    """Money that moves, and a record of it."""

    def __init__(self) -> None:
        self.moved: list[tuple[int, str]] = []

    @property
    def tool(self) -> FunctionTool:
        def transfer(amount: int, account: str = "savings") -> str:
            """Move money to an account."""
            self.moved.append((amount, account))
            return f"moved {amount}"

        return FunctionTool.from_defaults(transfer)


def fair(messages: list[ChatMessage], reply: ChatMessage) -> float:
    """No call moves more than 100."""
    calls = [block for block in reply.blocks if isinstance(block, ToolCallBlock)]
    return float(all("999" not in str(call.tool_kwargs) for call in calls))


def agent(llm: RSDLLM, *tools: FunctionTool, **options: Any) -> FunctionAgent:
    return FunctionAgent(tools=list(tools), llm=llm, **options)


def by_turns(asked: Asked, call: Call, last: str) -> Reply:
    """Calls the tool, then tells what it gave."""
    if "moved" in json.dumps(asked.body["messages"]):
        return Reply(last)
    return Reply(calls=[call], reason="tool_calls")


@pytest.mark.parametrize("streaming", [True, False])
@pytest.mark.parametrize("kind", CLASSES)
async def test_a_function_agent_executes_what_was_accepted_alone(
    kind: str, streaming: bool, cheap: Provider, served: Provider
) -> None:
    bank = Bank()
    cheap.answers_by(lambda asked: by_turns(asked, Call("transfer", '{"amount": 999}'), "Done."))
    served.answers_by(lambda asked: by_turns(asked, Call("transfer", '{"amount": 100}'), "It is done."))
    llm = RSDLLM(draft=LLMS[kind](cheap), target=LLMS[kind](served), verifier=fair)
    assert llm.metadata.is_function_calling_model
    with rsd_bill() as bill:
        handler = agent(llm, bank.tool, streaming=streaming).run("Move 100.")
        streamed = [event async for event in handler.stream_events() if isinstance(event, AgentStream)]
        output = await handler
    assert bank.moved == [(100, "savings")]
    assert str(output) == "Done."  # the second turn was good enough
    assert [step.author for step in result_of(output).steps] == ["draft"]
    assert bill.requests == 2
    assert len(served.asked) == 1
    if streaming:
        assert "".join(event.delta for event in streamed) == "Done."
        assert [call.tool_kwargs for event in streamed for call in event.tool_calls] == [{"amount": 100}] * 2
        assert not re.search(r"\b999\b", str(streamed))


@pytest.mark.parametrize("kinds", [("ollama", "openai"), ("openai", "anthropic"), ("bedrock", "ollama")])
async def test_models_of_different_providers_read_each_others_calls(
    kinds: tuple[str, str], cheap: Provider, served: Provider
) -> None:
    bank = Bank()
    cheap.answers_by(lambda asked: by_turns(asked, Call("transfer", '{"amount": 50}'), "a long story, " * 9))
    served.answers("It is done.")
    llm = RSDLLM(
        draft=LLMS[kinds[0]](cheap),
        target=LLMS[kinds[1]](served),
        verifier=lambda _, reply: float(len(str(reply.content)) < 20),
    )
    assert str(await agent(llm, bank.tool).run("Move 50.")) == "It is done."
    assert bank.moved == [(50, "savings")]
    sent = json.dumps(served.sent["messages"])
    assert "moved 50" in sent
    if kinds[1] == "openai":
        (call,) = next(one for one in served.sent["messages"] if one["role"] == "assistant")["tool_calls"]
        (result,) = [one for one in served.sent["messages"] if one["role"] == "tool"]
        assert call["id"] == result["tool_call_id"] != ""  # Ollama gives calls no id
        assert json.loads(call["function"]["arguments"]) == {"amount": 50}


async def test_a_workflow_of_agents_hands_over(served: Provider) -> None:
    bank = Bank()

    def answer(asked: Asked) -> Reply:
        if "banker" in str(asked.body["messages"][0]):
            return by_turns(asked, Call("transfer", '{"amount": 7}'), "Moved.")
        arguments = json.dumps({"to_agent": "banker", "reason": "money"})
        return Reply(calls=[Call("handoff", arguments)], reason="tool_calls")

    served.answers_by(answer)
    llm = RSDLLM(draft=openai_rules(served), target=openai_rules(served), verifier=fair)
    front = FunctionAgent(
        name="front", description="Greets.", system_prompt="You greet.", tools=[], llm=llm, can_handoff_to=["banker"]
    )
    banker = FunctionAgent(
        name="banker", description="Moves money.", system_prompt="You are the banker.", tools=[bank.tool], llm=llm
    )
    workflow = AgentWorkflow(agents=[front, banker], root_agent="front")
    assert str(await workflow.run("Move 7.")) == "Moved."
    assert bank.moved == [(7, "savings")]


# Calls that are none


CUT = Reply(calls=[Call("transfer", '{"amount": 100')], reason="length")


@pytest.mark.parametrize("face", FACES)
@pytest.mark.parametrize("kind", CLASSES)
async def test_a_call_that_was_cut_is_not_a_call(kind: str, face: str, served: Provider) -> None:
    # Three of the classes have an object where the text was cut, and all of them would execute it.
    whole = Reply(calls=[Call("transfer", '{"amount": 100}')], reason="length")
    bank = Bank()
    for cut in (CUT, whole):
        served.answers(cut)
        llm = RSDLLM(draft=LLMS[kind](served), target=LLMS[kind](served), verifier=lambda *_: 1.0)
        given = getattr(llm, face)([bank.tool], user_msg="Move 1000.")
        given = await given if face.startswith("a") else given
        responses = [given]
        if "stream" in face:
            responses = [one async for one in given] if face.startswith("a") else list(given)
        for response in responses:
            calls = llm.get_tool_calls_from_response(response, error_on_no_tool_call=False)
            if cut is whole and kind == "openai":  # its text is there, and complete
                assert [call.tool_kwargs for call in calls] == [{"amount": 100}]
                continue
            assert calls == []
            assert not [block for block in response.message.blocks if isinstance(block, ToolCallBlock)]
            (invalid,) = response.additional_kwargs["invalid_tool_calls"]
            assert invalid["name"] == "transfer"
            with pytest.raises(ValueError, match=r"0 tool calls; cut or broken were .*transfer"):
                llm.get_tool_calls_from_response(response)
        assert "transfer" in result_of(responses[-1]).text  # nothing that was written is lost


@pytest.mark.parametrize("kind", [kind for kind in CLASSES if kind not in ("openai", "ollama")])
def test_an_object_that_a_filter_cut_is_not_a_call(kind: str, served: Provider) -> None:
    bank = Bank()
    served.answers(Reply(calls=[Call("transfer", '{"amount": 100}')], reason="filter"))
    llm = RSDLLM(draft=LLMS[kind](served), target=LLMS[kind](served), verifier=lambda *_: 1.0)
    response = llm.chat_with_tools([bank.tool], user_msg="Move 1000.")
    assert llm.get_tool_calls_from_response(response, error_on_no_tool_call=False) == []
    assert [call["name"] for call in response.additional_kwargs["invalid_tool_calls"]] == ["transfer"]


@pytest.mark.parametrize("kind", CLASSES)
async def test_agents_and_programs_execute_no_call_that_was_cut(kind: str, served: Provider) -> None:
    bank = Bank()
    served.answers(CUT)
    llm = RSDLLM(draft=LLMS[kind](served), target=LLMS[kind](served), verifier=lambda *_: 1.0)
    await agent(llm, bank.tool).run("Move 1000.")
    await AgentWorkflow.from_tools_or_functions([bank.tool], llm=llm).run("Move 1000.")
    with pytest.raises(ValueError, match="cut or broken"):
        llm.predict_and_call([bank.tool], user_msg="Move 1000.")
    with pytest.raises(ValueError, match="cut or broken"):
        await llm.apredict_and_call([bank.tool], user_msg="Move 1000.")
    assert bank.moved == []


async def test_of_several_calls_the_whole_ones_are_executed(served: Provider) -> None:
    bank = Bank()
    calls = [Call("transfer", '{"amount": 1}', "1"), Call("transfer", '{"amount": 2', "2")]
    served.answers(Reply(calls=calls, reason="length"), "Done.")
    llm = RSDLLM(draft=openai_rules(served), target=openai_rules(served), verifier=lambda *_: 1.0)
    assert str(await agent(llm, bank.tool).run("Move 1 and 2.")) == "Done."
    assert bank.moved == [(1, "savings")]
    assistant = next(one for one in served.sent["messages"] if one["role"] == "assistant")
    assert [call["id"] for call in assistant["tool_calls"]] == ["1"]  # each has a result, which servers demand


@pytest.mark.parametrize("told", ["{bad", "null", "[1]", "3", '"amount"', '{"amount": 1}}', '{"amount"'])
async def test_arguments_that_are_not_an_object_are_not_a_call(told: str, served: Provider) -> None:
    bank = Bank()
    served.answers(Reply(calls=[Call("transfer", told)], reason="tool_calls"))
    llm = RSDLLM(draft=openai_rules(served), target=openai_rules(served), verifier=lambda *_: 1.0)
    response = llm.chat_with_tools([bank.tool], user_msg="Move it.")
    assert llm.get_tool_calls_from_response(response, error_on_no_tool_call=False) == []
    assert response.additional_kwargs["invalid_tool_calls"] == [{"name": "transfer", "args": told, "id": "call_1"}]
    await agent(llm, bank.tool).run("Move it.")
    assert bank.moved == []


ANY = RSDLLM(draft=MockLLM(), target=MockLLM(), verifier=fair)


@given(st.dictionaries(st.text(), st.recursive(st.integers() | st.text() | st.none(), st.lists)), st.data())
def test_a_prefix_of_arguments_is_not_a_call_and_all_of_them_are(arguments: dict[str, Any], data: Any) -> None:
    written = json.dumps(arguments, ensure_ascii=data.draw(st.booleans()))
    assert arguments_of(ToolCallBlock(tool_name="t", tool_kwargs=written)) == arguments
    cut = written[: data.draw(st.integers(1, len(written) - 1))]
    assert arguments_of(ToolCallBlock(tool_name="t", tool_kwargs=cut)) is None
    message = ChatMessage(role="assistant", blocks=[ToolCallBlock(tool_name="t", tool_kwargs=cut)])
    assert ANY.get_tool_calls_from_response(ChatResponse(message=message), error_on_no_tool_call=False) == []


def test_a_call_without_arguments_is_one_unless_it_was_cut() -> None:
    given: list[str | dict[str, Any]] = ["", " ", "{}", {}]
    for told in given:
        call = ToolCallBlock(tool_name="now", tool_kwargs=told)
        assert arguments_of(call) == {}
        assert arguments_of(call, cut=True) == ({} if told == "{}" else None)


# How tools are called


@pytest.mark.parametrize(
    ("options", "sent"),
    [
        ({"tool_required": True}, {"tool_choice": "required", "parallel_tool_calls": False}),
        ({"allow_parallel_tool_calls": True}, {"tool_choice": "auto", "parallel_tool_calls": True}),
        ({"tool_choice": "transfer"}, {"tool_choice": "transfer"}),
    ],
)
def test_how_tools_are_called_reaches_the_models(
    options: dict[str, Any], sent: dict[str, Any], served: Provider
) -> None:
    llm = RSDLLM(draft=openai_rules(served), target=openai_rules(served), verifier=fair, max_tokens=77)
    llm.chat_with_tools([Bank().tool], user_msg=ChatMessage(role="user", content="q"), **options)
    assert served.sent.items() >= {**sent, "max_tokens": 77}.items()
    assert served.sent["tools"][0]["function"]["name"] == "transfer"
    assert served.asked[-1].messages == [("user", "q")]


class Album(BaseModel):
    """An album."""

    name: str
    songs: list[str]


@pytest.mark.parametrize("kind", CLASSES)
async def test_structured_prediction_is_a_call(kind: str, cheap: Provider, served: Provider) -> None:
    cheap.answers(Reply(calls=[Call("Album", '{"name": "999", "songs": []}')], reason="tool_calls"))
    served.answers(Reply(calls=[Call("Album", '{"name": "Blue", "songs": ["a", "b"]}')], reason="tool_calls"))
    llm = RSDLLM(draft=LLMS[kind](cheap), target=LLMS[kind](served), verifier=fair)
    prompt = PromptTemplate("An album about {topic}.")
    wanted = Album(name="Blue", songs=["a", "b"])
    assert llm.structured_predict(Album, prompt, topic="sea") == wanted
    assert await llm.astructured_predict(Album, prompt, topic="sea") == wanted
    assert llm.as_structured_llm(Album).complete("An album.").raw == wanted
    assert list(llm.stream_structured_predict(Album, prompt, topic="sea")) == [wanted]
    assert [one async for one in await llm.astream_structured_predict(Album, prompt, topic="sea")] == [wanted]
    served.answers(CUT)
    with pytest.raises(ValueError, match="cut or broken"):
        llm.structured_predict(Album, prompt, topic="sea")


def test_whether_tools_can_be_called_depends_on_the_models(served: Provider) -> None:
    plain, calling = MockLLM(), MockFunctionCallingLLM()

    def can(draft: Any, target: Any, **options: Any) -> bool:
        return RSDLLM(draft=draft, target=target, verifier=fair, **options).metadata.is_function_calling_model

    assert can(calling, calling)
    assert not can(plain, calling)
    assert not can(calling, "embedded:target")
    assert can(plain, calling, decoder="target")  # the draft is not asked
    assert can("embedded:draft", "embedded:target", is_function_calling_model=True)
    with pytest.raises(ConfigurationError, match="cannot call tools"):
        RSDLLM(draft="scripted:draft", target="scripted:target", verifier="scripted:verifier").chat_with_tools(
            [Bank().tool], user_msg="q"
        )


def reading(kind: type[Any], *script: str) -> Any:
    """A model of text that sees tools in its prompt, as chat templates show them."""
    model = kind(list(script))
    model.renders_tools = True
    return model


@pytest.mark.parametrize("face", FACES)
async def test_models_of_text_call_tools_in_steps(face: str) -> None:
    steps = ["I move it.\n\n", '<tool_call>\n{"name": "transfer", "arguments": {"amount": 100}}\n</tool_call>']
    target = reading(ScriptedTarget, *steps)
    llm = RSDLLM(draft=reading(ScriptedDrafter, *steps), target=target, verifier=ScriptedVerifier([0.9, 0.1]))
    assert llm.metadata.is_function_calling_model
    given = getattr(llm, face)([Bank().tool], user_msg="Move 100.")
    given = await given if face.startswith("a") else given
    if "stream" in face:
        given = ([one async for one in given] if face.startswith("a") else list(given))[-1]
    (call,) = llm.get_tool_calls_from_response(given)
    assert (call.tool_name, call.tool_kwargs) == ("transfer", {"amount": 100})
    assert given.message.content == "I move it."
    assert given.raw["finish_reason"] == "tool_calls"
    assert [step.author for step in result_of(given).steps] == ["draft", "target"]
    tools = json.loads(target.calls[-1].prompt[0].content)
    assert tools[0]["function"]["name"] == "transfer"
    with pytest.raises(ConfigurationError, match=r"tool_choice='transfer' cannot be honoured"):
        llm.chat_with_tools([Bank().tool], user_msg="q", tool_choice="transfer")


@pytest.mark.parametrize(("options", "executed"), [({}, 1), ({"allow_parallel_tool_calls": True}, 2)])
def test_of_a_texts_calls_only_the_first_is_executed_unless_several_are_allowed(
    options: dict[str, Any], executed: int
) -> None:
    bank, one = Bank(), '<tool_call>\n{{"name": "transfer", "arguments": {{"amount": {}}}}}\n</tool_call>'
    text = "\n".join(one.format(amount) for amount in (1, 2))
    made = {"draft": reading(ScriptedDrafter, text), "target": reading(ScriptedTarget, text)}
    llm = RSDLLM(**made, verifier=ScriptedVerifier([0.9, 0.9]))
    response = llm.chat_with_tools([bank.tool], user_msg="Move 1 and 2.", **options)
    assert len(llm.get_tool_calls_from_response(response)) == executed
    assert len(response.additional_kwargs.get("invalid_tool_calls", [])) == 2 - executed
    llm.predict_and_call([bank.tool], user_msg="Move 1 and 2.", **options)
    assert [amount for amount, _ in bank.moved] == [1, 2][:executed]


def test_models_of_text_see_no_tool_that_must_not_be_called() -> None:
    target, step = reading(ScriptedTarget, "x"), "One."
    llm = RSDLLM(draft=reading(ScriptedDrafter, step), target=target, verifier=ScriptedVerifier([0.1]))
    llm.chat_with_tools([Bank().tool], user_msg="q", tool_choice="none")
    assert [message.role for message in target.calls[-1].prompt] == ["user"]


async def test_an_agent_over_models_of_text_executes_no_broken_call() -> None:
    bank = Bank()
    broken = '<tool_call>\n{"name": "transfer", "arguments": {"amount": 100'
    llm = RSDLLM(
        draft=reading(ScriptedDrafter, broken), target=reading(ScriptedTarget, broken), verifier=ScriptedVerifier([0.9])
    )
    await agent(llm, bank.tool).run("Move 100.")
    assert bank.moved == []


async def test_a_memory_keeps_what_was_said_and_called(served: Provider) -> None:
    bank = Bank()
    served.answers_by(lambda asked: by_turns(asked, Call("transfer", '{"amount": 5}'), "Done."))
    llm = RSDLLM(draft=openai_rules(served), target=openai_rules(served), verifier=fair)
    memory = ChatMemoryBuffer.from_defaults(llm=llm)
    assert memory.token_limit > 100_000  # as much as the models take, not LlamaIndex's 3900
    await agent(llm, bank.tool).run("Move 5.", memory=memory)
    kept = memory.get_all()
    assert [message.role.value for message in kept] == ["user", "assistant", "tool", "assistant"]
    assert all("rsd" not in message.additional_kwargs for message in kept)
    again = [ChatMessage.model_validate_json(message.model_dump_json()) for message in kept]
    assert [message.blocks for message in again] == [message.blocks for message in kept]


async def test_events_tell_tools_as_data(served: Provider) -> None:
    shown: list[str] = []

    class Writes(BaseEventHandler):
        def handle(self, event: BaseEvent, **_: Any) -> None:
            if isinstance(event, LLMChatStartEvent) and event.span_id and event.span_id.startswith("RSDLLM"):
                shown.append(event.model_dump_json())

    root = get_dispatcher()
    before = list(root.event_handlers)
    root.add_event_handler(Writes())
    try:
        llm = RSDLLM(draft=openai_rules(served), target=openai_rules(served), verifier=fair)
        await llm.achat_with_tools([Bank().tool], user_msg="q")
    finally:
        root.event_handlers = before
    assert '"name":"transfer"' in shown[0]
    with pytest.raises(ConfigurationError, match="is not a LlamaIndex tool"):
        llm.chat([ChatMessage("q")], tools=[{"type": "function"}])
