"""Thoughts of LangChain models in the roles: unchanged through `ChatRSD` and the middleware, back to their model."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
import pytest
from langchain.agents import create_agent
from langchain_core.language_models.fake import FakeListLLM
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, HumanMessage
from langchain_core.runnables import RunnableLambda
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from pydantic import Field, SecretStr

from rsd_core import ConfigurationError, Path, RewardGuidedDecoder, Step, StepRequest, TargetOnly, Thinking, as_prompt
from rsd_core.blocking import wait_for
from rsd_core.testing import ScriptedDrafter, ScriptedTarget, ScriptedVerifier
from rsd_core.thoughts.markers import MARKERS
from rsd_integrations.langchain import (
    ChatRSD,
    FunctionVerifier,
    LangChainDrafter,
    LangChainJudge,
    LangChainTarget,
    RSDMiddleware,
    result_of,
)
from tests.langchain.fakes import Inner, always, good
from tests.thinkers import OPENS

CALL = {"name": "weather", "args": {"city": "Rome"}, "id": "call_1", "type": "tool_call"}


@tool
def weather(city: str) -> str:
    """The weather of a city."""
    return f"It rains in {city}."


def apart(text: str, thought: str, **fields: Any) -> AIMessage:
    """A message as DeepSeek's class gives it."""
    return AIMessage(text, additional_kwargs={"reasoning_content": thought}, **fields)


ANTHROPIC = AIMessage(
    [
        {"type": "thinking", "thinking": "hm", "signature": "sig"},
        {"type": "redacted_thinking", "data": "secret"},
        {"type": "text", "text": "fine"},
    ],
    response_metadata={"model_provider": "anthropic"},
)
OPENAI = AIMessage(
    [
        {
            "type": "reasoning",
            "id": "rs_1",
            "summary": [{"type": "summary_text", "text": "hm"}],
            "encrypted_content": "enc",
        },
        {"type": "text", "text": "fine", "id": "msg_1"},
    ],
    response_metadata={"model_provider": "openai"},
)


def chat(draft: Any, target: Any = None, **options: Any) -> ChatRSD:
    return ChatRSD(
        draft=draft, target=target or always("from the target"), verifier=options.pop("verifier", good), **options
    )


def kinds(message: BaseMessage) -> list[str]:
    return [block["type"] for block in message.content_blocks]


@pytest.mark.parametrize(
    ("reply", "wanted"),
    [
        (apart("fine", "hm"), ["reasoning", "text"]),
        (ANTHROPIC, ["reasoning", "non_standard", "text"]),
        (OPENAI, ["reasoning", "text"]),
        (AIMessage("<think>\nhm\n</think>\n\nfine"), ["reasoning", "text"]),
        (AIMessage([{"type": "text", "text": "<think>hm</think>\n\nfi"}, "ne"]), ["reasoning", "text", "text"]),
        (apart("", "hm", tool_calls=[CALL]), ["reasoning", "tool_call"]),
        (AIMessage("[THINK]hm[/THINK]fine", response_metadata={"model_provider": "openai"}), ["reasoning", "text"]),
    ],
)
@pytest.mark.parametrize("version", ["v0", "v1"])
def test_thoughts_of_inner_models_are_reasoning_blocks(reply: AIMessage, wanted: list[str], version: str) -> None:
    model: Any = chat(always(reply), output_version=version).bind_tools([weather])
    streamed: list[Any] = list(model.stream("q"))
    for message in (model.invoke("q"), asyncio.run(model.ainvoke("q")), sum(streamed[1:], streamed[0])):
        assert kinds(message) == wanted
        assert message.text == ("" if reply.tool_calls else "fine")
        assert result_of(message).thought == "hm"
        assert result_of(message).steps[0].reward == 0.9
    told = [block for chunk in streamed for block in chunk.content_blocks]
    assert [block["type"] for block in told if block["type"] == "reasoning"] == ["reasoning"]


def test_content_of_providers_stays_as_it_is() -> None:
    for reply in (ANTHROPIC, OPENAI):
        message = chat(always(reply)).invoke("q")
        assert message.content == reply.content
        assert message.response_metadata["model_provider"] == reply.response_metadata["model_provider"]


