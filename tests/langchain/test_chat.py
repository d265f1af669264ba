"""ChatRSD in step granularity, on scripted models and on the embedded ones."""

import asyncio
import copy
import json
import pickle
import uuid
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.caches import InMemoryCache
from langchain_core.callbacks import BaseCallbackHandler, get_usage_metadata_callback
from langchain_core.messages import AIMessage, AIMessageChunk, HumanMessage, SystemMessage, trim_messages
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import ConfigurableField, RunnableParallel
from pydantic import ValidationError

from rsd_core import (
    Generation,
    Message,
    Path,
    RewardGuidedDecoder,
    Settings,
    StepRequest,
    TargetError,
    TargetOnly,
    __version__,
    registry,
)
from rsd_core.testing import ScriptedDrafter, ScriptedTarget, ScriptedVerifier
from rsd_integrations.langchain import RSDLLM, ChatRSD, RSDRunnable, result_of

SPECS = {"draft": "scripted:draft", "target": "scripted:target", "verifier": "scripted:verifier"}
TEXT = "There are 3 rows of 4 seats: 3*4=12.\n\nTwo seats are taken: 12-2=10.\n\nThe answer is \\boxed{10}."
PENS = "{name} has 20 pens. Then she buys 12 more. How many pens does {name} have now?"


def chat(**options: Any) -> ChatRSD:
    return ChatRSD(**(SPECS | options))


def merged(chunks: Sequence[AIMessageChunk]) -> AIMessageChunk:
    whole = chunks[0]
    for chunk in chunks[1:]:
        whole = whole + chunk
    return whole


def test_every_face_gives_the_decoders_text_and_the_same_metadata() -> None:
    model = chat()

    async def asynchronously() -> list[AIMessage]:
        streamed = [chunk async for chunk in model.astream("q")]
        return [await model.ainvoke("q"), *(await model.abatch(["q", "r"])), merged(streamed)]

    messages = [model.invoke("q"), *model.batch(["q", "r"]), merged(list(model.stream("q")))]
    messages += asyncio.run(asynchronously())
    assert {str(message.text) for message in messages} == {TEXT}
    ledgers = [message.response_metadata["rsd"]["ledger"]["target"] for message in messages]
    assert all(ledger == ledgers[0] for ledger in ledgers)
    assert len({json.dumps(message.usage_metadata) for message in messages}) == 1
    assert len({json.dumps(message.additional_kwargs) for message in messages}) == 1


@pytest.mark.parametrize("kind", [ChatRSD, RSDLLM, RSDRunnable])
@pytest.mark.parametrize("temperature", [0.0, 0.9])
def test_adapters_give_the_text_of_the_bare_decoder(
    kind: type[Any], temperature: float, family: RewardGuidedDecoder, questions: list[str]
) -> None:
    settings = Settings(temperature=temperature, seed=5)
    some = questions[:3]
    wanted = [family.with_settings(settings).run(question).text for question in some]
    model = kind(decoder=family, temperature=temperature, seed=5)

    async def streamed(question: str) -> str:
        return "".join([str(getattr(chunk, "text", chunk)) async for chunk in model.astream(question)])

    def text(made: Any) -> str:
        return str(getattr(made, "text", made))

    assert [text(model.invoke(question)) for question in some] == wanted
    assert [text(made) for made in model.batch(some)] == wanted
    assert ["".join(text(chunk) for chunk in model.stream(question)) for question in some] == wanted
    assert [text(made) for made in asyncio.run(model.abatch(some))] == wanted
    assert [asyncio.run(streamed(question)) for question in some] == wanted
    chain = ChatPromptTemplate.from_template("{question}") | model | StrOutputParser()
    assert [chain.invoke({"question": question}) for question in some] == wanted


def test_it_streams_by_accepted_step_and_tells_each_steps_record() -> None:
    chunks = list(chat().stream("q"))
    assert [chunk.content for chunk in chunks] == [*_steps(TEXT), ""]
    records = merged(chunks).additional_kwargs["rsd_steps"]
    assert [(one["author"], one["reward"], one["accepted"]) for one in records] == [
        ("draft", 0.95, True),
        ("target", 0.1, False),
        ("draft", 0.95, True),
    ]
    assert all(one["tokens"] > 0 for one in records)
    assert chunks[-1].chunk_position == "last"


