"""ChatRSD in turn granularity: whole messages by any chat model, passed through as they are."""

import asyncio
import copy
import threading
import time
from collections.abc import Sequence
from typing import Any

import langsmith
import pytest
from langchain_core.callbacks import get_usage_metadata_callback
from langchain_core.language_models import BaseChatModel
from langchain_core.language_models.fake import FakeListLLM
from langchain_core.language_models.fake_chat_models import FakeListChatModel
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage
from langchain_core.runnables import ConfigurableField, RunnableLambda
from langchain_core.tools import tool
from langchain_core.tracers.langchain import wait_for_all_tracers
from langchain_core.utils.function_calling import convert_to_openai_tool
from langgraph.graph import START, MessagesState, StateGraph
from pydantic import BaseModel, Field, SecretStr

from rsd_core import DraftOnly, TargetError
from rsd_integrations.langchain import ChatRSD, LangChainDrafter, LangChainJudge, result_of
from rsd_integrations.langchain.tokens import usage_of_reply
from tests.langchain.fakes import Inner, always, good

CALL = {"name": "add", "args": {"a": 1, "b": 2}, "id": "call_1", "type": "tool_call"}


@tool
def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


def chat(draft: Any, target: Any = None, **options: Any) -> ChatRSD:
    return ChatRSD(
        draft=draft, target=target or always("from the target"), verifier=options.pop("verifier", good), **options
    )


def test_a_good_draft_is_the_answer_and_a_bad_one_is_rewritten() -> None:
    kept = chat(always("a fine draft")).invoke("q")
    assert kept.text == "a fine draft"
    assert [(step.author, step.reward) for step in result_of(kept).steps] == [("draft", 0.9)]
    replaced = chat(always("a BAD draft")).invoke("q")
    assert replaced.text == "from the target"
    assert [(step.author, step.reward) for step in result_of(replaced).steps] == [("target", 0.1)]
    assert "BAD" not in replaced.model_dump_json()


def test_every_face_gives_the_same_message() -> None:
    for draft in (always("a fine draft"), always("a BAD draft"), always(AIMessage("", tool_calls=[CALL]))):
        model = chat(draft).bind_tools([add])

        async def both(model: Any = model) -> list[Any]:
            chunks = [chunk async for chunk in model.astream("q")]
            return [await model.ainvoke("q"), sum(chunks[1:], chunks[0])]

        streamed = list(model.stream("q"))
        made = [model.invoke("q"), sum(streamed[1:], streamed[0]), *asyncio.run(both())]
        assert len({(str(one.text), str(one.tool_calls), str(one.usage_metadata)) for one in made}) == 1


def test_inner_models_get_messages_tools_and_options_as_they_are() -> None:
    draft, target = always("BAD"), always("fine")
    image = {"type": "image", "base64": "AAAA", "mime_type": "image/png"}
    messages = [SystemMessage("s"), HumanMessage([{"type": "text", "text": "what?"}, image], id="mine")]
    model = chat(draft, target).bind_tools([add], tool_choice="any", strict=True)
    model.invoke(messages, response_format={"type": "json"}, stop=["END"])
    for inner in (draft, target):
        ((asked, options),) = inner.asked
        assert asked[1].content == messages[1].content
        assert options["tool_choice"] == "any"
        assert options["strict"] is True
        assert options["response_format"] == {"type": "json"}
        assert options["stop"] == ["END"]
        assert options["tools"][0]["function"]["name"] == "add"


def test_what_is_set_on_the_model_is_sent_and_nothing_else() -> None:
    draft = always("fine")
    chat(draft).invoke("q")
    assert draft.asked[-1][1] == {}
    chat(draft, temperature=0.3, max_tokens=50).invoke("q")
    assert draft.asked[-1][1] == {"temperature": 0.3, "max_tokens": 50}
    chat(draft).invoke("q", seed=3)
    assert set(draft.asked[-1][1]) == {"seed"}


def test_tool_calls_come_through_and_are_judged() -> None:
    right = AIMessage("", tool_calls=[CALL])
    wrong = AIMessage("", tool_calls=[CALL | {"args": {"a": "BAD"}}])
    for draft, author in ((right, "draft"), (wrong, "target")):
        message = chat(always(draft), always(right)).bind_tools([add]).invoke("1 + 2?")
        assert [(call["name"], call["args"]) for call in message.tool_calls] == [("add", {"a": 1, "b": 2})]
        assert result_of(message).steps[0].author == author
        assert message.response_metadata["finish_reason"] == "tool_calls"


class Sum(BaseModel):
    """A sum."""

    a: int
    b: int


def test_structured_output_comes_through() -> None:
    calls = AIMessage("", tool_calls=[CALL | {"name": "Sum"}])
    model = chat(always("BAD, no call at all"), always(calls))
    assert model.with_structured_output(Sum).invoke("q") == Sum(a=1, b=2)
    both: Any = model.with_structured_output(Sum, include_raw=True).invoke("q")
    assert result_of(both["raw"]).steps[0].author == "target"


