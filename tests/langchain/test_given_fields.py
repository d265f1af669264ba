"""Typical beginners' mistakes: forgotten roles, names in the wrong place, and the texts of errors."""

from typing import Any

import pytest
from langchain_core.language_models.fake_chat_models import FakeListChatModel
from pydantic import ValidationError

from rsd_core import ConfigurationError
from rsd_integrations.langchain import RSDLLM, ChatRSD, LangChainTarget, RSDMiddleware, RSDRunnable
from tests.langchain.providers import provider

FACES = [ChatRSD, RSDLLM, RSDRunnable]


def own(text: str = "x") -> FakeListChatModel:
    return FakeListChatModel(responses=[text])


def good(messages: Any, reply: Any) -> float:
    return 1.0


@pytest.mark.parametrize("face", FACES)
@pytest.mark.parametrize(
    ("given", "missing"),
    [
        ({"draft": own(), "target": own()}, "verifier"),
        ({"drafter": own(), "target": own(), "policy": "first_steps:1/binary_step:0.5"}, "verifier"),
        ({"draft": own(), "verifier": good}, "target"),
        ({"target": own(), "verifier": good}, "draft"),
        ({"draft": "hf:ORG/MODEL", "target": "embedded:target"}, "verifier"),
        ({"draft": own(), "decoder": "best_of_n:4"}, "verifier"),
    ],
)
def test_no_embedded_model_stands_in_for_a_role_that_was_forgotten(
    face: Any, given: dict[str, Any], missing: str
) -> None:
    with pytest.raises(ValidationError, match=rf"{missing}= is missing: .*embedded:{missing}"):
        face(**given)


@pytest.mark.parametrize("face", FACES)
@pytest.mark.parametrize(
    "given",
    [
        {},
        {"verifier": good},
        {"draft": "embedded:thinking-draft", "target": "embedded:thinking-target"},
        {"draft": "scripted:draft"},
        {"draft": own(), "target": own(), "policy": "always_target"},
        {"draft": own(), "target": own(), "verifier": "embedded:verifier"},
        {"draft": own(), "decoder": "draft"},
        {"target": own(), "decoder": "target"},
    ],
)
def test_what_no_decoder_asks_may_be_left_out(face: Any, given: dict[str, Any]) -> None:
    made = face(**given)
    assert made.with_options({"temperature": 0.5}).temperature == 0.5  # rebuilt from all of its fields


@pytest.mark.parametrize("face", FACES)
@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("temprature", "did you mean temperature?"),
        ("delimiter", 'did you mean settings={"delimiter": …}?'),
        ("max_steps", 'did you mean settings={"limits": {"max_steps": …}}?'),
        ("delta", 'did you mean policy="binary_step:0.7"?'),
        ("api_key", "set it on the models"),
        ("nothing_like_it", ", draft, target, verifier, "),
    ],
)
def test_an_unknown_name_is_refused_with_its_correct_place(face: Any, name: str, told: str) -> None:
    with pytest.raises(ValidationError) as caught:
        face(**{name: "sk-1"})
    assert f"{name} is not a field of {face.__name__}" in str(caught.value)
    assert told in str(caught.value)
    assert "sk-1" not in str(caught.value)


def test_the_model_of_a_chat_model_is_none_of_the_three() -> None:
    with pytest.raises(ValidationError, match="model='openai:gpt-5' is only the name in metadata"):
        ChatRSD(model="openai:gpt-5")
    assert ChatRSD(model="ours", draft="embedded:draft").model_name == "ours"


def test_steps_of_a_model_that_writes_whole_messages_are_refused_at_once() -> None:
    with pytest.raises(ValidationError, match=r"no way to continue a begun answer, .* use granularity='turn'"):
        ChatRSD(draft=own(), target=own(), verifier=good, granularity="step")


def test_an_object_that_cannot_play_a_role_is_shown_by_its_class_alone() -> None:
    class Client:
        def __repr__(self) -> str:
            return "Client(api_key='sk-1')"

    for make in (lambda: ChatRSD(draft=Client()), lambda: LangChainTarget(Client()), lambda: RSDMiddleware(Client())):  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="Client") as caught:
            make()
        assert "sk-1" not in str(caught.value)


def test_names_for_init_chat_model_are_reported_in_the_form_that_works(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigurationError, match=r"such as init_chat_model\('openai:gpt-5'\)"):
        LangChainTarget("openai:gpt-5")  # type: ignore[arg-type]
    with pytest.raises(ValidationError, match="Did you mean 'openai:gpt-5-nano'"):
        ChatRSD(draft="openai/gpt-5-nano", target=own(), verifier=good)
    with provider() as served:
        monkeypatch.setenv("OPENAI_API_KEY", "sk-1")
        monkeypatch.setenv("OPENAI_BASE_URL", f"{served.url}/v1")
        served.answers("Paris.")
        assert ChatRSD(draft="openai:gpt-5-nano", target=own(), verifier=good).invoke("The capital?").text == "Paris."


def test_a_wrong_policy_of_a_tool_names_the_tool() -> None:
    with pytest.raises(ConfigurationError, match=r"tool_policies\['pay'\]: unknown policy 'never_draft'"):
        RSDMiddleware(own(), good, tool_policies={"pay": "never_draft"})
