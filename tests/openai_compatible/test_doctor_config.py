"""`rsd doctor --config FILE`: a verdict for every role of a configuration, and the specs to use."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from rsd_core import RSDConfig, RSDError
from rsd_integrations.cli.app import app
from tests.llamacpp.gguf_files import embedded
from tests.openai_compatible.conftest import TOKENIZER
from tests.openai_compatible.hosted import hosting
from tests.openai_compatible.server import Habits

WIDE = {"COLUMNS": "500"}
LOCAL = {"drafter": "scripted:draft", "target": "scripted:target"}


def written(folder: Path, **config: Any) -> str:
    file = folder / "rsd.yaml"
    file.write_text(yaml.safe_dump(config))
    return str(file)


def doctor(file: str, *words: str) -> Any:
    """The data, the exit code being that of the verdicts."""
    shown = CliRunner().invoke(app, ["doctor", "--json", "--config", file, *words])
    if shown.exception is not None and not isinstance(shown.exception, SystemExit):
        raise shown.exception
    data = json.loads(shown.output)
    configurations = [data] if "roles" in data else data.values()  # or each model of a file for the server
    assert shown.exit_code == (not all(one["ok"] for told in configurations for one in told["roles"]))
    return data


def by_role(data: Any) -> dict[str, Any]:
    return {one["role"]: one for one in data["roles"]}


def test_each_role_has_a_verdict_and_each_model_is_tried_once(servers: dict[str, Habits], tmp_path: Path) -> None:
    vllm, sglang = servers["vllm"], servers["sglang"]
    draft = f"openai,tokenizer={TOKENIZER}:draft@{vllm.url}"
    file = written(
        tmp_path,
        drafter=draft,
        verifier=f"cascade:rule:arithmetic|(judge:openai,tokenizer={TOKENIZER},timeout=9:draft@{vllm.url})",
        target=f"openai,tokenizer={TOKENIZER},patience=60:draft@{sglang.url}",
        thoughts={"drafter": draft, "verifier": "rule:repetition"},
    )
    data = doctor(file)
    roles = by_role(data)
    assert list(roles) == ["drafter", "verifier", "target", "thoughts.drafter", "thoughts.verifier"]
    assert all(one["ok"] and one["use"] is None for one in roles.values()), roles
    assert roles["verifier"]["told"] == "in this process and behind a URL: it works"
    assert data["changes"] == {}
    assert (vllm.listings, sglang.listings) == (1, 1)
    shown = CliRunner().invoke(app, ["doctor", "--config", file], env=WIDE)
    assert shown.exit_code == 0
    assert "(drafter, verifier, thoughts.drafter)" in shown.output
    assert "The configuration needs no change." in shown.output


def test_a_role_needs_what_it_does_and_no_more(servers: dict[str, Habits], tmp_path: Path) -> None:
    by_chat = f"openai:draft@{servers['generic'].url}"  # whose chats write whole turns
    steps = f"openai,tokenizer={TOKENIZER}:draft@{servers['vllm'].url}"
    data = doctor(written(tmp_path, drafter=by_chat, verifier=f"judge,mode=rubric:{by_chat}", target=steps))
    assert [one["ok"] for one in data["roles"]] == [False, True, True]
    assert "prefix and steps:" in by_role(data)["drafter"]["told"]
    by_turns = written(tmp_path, target=by_chat, method="target", settings={"granularity": "turn"})
    assert by_role(doctor(by_turns))["target"]["ok"]


def test_verifiers_that_read_probabilities_need_a_server_that_tells_them(
    servers: dict[str, Habits], tmp_path: Path
) -> None:
    silent = f"openai:draft@{servers['ollama'].url}"
    (judge,) = [one for one in doctor(written(tmp_path, **LOCAL, verifier=f"judge:{silent}"))["roles"] if not one["ok"]]
    assert "log-probabilities:" in judge["told"]
    drafter = f"openai,tokenizer={TOKENIZER}:draft@{servers['vllm'].url}"
    config = LOCAL | {"drafter": drafter, "verifier": "confidence:mean"}
    assert "give it logprobs=true" in by_role(doctor(written(tmp_path, **config)))["verifier"]["told"]
    config["drafter"] = drafter.replace("openai,", "openai,logprobs=true,")
    assert by_role(doctor(written(tmp_path, **config)))["verifier"]["ok"]


def test_what_was_found_out_is_written_as_it_goes_into_the_file(tmp_path: Path) -> None:
    with hosting("deepseek") as api:
        spec = f"openai,patience=5:m@{api.url}"
        config: dict[str, Any] = {
            "drafter": "scripted:draft",
            "verifier": f"judge,mode=rubric:{spec}",
            "target": spec,
            "settings": {"granularity": "turn"},
        }
        data = doctor(written(tmp_path, **config))
        better = f"openai,omit=seed,patience=5:m@{api.url}"
        assert data["changes"] == {"verifier": f"judge,mode=rubric:{better}", "target": better}
        RSDConfig.parse(config | data["changes"])
        assert doctor(written(tmp_path, **config | data["changes"]))["changes"] == {}
        shown = CliRunner().invoke(app, ["doctor", "--config", written(tmp_path, **config)], env=WIDE)
        pasted = shown.output.split("To change in the configuration:\n")[1]
        assert yaml.safe_load(pasted) == data["changes"]


def test_what_does_not_work_is_reported_for_its_role(vllm: Habits, tmp_path: Path) -> None:
    target = f"openai,tokenizer={TOKENIZER}:draft@{vllm.url}"
    away = "openai,retries=0:m@http://127.0.0.1:9"
    data = doctor(written(tmp_path, drafter=away, verifier="embedded:draft", target=target))
    roles = by_role(data)
    assert [one["ok"] for one in roles.values()] == [False, False, True]
    assert "reachable:" in roles["drafter"]["told"]
    assert "it cannot be the verifier: it makes a drafter or a target" in roles["verifier"]["told"]


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"verifier": "rul:arithmetic"}, "--config .*did you mean.*rule"),
        ({"settings": {"candidates": 0}}, "--config .*candidates"),
        ({"verifier": "judge,mode=digits:openai:m@URL"}, "unknown mode 'digits', did you mean 'digit'"),
        ({"thoughts": {"target": "openai,tokeniser=x:m@URL"}}, "tokeniser"),
        ({"drafter": "openai,key_env=NOT_THERE:m@URL"}, "NOT_THERE"),
    ],
)
def test_a_configuration_that_is_wrong_is_reported_before_any_server_is_asked(
    vllm: Habits, tmp_path: Path, wrong: dict[str, Any], told: str
) -> None:
    text = json.dumps(
        {"drafter": f"openai:draft@{vllm.url}", "verifier": "rule:arithmetic", "target": f"openai:draft@{vllm.url}"}
        | wrong
    )
    file = tmp_path / "rsd.json"
    file.write_text(text.replace("URL", vllm.url))
    with pytest.raises(RSDError, match=told):
        doctor(str(file))
    assert not vllm.requests
    assert vllm.listings == 0


def test_specs_and_a_configuration_are_not_mixed(tmp_path: Path) -> None:
    for words in (["doctor"], ["doctor", "rule:arithmetic", "--config", written(tmp_path)]):
        with pytest.raises(RSDError, match="either SPECs or --config"):
            CliRunner().invoke(app, words, catch_exceptions=False)


def test_only_what_the_method_needs_is_tried(vllm: Habits, tmp_path: Path) -> None:
    target = f"openai,tokenizer={TOKENIZER}:draft@{vllm.url}"
    data = doctor(written(tmp_path, drafter="openai:m@http://127.0.0.1:9", target=target, method="target"))
    assert list(by_role(data)) == ["target"]


def test_all_models_of_a_file_for_the_server_are_examined(vllm: Habits, tmp_path: Path) -> None:
    works = {"target": f"openai,tokenizer={TOKENIZER}:draft@{vllm.url}", "method": "target"}
    broken = {"target": "openai,retries=0:m@http://127.0.0.1:9", "method": "target"}
    data = doctor(written(tmp_path, models={"a": works, "b": broken}))
    assert {name: [one["ok"] for one in told["roles"]] for name, told in data.items()} == {"a": [True], "b": [False]}


def test_files_and_models_of_this_process_are_reported_as_such(tmp_path: Path) -> None:
    file = embedded("draft")
    config = written(
        tmp_path, drafter=f"gguf:{file}", verifier="embedded:verifier", target=f"gguf:{tmp_path / 'none.gguf'}"
    )
    data = doctor(config)
    roles = by_role(data)
    assert roles["drafter"]["told"] == "a GGUF file in this process: it works"
    assert roles["verifier"]["told"] == "in this process: it works"
    assert not roles["target"]["ok"]
    assert "none.gguf" in roles["target"]["told"]
    assert {one["name"] for one in data["models"][f"gguf:{file}"]["findings"]} >= {"file", "memory", "answers"}