def test_content_blocks_and_extra_fields_come_through() -> None:
    blocks: list[Any] = [{"type": "reasoning", "reasoning": "hm"}, {"type": "text", "text": "fine"}]
    draft = AIMessage(blocks, additional_kwargs={"refusal": None})
    message = chat(always(draft)).invoke("q")
    assert [block["type"] for block in message.content_blocks] == ["reasoning", "text"]
    assert message.additional_kwargs["refusal"] is None
    assert message.response_metadata["model_name"] == "rsd"
    assert message.response_metadata["inner"]["model_name"] == "inner"


def test_usage_is_the_chosen_replys_and_inner_calls_are_not_counted_in_addition() -> None:
    model = chat(always("a BAD draft"), always("one two"))
    with get_usage_metadata_callback() as heard:
        message = model.invoke("q")
    assert message.usage_metadata is not None
    assert message.usage_metadata["input_tokens"] == 10
    assert message.usage_metadata["output_tokens"] == 2
    assert set(heard.usage_metadata) == {"rsd"}


def test_no_rejected_token_gets_into_the_event_stream_unless_inner_calls_are_traced() -> None:
    async def told(tools: Sequence[Any] = (), **options: Any) -> str:
        model: Any = chat(always("a BAD draft"), **options)
        chain = RunnableLambda(lambda x: x) | (model.bind_tools(tools) if tools else model)
        return str([event async for event in chain.astream_events("q", version="v2")])

    assert "BAD" not in asyncio.run(told())
    assert "BAD" not in asyncio.run(told([add]))  # inner models are bindings then
    assert "BAD" in asyncio.run(told(trace_inner=True))


def test_a_failed_draft_is_the_targets_to_write_and_a_failed_target_is_an_error() -> None:
    message = chat(always(RuntimeError("draft is down"))).invoke("q")
    assert message.text == "from the target"
    assert "draft is down" in result_of(message).degradations[0].message
    with pytest.raises(TargetError, match="target is down"):
        chat(always("BAD"), always(RuntimeError("target is down")), max_retries=0).invoke("q")


def test_a_judge_scores_by_a_rubric() -> None:
    judge = Inner(answer=lambda messages, _: "Hm. Score: 9" if "12" in str(messages[-1].text) else "Score: 2")
    assert chat(always("12"), verifier=judge).invoke("6+6?").text == "12"
    assert chat(always("13"), verifier=judge).invoke("6+6?").text == "from the target"
    asked = str(judge.asked[-1][0][-1].text)
    assert "6+6?" in asked
    assert "13" in asked
    silent = chat(always("12"), verifier=always("who knows")).invoke("q")
    assert silent.text == "from the target"
    assert result_of(silent).degradations == ()
    assert result_of(silent).ledger.verifier.abstained == 1
    assert isinstance(chat(always("x"), verifier=judge).verifier, LangChainJudge)


def test_granularity_depends_on_the_models() -> None:
    assert chat(always("x")).resolved().granularity == "turn"
    assert ChatRSD().resolved().granularity == "step"
    with pytest.raises(ValueError, match="no way to continue"):
        chat(always("x"), granularity="step").invoke("q")


def test_what_cannot_be_passed_on_is_refused() -> None:
    with pytest.raises(ValueError, match="cannot call tools"):
        chat(FakeListChatModel(responses=["x"])).bind_tools([add])
    alone = ChatRSD(decoder=DraftOnly(drafter=LangChainDrafter(always("x"))), granularity="turn")
    assert alone.invoke("q").text == "x"
    with pytest.raises(ValueError, match="response_format"):
        alone.invoke("q", response_format={"type": "json"})


def test_the_profile_is_what_both_models_can() -> None:
    draft = always("x", profile={"max_input_tokens": 10, "tool_calling": True, "image_inputs": True})
    target = always("x", profile={"max_input_tokens": 99, "tool_calling": True, "image_inputs": False})
    assert chat(draft, target).profile == {"max_input_tokens": 10, "tool_calling": True, "image_inputs": False}
    assert (ChatRSD().profile or {})["tool_calling"] is False


class Keyed(Inner):
    api_key: SecretStr = SecretStr("sk-very-secret")


def test_secrets_stay_secret() -> None:
    model = chat(Keyed(answer=lambda *_: RuntimeError("no")), always("x"))
    message = model.invoke("q")
    told = f"{model!r} {model} {model._identifying_params} {message!r} {model.model_dump()}"
    assert "sk-very-secret" not in told


