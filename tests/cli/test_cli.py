"""The `rsd` command as a user types it."""

import io
import json
import re
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner

from rsd_core import ConfigurationError, RSDConfig, RSDError, SpecError, Step, StepRejected, parse_policy
from rsd_core.testing import ScriptedDrafter, ScriptedTarget, ScriptedVerifier
from rsd_integrations.cli import main
from rsd_integrations.cli.app import app
from rsd_integrations.cli.evaluate import split_methods
from rsd_integrations.cli.show import RunView
from rsd_integrations.embedded.task import problems as held_out
from rsd_integrations.prm_formats import CRITICS, FORMATS
from tests.huggingface.test_shared import with_head
from tests.huggingface.tiny import make_causal_lm

SCRIPTED = ["--draft", "scripted:draft", "--target", "scripted:target", "--verifier", "scripted:verifier"]


def rsd(*words: str) -> str:
    result = CliRunner().invoke(app, words)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.output


def test_run_shows_every_step_with_author_and_reward() -> None:
    shown = rsd("run", "How many seats are free?", *SCRIPTED)
    assert re.search(r"1 ● draft +0\.95 ━━━━━┃━━ There are 3 rows", shown)
    assert re.search(r"2 ✕ rejected 0\.10 ━────┃── Two seats are taken: 12-2=9", shown)
    assert re.search(r"2 ▲ target +Two seats are taken: 12-2=10", shown)
    assert "Answer: 10" in shown
    assert "estimated" in shown


@pytest.mark.parametrize(("words", "seed"), [((), 2), (("--seed", "0"), 0), (("--seed", "7"), 7)])
def test_a_seed_draws_the_default_problem(words: tuple[str, ...], seed: int) -> None:
    question = next(held_out("test", seed)).question
    assert " ".join(question.split()) in " ".join(rsd("run", *words, *SCRIPTED).split())


@pytest.mark.parametrize(("width", "encoding"), [(30, "utf-8"), (50, "utf-8"), (100, "ascii")])
def test_a_run_can_be_read_in_any_terminal(width: int, encoding: str) -> None:
    out = io.TextIOWrapper(io.BytesIO(), encoding)
    config = RSDConfig(drafter="scripted:draft", verifier="scripted:verifier", target="scripted:target")
    with config.build() as decoder:
        view = RunView(Console(file=out, width=width, legacy_windows=False), "How many?")
        view.attach(decoder)
        for event in decoder.stream("How many?"):
            view.show(event)
    out.seek(0)
    shown = out.read()
    assert all(len(line) <= width for line in shown.splitlines())
    assert re.search(r"1 . draft +0\.95.* There", shown)
    assert "".join(re.findall(r"[\d+*=-]*=12\.", shown)).endswith("3*4=12.")
    assert (encoding == "ascii") == shown.isascii()


def test_a_long_rejected_draft_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    view = RunView(Console(width=80), "q")
    view.show(StepRejected(0, Step("Let me see.\n" * 9, "delimiter"), None))
    view.show(StepRejected(1, Step("very " * 50, "delimiter"), 0.2))
    _, _, first, second, *more = capsys.readouterr().out.splitlines()
    assert first.rstrip().endswith("Let me see.  (and 8 more lines)")
    assert second.endswith("…")
    assert not more


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


def test_eval_compares_methods_and_writes_tables_and_plots(tmp_path: Path) -> None:
    file, page, plot = tmp_path / "report.json", tmp_path / "report.md", tmp_path / "plot.png"
    shown = rsd(
        *("eval", "--n", "5", "--methods", "rsd,target,draft;rsd@constant:0", "--json", str(file), "--seed", "5"),
        *("--markdown", str(page), "--plot", str(plot)),
    )
    assert "McNemar" in shown
    told = json.loads(file.read_text())
    assert (told["task"], told["n"], told["seed"]) == ("embedded", 5, 5)
    assert set(told["methods"]) == {"rsd", "target", "draft", "rsd@constant:0"}
    fields = {
        *("accuracy", "ci95", "tokens_per_problem", "flops_per_problem", "flops_per_problem_paper"),
        *("seconds_per_problem", "target_share", "acceptance_rate", "answers", "graded", "errors", "degraded"),
        *("faults", "cost_per_problem", "dtypes"),
    }
    assert all(set(method) == fields for method in told["methods"].values())
    assert told["methods"]["rsd"]["dtypes"]["drafter"] == ["float32"]
    assert told["methods"]["target"]["target_share"] == 1
    assert told["methods"]["draft"]["target_share"] == 0
    assert told["methods"]["rsd@constant:0"]["accuracy"] == told["methods"]["target"]["accuracy"]
    assert told["comparisons"]["rsd@constant:0"]["difference"] == 0
    assert len(told["problems"]) == 5
    assert set(told["problems"][0]["methods"]) == set(told["methods"])
    assert f"| rsd@constant:0 | {told['methods']['target']['accuracy']:.3f} |" in page.read_text()
    assert plot.read_bytes().startswith(b"\x89PNG")


