"""How partner classes continue a begun answer: accepted by the requests they really send, and probed."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from langchain_deepseek import ChatDeepSeek
from langchain_openai import ChatOpenAI
from pydantic import SecretStr

from rsd_core import ConfigurationError, Path, RewardGuidedDecoder, RunError, StepRequest, as_prompt
from rsd_core.blocking import wait_for
from rsd_core.testing import ScriptedVerifier
from rsd_integrations.langchain import ChatRSD, LangChainDrafter, LangChainTarget
from tests.langchain.fakes import good
from tests.langchain.providers import (
    CHATS,
    KEY,
    LLMS,
    Asked,
    Provider,
    Reply,
    chat_openai,
    echoes,
    goes_on,
    openai_llm,
    provider,
    restarts,
)

CLASSES: dict[str, Any] = {**CHATS, **LLMS}
CONTINUE = "continue_final_message"
COUNT = "One\n\nTwo\n\nTHREE\n\nFour"
WORKS = [
    ("ChatMistralAI", "prefix_flag"),
    ("ChatAnthropic", "trailing_assistant"),
    ("ChatBedrockConverse", "trailing_assistant"),
    ("ChatGoogleGenerativeAI", "trailing_assistant"),
    ("ChatOllama", "trailing_assistant"),
    ("ChatOpenAI", CONTINUE),
    ("ChatDeepSeek", CONTINUE),
    ("OpenAI", "completion"),
    ("OllamaLLM", "completion"),
]
REFUSED = [
    ("ChatDeepSeek", "prefix_flag", r"drops the mark.*openai:deepseek-chat@https://api\.deepseek\.com/beta"),
    ("ChatOpenAI", "prefix_flag", "does not mark the last message"),
    ("ChatAnthropic", "prefix_flag", "does not mark the last message"),
    ("ChatGoogleGenerativeAI", "prefix_flag", "does not mark the last message"),
    ("ChatBedrockConverse", "prefix_flag", "does not mark the last message"),
    ("ChatOllama", "prefix_flag", "does not mark the last message"),
    ("ChatMistralAI", "trailing_assistant", "prefix_flag"),
    ("ChatOpenAI, Responses", CONTINUE, "use_responses_api=False"),
    ("ChatOpenAI, Responses", "trailing_assistant", "use_responses_api=False"),
    ("ChatAnthropic", CONTINUE, "has no extra_body"),
    ("ChatMistralAI", CONTINUE, "has no extra_body"),
    ("ChatOllama", "completion", "for LLMs"),
    ("OllamaLLM", "trailing_assistant", "for chat models"),
]


@pytest.fixture
def served() -> Iterator[Provider]:
    with provider() as running:
        yield running


def completes(whole: str) -> Any:
    """As `goes_on`, for completions too: what the prompt ends in was begun."""

    def answer(asked: Asked) -> str:
        shown = asked.messages[-1][1]
        begun = max((whole[:i] for i in range(len(whole) + 1) if shown.endswith(whole[:i])), key=len)
        return whole[len(begun) :]

    return answer


@pytest.mark.parametrize(("name", "prefix"), WORKS)
def test_an_answer_that_was_begun_is_sent_so_that_it_is_continued(name: str, prefix: str, served: Provider) -> None:
    served.answers_by(completes(COUNT))
    role = LangChainDrafter(CLASSES[name](served), prefix=prefix, stop="cut")
    role.probe()
    asyncio.run(role.aprobe())
    last = served.asked[-1]
    if prefix == "completion":
        assert last.messages[-1][1].endswith("One\n\nTwo\n\nTHR")
    else:
        assert last.beginning == "One\n\nTwo\n\nTHR"
    if prefix == "prefix_flag":
        assert last.body["messages"][-1]["prefix"] is True
    if prefix == CONTINUE:
        assert (last.body["continue_final_message"], last.body["add_generation_prompt"]) == (True, False)


@pytest.mark.parametrize(("name", "prefix", "why"), REFUSED)
def test_what_a_class_cannot_do_is_refused_with_the_reason(name: str, prefix: str, why: str, served: Provider) -> None:
    with pytest.raises(ConfigurationError, match=why):
        LangChainDrafter(CLASSES[name](served), prefix=prefix)


class MarkedDeepSeek(ChatDeepSeek):
    """As DeepSeek's beta wants it."""

    def _get_request_payload(self, input_: Any, **options: Any) -> dict[str, Any]:
        payload = super()._get_request_payload(input_, **options)
        if payload["messages"][-1]["role"] == "assistant":
            payload["messages"][-1]["prefix"] = True
        return payload


