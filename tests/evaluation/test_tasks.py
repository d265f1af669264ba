"""Tasks from files, folders and `datasets`."""

import csv
import json
from pathlib import Path
from typing import Any

import datasets
import pytest

from rsd_core import ConfigurationError, as_prompt
from rsd_core.prompts import STEP_BY_STEP
from rsd_integrations.evaluation import TASKS, find_task
from rsd_integrations.evaluation.tasks import DatasetTask


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


def write(file: Path, rows: list[dict[str, Any]]) -> str:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(file)


def test_a_file_of_lines(tmp_path: Path) -> None:
    file = write(tmp_path / "mine.jsonl", [{"question": f"What is {i}+1?", "answer": str(i + 1)} for i in range(30)])
    items = find_task(file).draw(10, seed=3)
    assert len({item.question for item in items}) == 10
    assert items == find_task(file).draw(10, seed=3) or [i.question for i in items] == [
        i.question for i in find_task(file).draw(10, seed=3)
    ]
    assert all(item.verdict(f"\\boxed{{{item.reference}}}").right for item in items)
    messages = as_prompt(items[0].prompt)
    assert [(m.role, m.content) for m in messages] == [("system", STEP_BY_STEP), ("user", items[0].question)]
    with pytest.raises(ConfigurationError, match="30 problems; 31 were requested: request at most 30, or for all"):
        find_task(file).draw(31, seed=3)


def test_columns_by_name_and_no_answers(tmp_path: Path) -> None:
    file = write(tmp_path / "p.jsonl", [{"prompt": "Why?", "level": 1}, {"prompt": "How?", "level": 2}])
    with pytest.raises(ConfigurationError, match=r"looks like the answer; it has 'prompt', 'level'.*answer=none"):
        find_task(file).draw(1, 0)
    with pytest.raises(ConfigurationError, match=r"no column 'prompts'; it has 'prompt', 'level'\..*question=COLUMN$"):
        find_task({"path": file, "question": "prompts"}).draw(1, 0)
    (item, _) = find_task(f"dataset:{file},question=prompt,answer=none,system=").draw(None, 0)
    assert (item.reference, item.prompt, item.verdict("because").right) == (None, item.question, None)
    assert find_task(f"dataset:{file},answer=") == find_task({"path": file, "answer": None})
    (only,) = find_task({"path": file, "question": "prompt", "answer": None, "keep": {"level": ["2"]}}).draw(None, 0)
    assert only.question == "How?"
    with pytest.raises(ConfigurationError, match=r"has no rows with one of the values allowed by keep=.*'3'"):
        find_task({"path": file, "question": "prompt", "answer": None, "keep": {"level": ["3"]}}).draw(None, 0)


def test_a_name_with_commas_stands_in_parentheses(tmp_path: Path) -> None:
    file = write(tmp_path / "p.jsonl", [{" Frage, Nr. ": "1+1?", "Lösung (final)": "2"}])
    with pytest.raises(ConfigurationError, match=r"it has ' Frage, Nr. ', .*question=\(COLUMN\), in parentheses where"):
        find_task(file).draw(1, 0)
    (item,) = find_task(f"dataset:{file},question=( Frage, Nr. ),answer=Lösung (final)").draw(1, 0)
    assert (item.question, item.reference) == ("1+1?", "2")


def test_a_folder_needs_no_more_than_its_name(tmp_path: Path) -> None:
    write(tmp_path / "train.jsonl", [{"question": "1+1?", "answer": "2"}])
    write(tmp_path / "test.jsonl", [{"question": "2+2?", "answer": "4"}])
    (item,) = find_task(str(tmp_path)).draw(None, 0)
    assert item.question == "2+2?"
    with pytest.raises(ConfigurationError, match=r"unknown task .* or of a folder, and dataset:PATH"):
        find_task(f"{tmp_path},split=train")


@pytest.mark.parametrize(("name", "text"), [("p.jsonl", ""), ("p.csv", "question,answer\n"), ("p.json", "[]")])
def test_a_file_without_rows_is_told(tmp_path: Path, name: str, text: str) -> None:
    file = tmp_path / name
    file.write_text(text)
    with pytest.raises(ConfigurationError, match="has no rows; it needs one for each problem"):
        find_task(str(file)).draw(None, 0)


