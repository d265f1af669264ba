"""`HuggingFacePipeline`, alone and behind `ChatHuggingFace`: an LLM that only returns text."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from langchain_huggingface import ChatHuggingFace, HuggingFacePipeline
from transformers import AutoModelForCausalLM, AutoTokenizer, pipeline

from rsd_core import ConfigurationError, RewardGuidedDecoder, Settings, TargetOnly, as_prompt, load
from rsd_core.blocking import wait_for
from rsd_core.testing import ScriptedVerifier
from rsd_integrations.embedded.models import FOLDER
from rsd_integrations.langchain import (
    RSDLLM,
    ChatRSD,
    LangChainDrafter,
    LangChainJudge,
    LangChainTarget,
    RSDRunnable,
    result_of,
)
from tests.langchain.fakes import always, good


@pytest.fixture(scope="module")
def llm() -> HuggingFacePipeline:
    folder = FOLDER / "target"
    made = pipeline(
        "text-generation",
        model=AutoModelForCausalLM.from_pretrained(folder),
        tokenizer=AutoTokenizer.from_pretrained(folder),
        max_new_tokens=200,
        do_sample=False,
    )
    return HuggingFacePipeline(pipeline=made, model_id="embedded-target")


@pytest.fixture(scope="module")
def tokenizer(llm: HuggingFacePipeline) -> Any:
    return llm.pipeline.tokenizer


@pytest.fixture(scope="module")
def answer(questions: list[str]) -> str:
    """What the same model writes in process."""
    target = load("embedded:target", role="target")
    return TargetOnly(target=target, settings=Settings(temperature=0)).run(questions[0]).text


@pytest.mark.parametrize("kind", [ChatRSD, RSDRunnable, RSDLLM])
def test_turns_hold_the_answer_without_the_prompt(
    kind: Any, llm: HuggingFacePipeline, answer: str, questions: list[str]
) -> None:
    model = kind(draft=llm, target=llm, verifier=good, granularity="turn")
    made = model.invoke(questions[0])
    assert (made if isinstance(made, str) else made.text) == answer


def test_the_prompt_is_made_by_the_models_own_template(llm: HuggingFacePipeline, tokenizer: Any) -> None:
    role = LangChainDrafter(llm)
    shown = role.render(as_prompt([{"role": "system", "content": "Be brief."}, {"role": "user", "content": "1 + 2?"}]))
    assert shown == tokenizer.apply_chat_template(
        [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "1 + 2?"}],
        tokenize=False,
        add_generation_prompt=True,
    )


def test_a_cap_is_obeyed_and_a_cut_answer_is_one(
    llm: HuggingFacePipeline, tokenizer: Any, questions: list[str]
) -> None:
    message = ChatRSD(draft=llm, target=always("no"), verifier=good, max_tokens=5).invoke(questions[0])
    assert message.response_metadata["finish_reason"] == "length"
    assert len(tokenizer(message.text, add_special_tokens=False)["input_ids"]) == 5
    assert result_of(message).ledger.drafter.generated == 5


def test_stop_strings_end_the_answer(llm: HuggingFacePipeline, answer: str, questions: list[str]) -> None:
    model = ChatRSD(draft=llm, target=always("no"), verifier=good)
    assert model.invoke(questions[0], stop=["The answer"]).text == answer.partition("The answer")[0]


def test_temperatures_are_sampled_at(llm: HuggingFacePipeline, answer: str, questions: list[str]) -> None:
    greedy = ChatRSD(draft=llm, target=always("no"), verifier=good, temperature=0, top_p=0.9)
    assert greedy.invoke(questions[0]).text == answer
    hot = ChatRSD(draft=llm, target=always("no"), verifier=good, temperature=5, max_tokens=20)
    assert hot.invoke(questions[0]).text != hot.invoke(questions[0]).text
    with pytest.warns(UserWarning, match="the seed is not sent to HuggingFacePipeline 'embedded-target'"):
        ChatRSD(draft=llm, target=always("no"), verifier=good, seed=1)


def test_steps_equal_those_in_process(llm: HuggingFacePipeline, answer: str, questions: list[str]) -> None:
    retried = llm.with_retry(stop_after_attempt=2)
    decoder = RewardGuidedDecoder(
        drafter=LangChainDrafter(llm, prefix="completion"),
        verifier=ScriptedVerifier([0.9, 0.1]),
        target=LangChainTarget(retried, prefix="completion"),
    )
    for result in (decoder.run(questions[0]), asyncio.run(decoder.arun(questions[0]))):
        assert result.text == answer
        assert {step.author for step in result.steps} == {"draft", "target"}
        assert result.degradations == ()


def test_a_pipeline_judges_without_the_prompt_and_capped(llm: HuggingFacePipeline, tokenizer: Any) -> None:
    judge = LangChainJudge(llm)
    said = wait_for(judge.call(judge.model, "Score: 9\n", max_tokens=3)).message
    assert isinstance(said, str)
    assert "Score: 9" not in said
    assert len(tokenizer(said, add_special_tokens=False)["input_ids"]) == 3


def test_chat_models_over_pipelines(
    llm: HuggingFacePipeline, tokenizer: Any, answer: str, questions: list[str]
) -> None:
    model = ChatHuggingFace(llm=llm, model_id="embedded-target", tokenizer=tokenizer)
    assert ChatRSD(draft=model, target=always("no"), verifier=good).invoke(questions[0]).text == answer
    capped = ChatRSD(draft=model, target=always("no"), verifier=good, max_tokens=5).invoke(questions[0]).text
    assert len(tokenizer(capped, add_special_tokens=False)["input_ids"]) == 5
    with pytest.raises(ConfigurationError, match="requires a user's message at the end"):
        LangChainDrafter(model, prefix="trailing_assistant")
