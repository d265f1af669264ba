"""Formats and forced calls of models that write steps: reasoning first, then JSON by the schema."""

import json
from typing import Any

import jsonschema
import openai
from pydantic import BaseModel

from rsd_core import RewardGuidedDecoder, RSDConfig
from rsd_integrations.serve import ServeConfig
from tests.langchain.rule_writers import RuleWriter, SeesMistakes
from tests.serve.running import Running, events, running

SCHEMA = {"type": "object", "properties": {"n": {"type": "integer", "minimum": 0, "maximum": 999}}, "required": ["n"]}
FORM = {"type": "json_schema", "json_schema": {"name": "Count", "schema": SCHEMA, "strict": True}}
ADD = {"type": "function", "function": {"name": "add", "parameters": {
    "type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}}, "required": ["a", "b"],
}}}  # fmt: skip
QUESTION = [{"role": "user", "content": "please add 2 and 3"}]


def by_rules() -> RewardGuidedDecoder:
    return RewardGuidedDecoder(drafter=RuleWriter(), verifier=SeesMistakes(), target=RuleWriter())


def test_json_comes_after_the_reasoning_whole_and_streamed() -> None:
    with running(ServeConfig(models={"rsd": RSDConfig()})) as server:
        choice = server.chat(response_format=FORM, stop=["n"]).json()["choices"][0]
        chunks = [one["choices"][0]["delta"] for one in events(server.chat(response_format=FORM, stream=True))[:-1]]
        refused = server.chat(response_format={"type": "json_schema", "json_schema": {"schema": {"not": {}}}})
    jsonschema.validate(json.loads(choice["message"]["content"]), SCHEMA)
    assert choice["finish_reason"] == "stop"
    assert "boxed" in choice["message"]["reasoning"]
    assert "".join(one.get("content", "") for one in chunks) == choice["message"]["content"]
    assert "".join(one.get("reasoning", "") for one in chunks) == choice["message"]["reasoning"]
    assert refused.status_code == 400
    assert "Unimplemented keys" in refused.json()["error"]["message"]


def test_a_forced_call_and_a_choice_between_call_and_answer() -> None:
    with running(decoders={"rsd": by_rules()}) as server:
        asked: dict[str, Any] = {"tools": [ADD], "messages": QUESTION}
        for choice in ("required", {"type": "function", "function": {"name": "add"}}):
            told = server.chat(**asked, tool_choice=choice).json()["choices"][0]
            assert told["finish_reason"] == "tool_calls"
            (call,) = told["message"]["tool_calls"]
            assert (call["function"]["name"], json.loads(call["function"]["arguments"])) == ("add", {"a": 2, "b": 3})
        either = server.chat(**asked, response_format=FORM).json()["choices"][0]
        assert either["message"]["tool_calls"][0]["function"]["name"] == "add"
        history = [*QUESTION, either["message"], {"role": "tool", "content": "5", "tool_call_id": "x"}]
        answer = server.chat(tools=[ADD], messages=history, response_format=FORM).json()["choices"][0]
        assert json.loads(answer["message"]["content"]) == {"n": 2}
        wrong = server.chat(**asked, tool_choice={"type": "function", "function": {"name": "ad"}})
        assert (wrong.status_code, "did you mean 'add'" in wrong.text) == (400, True)


class Count(BaseModel):
    n: int


def test_openais_own_client_parses_it() -> None:
    with running(decoders={"rsd": by_rules()}) as server, _client(server) as client:
        messages: Any = [{"role": "user", "content": "there are 7"}]
        parsed = client.chat.completions.parse(model="rsd", messages=messages, response_format=Count)
        assert parsed.choices[0].message.parsed == Count(n=7)
        response = client.responses.parse(model="rsd", input="there are 7", text_format=Count)
        assert response.output_parsed == Count(n=7)


def _client(server: Running) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key="none")
