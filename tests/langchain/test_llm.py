"""RSD as a LangChain LLM, on scripted models and inside a chain."""

import asyncio
from typing import Any

import pytest
from langchain_core.caches import InMemoryCache
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import PromptTemplate

from rsd_core import BatchError, Constant, Limits, Path, RewardGuidedDecoder, Settings, TargetOnly
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


def test_a_bad_prompt_loses_no_other_and_gets_into_no_cache() -> None:
    broken = True

    def target(path: Path, _: object) -> str | Exception:
        return RuntimeError("gone") if broken and "bad" in path.prompt[0].content else "fine"

    model = RSDLLM(decoder=TargetOnly(target=ScriptedTarget(target)), cache=InMemoryCache())
    with pytest.raises(BatchError, match="gone") as caught:
        model.generate(["good", "bad", "good too"])
    assert [result.text for result in caught.value.results] == ["fine", "", "fine"]
    broken = False
    assert model.invoke("bad") == "fine"


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


def test_options_per_call_are_refused_since_they_would_share_the_cache() -> None:
    with pytest.raises(ValueError, match="temperature"):
        llm().invoke("q", temperature=0.5)


def test_what_differs_has_another_cache_key() -> None:
    def decoder(name: str) -> RewardGuidedDecoder:
        drafter = ScriptedDrafter(["x"])
        drafter.name = name
        return RewardGuidedDecoder(drafter=drafter, verifier=ScriptedVerifier([1]), target=ScriptedTarget(["y"]))

    models = [
        llm(),
        llm(policy="binary_step:0.8"),
        llm(settings={"seed": 1}),
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