def test_a_guess_is_reported_and_a_name_is_not(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    row = {"id": 7, "Problem": "1+1?", "solution": "One and one.", "Final Answer": "2", "label": "easy"}
    file = write(tmp_path / "p.jsonl", [row])
    (item,) = find_task(file).draw(None, 0)
    assert (item.question, item.reference, item.grader) == ("1+1?", "2", "number")
    (told,) = caplog.messages
    assert "reading the question from 'Problem' and the answer from 'Final Answer'" in told
    caplog.clear()
    (named,) = find_task(f"dataset:{file},question=Problem,answer=label").draw(None, 0)
    assert (named.reference, named.grader, caplog.messages) == ("easy", "text", [])
    plain = write(tmp_path / "q.jsonl", [{"question": "1+1?", "answer": "2", "prompt": "no", "label": "no"}])
    (usual,) = find_task(plain).draw(None, 0)
    assert (usual.question, usual.reference, caplog.messages) == ("1+1?", "2", [])


ROWS = (
    "007",
    "1.0",
    "true",
    "Paris",
    "1,000",
    "B",
    "3/4",
    "x^2",
    "yes",
    " 5 ",
    "1e3",
    "NaN",
    "null",
    '"quoted"',
    "a\nb",
)
"""Answers that some reader would take for something else."""


@pytest.mark.parametrize("form", ["jsonl", "json", "csv", "tsv", "parquet", "arrow"])
def test_answers_stay_as_they_are_written(tmp_path: Path, form: str) -> None:
    rows = [{"question": f"{i}?", "answer": answer} for i, answer in enumerate(ROWS)]
    file = tmp_path / f"p.{form}"
    if form in ("jsonl", "json"):
        mixed = [*rows, {"question": "a number", "answer": 7}, {"question": "not known", "answer": None}]
        file.write_text("".join(json.dumps(row) + "\n" for row in mixed) if form == "jsonl" else json.dumps(mixed))
    elif form in ("csv", "tsv"):
        with file.open("w", newline="") as out:
            writer = csv.DictWriter(out, ["question", "answer"], delimiter="\t" if form == "tsv" else ",")
            writer.writeheader()
            writer.writerows(rows)
    else:
        table = datasets.Dataset.from_list(rows)
        table.save_to_disk(str(file)) if form == "arrow" else table.to_parquet(str(file))
    items = find_task(str(file) if form != "arrow" else f"dataset:{file}").draw(None, 0)
    assert [item.reference for item in items[: len(ROWS)]] == [answer.strip() for answer in ROWS]
    assert [item.reference for item in items[len(ROWS) :]] == (["7", None] if form in ("jsonl", "json") else [])


def test_datasets_reads_no_strings_as_json_either(tmp_path: Path) -> None:
    """A column of mixed types, as a repository on the hub may have it: the library itself would read "007" as 7."""
    values = ["007", 7, "1.0", "true", None, "Paris", ["7", "seven"], True]
    file = write(tmp_path / "p.jsonl", [{"question": f"{i}?", "answer": value} for i, value in enumerate(values)])
    loaded = datasets.load_dataset("json", data_files=file, split="train")
    assert loaded[0]["answer"] == 7  # once this fails, the library has changed
    loaded.save_to_disk(str(tmp_path / "saved"))
    items = find_task(f"dataset:{tmp_path / 'saved'}").draw(None, 0)
    assert [item.reference for item in items] == ["007", "7", "1.0", "true", None, "Paris", "7", "true"]


def test_splits_that_were_saved_together_are_read_one_by_one(tmp_path: Path) -> None:
    splits = {name: datasets.Dataset.from_list([{"question": name, "answer": "1"}]) for name in ("train", "test")}
    datasets.DatasetDict(splits).save_to_disk(str(tmp_path))
    for text, split in ((str(tmp_path), "test"), (f"dataset:{tmp_path},split=train", "train")):
        (item,) = find_task(text).draw(None, 0)
        assert item.question == split
    with pytest.raises(ConfigurationError, match="has no split 'dev', but test, train: split=…"):
        find_task(f"dataset:{tmp_path},split=dev").draw(None, 0)


def test_conversations_are_asked_as_they_are(tmp_path: Path) -> None:
    talk = [{"role": "user", "content": "Hello."}, {"role": "assistant", "content": "Yes?"}]
    talk += [{"role": "user", "content": "1+1?"}]
    file = write(tmp_path / "p.jsonl", [{"question": talk, "answer": 2}])
    (item,) = find_task(file).draw(None, 0)
    assert item.question == "1+1?"
    assert [m.role for m in as_prompt(item.prompt)] == ["system", "user", "assistant", "user"]
    own = write(tmp_path / "q.jsonl", [{"question": [{"role": "system", "content": "Be brief."}, *talk], "answer": 2}])
    (item,) = find_task(own).draw(None, 0)
    assert as_prompt(item.prompt)[0].content == "Be brief."


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("p.jsonl", '{"question": "a", "answer": 1}\n{"question": "b"', "row 2: it is not JSON"),
        ("p.jsonl", '"a"\n', "row 1: it is str and no object with columns"),
        ("p.csv", "question,answer\na,1,2\n", "row 2: it has 3 cells, and the first line 2"),
        ("p.csv", 'question,answer\n"a,1\n', "is not valid CSV, at line 2"),
        ("p.csv", "answer,answer\n1,2\n", "two columns with the same name"),
        ("p.parquet", "question", "is not Parquet"),
        ("p.json", "[1", "is not JSON"),
        ("p.jsonl", '{"question": "", "answer": 1}\n', 'in the row {"question": "", "answer": 1}, the question in'),
    ],
)
def test_a_file_that_cannot_be_read_is_reported(tmp_path: Path, name: str, content: str, words: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(ConfigurationError) as caught:
        find_task(str(tmp_path / name)).draw(None, 0)
    assert words in str(caught.value)


def test_csv_as_people_have_it(tmp_path: Path) -> None:
    file = tmp_path / "p.csv"
    file.write_bytes('\ufeffQuestion;Answer\r\n"How much; in €?";"1,5 €"\r\n\r\n"Two\nlines?";\r\n'.encode())
    items = find_task(str(file)).draw(None, 0)
    assert [(item.question, item.reference) for item in items] == [("How much; in €?", "1,5 €"), ("Two\nlines?", None)]
    file.write_bytes("question,answer\nWo?,Köln\n".encode("latin-1"))
    with pytest.raises(ConfigurationError, match=r"is not UTF-8.*CSV UTF-8"):
        find_task(str(file)).draw(None, 0)
    file.write_text(f"question,answer\n{'long ' * 50_000},5\n")
    (item,) = find_task(str(file)).draw(None, 0)
    assert len(item.question) > 200_000


def test_a_folder_of_files_and_its_splits(tmp_path: Path) -> None:
    for name, answer in (("data/test-00000-of-00002.jsonl", "007"), ("data/test-00001-of-00002.jsonl", "2")):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        write(tmp_path / name, [{"question": name, "answer": answer}])
    write(tmp_path / "data" / "train.jsonl", [{"question": "train", "answer": "3"}])
    assert [item.reference for item in find_task(f"dataset:{tmp_path}").draw(None, 0)] == ["007", "2"]
    assert [item.reference for item in find_task(f"dataset:{tmp_path},split=train").draw(None, 0)] == ["3"]
    with pytest.raises(ConfigurationError, match="no split 'dev', but test, train"):
        find_task(f"dataset:{tmp_path},split=dev").draw(None, 0)


def test_a_dataset_of_the_hubs_form_in_a_folder(tmp_path: Path) -> None:
    """Several splits, as a repository on the hub has them."""
    folder = tmp_path / "set"
    folder.mkdir()
    write(folder / "train.jsonl", [{"question": "train?", "answer": "0"}])
    write(folder / "test.jsonl", [{"question": "test?", "answer": "so 1,5 #### 1,500"}])
    (item,) = find_task(f"dataset:{folder},answer_after=####").draw(None, 0)
    assert (item.question, item.reference) == ("test?", "1500")
    write(folder / "test.jsonl", [{"question": "test?", "answer": "#### (3, 4)"}])
    (item,) = find_task(f"dataset:{folder},answer_after=####").draw(None, 0)
    assert item.reference == "(3, 4)"  # a point, whose comma is no mark of thousands


def test_answers_that_are_not_taken_as_written_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = [{"question": "Q?", "answer": answer} for answer in (["1", "2"], "so #### 3", "so 4", None)]
    file = write(tmp_path / "x.jsonl", rows)
    drawn = find_task(f"dataset:{file},answer_after=####").draw(None, 0)
    assert [item.reference for item in drawn] == ["1", "3", "so 4", None]
    several, unmarked = (record.getMessage() for record in caplog.records)
    assert several == f"{file}: 1 of 4 problems have several correct answers; only the first of each counts as right"
    told = "2 of 3 answers do not contain answer_after='####'; the whole text counts as the answer"
    assert unmarked == f"{file}: {told}"


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
        assert item.verdict(f"\\boxed{{{item.reference}}}").right
    file = tmp_path / "p.csv"
    file.write_text(
        "question,choices,answer\nQ?,\"['w', 'x', 'y']\",2\nR?,\"['1', '2', '3']\",2\nS?,\"['w', 'x']\",A\n"
    )
    cells = find_task({"path": str(file), "choices": ["choices"]}).draw(None, 0)
    assert [(item.reference, item.grader) for item in cells] == [("C", "choice"), ("B", "choice"), ("A", "choice")]
    file.write_text("question,choices,answer\nQ?,\"['w', 'x']\",z\n")
    with pytest.raises(ConfigurationError, match="the answer 'z' is not one of the choices 'w, x'"):
        find_task({"path": str(file), "choices": ["choices"]}).draw(None, 0)
    many = write(tmp_path / "many.jsonl", [{"question": "Q?", "choices": [str(i) for i in range(12)], "answer": 0}])
    with pytest.raises(ConfigurationError, match=r"a problem has 12 choices, and can have at most 10: 'Q\?'"):
        find_task({"path": many, "choices": ["choices"]}).draw(None, 0)


@pytest.mark.parametrize(
    ("task", "words"),
    [
        ("gsm9k", ["gsm9k", "gsm8k"]),
        ("nowhere.jsonl", ["nowhere.jsonl"]),
        ("dataset:x,grader=guess", ["grader", "math"]),
        ("embedded:train", ["split"]),
    ],
)
def test_a_bad_task_is_reported(task: str, words: list[str]) -> None:
    with pytest.raises(ConfigurationError) as caught:
        find_task(task).draw(3, 0)
    assert all(word in str(caught.value) for word in words)
