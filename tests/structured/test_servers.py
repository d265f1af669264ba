"""JSON by a schema behind URLs: the request to each kind of server, and the use of its answer."""

import asyncio
import json
from typing import Any

import pytest

from rsd_core import ConfigurationError, Path, RunError, StepRequest, StructuredDecoder, TargetOnly, as_prompt, load
from rsd_integrations.embedded.models import FOLDER
from rsd_integrations.openai_compatible import OpenAIGenerator
from tests.langchain.providers import Provider, Reply, provider

SCHEMA = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
FORM = {"response_format": {"type": "json_schema", "json_schema": {"name": "sum", "schema": SCHEMA}}}
TURN = StepRequest((0,), 50, delimiter=None)


def at(served: Provider, options: str) -> OpenAIGenerator:
    made: OpenAIGenerator = load(f"openai,context=512,{options}:m@{served.url}/v1")
    return made


def written(served: Provider, options: str, fields: dict[str, Any] = FORM) -> str:
    model = at(served, options).with_fields(fields)
    return asyncio.run(model.generate(Path(as_prompt("2+2?")), TURN)).steps[0].text


@pytest.fixture
def served() -> Any:
    with provider() as made:
        made.answers('{"n": 4}')
        yield made


@pytest.mark.parametrize(
    ("profile", "field"),
    [
        ("vllm", {"structured_outputs": {"json": SCHEMA}}),
        ("llamacpp", {"json_schema": SCHEMA}),
        ("sglang", {"json_schema": json.dumps(SCHEMA)}),
    ],
)
def test_completions_send_the_field_of_their_server(served: Provider, profile: str, field: dict[str, Any]) -> None:
    options = f"mode=completions,profile={profile}"
    assert written(served, options) == '{"n": 4}'
    assert served.sent["prompt"] == "2+2?"
    assert {name: served.sent[name] for name in field} == field
    assert "response_format" not in served.sent
    written(served, options, {"response_format": {"type": "text"}})
    assert not field.keys() & served.sent.keys()
    written(served, options, {"response_format": {"type": "json_object"}})
    assert "object" in json.dumps(served.sent)
    assert at(served, options).writes_json


def test_completions_that_take_none_are_refused_with_the_remedy(served: Provider) -> None:
    for profile in ("generic", "transformers", "ollama", "llama_cpp_python"):
        assert not at(served, f"mode=completions,profile={profile}").writes_json
        with pytest.raises(ConfigurationError, match=r"accept no JSON Schema; use mode=chat") as caught:
            written(served, f"mode=completions,profile={profile}")
        assert served.asked == [], caught.value


def test_chats_send_the_response_format(served: Provider) -> None:
    for profile, known in (("vllm", True), ("openai", True), ("deepseek", False), ("generic", False)):
        assert written(served, f"mode=chat,profile={profile}") == '{"n": 4}'
        assert served.sent["response_format"] == FORM["response_format"]
        assert at(served, f"mode=chat,profile={profile}").writes_json is known


def test_a_server_that_ignores_it_is_an_error_with_everything_on_it(served: Provider) -> None:
    served.answers(Reply("It is 4."), Reply("Four, I say."))
    model = at(served, "mode=completions,profile=llamacpp")
    with pytest.raises(RunError, match=r"wrote 'Four, I say.'.*Its server ignores schemas") as caught:
        StructuredDecoder(TargetOnly(target=model), SCHEMA).run("2+2?")
    assert caught.value.partial is not None
    assert caught.value.partial.text == "Four, I say."


def test_steps_by_ids_take_it_for_the_answer_alone(served: Provider) -> None:
    model = at(served, f"profile=vllm,tokenizer={FOLDER / 'draft'}").with_fields(FORM)
    with pytest.raises(ConfigurationError, match=r"cannot honour response_format=.*a step is text"):
        asyncio.run(model.generate(Path(as_prompt("2+2?")), StepRequest((0,))))
    assert served.asked == []
