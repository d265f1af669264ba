"""Tasks through `datasets`, and graders."""

import json
from pathlib import Path
from typing import Any

import pytest

from rsd_core import ConfigurationError, as_prompt
from rsd_integrations.evaluation import TASKS, find_task
from rsd_integrations.evaluation.graders import choice, exact, math
from rsd_integrations.evaluation.tasks import STEP_BY_STEP, DatasetTask


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


def write(file: Path, rows: list[dict[str, Any]]) -> str:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(file)


@pytest.mark.parametrize(
    ("reference", "text", "right"),
    [
        ("\\frac{1}{2}", "so it is \\boxed{0.5}", True),
        ("72", "The answer is \\boxed{72.0}.", True),
        ("(1, 2)", "\\boxed{\\left( 1,\\, 2 \\right)}", True),
        ("x^2+1", "\\boxed{1+x^2}", True),
        ("72", "I get \\boxed{27}", False),
        ("72", "first \\boxed{72}, no: \\boxed{70}", False),  # the last one counts
        ("18", "no box, but 18", True),
        ("18", "", False),
    ],
)
def test_the_math_grader(reference: str, text: str, right: bool) -> None:
    assert math(reference, text) is right


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ("\\boxed{B}", True),
        ("\\boxed{(B)}", True),
        ("\\boxed{\\text{B}}", True),
        ("\\boxed{\\textbf{(B) } 12}", True),
        ("The answer is (B).", True),
        ("The answer is: B", True),
        ("\\boxed{C}", False),
        ("Beyond doubt", False),
        ("The answer is Beta", False),
        ("The answer is xB", False),
        ("The answer is C. No: the answer is B", True),
        ("The answer is B. No: the answer is C", False),
        ("", False),
    ],
)
def test_the_choice_grader(text: str, right: bool) -> None:
    assert choice("B", text) is right


def test_the_exact_grader() -> None:
    assert exact("10", "it is \\boxed{ 10 }")
    assert exact("yes", " yes ")
    assert not exact("10", "\\boxed{10.0}")


def test_a_file_of_lines(tmp_path: Path) -> None:
    file = write(tmp_path / "mine.jsonl", [{"question": f"What is {i}+1?", "answer": str(i + 1)} for i in range(30)])
    items = find_task(file).draw(10, seed=3)
    assert len({item.question for item in items}) == 10
    assert items == find_task(file).draw(10, seed=3) or [i.question for i in items] == [
        i.question for i in find_task(file).draw(10, seed=3)
    ]
    assert all(item.grade(f"\\boxed{{{item.reference}}}") for item in items)
    messages = as_prompt(items[0].prompt)
    assert [(m.role, m.content) for m in messages] == [("system", STEP_BY_STEP), ("user", items[0].question)]
    with pytest.raises(ConfigurationError, match="30 problems; 31"):
        find_task(file).draw(31, seed=3)


def test_fields_by_name_and_no_answers(tmp_path: Path) -> None:
    file = write(tmp_path / "p.jsonl", [{"prompt": "Why?", "level": "1"}, {"prompt": "How?", "level": "2"}])
    with pytest.raises(ConfigurationError, match="no field 'question'; it has prompt, level"):
        find_task(file).draw(1, 0)
    (item, _) = find_task({"path": file, "question": "prompt", "answer": None, "system": ""}).draw(None, 0)
    assert (item.reference, item.prompt) == (None, item.question)
    (only,) = find_task({"path": file, "question": "prompt", "answer": None, "keep": {"level": ["2"]}}).draw(None, 0)
    assert only.question == "How?"


def test_a_dataset_of_the_hubs_form_in_a_folder(tmp_path: Path) -> None:
    """Several splits, as a repository on the hub has them."""
    folder = tmp_path / "set"
    folder.mkdir()
    write(folder / "train.jsonl", [{"question": "train?", "answer": "0"}])
    write(folder / "test.jsonl", [{"question": "test?", "answer": "so 1,5 #### 1,500"}])
    (item,) = find_task(f"dataset:{folder},answer_after=####").draw(None, 0)
    assert (item.question, item.reference) == ("test?", "1500")


def test_multiple_choice_in_both_forms(tmp_path: Path) -> None:
    listed = write(
        tmp_path / "mmlu.jsonl",
        [{"question": "Q?", "choices": ["w", "x", "y", "z"], "answer": 2, "subject": "astronomy"}],
    )
    task = TASKS["mmlu-stem"]
    assert isinstance(task, DatasetTask)
    (item,) = task.model_copy(update={"path": listed}).draw(None, 0)
    assert (item.question, item.reference) == ("Q?\nAnswer Choices: (A) w (B) x (C) y (D) z", "C")
    apart = write(
        tmp_path / "gpqa.jsonl",
        [
            {
                "Question": f"Q{i}?",
                "Correct Answer": "right",
                **{f"Incorrect Answer {k}": f"wrong {k}" for k in (1, 2, 3)},
            }
            for i in range(20)
        ],
    )
    gpqa = TASKS["gpqa"]
    assert isinstance(gpqa, DatasetTask)
    items = gpqa.model_copy(update={"path": apart}).draw(None, 0)
    assert len({item.reference for item in items}) > 2  # the right one is not always the same letter
    for item in items:
        assert f"({item.reference}) right" in item.question
        assert item.grade(f"\\boxed{{{item.reference}}}")


@pytest.mark.parametrize(
    ("task", "words"),
    [
        ("gsm9k", ["gsm9k", "gsm8k"]),
        ("nowhere.jsonl", ["nowhere.jsonl"]),
        ("dataset:x,grader=guess", ["grader", "math"]),
        ("embedded:train", ["split"]),
    ],
)
def test_a_bad_task_is_told(task: str, words: list[str]) -> None:
    with pytest.raises(ConfigurationError) as caught:
        find_task(task).draw(3, 0)
    assert all(word in str(caught.value) for word in words)
