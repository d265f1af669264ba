"""RSD as a LangChain LLM, on scripted models and inside a chain."""

import asyncio
from typing import Any

import pytest
from langchain_core.caches import InMemoryCache
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.outputs import LLMResult
from langchain_core.prompt_values import ChatPromptValue
from langchain_core.prompts import ChatPromptTemplate, PromptTemplate

from rsd_core import (
    BatchError,
    Constant,
    Generation,
    Limits,
    Message,
    Path,
    RewardGuidedDecoder,
    Settings,
    StepRequest,
    TargetError,
    TargetOnly,
)
from rsd_core.testing import ScriptedDrafter, ScriptedTarget, ScriptedVerifier
from rsd_integrations.langchain import RSDLLM

SPECS = {"draft": "scripted:draft", "target": "scripted:target", "verifier": "scripted:verifier"}
TEXT = "There are 3 rows of 4 seats: 3*4=12.\n\nTwo seats are taken: 12-2=10.\n\nThe answer is \\boxed{10}."


def llm(**options: Any) -> RSDLLM:
    return RSDLLM(**(SPECS | options))


def test_every_face_gives_the_decoders_text() -> None:
    model = llm()

    async def streamed() -> str:
        return "".join([chunk async for chunk in model.astream("q")])

    assert model.invoke("q") == TEXT
    assert model.batch(["q", "r"]) == [TEXT, TEXT]
    assert "".join(model.stream("q")) == TEXT
    assert asyncio.run(model.ainvoke("q")) == TEXT
    assert asyncio.run(model.abatch(["q", "r"])) == [TEXT, TEXT]
    assert asyncio.run(streamed()) == TEXT


def test_it_stands_in_a_chain() -> None:
    chain = PromptTemplate.from_template("Solve: {problem}") | llm() | StrOutputParser()
    assert chain.invoke({"problem": "seats"}) == TEXT
    assert chain.batch([{"problem": "a"}, {"problem": "b"}]) == [TEXT, TEXT]
    assert "".join(chain.stream({"problem": "seats"})) == TEXT


def test_it_streams_by_accepted_step_and_never_a_rejected_one() -> None:
    chunks = [chunk for chunk in llm().stream("q") if chunk]
    assert len(chunks) == 3
    assert "12-2=9" not in "".join(chunks)


@pytest.mark.parametrize("stop", ["12-2=10", "12.\n\nTwo", "\\boxed"])
def test_stop_holds_across_steps_and_when_streaming(stop: str) -> None:
    wanted = TEXT[: TEXT.index(stop)]
    assert llm().invoke("q", stop=[stop]) == wanted
    assert "".join(llm().stream("q", stop=[stop])) == wanted


def test_each_generation_tells_its_finish_usage_and_trace() -> None:
    result = llm().generate(["q", "r"])
    for (generation,) in result.generations:
        info = generation.generation_info or {}
        assert info["finish_reason"] == "stop"
        assert [step["author"] for step in info["rsd"]["steps"]] == ["draft", "target", "draft"]
        assert info["token_usage"]["completion_tokens"] > 0
        assert info["rsd"]["ledger"]["target"]["calls"] == 1
    assert result.llm_output is not None
    first = (result.generations[0][0].generation_info or {})["token_usage"]["completion_tokens"]
    assert result.llm_output["token_usage"]["completion_tokens"] == 2 * first


def test_callbacks_hear_of_a_step_before_the_consumer() -> None:
    heard: list[str] = []

    class Listener(BaseCallbackHandler):
        def on_llm_new_token(self, token: Any, **_: Any) -> None:
            heard.append(token)

    for i, chunk in enumerate(llm().stream("q", config={"callbacks": [Listener()]})):
        assert heard[i] == chunk
    told = heard.copy()
    heard.clear()

    async def asynchronously() -> None:
        chunks = llm().astream("q", config={"callbacks": [Listener()]})
        seen = [(chunk, heard[-1]) async for chunk in chunks]
        assert all(chunk == last for chunk, last in seen)

    asyncio.run(asynchronously())
    assert heard == told