def _steps(text: str) -> list[str]:
    parts = text.split("\n\n")
    return [part + "\n\n" for part in parts[:-1]] + parts[-1:]


rewards = st.lists(st.floats(0, 1), min_size=1, max_size=5)


@given(rewards, st.lists(st.sampled_from(["a.", "b ", "é", "x\ny"]), min_size=5, max_size=5))
def test_step_records_survive_any_merging_of_chunks(given_rewards: list[float], texts: list[str]) -> None:
    steps = [text + "\n\n" for text in texts[:-1]] + texts[-1:]
    decoder = RewardGuidedDecoder(
        drafter=ScriptedDrafter(steps), verifier=ScriptedVerifier(given_rewards), target=ScriptedTarget(steps)
    )
    model = ChatRSD(decoder=decoder)
    whole, message = merged(list(model.stream("q"))), model.invoke("q")
    assert whole.additional_kwargs == message.additional_kwargs
    assert [one["reward"] for one in whole.additional_kwargs["rsd_steps"]] == [
        step.reward for step in result_of(message).steps
    ]
    assert whole.response_metadata["model_name"] == "rsd"
    assert whole.usage_metadata == message.usage_metadata
    again = AIMessage.model_validate_json(message.model_dump_json())
    assert result_of(again).steps == result_of(message).steps


def test_the_result_is_in_the_metadata_without_the_texts_of_rejected_drafts() -> None:
    message = chat().invoke("q")
    result = result_of(message)
    assert (result.text, result.answer, result.finish_reason) == (TEXT, "10", "stop")
    assert result.acceptance_rate == pytest.approx(2 / 3)
    assert result.ledger.target.calls == 1
    assert "12-2=9" not in message.model_dump_json()
    assert "12-2=9" in chat(trace_inner=True).invoke("q").model_dump_json()
    with pytest.raises(ValueError, match="no RSD trace"):
        result_of(AIMessage("x"))


def test_usage_is_the_prompt_and_the_answer_alone() -> None:
    message = chat().invoke("q")
    result, usage = result_of(message), message.usage_metadata
    assert usage is not None
    assert usage["input_tokens"] == result.prompt_tokens > 0
    assert usage["output_tokens"] == sum(step.size for step in result.steps) > 0
    assert usage["total_tokens"] == usage["input_tokens"] + usage["output_tokens"]
    assert usage["total_tokens"] < result.ledger.total.read
    with get_usage_metadata_callback() as heard:
        chat().invoke("q")
        list(chat().stream("q"))
    assert heard.usage_metadata["rsd"]["total_tokens"] == 2 * usage["total_tokens"]


def test_finish_reasons_are_those_of_the_openai_api() -> None:
    assert chat().invoke("q").response_metadata["finish_reason"] == "stop"
    cut = chat(settings={"limits": {"max_steps": 1}}).invoke("q")
    assert cut.response_metadata["finish_reason"] == "length"
    assert result_of(cut).finish_reason == "max_steps"


@pytest.mark.parametrize("stop", ["12-2=10", "12.\n\nTwo", "\\boxed"])
def test_stop_holds_across_steps_on_every_face(stop: str) -> None:
    wanted = TEXT[: TEXT.index(stop)]
    assert chat().invoke("q", stop=[stop]).text == wanted
    assert merged(list(chat().stream("q", stop=[stop]))).text == wanted
    assert chat(stop_sequences=[stop]).invoke("q").text == wanted
    assert asyncio.run(chat(stop=[stop]).ainvoke("q")).text == wanted
    assert chat(stop=[stop]).invoke("q", stop=["There are"]).text == ""
    assert result_of(chat().invoke("q", stop=[stop])).finish_reason == "stop"


def test_events_of_version_3_tell_the_text_and_the_metadata() -> None:
    stream = chat().stream_events("q", version="v3")
    assert "".join(stream.text) == TEXT
    message = stream.output
    assert result_of(message).answer == "10"
    assert message.usage_metadata == chat().invoke("q").usage_metadata


