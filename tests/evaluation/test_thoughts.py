"""Given solutions and calibrations with thoughts: their steps are judged, markers alone are not."""

import asyncio
import json
from pathlib import Path as Folder
from typing import Any

import pytest

from rsd_core import Path, RewardGuidedDecoder, Settings, Step, Thinking, visible
from rsd_core.testing import ScriptedDrafter, ScriptedTarget, ScriptedVerifier
from rsd_core.thoughts.markers import MARKERS
from rsd_integrations.evaluation import Item, calibrate
from rsd_integrations.evaluation.processbench import evaluate_processbench, read_splits
from rsd_integrations.evaluation.scoring import Solution, read_solutions, score_steps
from rsd_integrations.prm_formats import shown
from tests.evaluation.test_processbench import rsd

PROBLEM = "How many seats?"
MARKED = "<think>\n\n3*4=12.\n\n12-2=10.\n\n</think>\n\nIt is \\boxed{10}."


def read(tmp_path: Folder, **row: Any) -> Solution:
    file = tmp_path / "solutions.jsonl"
    file.write_text(json.dumps({"problem": PROBLEM, **row}) + "\n")
    (solution,) = read_solutions(file)
    return solution


@pytest.mark.parametrize(
    ("row", "steps"),
    [
        ({"solution": MARKED}, ("<think>\n\n3*4=12.", "12-2=10.\n\n</think>", "It is \\boxed{10}.")),
        (
            {"solution": "It is \\boxed{10}.", "thought": "3*4=12.\n\n12-2=10."},
            ("<think>\n3*4=12.", "12-2=10.\n</think>", "It is \\boxed{10}."),
        ),
        (
            {"solution": "It is \\boxed{10}.", "reasoning_content": "3*4=12.\n\n12-2=10."},
            ("<think>\n3*4=12.", "12-2=10.\n</think>", "It is \\boxed{10}."),
        ),
        ({"solution": "[THINK]3*4=12.[/THINK]\n\nIt is 10."}, ("[THINK]3*4=12.[/THINK]", "It is 10.")),
        ({"solution": "3*4=12.\n\nIt is 10."}, ("3*4=12.", "It is 10.")),
        ({"solution": "3*4=12.\n\n</think>\n\nIt is 10."}, ("3*4=12.", "</think>", "It is 10.")),
    ],
)
def test_a_solution_is_cut_inside_of_its_thought(tmp_path: Folder, row: dict[str, str], steps: tuple[str, ...]) -> None:
    assert read(tmp_path, **row).steps == steps


def test_steps_of_thoughts_are_scored_and_markers_are_not(tmp_path: Folder) -> None:
    seen: list[str] = []

    def judge(path: Path, step: Step) -> float:
        seen.append(shown(path, step).text.strip())
        return 0.9

    steps = ["<think>", "3*4=12.", "12-2=10.", "</think>", "It is \\boxed{10}."]
    solution = read(tmp_path, steps=steps)
    assert asyncio.run(score_steps(ScriptedVerifier(judge), solution)) == [None, 0.9, 0.9, None, 0.9]
    assert seen == ["3*4=12.", "12-2=10.", "It is \\boxed{10}."]
    paths = [path for path, _ in solution.paths()]
    assert paths[0].thinking == Thinking(MARKERS["think"])
    assert next(path.thinking for path, _ in read(tmp_path, steps=["3*4=12."]).paths()) is None


def test_the_first_wrong_step_of_a_thought_is_named(tmp_path: Folder) -> None:
    rows = [
        {"problem": PROBLEM, "steps": ["<think>", "3*4=12.", "12-2=11.", "</think>", "It is 11."], "label": 2},
        {"problem": PROBLEM, "steps": ["<think>\n3*4=12.", "12-2=10.\n</think>", "It is 10."], "label": -1},
    ]
    (tmp_path / "math.json").write_text(json.dumps(rows))
    judge = ScriptedVerifier(lambda path, step: 0.1 if "=11" in step.text else 0.9)
    report = asyncio.run(evaluate_processbench(judge, read_splits(tmp_path)))
    assert (report.splits[0].f1, report.splits[0].failed) == (1.0, 0)


@pytest.mark.parametrize("spec", ["embedded:verifier", "embedded:prm"])
def test_rsd_score_takes_thoughts(tmp_path: Folder, spec: str) -> None:
    read(tmp_path, steps=["<think>", "3*4=12.", "12-2=11.", "</think>", "It is \\boxed{11}."])
    file = str(tmp_path / "solutions.jsonl")
    told = json.loads(rsd("score", file, "--verifier", spec, "--json", "--explain"))
    read(tmp_path, steps=["3*4=12.", "12-2=11.", "It is \\boxed{11}."])
    plain = json.loads(rsd("score", file, "--verifier", spec, "--json", "--explain"))
    assert [told["rewards"][i] for i in (0, 3)] == [None, None]
    assert [told["rewards"][i] for i in (1, 2, 4)] == pytest.approx(plain["rewards"], rel=1e-4)
    assert told["explained"][0]["text"] == "a marker of a thought, never judged"
    assert told["explained"][2]["text"] == plain["explained"][1]["text"]


def test_markers_alone_decide_nothing_in_a_calibration() -> None:
    thinking = Thinking(MARKERS["think"], "<think>\n")
    script = ["Three times four.\n\n", "</think>\n\n", "It is 12."]
    decoder = RewardGuidedDecoder(
        drafter=ScriptedDrafter(script, thinking=thinking),
        verifier=ScriptedVerifier(lambda path, step: 0.5 + path.depth / 10),
        target=ScriptedTarget(script, thinking=thinking),
        settings=Settings(on_abstain="target"),
    )
    found = calibrate(decoder, [Item(PROBLEM, "12", lambda text: "12" in text)])
    (problem,) = found.problems
    assert problem.drafted == problem.beside == (0.5, 0.7)
    assert len(problem.sizes) == 2
    assert found.row(0.4).target_share == 0


def test_a_thought_that_a_template_opened_is_one_in_a_solution() -> None:
    """Raw output of a server whose template wrote the opening marker: the text only closes it."""
    solution = Solution.of("q", "Add.\n\nSo 5.</think>\n\nIt is 5.")
    parts = [
        (visible(path, step).thought.strip(), visible(path, step).answer.strip()) for path, step in solution.paths()
    ]
    assert ("Add.", "") in parts
    assert parts[-1] == ("", "It is 5.")
    assert {path.opening for path, _ in solution.paths()} == {"<think>\n"}
    (path, _), *_ = Solution.of("q", "It is 5.").paths()
    assert path.thinking is None
