"""What is wrong with a request is told in the form of the OpenAI API, before any model works."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rsd_core import ConfigurationError, RewardGuidedDecoder, RSDConfig, Sampling
from rsd_core.testing import ScriptedDrafter, ScriptedTarget, ScriptedVerifier
from rsd_integrations.serve import ServeConfig, create_app
from rsd_integrations.serve.requests import IGNORED, REFUSED, ChatRequest
from tests.serve.running import Running, events, running, scripted

USER = [{"role": "user", "content": "What is 1+1?"}]
KEY = "sk-of-this-server-and-nobody-elses"


@pytest.fixture(scope="module")
def served() -> Iterator[Running]:
    with running(ServeConfig(max_body=4096), {"rsd": scripted()}) as server:
        yield server


WRONG: list[tuple[dict[str, Any], int, str | None, str]] = [
    ({"model": "gpt-4"}, 404, "model", "this server has rsd"),
    ({"model": None}, 400, "model", "string"),
    ({"temperature": 6}, 400, "temperature", "less than or equal to 5"),
    ({"top_p": 0}, 400, "top_p", "greater than 0"),
    ({"n": 0}, 400, "n", "greater than or equal to 1"),
    ({"n": 129}, 400, "n", "less than or equal to 128"),
    ({"max_tokens": 0}, 400, "max_tokens", "greater than or equal to 1"),
    ({"seed": -1}, 400, "seed", "greater than or equal to 0"),
    ({"temprature": 1}, 400, "temprature", "did you mean temperature?"),
    ({"logprobs": True}, 400, "logprobs", "mixture"),
    ({"logit_bias": {"1": 2}}, 400, "logit_bias", "temperature, top_p and top_k"),
    ({"presence_penalty": 0.5}, 400, "presence_penalty", "temperature, top_p and top_k"),
    ({"top_k": -2}, 400, "top_k", "greater than or equal to -1"),
    ({"messages": []}, 400, "messages", "at least 1"),
    ({"messages": [{"role": "user", "content": " "}]}, 400, "messages", "prompt is empty"),
    ({"messages": [{"role": "robot", "content": "x"}]}, 400, "messages[0]", "must be system, developer"),
    ({"messages": [{"content": "x"}]}, 400, "messages[0]", "no role"),
    ({"messages": [{"role": "user", "content": 3}]}, 400, "messages[0].content", "a text or a list"),
    (
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
        *(400, "messages[0].content[0]", "the models read only text"),
    ),
    ({"messages": [*USER, {"role": "assistant", "tool_calls": [{"id": "1"}]}]}, 400, "messages[1].tool_calls", "JSON"),
    ({"tools": [{"type": "function", "function": {"name": "f"}}]}, 400, "tools", "chat template"),
    ({"rsd": {"policy": "binary_step:2"}}, 400, "rsd", "less than or equal to 1"),
    ({"rsd": {"policy": "binary_stepp"}}, 400, "rsd", "did you mean 'binary_step'"),
    ({"rsd": {"policy": "always_draft"}}, 400, "rsd.policy", "given decoder"),
    ({"rsd": {"limits": {"max_stepz": 2}}}, 400, "rsd", "did you mean 'max_steps'"),
    ({"reasoning_effort": "low"}, 400, "reasoning_effort", "given decoder"),
]


@pytest.mark.parametrize(("fields", "status", "param", "why"), WRONG, ids=lambda value: str(value)[:40])
def test_a_wrong_field_is_named_with_what_is_allowed(
    served: Running, fields: dict[str, Any], status: int, param: str | None, why: str
) -> None:
    for stream in (False, True):
        body = {"model": "rsd", "messages": USER, "stream": stream} | fields
        response = served.client.post("/v1/chat/completions", json=body)
        error = response.json()["error"]
        assert (response.status_code, error["param"]) == (status, param), error
        assert why in error["message"]
        assert error["type"] == "invalid_request_error"


def test_what_asks_for_nothing_is_taken_whatever_it_is_called(served: Running) -> None:
    harmless = {name: values[0] for name, (values, _) in REFUSED.items() if values}
    for fields in (dict.fromkeys(REFUSED), harmless, dict.fromkeys(IGNORED, "x")):
        assert served.chat(**fields).status_code == 200


class NoTopK(ScriptedTarget):
    """A target that samples from all tokens only."""

    def check_sampling(self, sampling: Sampling) -> None:
        if sampling.top_k:
            raise ConfigurationError(f"top_k={sampling.top_k} cannot be honoured")


def test_top_k_is_taken_and_reaches_the_models(served: Running) -> None:
    """-1 and 0 are what servers call all tokens."""
    given = [ChatRequest(model="rsd", messages=USER, top_k=k).top_k for k in (-1, 0, 20, None)]
    assert given == [0, 0, 20, None]
    assert served.chat(top_k=20, temperature=1).status_code == 200
    drafter, verifier, target = ScriptedDrafter(["x\n\n"]), ScriptedVerifier([1.0]), NoTopK(["x"])
    decoder = RewardGuidedDecoder(drafter=drafter, verifier=verifier, target=target)
    with running(ServeConfig(), {"rsd": decoder}) as server:
        response = server.chat(top_k=20, temperature=1)
        assert (response.status_code, "top_k=20" in response.text) == (400, True)
        assert server.chat(top_k=-1, temperature=1).status_code == 200


@pytest.mark.parametrize(
    "policy",
    [
        "{file}",
        {"kind": "first_steps", "n": 1, "then": "{file}"},
        {"kind": "first_steps", "n": 1, "then": {"kind": "retry", "n": 1, "then": "{file}"}},
    ],
)
def test_a_request_cannot_make_the_server_read_a_file(tmp_path: Path, policy: Any) -> None:
    file = tmp_path / "policy.json"
    file.write_text('{"kind": "always_draft"}')
    told = json.loads(json.dumps(policy).replace("{file}", str(file)))
    assert RSDConfig.parse({"policy": told}).policy  # what somebody at this machine may do
    scripts = RSDConfig(drafter="scripted:draft", verifier="scripted:verifier", target="scripted:target")
    with running(ServeConfig(models={"rsd": scripts})) as server:
        response = server.chat(rsd={"policy": told})
    assert response.status_code == 400
    assert "not as a file" in response.json()["error"]["message"]


def test_a_body_that_is_no_json_or_too_long_or_of_another_type_is_told_apart(served: Running) -> None:
    def post(content: Any, kind: str = "application/json") -> tuple[int, str]:
        response = served.client.post("/v1/chat/completions", content=content, headers={"content-type": kind})
        return response.status_code, response.json()["error"]["message"]

    assert post(b"{bad")[0] == 400
    assert post(b"[]")[0] == 400
    status, message = post(b'{"x": "' + b"y" * 5000 + b'"}')
    assert (status, "4096 bytes" in message) == (413, True)
    status, message = post(iter([b'{"x": "', b"y" * 5000, b'"}']))  # chunked: it does not tell its length
    assert (status, "4096 bytes" in message) == (413, True)
    assert post(b"{}", "text/plain")[0] == 415  # what a web page may send to anybody's server


def test_only_who_has_a_key_is_answered(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG), running(decoders={"rsd": scripted()}, keys=("another", KEY)) as server:
        assert server.chat().status_code == 200
        for given in ("Bearer " + KEY, "bearer " + KEY):
            assert server.client.get("/v1/models", headers={"authorization": given}).status_code == 200
        for given in ("", KEY, "Bearer", "Bearer " + KEY[:-1], "Bearer " + KEY + "x", "Basic " + KEY):
            response = server.client.get("/v1/models", headers={"authorization": given})
            assert response.status_code == 401
            assert response.json()["error"]["code"] == "invalid_api_key"
            assert KEY not in response.text
        for route in ("/health", "/metrics", "/openapi.json"):
            assert server.client.get(route, headers={"authorization": ""}).status_code == 200
    assert KEY not in caplog.text


def test_what_a_model_fails_with_is_told_with_what_was_written() -> None:
    broken = scripted(["one\n\n", "two"], [0.9, 0.1], [RuntimeError("gone, api_key=sk-secret-of-a-provider")])
    with running(decoders={"rsd": broken.with_settings(broken.settings.updated(target_retries=0))}) as server:
        response = server.chat()
        assert response.status_code == 502
        error = response.json()["error"]
        assert error["rsd"]["text"] == "one\n\n"
        assert "sk-secret" not in response.text
        *chunks, failed, done = events(server.chat(stream=True))
        assert chunks[0]["choices"][0]["delta"]["content"] == "one\n\n"
        assert failed["error"]["type"] == "server_error"
        assert done == "[DONE]"
        assert server.metric("rsd_requests_total", finish_reason="error") == 2
        assert server.metric("rsd_tokens_total", role="drafter", kind="generated") > 0


def test_a_prompt_that_is_too_long_is_a_fault_of_the_request() -> None:
    with running(ServeConfig(models={"rsd": RSDConfig()})) as server:
        for stream in (False, True):
            response = server.chat("Mia has 45 apples. " * 200, stream=stream)
            assert response.status_code == 400
            assert response.json()["error"]["code"] == "context_length_exceeded"


def test_what_nobody_expected_is_logged_and_kept_from_clients(
    served: Running, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(name: str) -> None:
        raise KeyError("/home/somebody/secret")

    monkeypatch.setattr(served.serving.models, "get", broken)
    response = served.chat()
    assert response.status_code == 500
    assert response.json()["error"]["code"] == "internal_error"
    assert "secret" not in response.text
    assert "secret" in caplog.text


@pytest.mark.parametrize(
    ("data", "why"),
    [
        ({"models": {}}, "no model"),
        ({"models": {"a": {"drafter": "nothing:x"}}}, "models.a.drafter"),
        ({"models": {" a": {}}}, "not a valid model name"),
        ({"models": {"a": {}}, "concurency": 3}, "did you mean 'concurrency'"),
        ({"models": {"a": {}}, "queue": -1}, "greater than or equal to 0"),
        ({"drafter": "nothing:x"}, "nothing"),
    ],
)
def test_a_configuration_that_cannot_work_is_told_before_anything_is_loaded(data: dict[str, Any], why: str) -> None:
    with pytest.raises(ConfigurationError, match=why):
        create_app(ServeConfig.parse(data))


def test_two_models_cannot_have_one_name() -> None:
    with pytest.raises(ConfigurationError, match="'rsd' is used for two models"):
        create_app(ServeConfig.embedded(), decoders={"rsd": scripted()})