def test_a_subclass_that_sends_the_mark_is_accepted(served: Provider) -> None:
    options: Any = {"model": "deepseek-chat", "base_url": f"{served.url}/beta", "api_key": SecretStr(KEY)}
    model = MarkedDeepSeek(**options)
    served.answers_by(goes_on(COUNT))
    LangChainDrafter(model, prefix="prefix_flag").probe()
    assert served.sent["messages"][-1] == {"role": "assistant", "content": "One\n\nTwo\n\nTHR", "prefix": True}


@pytest.mark.parametrize(
    ("name", "model", "refuses"),
    [
        ("ChatAnthropic", "claude-opus-4-6", True),
        ("ChatAnthropic", "claude-sonnet-4-6", True),
        ("ChatAnthropic", "claude-sonnet-5-5", True),
        ("ChatAnthropic", "claude-opus-4-7-20260416", True),
        ("ChatAnthropic", "claude-sonnet-4-5-20250929", False),
        ("ChatAnthropic", "claude-opus-4-20250514", False),
        ("ChatAnthropic", "claude-3-5-haiku-latest", False),
        ("ChatAnthropic", "claude-3-7-sonnet-latest", False),
        ("ChatBedrockConverse", "anthropic.claude-opus-4-6-v1", True),
        ("ChatBedrockConverse", "us.anthropic.claude-sonnet-4-6-v1:0", True),
        ("ChatBedrockConverse", "global.anthropic.claude-opus-4-5-20251101-v1:0", False),
        ("ChatBedrockConverse", "amazon.nova-micro-v1:0", False),
        ("ChatGoogleGenerativeAI", "gemini-3.6-flash", True),
        ("ChatGoogleGenerativeAI", "gemini-2.5-flash", False),
    ],
)
def test_models_that_refuse_the_beginning_of_an_answer_are_known(
    name: str, model: str, refuses: bool, served: Provider
) -> None:
    inner = CHATS[name](served, model=model)
    if not refuses:
        LangChainTarget(inner, prefix="trailing_assistant")
        return
    with pytest.raises(ConfigurationError, match=f"does not work with {name} '{model}'") as caught:
        LangChainTarget(inner, prefix="trailing_assistant")
    assert "4.6" in str(caught.value) or "does not continue a begun answer" in str(caught.value)


def test_openai_and_deepseek_go_on_with_nothing_unmarked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    monkeypatch.delenv("DEEPSEEK_API_BASE", raising=False)
    for prefix in (CONTINUE, "trailing_assistant"):
        with pytest.raises(ConfigurationError, match="base_url=… names a server that does"):
            LangChainDrafter(ChatOpenAI(model="gpt-4.1-nano", api_key=SecretStr(KEY)), prefix=prefix)
        options: Any = {"model": "deepseek-chat", "api_key": SecretStr(KEY)}
        with pytest.raises(ConfigurationError, match="only a marked message"):
            LangChainDrafter(ChatDeepSeek(**options), prefix=prefix)


@pytest.mark.parametrize(("name", "prefix"), WORKS)
def test_a_probe_tells_a_restart_from_a_continuation(name: str, prefix: str, served: Provider) -> None:
    role = LangChainDrafter(CLASSES[name](served), prefix=prefix, stop="cut")
    for restart in ("one\n\ntwo\n\nthree\n\nfour", "One\n\nTwo\n\nThree\n\nFour", "Three\n\nfour", "THREE\n\nFour", ""):
        served.answers_by(restarts(restart))
        with pytest.raises(RunError, match=f"does not continue an answer with prefix='{prefix}'"):
            role.probe()