def test_identical_models_share_a_cache_and_others_do_not() -> None:
    def key(draft: Any, **options: Any) -> str:
        return str(chat(draft, verifier="scripted:verifier", **options)._identifying_params)

    target = always("t", model_name="t")
    first = key(always("x", model_name="a"), target=target)
    assert first == key(always("x", model_name="a"), target=target)
    assert first != key(always("x", model_name="b"), target=target)
    assert first != key(always("x", model_name="a").bind(stop=["y"]), target=target)
    assert first != key(always("x", model_name="a"), target=always("t", model_name="u"))
    assert first != key(always("x", model_name="a"), target=target, policy="constant:1")
    assert first != key(always("x", model_name="a"), target=target, temperature=0.2)


def test_roles_that_answer_differently_share_no_cache() -> None:
    model = always("x")
    text = FakeListLLM(responses=["x"])
    roles = [
        LangChainJudge(model),
        LangChainJudge(model, rubric="Be kind. Score: N"),
        LangChainDrafter(model, options={"top_k": 1}),
        LangChainDrafter(model, sends=["seed"]),
        LangChainDrafter(model, tools=[convert_to_openai_tool(add)]),
        LangChainDrafter(model, prefix="trailing_assistant"),
        LangChainDrafter(model, prefix="trailing_assistant", stop="told"),
        LangChainDrafter(text, prefix="completion"),
        LangChainDrafter(text, prefix="completion", render=lambda prompt: prompt[0].content),
        LangChainDrafter(text, prefix="completion", render=lambda prompt: prompt[-1].content),
    ]
    assert len({role.fingerprint for role in roles}) == len(roles)
    assert LangChainJudge(model, rubric="R").fingerprint == LangChainJudge(always("x"), rubric="R").fingerprint
    assert chat(model).identity() != chat(model, trace_inner=True).identity()


def test_models_that_tell_nothing_of_themselves_share_no_cache() -> None:
    class Nameless(FakeListChatModel):
        responses: list[str] = Field(default=["x"], exclude=True)
        _identifying_params = BaseChatModel._identifying_params  # type: ignore[assignment]

    one, other = Nameless(), Nameless(responses=["y"])
    keys = [str(chat(draft, always("t"), verifier="scripted:verifier").identity()["draft"]) for draft in (one, other)]
    assert keys[0] != keys[1]
    assert keys[0] == str(chat(one, verifier="scripted:verifier").identity()["draft"])


def test_models_without_an_asynchronous_face_run_side_by_side() -> None:
    class Blocking(FakeListChatModel):
        def _generate(self, *args: Any, **kwargs: Any) -> Any:
            time.sleep(0.2)
            return super()._generate(*args, **kwargs)

        _agenerate = Inner.__mro__[1]._agenerate  # type: ignore[attr-defined]
        _astream = Inner.__mro__[1]._astream  # type: ignore[attr-defined]

    model = chat(Blocking(responses=["fine"]))

    async def many() -> float:
        started = time.perf_counter()
        await asyncio.gather(*(model.ainvoke("q") for _ in range(40)))
        return time.perf_counter() - started

    assert asyncio.run(many()) < 40 * 0.2 / 8  # the default pool would take 40 * 0.2 / 6 on two cores


def test_nested_rsd_does_not_use_up_a_pool_of_threads() -> None:
    inner = chat(always("fine", delay=0.05))
    outer = chat(chat(inner))
    threads = [threading.Thread(target=outer.invoke, args=("q",)) for _ in range(30)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=30)
    assert not any(thread.is_alive() for thread in threads)


@pytest.mark.parametrize(
    "content",
    ["one STOP two", [{"type": "reasoning", "reasoning": "hm"}, {"type": "text", "text": "one "}, "STOP two"]],
)
def test_stop_holds_over_models_that_do_not_stop(content: Any) -> None:
    model = chat(always(AIMessage(content, tool_calls=[CALL])))
    streamed = list(model.stream("q", stop=["STOP"]))
    whole: Any = sum(streamed[1:], streamed[0])
    for message in (model.invoke("q", stop=["STOP"]), whole, chat(always("fine STOP"), stop=["STOP"]).invoke("q")):
        assert message.text in ("one ", "fine ")
        assert result_of(message).text == message.text
        assert message.tool_calls == []
    kinds = [
        block if isinstance(block, str) else block["type"] for block in whole.content if not isinstance(content, str)
    ]
    assert kinds[:1] == ([] if isinstance(content, str) else ["reasoning"])


def test_models_that_a_function_calls_are_silent_too() -> None:
    judge = always("LEAK")

    def blocking(_: Any, reply: AIMessage) -> float:
        judge.invoke(str(reply.text))
        return 0.1

    async def asynchronous(_: Any, reply: AIMessage) -> float:
        await judge.ainvoke(str(reply.text))
        return 0.1

    async def events(model: Any) -> str:
        chain = RunnableLambda(lambda x: x) | model
        return str([event async for event in chain.astream_events("q", version="v2")])

    for verifier in (blocking, asynchronous):
        model = chat(always("BAD"), verifier=verifier)
        assert "LEAK" not in asyncio.run(events(model))
        with get_usage_metadata_callback() as heard:
            model.invoke("q")
        assert set(heard.usage_metadata) == {"rsd"}
    assert len(judge.asked) == 4


