"""Rows of evaluations: written and read in every format, compared in pairs, and summed as reports do."""

import json
import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest
from typer.testing import CliRunner

from rsd_core import ConfigurationError, MissingDependency, RSDConfig, RSDError, Settings
from rsd_integrations.batch import as_problems, read_problems, run_journaled, write_rows
from rsd_integrations.cli.app import app
from rsd_integrations.data_files import KINDS, WRITTEN, read_records, typed, write_records
from rsd_integrations.evaluation import Evaluation, Task, evaluate, find_task
from rsd_integrations.evaluation.outcome import Outcome
from rsd_integrations.evaluation.rows import COLUMNS, pairs
from rsd_integrations.evaluation.statistics import compare, sign_flips
from rsd_integrations.evaluation.tasks import Item

SCRIPTED = RSDConfig(drafter="scripted:draft", verifier="scripted:verifier", target="scripted:target")
WORDS = ["--draft", "scripted:draft", "--target", "scripted:target", "--verifier", "scripted:verifier"]
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "text": st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\0")),
    "optional text": st.none()
    | st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\0"), min_size=1),
    "whole number": st.none() | st.integers(-(2**62), 2**62),
    "number": st.none() | st.floats(allow_nan=False, allow_infinity=False),
    "yes or no": st.none() | st.booleans(),
    "list of numbers": st.lists(st.none() | st.floats(allow_nan=False, allow_infinity=False)),
    "list of texts": st.lists(st.text(st.characters(exclude_categories=["Cs"]))),
}


@given(st.lists(st.fixed_dictionaries(VALUES), min_size=1, max_size=4), st.sampled_from(WRITTEN))
def test_rows_come_back_as_they_were(tmp_path_factory: pytest.TempPathFactory, rows: list[Any], suffix: str) -> None:
    assert set(VALUES) == set(KINDS)
    file = tmp_path_factory.getbasetemp() / f"rows{suffix}"
    columns = {kind: kind for kind in KINDS}
    write_records(file, rows, columns)
    assert [typed(line.value, columns) for line in read_records(file)] == rows


class Seats(Task):
    """Problems that the scripted target answers, two of three rightly, and the drafter one."""

    def draw(self, n: int | None, seed: int) -> list[Item]:
        right = ((), ("10",), ("10", "9"))
        return [
            Item(
                f"How many seats in hall {i}?",
                "10",
                lambda text, i=i: any(f"{{{number}}}" in text or number in text for number in right[i % 3]),  # type: ignore[misc]
            )
            for i in range(n or 0)
        ]


@pytest.mark.parametrize("suffix", WRITTEN)
def test_an_evaluation_is_written_and_loaded(suffix: str, tmp_path: Path) -> None:
    report = evaluate(SCRIPTED, Seats(), ["rsd", "draft"], 4, 7, seeds=2)
    file = tmp_path / f"rows{suffix}"
    Evaluation.of(report).write(file)
    loaded = Evaluation.load(file)
    assert loaded.rows == Evaluation.of(report).rows
    assert len(loaded.rows) == 2 * 4 * 2
    assert loaded.methods == ["rsd", "draft"]
    row = loaded.rows[0]
    assert set(row) == set(COLUMNS)
    assert (row["problem"], row["seed"], row["question"], row["reference"]) == (0, 7, "How many seats in hall 0?", "10")
    assert row["rewards"] == [0.95, 0.1, 0.95]
    assert row["authors"] == ["draft", "target", "draft"]
    assert row["text"].endswith("The answer is \\boxed{10}.")
    assert row["tokens"] == sum(len(line.split()) + 0 for line in row["text"].split("\n\n")) + 1  # and the end
    assert (row["drafter_tokens"] > 0, row["target_tokens"] > 0, row["cost"]) == (True, True, None)
    assert {row["seed"] for row in loaded.rows} == {7, 8}


