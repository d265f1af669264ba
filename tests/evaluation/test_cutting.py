"""Uncut solutions: how they are cut, and that nothing is lost."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from rsd_core import ConfigurationError
from rsd_core.splitting import Words
from rsd_integrations.cli.app import app
from rsd_integrations.evaluation.cutting import Marked, cut, parse_splitter
from rsd_integrations.evaluation.scoring import Solution

SOLUTION = "Mia has 45. She buys 12.\nStep 1: 45+12=57.\nStep 2: So 57. Done.\n\nWait, all is well."


@pytest.mark.parametrize(
    ("how", "steps"),
    [
        ("blank_line", [SOLUTION.partition("\n\n")[0], "Wait, all is well."]),
        ("line", ["Mia has 45. She buys 12.", "Step 1: 45+12=57.", "Step 2: So 57. Done.", "Wait, all is well."]),
        (
            "sentence",
            ["Mia has 45.", "She buys 12.", "Step 1: 45+12=57.", "Step 2: So 57.", "Done.", "Wait, all is well."],
        ),
        ("words", [SOLUTION.partition("\n\n")[0], "Wait, all is well."]),
        ("marked", ["Mia has 45. She buys 12.", "Step 1: 45+12=57.", "Step 2: So 57. Done.\n\nWait, all is well."]),
        (r"marked:(?=Done)", [SOLUTION.partition(" Done")[0], "Done.\n\nWait, all is well."]),
        (": ", ["Mia has 45. She buys 12.\nStep 1", "45+12=57.\nStep 2", "So 57. Done.\n\nWait, all is well."]),
    ],
)
def test_a_solution_is_cut_as_it_is_said(how: str, steps: list[str]) -> None:
    assert cut(SOLUTION, parse_splitter(how)) == steps
    assert list(Solution.of("How many?", SOLUTION, parse_splitter(how)).steps) == steps


@given(st.text("ab. :\n\t1Step", max_size=40), st.sampled_from(["blank_line", "line", "sentence", "words", "marked"]))
def test_nothing_but_white_space_is_lost(text: str, how: str) -> None:
    steps = cut(text, parse_splitter(how))
    assert "".join("".join(steps).split()) == "".join(text.split())
    assert all(step.strip() for step in steps)


@pytest.mark.parametrize(
    ("how", "steps"),
    [
        ("sentence", ["<think>\nHm.", "So 57.\n\n</think>", "It is 57.", "Done."]),
        ("marked", ["<think>\nHm. So 57.\n</think>\n\nIt is 57. Done."]),
        ("line", ["<think>\n\nHm. So 57.\n\n</think>", "It is 57. Done."]),
    ],
)
def test_the_markers_of_a_thought_are_not_steps(how: str, steps: list[str]) -> None:
    assert cut("<think>\nHm. So 57.\n</think>\n\nIt is 57. Done.", parse_splitter(how)) == steps


def test_a_splitter_object_cuts_too() -> None:
    assert cut("a\n\nb\n\nThus c", Words(words=("Thus",))) == ["a\n\nb", "Thus c"]
    assert cut("#1 a #2 b", Marked(pattern=r"#\d")) == ["#1 a", "#2 b"]


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("marked:(", r"'marked:\(' is not a valid splitter: pattern: '\(' is not a regular expression"),
        ("sentences", r"'sentences' is not a splitter; did you mean 'sentence'\?"),
        ("markd", r"did you mean 'marked'\?"),
        ("", "an empty text cannot end a step"),
    ],
)
def test_an_invalid_splitter_is_reported_before_anything_is_read(how: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=message):
        parse_splitter(how)
    result = CliRunner().invoke(app, ["score", str(tmp_path / "none.jsonl"), "--splitter", how])
    assert result.exit_code != 0
    assert "none.jsonl" not in str(result.exception)


def test_rsd_score_cuts_solutions_and_leaves_steps_as_they_are(tmp_path: Path) -> None:
    file = tmp_path / "solutions.jsonl"
    rows: list[dict[str, Any]] = [
        {"problem": "45+12?", "solution": "45+12=57. So 45+12=58."},
        {"problem": "45+12?", "steps": ["45+12=57. So 45+12=58."]},
    ]
    file.write_text("\n".join(map(json.dumps, rows)))
    words = ["score", str(file), "--verifier", "rule:arithmetic", "--json"]
    told = CliRunner().invoke(app, [*words, "--splitter", "sentence"])
    cut_up, kept = (json.loads(line) for line in told.stdout.splitlines())
    assert (cut_up["steps"], cut_up["rewards"]) == (["45+12=57.", "So 45+12=58."], [1.0, 0.0])
    assert (kept["steps"], kept["rewards"]) == (rows[1]["steps"], [0.0])
    plain = json.loads(CliRunner().invoke(app, words).stdout.splitlines()[0])
    assert plain["steps"] == rows[1]["steps"]


def test_a_solution_of_white_space_is_none() -> None:
    with pytest.raises(ConfigurationError, match="contains nothing to score"):
        Solution.of("q", " \n\n ", "\n")