def test_the_raw_text_of_a_turn_holds_the_thought_in_markers() -> None:
    result = result_of(chat(always(apart("fine", "hm"))).invoke("q"))
    assert result.raw_text == "<think>\nhm\n</think>\n\nfine"
    assert (result.text, result.thought, result.steps[0].kind) == ("fine", "hm", "answer")


def test_the_tokens_of_a_turns_thought_are_what_its_provider_tells_or_their_share() -> None:
    counts: Any = {
        "input_tokens": 10,
        "output_tokens": 40,
        "total_tokens": 50,
        "output_token_details": {"reasoning": 33},
    }
    told: Any = chat(always(apart("fine", "hm", usage_metadata=counts))).invoke("q").usage_metadata
    assert (told["output_tokens"], told["output_token_details"]["reasoning"]) == (40, 33)
    del counts["output_token_details"]
    shared: Any = chat(always(apart("four", "4444", usage_metadata=counts))).invoke("q").usage_metadata
    assert shared["output_token_details"]["reasoning"] == 20
    hidden: Any = chat(always(AIMessage("fine", usage_metadata=counts | {"output_token_details": {"reasoning": 9}})))
    assert hidden.invoke("q").usage_metadata["output_token_details"]["reasoning"] == 9


@pytest.mark.parametrize("trace_inner", [False, True])
def test_no_rejected_thought_gets_into_a_stream(trace_inner: bool) -> None:
    model = chat(always(apart("a BAD draft", "a BAD thought")), always(apart("fine", "hm")), trace_inner=trace_inner)
    chain = RunnableLambda(lambda x: x) | model

    async def events() -> str:
        return str([event async for event in chain.astream_events("q", version="v2")])

    assert ("BAD" in asyncio.run(events())) is trace_inner
    agent: Any = create_agent(model, [])
    parts = [part for part, _ in agent.stream(QUESTION, stream_mode="messages")]
    if not trace_inner:  # else the trace that ends the stream tells them, as it was asked to
        assert "BAD" not in str(parts)
    assert "BAD" not in "".join(str(part.content_blocks) for part in parts)
    assert [block["type"] for part in parts for block in part.content_blocks] == ["reasoning", "text"]


QUESTION: Any = {"messages": [HumanMessage("q")]}


def test_stop_strings_cut_the_answer_and_not_the_thought() -> None:
    for reply in (apart("fine STOP", "a STOP"), AIMessage("<think>\na STOP\n</think>\n\nfine STOP")):
        message = chat(always(reply)).invoke("q", stop=["STOP"])
        assert message.text == "fine "
        assert message.additional_kwargs["reasoning_content"] == "a STOP"
        assert (result_of(message).text, result_of(message).thought) == ("fine ", "a STOP")


def test_a_turn_that_was_cut_in_its_thought_has_no_answer() -> None:
    cut = {"finish_reason": "length"}
    for reply in (apart("", "hm", response_metadata=cut), AIMessage("<think>\nhm", response_metadata=cut)):
        message = chat(always(reply)).invoke("q")
        assert (message.text, kinds(message)) == ("", ["reasoning"])
        result = result_of(message)
        assert (result.text, result.thought, result.finish_reason) == ("", "hm", "max_tokens")
        assert "no_answer" in [one.kind for one in result.degradations]


HISTORY: list[BaseMessage] = [HumanMessage("q"), OPENAI, HumanMessage("2"), ANTHROPIC, HumanMessage("3")]


def test_blocks_go_to_the_provider_that_made_them_and_to_no_other() -> None:
    claude, gpt, other = (always("BAD", provider=name) for name in ("anthropic", "openai", "mine"))
    chat(claude, gpt).invoke(HISTORY)
    chat(other).invoke(HISTORY)
    asked = [inner.asked[0][0] for inner in (claude, gpt, other)]
    assert asked[0][3].content == ANTHROPIC.content
    assert asked[0][1].content == OPENAI.content[1:]
    assert asked[1][1].content == OPENAI.content
    assert asked[1][3].content == ANTHROPIC.content[2:]
    assert [message.content for message in asked[2]] == [message.content for message in HISTORY]
    plain = apart("a", "hm")
    chat(other).invoke([HumanMessage("q"), plain, HumanMessage("2")])
    assert other.asked[1][0][1].additional_kwargs == {"reasoning_content": "hm"}


