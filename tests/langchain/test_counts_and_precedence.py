"""Exact counts and precedence: tokens of a call, options, cuts of a text, and cache keys."""

import asyncio
import json
from typing import Any, cast

import pytest
from langchain.agents import create_agent
from langchain_core.language_models.fake import FakeListLLM
from langchain_core.messages import AIMessage, AIMessageChunk, HumanMessage
from langchain_core.messages.ai import UsageMetadata
from langchain_core.outputs import ChatGenerationChunk
from langchain_core.outputs.chat_generation import merge_chat_generation_chunks
from langchain_core.tools import tool

from rsd_core import Path, Step, StepRequest, TargetOnly, Usage, as_prompt
from rsd_core.blocking import wait_for
from rsd_core.testing import ScriptedTarget
from rsd_integrations.langchain import (
    RSDLLM,
    ChatRSD,
    LangChainDrafter,
    LangChainJudge,
    RSDMiddleware,
    RSDRunnable,
    result_of,
)
from rsd_integrations.langchain.chunks import _as_chunks, _cut
from rsd_integrations.langchain.prefixes import PREFIX_MODES, Reply, first_step, whole
from rsd_integrations.langchain.tokens import usage_of_reply
from rsd_integrations.loaded_models import LoadedModels, identity
from tests.langchain.fakes import Inner, always, good

PATH = Path(as_prompt("q"))
CALL: Any = {"name": "add", "args": {"a": 1}, "id": "call_1", "type": "tool_call"}


def replied(read: int, wrote: int, cached: int) -> AIMessage:
    details: Any = {"cache_read": cached}
    usage = UsageMetadata(
        input_tokens=read, output_tokens=wrote, total_tokens=read + wrote, input_token_details=details
    )
    return AIMessage("x", usage_metadata=usage)


def test_a_cache_never_holds_more_than_was_read() -> None:
    usage = usage_of_reply(replied(10, 2, 30), "q", 0.0)
    assert (usage.prefix, usage.reused, usage.computed, usage.generated) == (10, 10, 2, 2)


def test_where_nothing_is_reported_both_sides_are_estimated() -> None:
    usage = usage_of_reply("y" * 36, "x" * 396, 0.5)
    assert (usage.prefix, usage.generated, usage.computed, usage.reused) == (100, 10, 110, 0)
    assert usage.seconds == 0.5


def test_tokens_from_a_providers_cache_reach_the_usage_of_the_answer() -> None:
    class Caching(Inner):
        def _made(self, *_: Any) -> Any:
            return [ChatGenerationChunk(message=AIMessageChunk(**replied(10, 2, 4).model_dump(exclude={"type"})))]

    usage = ChatRSD(draft=Caching(answer=None), target=always("t"), verifier=good).invoke("q").usage_metadata
    assert usage is not None
    assert usage["input_tokens"] == 10
    assert usage["input_token_details"]["cache_read"] == 4


# Steps and turns


def test_a_steps_tokens_are_its_share_of_the_characters_and_at_least_one() -> None:
    exact = PREFIX_MODES["prefix_flag"]
    step = first_step(Reply("one\n\ntwo", "stop", Usage(generated=80)), "", StepRequest((0,)), exact, "cut")
    assert (step.text, step.size) == ("one\n\n", 50)
    tiny = first_step(Reply("a\n\n" + "b" * 97, "stop", Usage(generated=3)), "", StepRequest((0,)), exact, "cut")
    assert tiny.size == 1


def test_newlines_before_the_first_step_stay() -> None:
    blank = PREFIX_MODES["trailing_assistant"]
    assert first_step(Reply("\none", "stop", Usage()), "", StepRequest((0,)), blank, "cut").text == "\none"
    assert first_step(Reply("\ntwo", "stop", Usage()), "one\n\n", StepRequest((0,)), blank, "cut").text == "two"


def test_a_turn_that_was_cut_is_not_at_its_end() -> None:
    path = Path(as_prompt("q"))
    assert whole(Reply("x", "max_tokens", Usage(generated=7)), path) == Step("x", "length", size=7)
    assert whole(Reply("x", "stop", Usage(generated=7)), path) == Step("x", "end", size=7)