def test_a_data_frame_has_the_types_of_the_columns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    evaluation = Evaluation.of(evaluate(SCRIPTED, Seats(), ["rsd", "draft"], 3, 1))
    frame = evaluation.to_pandas()
    assert list(frame.columns) == list(COLUMNS)
    right = frame.groupby("method")["correct"].mean()
    assert (right["rsd"], right["draft"]) == (pytest.approx(2 / 3), pytest.approx(2 / 3))
    assert str(frame["cost"].dtype) == "float64"
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(MissingDependency, match=r"needs the package 'pandas'"):
        evaluation.to_pandas()


def test_files_that_hold_no_rows_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    for text, told in (('{"text": "a"}\n', "row 1: it has no column 'task'"), ("no JSON\n", "row 1: it is not JSON")):
        file.write_text(text)
        with pytest.raises(ConfigurationError, match=told):
            Evaluation.load(file)
    with pytest.raises(ConfigurationError, match="cannot be read"):
        Evaluation.load(tmp_path / "nowhere.csv")
    for name, text in (("empty.jsonl", ""), ("header.csv", ",".join(COLUMNS))):
        (tmp_path / name).write_text(text)
        with pytest.raises(ConfigurationError, match=f"{name} is empty; `rsd eval --rows FILE` writes"):
            Evaluation.load(tmp_path / name)


def rows_of(method: str, right: list[bool | None], flops: float = 1.0, seed: int = 1) -> list[dict[str, Any]]:
    empty = Outcome(None, None, "stop", 1, 0, 1, 1, flops, flops, None, 1.0, "")
    return [
        {name: getattr(empty, name, None) for name in COLUMNS}
        | {"method": method, "question": f"q{i}", "problem": i, "seed": seed, "correct": one}
        for i, one in enumerate(right)
    ]


def test_evaluations_are_compared_over_the_problems_that_both_graded() -> None:
    mine = Evaluation(rows_of("rsd", [True, True, None, False, True, True]), "A")
    theirs = Evaluation(rows_of("rsd", [True, False, True, False, False], flops=3.0), "B")
    (found,) = pairs(mine, theirs)
    comparison = found.comparison
    assert (comparison.n, comparison.only_first, comparison.only_second, found.unpaired) == (4, 2, 0, 2)
    assert comparison.difference == pytest.approx(2 / 4)
    assert comparison.p_value == pytest.approx(binomtest(2, 2, 0.5).pvalue)
    assert comparison.fewer_flops == pytest.approx(3.0)
    assert (found.first_accuracy, found.second_accuracy) == (3 / 4, 1 / 4)
    alone = Evaluation(rows_of("target", [True] * 6), "C")
    assert pairs(mine, alone)[0].second == "target"  # one method each
    with pytest.raises(ConfigurationError, match=r"no method is in both: A has rsd, D has x, y; write FILE@METHOD"):
        pairs(mine, Evaluation([*rows_of("x", [True]), *rows_of("y", [True])], "D"))
    with pytest.raises(ConfigurationError, match="no graded answer to the same question with the same seed"):
        pairs(mine, Evaluation(rows_of("rsd", [True], seed=2), "E"))
    with pytest.raises(ConfigurationError, match="A has no method 'best'; it has rsd"):
        mine.compare("best", theirs, "rsd")


def test_questions_that_occur_twice_are_paired_in_order() -> None:
    twice = rows_of("rsd", [True, False]) + [
        row | {"question": "q0", "problem": 5} for row in rows_of("rsd", [False])[:1]
    ]
    (found,) = pairs(Evaluation(twice), Evaluation(twice))
    assert (found.comparison.n, found.comparison.difference) == (3, 0)


def test_answers_with_several_seeds_are_resampled_by_problem() -> None:
    """Ten answers to each of four problems are four problems, not forty."""
    right = [True, False, True, True]
    first = [(one, 1.0, 1.0) for one in right for _ in range(10)]
    second = [(False, 2.0, 2.0)] * 40
    problems = [i for i in range(4) for _ in range(10)]
    many, one = compare(first, second, problems), compare([(r, 1.0, 1.0) for r in right], [(False, 2.0, 2.0)] * 4)
    assert (many.n, many.difference, many.fewer_flops) == (4, one.difference, one.fewer_flops)
    assert many.ci95 == one.ci95
    assert many.p_value > 0.1 > compare(first, second).p_value
    # By a sign-flip test: of 16 equally likely sign patterns of three non-zero gaps, 2 in 8 are as extreme.
    assert many.p_value == pytest.approx(0.25, abs=0.02)
    assert sign_flips([0.0, 0.0]) == 1