def test_a_history_of_rsd_goes_back_to_the_provider_as_it_came() -> None:
    claude = always(ANTHROPIC, provider="anthropic")
    for version in ("v0", "v1"):
        message = chat(claude, output_version=version).invoke("q")
        chat(claude).invoke(["q", message, HumanMessage("2")])
        sent = claude.asked[-1][0][1]
        assert kinds(sent) == ["reasoning", "non_standard", "text"]
        assert "sig" in str(sent.content)
        assert "secret" in str(sent.content)
    assert chat(claude).invoke("q").content == ANTHROPIC.content


def responses(request: httpx.Request) -> httpx.Response:
    """The Responses API of OpenAI, as its reference documents a reasoning model's reply."""
    body = json.loads(request.content)
    items: list[Any] = [
        {
            "id": "rs_1",
            "type": "reasoning",
            "summary": [{"type": "summary_text", "text": "hm"}],
            "encrypted_content": "e",
        },
        {
            "id": "msg_1",
            "type": "message",
            "role": "assistant",
            "status": "completed",
            "content": [{"type": "output_text", "text": "fine", "annotations": []}],
        },
    ]
    usage = {
        "input_tokens": 5,
        "input_tokens_details": {"cached_tokens": 0},
        "output_tokens": 9,
        "output_tokens_details": {"reasoning_tokens": 7},
        "total_tokens": 14,
    }
    reply = {
        "id": "resp_1",
        "object": "response",
        "created_at": 0,
        "status": "completed",
        "model": "m",
        "output": items,
    }
    asked.append(body)
    more = {"parallel_tool_calls": True, "tool_choice": "auto", "tools": [], "usage": usage}
    return httpx.Response(200, json=reply | more)


asked: list[Any] = []


@pytest.mark.parametrize("version", [None, "v1"])
def test_reasoning_items_of_openai_go_out_and_in_with_their_ids_and_their_encrypted_content(
    version: str | None,
) -> None:
    model = ChatOpenAI(
        model="m",
        api_key=SecretStr("none"),
        use_responses_api=True,
        store=False,
        include=["reasoning.encrypted_content"],
        output_version=version,
        http_client=httpx.Client(transport=httpx.MockTransport(responses)),
    )
    asked.clear()
    alone = model.invoke("q")
    model.invoke(["q", alone, HumanMessage("2")])
    rsd = chat(model, verifier=lambda _messages, _reply: 1.0)
    message: Any = rsd.invoke("q")
    rsd.invoke(["q", message, HumanMessage("2")])
    (reasoning,) = [item for item in asked[1]["input"] if item.get("type") == "reasoning"]
    assert (reasoning["id"], reasoning["encrypted_content"]) == ("rs_1", "e")
    assert asked[3]["input"] == asked[1]["input"]
    assert (message.text, result_of(message).thought) == ("fine", "hm")
    assert message.usage_metadata["output_token_details"]["reasoning"] == 7


def test_the_middleware_gives_the_thought_of_the_accepted_model_alone() -> None:
    draft, target = always(apart("a BAD draft", "a BAD thought")), always(apart("fine", "hm"))
    for drafts, wanted in ((draft, "hm"), (always(apart("good", "so good")), "so good")):
        agent: Any = create_agent(target, [], middleware=[RSDMiddleware(drafts, good)])
        parts = [part for part, _ in agent.stream(QUESTION, stream_mode="messages")]
        state = agent.invoke(QUESTION)
        assert state["messages"][-1].additional_kwargs["reasoning_content"] == wanted
        assert "BAD" not in str(parts) + str(state)
        thought = [
            block["reasoning"] for part in parts for block in part.content_blocks if block["type"] == "reasoning"
        ]
        assert "".join(thought) == wanted
    shown = always(apart("fine", "hm"), provider="anthropic")
    history: Any = {"messages": HISTORY}
    create_agent(always("BAD"), [], middleware=[RSDMiddleware(shown, good)]).invoke(history)
    assert shown.asked[0][0][1].content == OPENAI.content[1:]


