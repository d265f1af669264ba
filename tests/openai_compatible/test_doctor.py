"""`rsd doctor` says what works and what does not, before anything depends on it."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from typer.testing import CliRunner

from rsd_core.blocking import wait_for
from rsd_integrations.cli.app import app
from rsd_integrations.openai_compatible import OpenAIGenerator
from rsd_integrations.openai_compatible.probe import OTHERS, QUESTION
from tests.openai_compatible.conftest import TOKENIZER
from tests.openai_compatible.server import Habits

Connect = Callable[..., OpenAIGenerator]


def examined(model: OpenAIGenerator) -> dict[str, bool | None]:
    return {one.name: one.ok for one in wait_for(model.examine())}


@pytest.mark.parametrize(
    ("kind", "options", "without"),
    [
        ("vllm", {}, set()),
        ("vllm", {"tokenizer": None}, set()),
        ("sglang", {}, set()),
        ("ollama", {"tokenizer": None}, {"context", "log-probabilities"}),
        ("llamacpp", {}, set()),
        ("llama_cpp_python", {}, {"context"}),
        ("transformers", {"profile": "transformers"}, {"context", "log-probabilities"}),
    ],
)
def test_a_server_that_serves_is_well(
    servers: dict[str, Habits], connect: Connect, kind: str, options: dict[str, Any], without: set[str]
) -> None:
    found = examined(connect(servers[kind], **options))
    assert {name for name, ok in found.items() if ok is None} == without
    assert {name for name, ok in found.items() if ok} == set(found) - without
    assert len(found) == 11


def test_each_fault_is_found_by_its_name(vllm: Habits, servers: dict[str, Habits], connect: Connect) -> None:
    def faults(model: OpenAIGenerator) -> set[str]:
        return {name for name, ok in examined(model).items() if ok is False}

    assert faults(connect(servers["generic"], None)) == {"prefix", "steps"}
    assert faults(connect(servers["llamacpp"], None, profile="vllm", mode="completions")) == {"prefix", "steps"}
    vllm.fault = lambda number: "http500"
    assert faults(connect(vllm, retries=0)) == {"answers"}
    vllm.fault = lambda number: None
    vllm.name, name = "other", vllm.name
    assert faults(connect(vllm, retries=0)) == {"model", "answers"}
    vllm.name = name


def test_a_wrong_profile_is_reported_with_the_spec_that_works(servers: dict[str, Habits], connect: Connect) -> None:
    found = wait_for(connect(servers["llamacpp"], None, profile="vllm", mode="completions").examine())
    told = {one.name: one.told for one in found}
    assert told["steps"].endswith(f"Remedy: {told['spec']}")
    assert "profile=vllm" not in told["spec"]


def test_a_model_that_is_not_there_is_named(vllm: Habits, connect: Connect) -> None:
    model = connect(vllm)
    vllm.name, name = "other", vllm.name
    try:
        told = {one.name: one for one in wait_for(model.examine())}["model"]
    finally:
        vllm.name = name
    assert (told.ok, told.told) == (False, f"{name!r} is not in the server's list: other")


def test_log_probabilities_that_a_gateway_drops_are_not_a_fault(vllm: Habits, connect: Connect) -> None:
    """Who needs them is told by the verdict on the role."""

    def dropped(data: dict[str, Any]) -> dict[str, Any]:
        return {**data, "choices": [{**choice, "logprobs": None} for choice in data["choices"]]}

    vllm.gateway.reply = dropped
    found = {one.name: one for one in wait_for(connect(vllm).examine())}
    assert found["log-probabilities"].ok is None
    assert "A gateway may drop them" in found["log-probabilities"].told
    assert found["steps"].ok


def test_the_command_prints_a_table_or_json_and_tells_by_its_exit_code(vllm: Habits) -> None:
    runner = CliRunner()
    spec = f"openai,tokenizer={TOKENIZER}:draft@{vllm.url}"
    good = runner.invoke(app, ["doctor", f"judge:{spec}", "embedded:draft"])
    assert good.exit_code == 0, good.output
    assert "exact ids" in " ".join(good.output.split())
    assert f"\nspec: {spec}\n" in good.output, "in one piece, to be copied"
    assert "no server to examine" in good.output
    bad = runner.invoke(app, ["doctor", "--json", spec, "openai,retries=0:m@http://127.0.0.1:9"])
    assert bad.exit_code == 1
    told = json.loads(bad.output)
    assert all(one["ok"] for one in told[spec])
    (only,) = told["openai,retries=0:m@http://127.0.0.1:9"]
    assert (only["name"], only["ok"]) == ("reachable", False)
    assert "is the server up" in only["told"]


def test_near_ties_are_not_a_fault_of_a_server(vllm: Habits, connect: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two tokens within rounding of each other: after its own prefix, the other one is written."""
    write, tied = Habits.write, {tuple(vllm.ids_of({"messages": [{"role": "user", "content": QUESTION}]}))}

    def other_token(server: Habits, ids: list[int], body: dict[str, Any]) -> Any:
        for made in write(server, ids, body):
            if any(tuple(ids[: len(one)]) == one and len(ids) > len(one) for one in tied):
                made.ids[0] = 17
            yield made

    monkeypatch.setattr(Habits, "write", other_token)
    (found,) = [one for one in wait_for(connect(vllm).examine()) if one.name == "prefix"]
    assert (found.ok, "equally likely tokens" in found.told) == (True, True)
    tied |= {tuple(vllm.ids_of({"messages": [{"role": "user", "content": other}]})) for other in OTHERS}
    (found,) = [one for one in wait_for(connect(vllm).examine()) if one.name == "prefix"]
    assert found.ok is False, "what happens every time is a fault"