def test_a_text_is_cut_in_the_block_that_holds_the_stop_string() -> None:
    blocks: list[Any] = [{"type": "text", "text": "one "}, "two STOP three", {"type": "text", "text": "four"}]
    broken: Any = {"name": "add", "args": "{", "id": "c", "error": None, "type": "invalid_tool_call"}
    reply = AIMessage(blocks, tool_calls=[CALL], invalid_tool_calls=[broken])
    cut = _cut(reply, ["STOP"])
    assert cut.content == [blocks[0], "two "]
    assert (cut.tool_calls, cut.invalid_tool_calls) == ([], [])
    assert _cut(reply, ["other"]) is reply


def test_calls_that_are_not_json_come_through_with_the_others() -> None:
    broken: Any = {"name": "add", "args": "not json", "id": "c2", "error": None, "type": "invalid_tool_call"}
    chunks = _as_chunks(AIMessage("", tool_calls=[CALL], invalid_tool_calls=[broken]), {})
    merged = cast("AIMessageChunk", merge_chat_generation_chunks(chunks).message)  # type: ignore[union-attr]
    assert [call["id"] for call in merged.tool_call_chunks] == ["call_1", "c2"]
    assert len({call["index"] for call in merged.tool_call_chunks}) == 2
    assert [call["id"] for call in merged.tool_calls] == ["call_1"]
    assert [call["args"] for call in merged.invalid_tool_calls] == ["not json"]


def test_steps_are_numbered_from_0() -> None:
    model: dict[str, Any] = {"draft": "scripted:draft", "target": "scripted:target", "verifier": "scripted:verifier"}
    message = ChatRSD(**model).invoke("q")
    assert [step["step"] for step in message.additional_kwargs["rsd_steps"]] == [0, 1, 2]
    (generation,) = RSDLLM(**model).generate(["q"]).generations[0]
    assert generation.text == message.text
    steps = [chunk for chunk in RSDLLM(**model).stream("q") if chunk]
    assert len(steps) == 3


# Whose option wins


def test_no_stop_strings_of_a_call_are_none() -> None:
    decoder = TargetOnly(target=ScriptedTarget(["one STOP two"]))
    for model in (ChatRSD(decoder=decoder, stop=["STOP"]), RSDRunnable(decoder=decoder, stop=["STOP"])):
        assert model.invoke("q").text == "one "
        assert model.invoke("q", stop=[]).text == "one STOP two"


def test_no_stop_strings_of_a_call_of_the_llm_are_none() -> None:
    llm = RSDLLM(decoder=TargetOnly(target=ScriptedTarget(["one STOP two"])), stop=["STOP"])
    assert (llm.invoke("q"), llm.invoke("q", stop=[])) == ("one ", "one STOP two")


def asked_of(role: LangChainDrafter, seed: int = 3) -> dict[str, Any]:
    """The options that a role's model is called with."""
    wait_for(role.generate(PATH, StepRequest(seeds=(seed,), max_tokens=50, delimiter=None)))
    options: dict[str, Any] = role.model.asked[-1][1]  # type: ignore[attr-defined]
    return options


def test_what_is_sent_of_a_request_takes_precedence_over_a_roles_own_options() -> None:
    role = LangChainDrafter(always("x"), options={"max_tokens": 7, "top_k": 1}, sends=["max_tokens"])
    assert asked_of(role) == {"max_tokens": 50, "top_k": 1}


def test_servers_get_seeds_that_they_can_read() -> None:
    seed = asked_of(LangChainDrafter(always("x"), sends=["seed"]), seed=2**62 + 5)["seed"]
    assert seed == 5
    assert 0 <= asked_of(LangChainDrafter(always("x"), sends=["seed"]), seed=2**63 - 1)["seed"] < 2**31


def test_a_roles_own_sends_stay_next_to_those_of_the_adapter() -> None:
    draft = always("x")
    ChatRSD(draft=LangChainDrafter(draft, sends=["seed"]), target=always("t"), verifier=good, temperature=0.4).invoke(
        "q"
    )
    assert set(draft.asked[-1][1]) == {"seed", "temperature"}