def test_a_turn_follows_what_another_models_template_has_opened() -> None:
    path = Path(as_prompt("q"), thinking=OPENS)
    request = StepRequest((0,), delimiter=None)

    def raw(reply: AIMessage, on: Path = path) -> str:
        written = wait_for(LangChainDrafter(always(reply)).generate(on, request))
        return on.extend(written.steps[0]).text

    whole = "<think>\nhm\n</think>\n\nfine"
    assert raw(apart("fine", "hm")) == raw(AIMessage(whole)) == whole
    assert raw(AIMessage("fine")) == "<think>\n\n</think>\n\nfine"
    mistral = Path(as_prompt("q"), thinking=Thinking(MARKERS["mistral"]))
    assert raw(apart("fine", "hm"), mistral) == raw(AIMessage(whole), Path(as_prompt("q"), thinking=mistral.thinking))
    assert raw(apart("fine", "hm"), mistral) == "[THINK]hm[/THINK]fine"
    begun = Path((*as_prompt("q"), *as_prompt([("assistant", "so ")])))
    assert raw(apart("fine", "hm"), begun) == "fine"


def test_chats_in_steps_refuse_thoughts_with_what_to_do() -> None:
    for reply in (apart("fine", "hm"), AIMessage("<think>\nhm\n\n"), ANTHROPIC):
        decoder = TargetOnly(target=LangChainTarget(always(reply), prefix="trailing_assistant"))
        with pytest.raises(ConfigurationError, match=r"enable_thinking.*granularity='turn'.*completion"):
            decoder.run("q")
    target = always("never asked")
    mixed = RewardGuidedDecoder(
        drafter=ScriptedDrafter(["Hm.\n\n"], thinking=OPENS),
        verifier=ScriptedVerifier([0.1]),
        target=LangChainTarget(target, prefix="trailing_assistant"),
    )
    with pytest.raises(ConfigurationError, match="thinks before it answers"):
        mixed.run("q")
    assert target.asked == []


class Completing(FakeListLLM):
    """Continues a text by what it holds, and keeps what it was asked."""

    asked: list[str] = Field(default_factory=list)

    def _call(self, prompt: str, *args: Any, **kwargs: Any) -> str:
        self.asked.append(prompt)
        return super()._call(prompt, *args, **kwargs)


def test_completions_go_on_inside_of_a_thought() -> None:
    llm = Completing(responses=["Hm.\n\nSo", "So ten.\n</think>\n\nIt", "It is ten."])
    target = LangChainTarget(llm, prefix="completion", render=lambda prompt: f"[{prompt[-1].content}]<think>\n")
    assert target.thinking(as_prompt("q")) == OPENS
    result = TargetOnly(target=target).run("q")
    assert (result.thought, result.text) == ("Hm.\n\nSo ten.", "It is ten.")
    assert [step.kind for step in result.steps] == ["thought", "thought", "answer"]
    assert llm.asked == ["[q]<think>\n", "[q]<think>\nHm.\n\n", "[q]<think>\nHm.\n\nSo ten.\n</think>\n\n"]


def test_completions_leave_out_what_their_own_template_opens() -> None:
    llm = Completing(responses=["fine"])
    off = LangChainTarget(llm, prefix="completion", render=lambda _: "[q]<think>\n\n</think>\n\n")
    assert off.thinking(as_prompt("q")) == Thinking(MARKERS["think"], "<think>\n\n</think>\n\n")
    path = Path(as_prompt("q"), thinking=OPENS).extend(Step("Hm.\n</think>\n\n", "delimiter"))
    wait_for(off.generate(path, StepRequest((0,))))
    assert llm.asked == ["[q]<think>\nHm.\n</think>\n\n"]