def test_apis_that_repeat_the_beginning_pass(served: Provider) -> None:
    served.answers_by(echoes(goes_on(COUNT)))
    LangChainDrafter(CHATS["ChatMistralAI"](served), prefix="prefix_flag").probe()
    served.answers_by(echoes(restarts("One\n\nTwo\n\nThree")))
    with pytest.raises(RunError, match="does not continue"):
        LangChainDrafter(CHATS["ChatMistralAI"](served), prefix="prefix_flag").probe()


def test_a_probe_finds_that_the_end_of_a_step_is_not_reported(served: Provider) -> None:
    served.answers("EE")  # the stop string stripped although it was to be kept
    role = LangChainDrafter(chat_openai(served), prefix=CONTINUE)
    with pytest.raises(RunError, match="Use stop='cut'"):
        role.probe()
    served.answers(Reply("EE\n\n"))
    role.probe()
    assert served.sent["include_stop_str_in_output"] is True


def test_probes_work_in_two_loops_and_in_none() -> None:
    with provider(keeps_alive=True) as served:
        served.answers_by(completes(COUNT))
        for name, prefix in (("ChatOpenAI", CONTINUE), ("OpenAI", "completion")):
            role = LangChainDrafter(CLASSES[name](served), prefix=prefix, stop="cut")
            asyncio.run(role.aprobe())
            asyncio.run(role.aprobe())
            role.probe()

            async def inside(role: LangChainDrafter = role) -> None:
                role.probe()  # as in a notebook, whose loop runs already

            asyncio.run(inside())


def test_steps_over_partner_classes_make_one_answer(served: Provider) -> None:
    """Drafts by Mistral, which repeats the beginning, and steps of the target by Ollama, which is shown it trimmed."""
    whole = "One step.\n\nTwo steps.\n\nThe end."
    mistral = echoes(goes_on(whole))
    served.answers_by(lambda asked: mistral(asked) if asked.api == "chat" else whole[len(asked.beginning) :])
    model = ChatRSD(
        draft=LangChainDrafter(CHATS["ChatMistralAI"](served), prefix="prefix_flag"),
        target=LangChainTarget(CHATS["ChatOllama"](served), prefix="trailing_assistant"),
        verifier=ScriptedVerifier([0.9, 0.1, 0.9]),
    )
    message = model.invoke("Count.")
    assert message.text == whole
    assert [step["author"] for step in message.response_metadata["rsd"]["steps"]] == ["draft", "target", "draft"]


def test_stop_strings_that_an_api_refuses_are_refused_here(served: Provider) -> None:
    claude = LangChainDrafter(CHATS["ChatAnthropic"](served), prefix="trailing_assistant", stop="told")
    with pytest.raises(ConfigurationError, match=r"white space alone \('\\n\\n'\). Use stop='cut'"):
        claude.probe()
    thinker = LangChainDrafter(chat_openai(served, model="o3-like"), prefix=CONTINUE)
    with pytest.raises(ConfigurationError, match="reasoning models refuse it"):
        thinker.probe()
    assert served.asked == []
    request = StepRequest((0,), delimiter="###")
    served.answers(Reply("EE", reason="stop_sequence"))
    step = wait_for(claude.generate(Path(as_prompt("Count.")), request)).steps[0]
    assert (step.text, step.ending, served.sent["stop_sequences"]) == ("EE###", "delimiter", ["###"])


def test_decoders_run_over_completions(served: Provider) -> None:
    whole = "One step.\n\nTwo steps.\n\nThe end."
    served.answers_by(completes(whole))
    llm = openai_llm(served)
    decoder = RewardGuidedDecoder(
        drafter=LangChainDrafter(llm, prefix="completion"),
        verifier=ScriptedVerifier([0.9]),
        target=LangChainTarget(llm.with_retry(stop_after_attempt=2), prefix="completion"),
    )
    assert decoder.run("Count.").text == whole
    assert (
        ChatRSD(draft=LangChainDrafter(llm.bind(top_p=0.5), prefix="completion"), target=decoder.target, verifier=good)
        .invoke("Count.")
        .text
        == whole
    )
    assert served.sent["top_p"] == 0.5