def test_calibrate_writes_a_policy_that_run_reads(tmp_path: Path) -> None:
    out, plot = tmp_path / "policy.json", tmp_path / "plot.png"
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text("".join(json.dumps({"question": f"Hall {i}?"}) + "\n" for i in range(6)))
    words = ["calibrate", "--task", f"dataset:{prompts},answer=", *SCRIPTED, "--all", "--out", str(out)]
    shown = rsd(*words, "--plot", str(plot), "--target-share", "0.3")
    assert "33%" in shown  # one of three steps is below every threshold in the middle
    assert "unknown" in shown  # the accuracy, without answers
    policy = json.loads(out.read_text())
    assert (policy["kind"], policy["target_rate"]) == ("budget_aware", 0.3)
    assert set(policy["warm_start"]) == {0.1, 0.95}
    assert plot.read_bytes().startswith(b"\x89PNG")
    told = json.loads(rsd("run", "q", *SCRIPTED, "--policy", str(out), "--json"))
    assert [step["accepted"] for step in told["steps"]] == [True, False, True]
    rsd(*words)
    threshold = json.loads(out.read_text())
    assert threshold["kind"] == "binary_step"
    assert 0.4 < threshold["delta"] < 0.7  # the middle between the two rewards


def test_a_recipe_of_the_paper_runs_with_the_embedded_models_in_its_places(tmp_path: Path) -> None:
    embedded = ["--draft", "embedded:draft", "--target", "embedded:target", "--verifier", "embedded:prm"]
    file = tmp_path / "report.json"
    rsd("eval", "--recipe", "paper-math-7b", *embedded, "--task", "embedded", "--n", "1", "--json", str(file))
    told = json.loads(file.read_text())
    assert len(told["methods"]) == 9
    assert all(method["errors"] == 0 for method in told["methods"].values())


def test_models_lists_what_can_be_named() -> None:
    shown = rsd("models")
    assert "embedded:draft" in shown
    assert 'pip install "rsd-decoding[huggingface]"' in shown
    told = json.loads(rsd("models", "--json"))
    assert told["prm_formats"]["qwen2.5-math-prm"]["separator"] == "<extra_0>"
    assert "hf" in told["backends"]


def test_models_lists_critics_with_the_other_formats() -> None:
    told = json.loads(rsd("models", "--json"))
    formats, shown = told["prm_formats"], " ".join(rsd("models").split())
    assert set(formats) == {*FORMATS, *CRITICS}
    assert {name for name, one in formats.items() if one["generative"]} == set(told["critics"]) == set(CRITICS)
    common = set(formats["trl"]) & set(formats["r-prm"])
    assert common == {"spec", "generative", "models", "read_position", "threshold", "aggregation", "thoughts", "source"}
    assert formats["trl"]["spec"] == "prm,format=trl:MODEL"
    r_prm = formats["r-prm"]
    assert r_prm["spec"] == "judge,mode=r-prm:MODEL"
    assert (r_prm["samples"], r_prm["temperature"], r_prm["top_p"], r_prm["max_tokens"]) == (10, 0.95, 0.95, 3072)
    for name, one in formats.items():
        assert name in shown
        assert all(model in shown for model in one["models"])


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