@pytest.mark.parametrize("delimiter", ["sentence", "words"])
def test_completions_are_cut_where_a_splitter_says(delimiter: str) -> None:
    llm = FakeListLLM(responses=["One. Two.\n\nWait, three.", " Two.\n\nWait", "end"])
    step = TargetOnly(target=LangChainTarget(llm, prefix="completion")).with_settings(
        TargetOnly(target=ScriptedTarget(["x"])).settings.updated(delimiter=delimiter)
    )
    first = step.run("q").steps[0].text
    assert first == ("One." if delimiter == "sentence" else "One. Two.\n\n")


def test_a_judge_that_thinks_is_read_for_its_answer_alone() -> None:
    for reply in (apart("Score: 9", "Score: 0? no"), AIMessage("<think>\nScore: 0?\n</think>\n\nScore: 9")):
        assert chat(always("12"), verifier=always(reply)).invoke("6+6?").text == "12"


def test_a_judges_cap_is_an_option_and_a_reply_cut_in_its_thoughts_is_said_to_be_that() -> None:
    cut = {"finish_reason": "length"}
    judge = always(apart("", "hm", response_metadata=cut))
    message = chat(always("12"), verifier=LangChainJudge(judge, max_tokens=64)).invoke("q")
    assert judge.asked[0][1] == {"max_tokens": 64}
    (degradation,) = result_of(message).degradations
    assert "cut in its thoughts after 1 tokens, max_tokens=64" in degradation.message
    for reply in (AIMessage("<think>\nhm", response_metadata=cut), AIMessage("<think>\nhm")):
        told = result_of(chat(always("12"), verifier=always(reply)).invoke("q")).degradations[0].message
        assert "cut in its thoughts" in told
        assert "raise max_tokens of the judge" in told
    long = AIMessage("Let me see", response_metadata=cut)
    assert (
        "before its score" in result_of(chat(always("12"), verifier=always(long)).invoke("q")).degradations[0].message
    )
    with pytest.raises(ConfigurationError, match="max_tokens=0"):
        LangChainJudge(judge, max_tokens=0)
    assert LangChainJudge(judge, max_tokens=1).fingerprint != LangChainJudge(judge).fingerprint


def test_judges_and_functions_see_thoughts_without_markers() -> None:
    path = Path(as_prompt("q")).extend(Step("<think>\nOne.\n\n", "delimiter"))
    step = Step("Two.\n</think>\n\n", "delimiter")
    judge = always("Score: 9")
    wait_for(LangChainJudge(judge).score(path, [step]))
    shown = str(judge.asked[0][0][-1].text)
    assert "work so far\n(thinking) One.\n" in shown
    assert shown.endswith("latest step\n(thinking) Two.")
    seen: list[AIMessage] = []

    def function(_: Any, reply: AIMessage) -> float:
        seen.append(reply)
        return 1.0

    wait_for(FunctionVerifier(function).score(path, [step]))
    wait_for(FunctionVerifier(function).score(path.extend(step), [Step("Ten.", "end")]))
    assert [(reply.text, reply.additional_kwargs["reasoning_content"]) for reply in seen] == [
        ("", "One.\n\nTwo."),
        ("Ten.", "One.\n\nTwo."),
    ]


def test_a_judge_that_answers_without_a_score_abstains() -> None:
    scores = wait_for(LangChainJudge(always("who knows")).score(Path(as_prompt("q")), [Step("x", "end")]))
    assert scores.rewards == (None,)


def test_streamed_chunks_of_a_thinking_inner_model_merge_to_its_message() -> None:
    draft = Inner(answer=lambda *_: apart("one two", "hm hm"))
    chunks: list[Any] = list(chat(draft).stream("q"))
    assert all(isinstance(chunk, AIMessageChunk) for chunk in chunks)
    whole = sum(chunks[1:], chunks[0])
    message = chat(draft).invoke("q")
    assert (whole.content, whole.additional_kwargs) == (message.content, message.additional_kwargs)
    assert whole.usage_metadata == message.usage_metadata