class Breaking:
    """A target that fails on bad prompts until it is mended."""

    def __init__(self) -> None:
        self.broken = True
        self.asked = 0

    def model(self, **options: Any) -> RSDLLM:
        def target(path: Path, _: object) -> str | Exception:
            self.asked += 1
            return RuntimeError("gone") if self.broken and "bad" in path.prompt[0].content else "fine"

        return RSDLLM(decoder=TargetOnly(target=ScriptedTarget(target)), max_retries=0, **options)


def test_a_bad_prompt_takes_no_other_down() -> None:
    model = Breaking().model()
    answers: list[Any] = model.batch(["good", "bad", "good too"], return_exceptions=True)
    assert (answers[0], answers[2]) == ("fine", "fine")
    assert isinstance(answers[1], TargetError)
    assert asyncio.run(model.abatch(["bad", "good"], return_exceptions=True))[1] == "fine"
    with pytest.raises(BatchError, match="gone") as caught:
        model.batch(["good", "bad", "good too"])
    assert [result.text for result in caught.value.results] == ["fine", "", "fine"]
    info = [generation.generation_info or {} for (generation,) in model.generate(["good", "bad"]).generations]
    assert [one["finish_reason"] for one in info] == ["stop", "error"]
    assert "gone" in info[1]["error"]
    with pytest.raises(TargetError, match="gone"):
        model.invoke("bad")


def test_a_failed_answer_gets_into_no_cache_and_a_good_one_does() -> None:
    source = Breaking()
    model = source.model(cache=InMemoryCache())
    model.generate(["good", "bad"])
    source.broken = False
    asked = source.asked
    assert model.batch(["good", "bad"]) == ["fine", "fine"]
    assert source.asked == asked + 1
    source.broken = True
    asyncio.run(model.agenerate(["good as well", "bad as well"]))
    source.broken = False
    asked = source.asked
    assert asyncio.run(model.abatch(["good as well", "bad as well"])) == ["fine", "fine"]
    assert source.asked == asked + 1


def test_a_batch_is_one_generate_decoded_with_limited_concurrency() -> None:
    running = most = calls = 0

    class Target(ScriptedTarget):
        async def generate(self, path: Path, request: StepRequest) -> Generation:
            nonlocal running, most
            running, most = running + 1, max(most, running + 1)
            try:
                return await super().generate(path, request)
            finally:
                running -= 1

    class Counting(RSDLLM):
        def _generate(self, prompts: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any) -> LLMResult:
            nonlocal calls
            calls += 1
            return super()._generate(prompts, stop, run_manager, **kwargs)

    model = Counting(decoder=TargetOnly(target=Target(["a"], delay=0.02)))
    model.batch([str(i) for i in range(12)])
    assert (calls, most) == (1, 12)
    most = 0
    (PromptTemplate.from_template("{x}") | model).batch([{"x": str(i)} for i in range(12)], {"max_concurrency": 3})
    assert (calls, most) == (2, 3)


def test_chat_prompts_reach_the_models_as_messages() -> None:
    target = ScriptedTarget(["fine"])
    model = RSDLLM(decoder=TargetOnly(target=target))
    chain = ChatPromptTemplate.from_messages([("system", "Be brief."), ("human", "{q}")]) | model
    assert chain.invoke({"q": "Human: hi"}) == "fine"
    list(chain.stream({"q": "Human: hi"}))
    model.generate_prompt([ChatPromptValue(messages=[SystemMessage("Be brief."), HumanMessage("Human: hi")])])
    wanted = (Message("system", "Be brief."), Message("user", "Human: hi"))
    assert [path.prompt for path in target.calls] == [wanted] * 3
    model.invoke([HumanMessage("hi")])
    assert target.calls[-1].prompt == (Message("user", "hi"),)