@pytest.mark.filterwarnings("ignore::langchain_core._api.LangChainBetaWarning")
def test_callbacks_hear_of_a_step_before_the_consumer() -> None:
    heard: list[str] = []

    class Listener(BaseCallbackHandler):
        def on_llm_new_token(self, token: Any, **_: Any) -> None:
            heard.append(token)

    for i, chunk in enumerate(chat().stream("q", config={"callbacks": [Listener()]})):
        assert heard[i] == chunk.content
    told = heard.copy()
    heard.clear()
    stream: Any = chat().stream_events("q", version="v3", config={"callbacks": [Listener()]})
    for i, delta in enumerate(stream.text):  # here only the model tells callbacks
        assert heard[i] == delta
    assert heard == told
    heard.clear()

    async def asynchronously() -> None:
        stream = await chat().astream_events("q", version="v3", config={"callbacks": [Listener()]})
        assert "".join([delta async for delta in stream.text]) == TEXT

    asyncio.run(asynchronously())
    assert heard == told
    heard.clear()
    chat(streaming=True).invoke("q", config={"callbacks": [Listener()]})
    assert heard == told


def test_a_consumer_that_leaves_ends_the_work() -> None:
    target = ScriptedTarget(["step\n\n"])
    stream = ChatRSD(decoder=TargetOnly(target=target)).stream("q")
    next(stream)
    stream.close()  # type: ignore[attr-defined]
    asked = len(target.calls)
    ChatRSD(decoder=TargetOnly(target=ScriptedTarget(["x"]))).invoke("q")
    assert len(target.calls) == asked <= 2


def test_messages_keep_their_roles() -> None:
    target = ScriptedTarget(["fine"])
    ChatRSD(decoder=TargetOnly(target=target)).invoke(
        [
            SystemMessage("Be brief."),
            HumanMessage("hi"),
            AIMessage("Hello."),
            HumanMessage([{"type": "text", "text": "q"}]),
        ]
    )
    assert target.calls[0].prompt == (
        Message("system", "Be brief."),
        Message("user", "hi"),
        Message("assistant", "Hello."),
        Message("user", "q"),
    )


