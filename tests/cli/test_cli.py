"""The `rsd` command as a user types it."""

import json
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from rsd_core import RSDError
from rsd_integrations.cli import main
from rsd_integrations.cli.app import _split, app

SCRIPTED = ["--draft", "scripted:draft", "--target", "scripted:target", "--verifier", "scripted:verifier"]


def rsd(*words: str) -> str:
    result = CliRunner().invoke(app, words)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.output


def test_run_shows_every_step_with_author_and_reward() -> None:
    shown = rsd("run", "How many seats are free?", *SCRIPTED)
    assert re.search(r"draft 0\.95\s+There are 3 rows", shown)
    assert re.search(r"draft 0\.10\s+Two seats are taken: 12-2=9", shown)
    assert re.search(r"target\s+Two seats are taken: 12-2=10", shown)
    assert "Answer: 10" in shown
    assert "estimated" in shown


def test_run_as_json_has_the_documented_fields() -> None:
    told = json.loads(rsd("run", "How many seats are free?", *SCRIPTED, "--json"))
    assert told["answer"] == "10"
    assert told["finish_reason"] == "stop"
    assert [step["author"] for step in told["steps"]] == ["draft", "target", "draft"]
    assert set(told["steps"][1]) == {"text", "author", "reward", "accepted", "discarded_draft", "size"}
    assert told["steps"][1]["discarded_draft"] == "Two seats are taken: 12-2=9.\n\n"
    roles = {"calls", "computed", "reused", "generated", "discarded", "seconds", "flops"}
    assert all(roles <= set(told["ledger"][role]) for role in ("drafter", "verifier", "target", "total"))
    assert "estimate" in told["ledger"]["target_only_basis"]


def test_run_solves_an_embedded_problem_by_default() -> None:
    told = json.loads(rsd("run", "--json", "--seed", "3"))
    assert told["finish_reason"] == "stop"
    assert told["answer"].isdigit()
    assert told == json.loads(rsd("run", "--json", "--seed", "3")) | {
        "seconds": told["seconds"],
        "ledger": told["ledger"],
    }


def test_eval_compares_methods_and_writes_json(tmp_path: Path) -> None:
    file = tmp_path / "report.json"
    shown = rsd(
        *("eval", "--n", "12", "--methods", "rsd,target,draft;rsd@constant:0", "--json", str(file), "--seed", "5")
    )
    assert "rsd@constant:0" in shown
    told = json.loads(file.read_text())
    assert (told["task"], told["n"], told["seed"]) == ("embedded", 12, 5)
    assert set(told["methods"]) == {"rsd", "target", "draft", "rsd@constant:0"}
    fields = {
        *("accuracy", "ci95", "flops_per_problem", "flops_per_problem_paper", "seconds_per_problem"),
        *("target_share", "acceptance_rate", "errors"),
    }
    assert all(set(method) == fields for method in told["methods"].values())
    assert told["methods"]["target"]["target_share"] == 1
    assert told["methods"]["draft"]["target_share"] == 0
    assert told["methods"]["rsd@constant:0"]["accuracy"] == told["methods"]["target"]["accuracy"]
    assert len(told["problems"]) == 12
    assert set(told["problems"][0]["methods"]) == set(told["methods"])


def test_models_lists_what_can_be_named() -> None:
    shown = rsd("models")
    assert "embedded:draft" in shown
    assert 'pip install "rsd-decoding[huggingface]"' in shown
    told = json.loads(rsd("models", "--json"))
    assert told["prm_formats"]["qwen2.5-math-prm"]["separator"] == "<extra_0>"
    assert "hf" in told["backends"]


def test_a_configuration_file_with_words_on_top(tmp_path: Path) -> None:
    file = tmp_path / "rsd.yaml"
    file.write_text(
        "drafter: scripted:draft\nverifier: scripted:verifier\ntarget: scripted:target\n"
        "policy: {kind: binary_step, delta: 0.05}\nsettings: {limits: {max_steps: 2}}\n"
    )
    lax = json.loads(rsd("run", "q", "--config", str(file), "--json"))
    assert ([step["accepted"] for step in lax["steps"]], lax["finish_reason"]) == ([True, True], "max_steps")
    strict = json.loads(rsd("run", "q", "--config", str(file), "--json", "--policy", "binary_step:0.7"))
    assert [step["accepted"] for step in strict["steps"]] == [True, False]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["run", "q", "--draft", "embeded:draft"], ["embeded:draft", "embedded"]),
        (["run", "q", "--draft", "embedded:drafter"], ["embedded:drafter", "embedded:draft"]),
        (["run", "q", "--draft", "hf:"], ["hf", "incomplete"]),
        (["run", "q", "--policy", "binary_step:70"], ["70", "less than or equal to 1"]),
        (["run", "", *SCRIPTED], ["empty"]),
        (["run", "q", "--temperature", "-1"], ["temperature", "greater than or equal to 0"]),
        (["run", "q", "--config", "nowhere.yaml"], ["nowhere.yaml"]),
        (["eval", "--task", "gsm9k"], ["gsm9k", "embedded"]),
        (["eval", "--methods", "rds"], ["rds", "target, draft"]),
        (["eval", "--json", "no/such/folder/x.json"], ["no/such/folder"]),
    ],
)
def test_mistakes_are_told_in_one_line(
    words: list[str], told: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["rsd", *words])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    printed = capsys.readouterr()
    assert printed.err.startswith("Error: ")
    assert "Traceback" not in printed.err
    assert all(part in printed.err for part in told)


def test_nothing_is_loaded_before_a_mistake_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object, **__: object) -> None:
        raise AssertionError("a model was loaded")

    monkeypatch.setattr("rsd_core.config.load", never)
    monkeypatch.setattr("rsd_integrations.evaluation.runner.load", never)
    for words in (["run", "q", "--policy", "x"], ["eval", "--methods", "x"], ["eval", "--task", "x"]):
        with pytest.raises(RSDError):
            CliRunner().invoke(app, words, catch_exceptions=False)


def test_help_teaches() -> None:
    assert "Reward-guided speculative decoding" in rsd("--help")
    shown = rsd("run", "--help")
    assert all(option in shown for option in ("--draft", "--policy", "--seed", "--json"))


def test_methods_are_split_outside_of_policies() -> None:
    assert _split("rsd,target;rsd@logistic:alpha=20,delta=0.6 draft") == [
        *("rsd", "target", "rsd@logistic:alpha=20,delta=0.6", "draft")
    ]