def test_a_file_with_several_models_is_refused_as_one_for_the_server(tmp_path: Path) -> None:
    file = tmp_path / "serve.yaml"
    file.write_text("models: {one: {method: target}, two: {}}\nqueue: 3\n")
    with pytest.raises(ConfigurationError, match="has several models, which only rsd serve accepts"):
        rsd("run", "q", "--config", str(file))


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["run", "q", "--draft", "embeded:draft"], ["embeded:draft", "embedded"]),
        (["run", "q", "--draft", "embedded:drafter"], ["embedded:drafter", "embedded:draft"]),
        (["run", "q", "--draft", "hf:"], ["hf", "incomplete"]),
        (["run", "q", "--draft", "mine:soon:x"], ["'mine:soon:x' names no model"]),  # and no picture of a clock
        (["run", "q", "--policy", "binary_step:70"], ["70", "less than or equal to 1"]),
        (["run", "", *SCRIPTED], ["empty"]),
        (["run", "q", "--temperature", "-1"], ["temperature", "greater than or equal to 0"]),
        (["run", "q", "--config", "nowhere.yaml"], ["nowhere.yaml"]),
        (["eval", "--task", "gsm9k"], ["gsm9k", "embedded"]),
        (["eval", "--methods", "rds"], ["rds", "target, draft"]),
        (["eval", "--json", "no/such/folder/x.json"], ["no/such/folder"]),
        (["eval", "--plot", "no/such/folder/x.png"], ["no/such/folder"]),
        (["eval", "--journal", "x.csv"], ["--journal x.csv", ".jsonl", "--rows x.csv"]),
        (["batch", "x.jsonl", "--out", "x.parquet"], ["--out x.parquet", ".jsonl", "--rows x.parquet"]),
        (["eval", "--recipe", "paper-math-8b"], ["paper-math-8b", "paper-math-7b"]),
        (["calibrate", "--out", "policy.yaml"], ["policy.yaml", ".json"]),
        (["calibrate", "--task", "x"], ["x", "gsm8k"]),
    ],
)
def test_mistakes_are_reported_in_one_line(
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

    monkeypatch.setattr("rsd_core.methods.load", never)
    for words in (["run", "q", "--policy", "x"], ["eval", "--methods", "x"], ["eval", "--task", "x"]):
        with pytest.raises(RSDError):
            CliRunner().invoke(app, words, catch_exceptions=False)


def test_help_teaches() -> None:
    assert "Reward-guided speculative decoding" in rsd("--help")
    shown = rsd("run", "--help")
    assert all(option in shown for option in ("--draft", "--policy", "--seed", "--json"))


def test_methods_are_split_outside_of_policies() -> None:
    assert split_methods("rsd,target;rsd@logistic:alpha=20,delta=0.6 draft") == [
        *("rsd", "target", "rsd@logistic:alpha=20,delta=0.6", "draft")
    ]


def test_plan_says_whether_models_fit() -> None:
    shown = rsd("plan", "embedded:draft", "embedded:target", "embedded:target")
    assert "They fit" in shown
    assert shown.count("target") == 1
    nested = rsd("plan", "cascade:rule:arithmetic|(ensemble:embedded:draft|judge:embedded:target)", "embedded:draft")
    assert nested.count("draft") == nested.count("target") == 1
    with pytest.raises(SpecError, match="langchain:x:y runs elsewhere"):
        rsd("plan", "judge:langchain:x:y")


def test_merge_makes_a_checkpoint_that_drafts_and_judges(tmp_path: Path) -> None:
    a, b = make_causal_lm(tmp_path / "a", 1), with_head(make_causal_lm(tmp_path / "b", 2))
    out = tmp_path / "out"
    assert f"shared:{out}" in rsd("merge", str(a), str(b), str(out)).replace("\n", "")
    assert json.loads(rsd("run", "q", "--draft", f"hf:{out}", "--verifier", f"shared:{out}", "--json"))["ledger"]


@pytest.mark.parametrize(
    ("words", "system"),
    [
        ([], "Please reason step by step, and put your final answer within \\boxed{}."),
        (["--system", "Be short."], "Be short."),
        (["--system", ""], None),
    ],
)
def test_a_run_asks_for_what_it_looks_for_and_finds_an_answer_without_it(
    words: list[str], system: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    drafter = ScriptedDrafter(["3*4=12.\n\n", "So the answer is **12**."])
    models: dict[str, Any] = {
        "hf:a": drafter,
        "hf:b": ScriptedTarget(["x"]),
        "rule:arithmetic": ScriptedVerifier([0.9]),
    }
    monkeypatch.setattr("rsd_core.methods.load", models.__getitem__)
    given = ["--draft", "hf:a", "--target", "hf:b", "--verifier", "rule:arithmetic"]
    assert "Answer: 12 " in rsd("run", "How many?", *given, *words)
    messages = [(message.role, message.content) for message in drafter.calls[0].prompt]
    assert messages == [*([("system", system)] if system else []), ("user", "How many?")]


def test_the_embedded_models_are_asked_without_a_system_prompt() -> None:
    question = next(held_out("test", 2)).question
    assert json.loads(rsd("run", question, "--json"))["text"] == json.loads(rsd("run", "--json"))["text"]


def test_calibrate_shows_both_models_alone_and_the_chosen_threshold_among_the_others(tmp_path: Path) -> None:
    file = tmp_path / "calibration.json"
    shown = rsd("calibrate", "--n", "4", *SCRIPTED, "--json", str(file), "--out", str(tmp_path / "policy.json"))
    rows = [line.split() for line in shown.splitlines()]
    labels = [row[0] for row in rows if row]
    delta = json.loads((tmp_path / "policy.json").read_text())["delta"]
    assert ["→", f"{delta:.6f}"] in [row[:2] for row in rows]
    assert labels.index("drafter", 3) < labels.index("→") < labels.index("target", 3)
    assert parse_policy(file) == parse_policy(tmp_path / "policy.json")
    told = json.loads(file.read_text())["alone"]
    # What a model alone costs is what it costs in an evaluation of the same problems.
    report = tmp_path / "report.json"
    rsd(
        "eval",
        "--task",
        "embedded-dev",
        "--n",
        "4",
        "--seed",
        "0",
        "--methods",
        "draft,target",
        *SCRIPTED,
        "--json",
        str(report),
    )
    methods = json.loads(report.read_text())["methods"]
    for role, method in (("drafter", "draft"), ("target", "target")):
        assert told[role]["flops"] == pytest.approx(methods[method]["flops_per_problem"])
        assert told[role]["flops_paper"] == pytest.approx(methods[method]["flops_per_problem_paper"])
        assert told[role]["accuracy"] == methods[method]["accuracy"]