def test_histories_that_differ_in_their_tool_calls_alone_are_other_keys_in_the_cache() -> None:
    target = ScriptedTarget(["one"])
    model = RSDLLM(decoder=TargetOnly(target=target), cache=InMemoryCache())
    for city in ("Rome", "Bonn", "Rome"):
        call: Any = {"name": "weather", "args": {"city": city}, "id": "c"}
        model.invoke([HumanMessage("q"), AIMessage("", tool_calls=[call]), ToolMessage("rain", tool_call_id="c")])
    assert len(target.calls) == 2


def test_an_option_of_a_call_is_another_key_in_the_cache() -> None:
    model = llm(cache=InMemoryCache())
    always = model.invoke("q", policy="constant:1")
    assert "12-2=9" in always  # the slip is kept
    assert model.invoke("q") == TEXT
    assert model.bind(policy="constant:1").invoke("q") == always
    assert asyncio.run(model.ainvoke("q", policy="constant:1")) == always
    assert asyncio.run(model.ainvoke("q")) == TEXT
    assert "".join(model.stream("q", policy="constant:1")) == always
    with pytest.raises(ValueError, match="temprature"):
        model.invoke("q", temprature=0.5)
    with pytest.raises(ValueError, match="temperature"):
        model.invoke("q", temperature=-1)


def test_stop_given_to_the_model_holds_unless_the_call_says_otherwise() -> None:
    model = llm(stop_sequences=["12-2=10"])
    assert model.invoke("q") == TEXT[: TEXT.index("12-2=10")]
    assert model.invoke("q", stop=["Two"]) == TEXT[: TEXT.index("Two")]
    assert model.stop == ["12-2=10"]


def test_a_copy_with_another_policy_is_another_decoder() -> None:
    model = llm()
    model.invoke("q")
    never = model.model_copy(update={"policy": "constant:0"})
    steps = (never.generate(["q"]).generations[0][0].generation_info or {})["rsd"]["steps"]
    assert [step["author"] for step in steps] == ["target"] * 3
    assert llm(policy=Constant(p=0)).generate(["q"]).generations[0][0].text == never.invoke("q")


def test_mistakes_are_refused_at_construction() -> None:
    with pytest.raises(ValueError, match="polcy"):
        llm(polcy="binary_step:0.7")
    with pytest.raises(ValueError, match="binary_stp"):
        llm(policy="binary_stp:0.7")
    with pytest.raises(ValueError, match="nowhere"):
        llm(draft="nowhere:x")


def test_what_differs_has_another_cache_key() -> None:
    def decoder(name: str) -> RewardGuidedDecoder:
        drafter = ScriptedDrafter(["x"])
        drafter.name = name
        return RewardGuidedDecoder(drafter=drafter, verifier=ScriptedVerifier([1]), target=ScriptedTarget(["y"]))

    models = [
        llm(),
        llm(policy="binary_step:0.8"),
        llm(settings={"seed": 1}),
        llm(stop=["x"]),
        llm(target="scripted:draft"),
        RSDLLM(decoder=decoder("a")),
        RSDLLM(decoder=decoder("b")),
        RSDLLM(decoder=TargetOnly(target=ScriptedTarget(["y"]))),
        RSDLLM(decoder=TargetOnly(target=ScriptedTarget(["y"]), settings=Settings(limits=Limits(max_steps=1)))),
    ]
    keys = [str(sorted(model._identifying_params.items())) for model in models]
    assert len(set(keys)) == len(keys)


def test_the_embedded_models_in_a_chain() -> None:
    problem = "{name} has 20 pens. Then she buys 12 more. How many pens does {name} have now?"
    chain = PromptTemplate.from_template(problem) | RSDLLM() | StrOutputParser()
    assert "\\boxed{32}" in chain.invoke({"name": "Mia"})