def test_a_calls_own_body_takes_precedence_over_the_models() -> None:
    class WithBody(Inner):
        extra_body: Any = None

    model = WithBody(answer=lambda *_: "one\n\n", extra_body={"top_k": 1, "min_p": 0.1})
    role = LangChainDrafter(model, prefix="continue_final_message", options={"extra_body": {"top_k": 2}})
    wait_for(role.generate(PATH, StepRequest(seeds=(0,))))
    body = model.asked[-1][1]["extra_body"]
    assert body == {"top_k": 2, "min_p": 0.1, "include_stop_str_in_output": True}


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_batch_of_the_runnable_has_limited_concurrency(asynchronous: bool) -> None:
    running = most = 0

    class Counting(ScriptedTarget):
        async def generate(self, path: Path, request: StepRequest) -> Any:
            nonlocal running, most
            running, most = running + 1, max(most, running + 1)
            await asyncio.sleep(0.02)
            running -= 1
            return await super().generate(path, request)

    model = RSDRunnable(decoder=TargetOnly(target=Counting(["x"])))
    prompts = [str(i) for i in range(6)]
    for config, expected in (({"max_concurrency": 2}, 2), ({}, 6)):
        most = 0
        answers = asyncio.run(model.abatch(prompts, config)) if asynchronous else model.batch(prompts, config)  # type: ignore[arg-type]
        assert [answer.text for answer in answers] == ["x"] * 6
        assert most == expected


def test_the_error_of_a_batch_of_one_is_in_its_place() -> None:
    target = ScriptedTarget([RuntimeError("gone")])
    llm = RSDLLM(decoder=TargetOnly(target=target), max_retries=0)
    (error,) = llm.batch(["q"], return_exceptions=True)
    assert "gone" in str(error)


# Judges


@pytest.mark.parametrize(
    ("reply", "reward"), [("Score: 3, no: Score: 7", 7 / 9), ("Score: 0", 0.0), ("9", 1.0), ("**Score:** 5", 5 / 9)]
)
def test_the_last_score_of_a_judge_counts_in_ninths(reply: str, reward: float) -> None:
    scores = wait_for(LangChainJudge(always(reply)).score(PATH, [Step("one", "end")]))
    assert scores.rewards == (reward,)


def test_a_judge_sees_the_tools_of_an_agent() -> None:
    @tool
    def weather(city: str) -> str:
        """The weather of a city."""
        return city

    judge = always("Score: 9")
    agent: Any = create_agent(always("t"), [weather], middleware=[RSDMiddleware(always("x"), judge)])
    agent.invoke({"messages": [HumanMessage("q")]})
    assert "The weather of a city." in str(judge.asked[-1][0][-1].text)


# What caches tell apart


def test_options_are_the_same_in_any_order() -> None:
    one = LangChainDrafter(always("x"), options={"a": 1, "b": 2})
    other = LangChainDrafter(always("x"), options={"b": 2, "a": 1})
    assert one.fingerprint == other.fingerprint
    assert one.fingerprint != LangChainDrafter(always("x"), options={"a": 2, "b": 1}).fingerprint


def test_no_identity_is_given_twice() -> None:
    class Thing:
        pass

    thing = Thing()
    assert identity(thing) == identity(thing)
    assert len({identity(Thing()) for _ in range(100)}) == 100  # most of them at the address of the one before


def test_what_is_not_loaded_yet_is_not_at_hand() -> None:
    models = LoadedModels()
    assert models.has(ScriptedTarget(["x"]))
    assert not models.has(ScriptedTarget(["x"]), "scripted:target")
    model = models.get("scripted:target")
    assert models.get("scripted:target") is model
    assert models.has(ScriptedTarget(["x"]), "scripted:target")


def test_llms_write_turns_from_the_text_of_the_prompt() -> None:
    llm = FakeListLLM(responses=["fine"])
    message = ChatRSD(draft=llm, target=always("t"), verifier=good).invoke("q")
    assert (message.text, result_of(message).steps[0].author) == ("fine", "draft")
    assert json.loads(message.model_dump_json())["content"] == "fine"