def test_several_seeds_answer_the_same_problems_with_other_random_numbers(tmp_path: Path) -> None:
    config = RSDConfig(
        **SCRIPTED.model_dump() | {"policy": {"kind": "constant", "p": 0.5}, "settings": Settings(temperature=0.5)}
    )
    journal = tmp_path / "journal.jsonl"
    report = evaluate(config, Seats(), ["rsd", "rsd@budget_aware:0.3"], 6, 3, seeds=3, journal=journal)
    assert (report.n, report.answers, report.done) == (6, 18, 36)
    shares = [[o.by_target for i, o in report.outcomes["rsd"].items() if i // 6 == k] for k in range(3)]
    assert len({tuple(share) for share in shares}) > 1
    for k in range(3):  # each seed as if it were alone
        alone = evaluate(config, Seats(), ["rsd", "rsd@budget_aware:0.3"], 6, 3 + k)
        for name in report.outcomes:
            assert [report.outcomes[name][6 * k + i].text for i in range(6)] == [
                alone.outcomes[name][i].text for i in range(6)
            ]
    told = report.to_dict()
    assert (told["seeds"], told["n"], len(told["problems"])) == (3, 6, 18)
    assert told["methods"]["rsd"]["accuracy"] == pytest.approx(sum(told["methods"]["rsd"]["accuracy_by_seed"]) / 3)
    low, high = told["methods"]["rsd"]["ci95"]
    assert low <= told["methods"]["rsd"]["accuracy"] <= high
    # The journal serves fewer seeds, and more.
    counted: list[int] = []
    for seeds, found in ((1, 6), (3, 18), (4, 18)):
        counted.clear()
        evaluate(config, Seats(), ["rsd"], 6, 3, lambda r: counted.append(r.done), seeds=seeds, journal=journal)
        assert (counted[0], counted[-1]) == (found, 6 * seeds)


def test_figures_do_not_depend_on_which_answer_was_ready_first() -> None:
    """With several seeds, intervals resample problems in their order."""
    report = evaluate(SCRIPTED, Seats(), ["rsd"], 6, 3, seeds=2)
    graded = {i: replace(one, correct=i % 4 > 1, flops=0.1 * i) for i, one in report.outcomes["rsd"].items()}
    orders = [sorted(graded), sorted(graded, reverse=True), [*range(1, 12, 2), *range(0, 12, 2)]]
    told = [replace(report, outcomes={"rsd": {i: graded[i] for i in order}}, methods={}) for order in orders]
    assert told[0].to_dict() == told[1].to_dict() == told[2].to_dict()


def invoked(*words: str) -> str:
    result = CliRunner().invoke(app, words, env={"COLUMNS": "80"})
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.output


@pytest.fixture
def problems(tmp_path: Path) -> str:
    file = tmp_path / "problems.jsonl"
    file.write_text("".join(json.dumps({"question": f"Hall {i}?", "answer": "10"}) + "\n" for i in range(5)))
    return f"dataset:{file},system="


def test_the_table_fits_into_80_columns_and_says_what_was_run(problems: str, tmp_path: Path) -> None:
    words = ["eval", "--task", problems, "--all", *WORDS, "--policy", "first_steps:1/binary_step:0.5", "--seeds", "2"]
    shown = invoked(*words, "--methods", "rsd;rsd@budget_aware:0.1;best_of_n:2,aggregate=min;target")
    assert max(map(len, shown.splitlines())) <= 80
    assert len(re.findall(r"\d\.\d{3} \([.\d]+–[.\d]+\)", shown)) == 4  # figures stay on one line, names may go on
    flat = " ".join(shown.split())
    assert "seeds 1 to 2" in flat
    assert "drafter scripted:draft, verifier scripted:verifier, target scripted:target" in flat
    assert "policy first_steps:1/binary_step:0.5" in flat
    assert "In total:" in flat
    assert " tokens, " in flat
    assert "sign-flip test" in flat


def test_the_table_of_one_method_compares_it_with_nothing(tmp_path: Path) -> None:
    file = tmp_path / "problems.jsonl"
    file.write_text('{"question": "Hall 1?", "answer": "10"}\n{"question": "Hall 2?", "answer": ""}\n')
    words = ["eval", "--task", f"dataset:{file},system=", "--all", "--methods", "rsd", *WORDS, "--seeds", "3"]
    shown = " ".join(invoked(*words).split())
    assert "2 problems, seeds 1 to 3" in shown
    assert "Per problem: FLOPs; time, 16 in flight" in shown
    assert "accuracy over 1 of 2 problems: the others have no answer" in shown  # not of its six answers


def test_a_comparison_names_its_test(problems: str, tmp_path: Path) -> None:
    once, twice, report = (tmp_path / name for name in ("once.csv", "twice.csv", "report.md"))
    words = ["eval", "--task", problems, "--all", *WORDS, "--methods", "rsd;target"]
    invoked(*words, "--rows", str(once))
    invoked(*words, "--rows", str(twice), "--seeds", "2", "--markdown", str(report))
    assert "McNemar's exact test" in invoked("compare", f"{once}@rsd", f"{once}@target")
    shown = invoked("compare", f"{twice}@rsd", f"{twice}@target", "--json", str(tmp_path / "c.json"))
    assert "sign-flip test" in shown
    assert json.loads((tmp_path / "c.json").read_text())[0]["test"] == "sign-flip test over problems"
    text = report.read_text()
    assert "seeds 1 to 2" in text
    assert "(bootstrap intervals, sign-flip test over problems)" in text


def test_two_runs_are_compared_from_the_shell(problems: str, tmp_path: Path) -> None:
    rows, figures = [str(tmp_path / name) for name in ("a.csv", "b.parquet")], tmp_path / "c.json"
    for file, policy in zip(rows, ("constant:1", "constant:0"), strict=True):
        invoked(
            "eval", "--task", problems, "--all", *WORDS, "--policy", policy, "--methods", "rsd,draft", "--rows", file
        )
    shown = invoked("compare", *rows, "--json", str(figures))
    *table, written = shown.splitlines()
    assert max(map(len, table)) <= 80
    assert written == f"written to {figures}"  # on one line, to be copied
    rsd, draft = json.loads(figures.read_text())
    spent = [sum(row["flops"] for row in Evaluation.load(file).rows if row["method"] == "rsd") for file in rows]
    assert (rsd["first"], rsd["comparison"]["difference"], rsd["comparison"]["n"]) == ("rsd", 0, 5)
    assert rsd["comparison"]["fewer_flops"] == pytest.approx(spent[1] / spent[0])
    assert (draft["comparison"]["fewer_flops"], draft["comparison"]["p_value"]) == (1, 1)
    one = invoked("compare", f"{rows[0]}@rsd", f"{rows[0]}@draft")
    assert "rsd / draft" in one
    with pytest.raises(RSDError, match="would be compared with itself"):
        invoked("compare", rows[0], rows[0])
    with pytest.raises(ConfigurationError, match="it is not a file of an evaluation's rows"):
        invoked("compare", problems.partition(":")[2].partition(",")[0], rows[0])


@pytest.mark.parametrize("command", [["eval", "--n", "1"], ["batch", "prompts.jsonl", "--out", "x.jsonl"]])
def test_a_format_of_rows_that_is_not_known_is_reported_before_the_work(command: list[str]) -> None:
    with pytest.raises(ConfigurationError, match=r"--rows x\.xls: the end of the name is the format, one of \.jsonl"):
        invoked(*command, "--rows", "x.xls")


def test_a_batch_reads_folders_and_writes_rows(tmp_path: Path) -> None:
    folder = tmp_path / "prompts"
    folder.mkdir()
    (folder / "one.csv").write_text("id,problem\na,How many?\n")
    (folder / "two.jsonl").write_text('{"problem": "Which?", "id": "b"}\n')
    rows, out = tmp_path / "rows.parquet", tmp_path / "out.jsonl"
    shown = CliRunner().invoke(app, ["batch", str(folder), "--out", str(out), "--rows", str(rows), *WORDS]).output
    assert "in total" in shown
    told = [line.value for line in read_records(rows)]
    assert [(row["id"], row["prompt"], row["answer"], row["error"]) for row in told] == [
        ("a", "How many?", "10", None),
        ("b", "Which?", "10", None),
    ]
    assert told[0]["rewards"] == [0.95, 0.1, 0.95]
    assert read_problems(f"dataset:{folder}/one.csv") == read_problems(folder / "one.csv")
    with pytest.raises(ConfigurationError, match=r"nowhere cannot be read: there is no such file or folder"):
        read_problems(tmp_path / "nowhere")
    with pytest.raises(ConfigurationError, match=r"names no rows|unknown"):
        read_problems("dataset:x,splitt=train")


def test_a_line_that_cannot_be_asked_is_counted_and_told_in_one_sentence(tmp_path: Path) -> None:
    file = tmp_path / "prompts.jsonl"
    file.write_text('{"prompt": "How many seats?"}\n{"prompt": ""}\n')
    result = CliRunner().invoke(app, ["batch", str(file), "--out", str(tmp_path / "out.jsonl"), *WORDS])
    told = " ".join(result.output.split())
    assert f"1 line of {file} cannot be asked. The first: line 2 is not a prompt" in told
    assert ".;" not in told
    assert "1 of 2 problems failed; the errors are in" in str(result.exception)


def test_rows_of_an_unfinished_batch_say_what_is_missing(tmp_path: Path) -> None:
    out, file = tmp_path / "out.jsonl", tmp_path / "rows.jsonl"
    problems = as_problems(["one", "two"])
    run_journaled(SCRIPTED, problems[:1], out)
    write_rows(out, problems, file)
    assert [line.value["error"] for line in read_records(file)] == [None, "not done yet"]


@pytest.mark.parametrize("method", ["rsd@advantage_aware:reward_per_cost=0.1,cost_in=money", "rsd"])
def test_money_without_prices_is_refused_before_any_model_is_loaded(
    method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object, **__: object) -> None:
        raise AssertionError("a model was loaded")

    monkeypatch.setattr("rsd_core.methods.load", never)
    policy = {"kind": "advantage_aware", "reward_per_cost": 0.1, "cost_in": "money"}
    config = RSDConfig(**RSDConfig().model_dump() | ({"policy": policy} if method == "rsd" else {}))
    told = (
        "cost_in=money needs the price of every model, and embedded:draft, embedded:verifier, embedded:target has none"
    )
    with pytest.raises(ConfigurationError, match=told):
        evaluate(config, "embedded", ["target", method], 1, 1)
    with pytest.raises(ConfigurationError, match=told):
        RSDConfig.parse({**config.model_dump(), "method": method}).build()


@pytest.mark.parametrize(
    ("reference", "text", "right"),
    [
        ("yes", "Is it no? No.</think>\n\nYes", True),
        ("B", "A or C? The answer is A.\n</think>\nB", True),
        ("5", "<think>It is 4.</think>5", True),
        ("5", "The answer is 5.</think>", False),  # nothing was answered
        ("</think>", "</think>", False),
    ],
)
def test_text_before_the_end_of_a_thought_is_not_an_answer(
    reference: str, text: str, right: bool, tmp_path: Path
) -> None:
    file = tmp_path / "one.jsonl"
    file.write_text(json.dumps({"question": "q", "answer": reference}))
    (item,) = find_task(str(file)).draw(None, 1)
    assert item.verdict(text).right is right