def test_langsmith_sees_inner_calls_only_when_they_are_traced(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []

    class Client(langsmith.Client):
        def create_run(self, name: str, *_: Any, **__: Any) -> None:
            seen.append(name)

        def update_run(self, *_: Any, **__: Any) -> None: ...

    client = Client(api_url="http://127.0.0.1:9", api_key="x", auto_batch_tracing=False)
    for options, wanted in (({}, ["ChatRSD"]), ({"trace_inner": True}, ["ChatRSD", "Inner", "Inner"])):
        model = chat(always("BAD"), **options)
        for call in (model.invoke, lambda value, model=model: asyncio.run(model.ainvoke(value))):
            with langsmith.tracing_context(enabled=True, client=client):
                call("q")
            wait_for_all_tracers()
            assert sorted(seen) == wanted
            seen.clear()


def test_one_name_cannot_replace_two_models() -> None:
    draft = always("fine")
    with pytest.raises(ValueError, match="two models write"):
        chat(draft).invoke("q", model="other")
    assert draft.asked == []


def test_options_are_never_mistaken_for_our_own_arguments() -> None:
    draft = always("fine")
    chat(draft).invoke("q", value="x")
    assert draft.asked[-1][1] == {"value": "x"}


def test_what_is_wrapped_around_a_model_is_seen_through() -> None:
    retried = LangChainDrafter(always("x", model_name="a").with_retry())
    assert retried.name == "a"
    assert retried.fingerprint == LangChainDrafter(always("x", model_name="a").with_retry()).fingerprint
    inner = always("x")
    assert chat(inner.with_retry()).bind_tools([add]).invoke("q").text == "x"
    assert [tool["function"]["name"] for tool in inner.asked[-1][1]["tools"]] == ["add"]
    with pytest.raises(ValueError, match="cannot call tools"):
        chat(FakeListChatModel(responses=["x"]).with_retry()).bind_tools([add])


def test_the_policy_stays_configurable_with_tools_bound() -> None:
    bad, right = AIMessage("BAD", tool_calls=[CALL | {"args": {"a": 0, "b": 0}}]), AIMessage("", tool_calls=[CALL])
    model: Any = chat(always(bad), always(right)).configurable_fields(policy=ConfigurableField(id="policy"))
    sums: Any = chat(
        *(always(AIMessage(one.content, tool_calls=[one.tool_calls[0] | {"name": "Sum"}])) for one in (bad, right))
    )
    sums = sums.configurable_fields(policy=ConfigurableField(id="policy")).with_structured_output(Sum)
    for policy, wanted in (("constant:1", 0), ("constant:0", 1)):
        config = {"configurable": {"policy": policy}}
        assert model.bind_tools([add]).invoke("q", config).tool_calls[0]["args"]["a"] == wanted
        assert model.with_config(config).bind_tools([add]).invoke("q").tool_calls[0]["args"]["a"] == wanted
        assert sums.invoke("q", config).a == wanted


def test_copies_share_the_models() -> None:
    draft = always("fine")
    draft.answer = threading.Lock().locked  # what cannot be copied, as in clients of providers
    model = chat(draft)
    assert copy.deepcopy(model).draft is model.draft


def test_traced_inner_calls_stay_out_of_langgraphs_message_streams() -> None:
    graph = StateGraph(MessagesState)
    model = chat(always("a BAD draft"), trace_inner=True)
    graph.add_node("model", lambda state: {"messages": [model.invoke(state["messages"])]})
    graph.add_edge(START, "model")
    said = [part.text for part, _ in graph.compile().stream({"messages": [HumanMessage("q")]}, stream_mode="messages")]  # type: ignore[union-attr]
    assert "".join(map(str, said)) == "from the target"


@pytest.mark.parametrize("told", ["Score: 10", "Score: 9.5", "no score at all, 9 times"])
def test_an_invalid_score_is_not_a_reward(told: str) -> None:
    message = chat(always("x"), verifier=always(told)).invoke("q")
    result = result_of(message)
    assert (result.steps[0].reward, result.ledger.verifier.abstained) == (None, 1)


def test_tokens_read_from_a_providers_cache_are_reported() -> None:
    usage: Any = {"input_tokens": 10, "output_tokens": 2, "total_tokens": 12, "input_token_details": {"cache_read": 4}}
    spent = usage_of_reply(AIMessage("x", usage_metadata=usage), "q", 0.0)
    assert (spent.prefix, spent.computed, spent.reused, spent.generated) == (10, 8, 4, 2)