def test_content_that_text_models_would_not_see_is_refused() -> None:
    image = HumanMessage([{"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}])
    with pytest.raises(ValueError, match=r"image_url.*turn"):
        chat().invoke([image])


def test_mistakes_are_refused_at_construction() -> None:
    for wrong, told in (
        ({"temprature": 0.5}, "temprature"),
        ({"policy": "binary_stp:0.7"}, "binary_stp"),
        ({"draft": "nowhere:x"}, "nowhere"),
        ({"target": 3}, "is not a spec"),
        ({"temperature": -1.0}, "temperature"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"settings": {"delimeter": "\n"}}, "delimeter"),
        ({"stop": [""]}, "non-empty"),
    ):
        with pytest.raises(ValidationError, match=told):
            chat(**wrong)
    decoder = TargetOnly(target=ScriptedTarget(["x"]))
    with pytest.raises(ValidationError, match="remove"):
        ChatRSD(decoder=decoder, policy="constant:1")


def test_an_error_is_raised_with_what_was_written() -> None:
    decoder = RewardGuidedDecoder(
        drafter=ScriptedDrafter(["a\n\n", RuntimeError("x")]),
        verifier=ScriptedVerifier([0.9]),
        target=ScriptedTarget([RuntimeError("down")]),
    )
    with pytest.raises(TargetError, match="down") as caught:
        ChatRSD(decoder=decoder, max_retries=0).invoke("q")
    assert caught.value.partial is not None
    assert caught.value.partial.text == "a\n\n"


def test_options_of_a_call_are_checked_and_are_keys_of_the_cache() -> None:
    model = chat(cache=InMemoryCache())
    assert "12-2=9" in model.invoke("q", policy="constant:1").text
    assert model.invoke("q").text == TEXT
    assert "12-2=9" in model.bind(policy="constant:1").invoke("q").text
    with pytest.raises(ValueError, match="temprature"):
        model.invoke("q", temprature=0.5)


def test_caches_tell_models_of_the_same_name_apart() -> None:
    cache = InMemoryCache()
    texts = [
        ChatRSD(draft="scripted:draft", target=ScriptedTarget([text]), verifier=ScriptedVerifier([0.0]), cache=cache)
        .invoke("q")
        .text
        for text in ("one", "two")
    ]
    assert texts == ["one", "two"]


def test_a_cached_answer_keeps_its_trace_and_costs_nothing() -> None:
    model = chat(cache=InMemoryCache())
    first, second = model.invoke("q"), model.invoke("q")
    assert result_of(second).steps == result_of(first).steps
    assert dict(second.usage_metadata or {})["total_cost"] == 0


def test_the_policy_is_configurable_without_loading_anything_again(monkeypatch: pytest.MonkeyPatch) -> None:
    loads: list[str] = []
    really = registry.load

    def load(spec: str) -> Any:
        loads.append(spec)
        return really(spec)

    monkeypatch.setattr("rsd_integrations.loaded_models.load", load)
    model = chat().configurable_fields(
        policy=ConfigurableField(id="policy"), temperature=ConfigurableField(id="temperature")
    )
    for policy, wanted in (("constant:1", "12-2=9"), ("constant:0", "12-2=10"), ("binary_step:0.5", "12-2=10")):
        made = model.invoke("q", config={"configurable": {"policy": policy, "temperature": 0.3}})
        assert wanted in made.text
    assert sorted(loads) == ["scripted:draft", "scripted:target", "scripted:verifier"]


def test_it_pickles_and_copies_and_still_answers() -> None:
    model = chat(temperature=0.5)
    model.invoke("q")
    assert pickle.loads(pickle.dumps(model)).invoke("q").text == TEXT
    assert copy.deepcopy(model).invoke("q").text == TEXT
    assert model.model_copy(update={"policy": "constant:1"}).invoke("q").text != TEXT


def test_a_fan_out_shares_the_decoder_side_by_side() -> None:
    running = most = 0

    class Slow(ScriptedDrafter):
        async def generate(self, path: Path, request: StepRequest) -> Generation:
            nonlocal running, most
            running, most = running + 1, max(most, running + 1)
            await asyncio.sleep(0.2)  # enough for 20 threads to begin on a busy machine
            running -= 1
            return await super().generate(path, request)

    model = ChatRSD(draft=Slow(["x"]), target="scripted:target", verifier=ScriptedVerifier([1.0]))
    RunnableParallel({str(i): model for i in range(4)}).invoke("q")
    assert most == 4
    most = 0
    model.batch([str(i) for i in range(20)])
    assert most == 20
    most = 0
    model.batch([str(i) for i in range(6)], {"max_concurrency": 2})
    assert most == 2


def test_a_batch_takes_configurations_as_langchain_does() -> None:
    runs: list[Any] = []

    class Listener(BaseCallbackHandler):
        def on_chat_model_start(self, *_: Any, run_id: Any, **__: Any) -> None:
            runs.append(run_id)

    first = uuid.uuid4()
    with pytest.warns(RuntimeWarning, match="first element"):
        chat().batch(["a", "b"], {"run_id": first, "callbacks": [Listener()]})
    assert first in runs
    assert len(set(runs)) == 2
    assert len(chat().batch(["a", "b"], ({}, {}))) == 2  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="same length"):
        chat().batch(["a", "b"], [{}])


@pytest.mark.parametrize("kind", [ChatRSD, RSDLLM])
def test_tokens_are_counted_without_a_download(kind: type[Any]) -> None:
    assert kind(**SPECS).get_num_tokens("x" * 400) == pytest.approx(100, abs=5)
    assert kind(**SPECS, custom_get_token_ids=lambda text: [0] * 7).get_num_tokens("x") == 7
    long = [HumanMessage("x" * 400), AIMessage("y" * 400)]
    assert trim_messages(long, max_tokens=150, token_counter=kind(**SPECS)) == long[1:]


@pytest.mark.parametrize("kind", [ChatRSD, RSDLLM])
def test_traces_tell_the_version(kind: type[Any]) -> None:
    assert kind(**SPECS).metadata["lc_versions"]["rsd-decoding"] == __version__


def test_identity_holds_no_secret_and_is_plain_data() -> None:
    json.dumps(dict(chat()._identifying_params))
    assert chat()._identifying_params == chat()._identifying_params
    assert chat().model == "rsd"
    assert chat()._get_ls_params(stop=["x"])["ls_stop"] == ["x"]


def test_the_embedded_models_in_a_chain() -> None:
    chain = ChatPromptTemplate.from_template(PENS) | ChatRSD() | StrOutputParser()
    assert "\\boxed{32}" in chain.invoke({"name": "Mia"})
