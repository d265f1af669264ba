"""Tasks: problems with a grader, from the embedded family, files or the hub."""

from __future__ import annotations

import itertools
import json
import logging
import random
from abc import abstractmethod
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError, field_validator

from rsd_core import ConfigurationError, Prompt, PromptLike, as_prompt
from rsd_core.data import Data, explain, from_text, unknown
from rsd_core.plugins import Plugin, Registry, of_class
from rsd_core.prompts import STEP_BY_STEP
from rsd_core.thoughts.reading import split_unopened
from rsd_integrations.data_files import ANSWERS, FILES, QUESTIONS, as_written, guessed
from rsd_integrations.data_sources import read_table
from rsd_integrations.display.reading import counted
from rsd_integrations.embedded import task as embedded
from rsd_integrations.embedded.checker import is_right
from rsd_integrations.evaluation.choices import options, with_choices
from rsd_integrations.evaluation.graders import GRADERS, kind_of, require_math_verify
from rsd_integrations.evaluation.grading_process import GradingError
from rsd_integrations.evaluation.quantities import quantity

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Verdict:
    """The result of grading a text."""

    right: bool | None
    """Whether it is correct; None if unknown."""
    error: GradingError | None = None
    """Why it could not be graded although the correct answer is known."""


@dataclass(frozen=True, slots=True)
class Item:
    """One problem."""

    question: str
    reference: str | None
    """The correct answer, for display; None if unknown."""
    grade: Callable[[str], bool] | None
    """Whether a text answers the problem correctly; None if that cannot be known, so that answers are not counted."""
    system: str = ""
    grader: str = ""
    """The grader's name, for display; empty if the task judges by itself."""
    messages: Prompt = ()
    """The whole conversation, if the question is its last message."""

    @property
    def prompt(self) -> PromptLike:
        """The prompt for the models."""
        asked: list[Any] = list(self.messages) or [("user", self.question)]
        if not self.system or (self.messages and self.messages[0].role == "system"):
            return asked if self.messages else self.question
        return [("system", self.system), *asked]

    def verdict(self, text: str) -> Verdict:
        """Grade a text, as far as possible; of raw output, the part after its thought."""
        if self.grade is None:
            return Verdict(None)
        try:
            return Verdict(bool(self.grade(split_unopened(text).answer)))
        except GradingError as error:
            return Verdict(None, error)


class Task(Data):
    """A source of problems, as data."""

    @abstractmethod
    def draw(self, n: int | None, seed: int) -> list[Item]:
        """Return `n` distinct problems, the same for the same seed; None is all of them.

        Raises:
            ConfigurationError: There are fewer problems, or they cannot be read.
        """


class EmbeddedTask(Task):
    """The embedded family's word problems: held out (`test`), or for choosing thresholds (`dev`)."""

    kind: Literal["embedded"] = "embedded"
    split: Literal["test", "dev"] = "test"

    def draw(self, n: int | None, seed: int) -> list[Item]:
        if n is None:
            raise ConfigurationError("the embedded task has no fixed number of problems; choose one with --n")
        return [
            Item(problem.question, str(problem.answer), partial(is_right, problem))
            for problem in itertools.islice(embedded.problems(self.split, seed), n)
        ]


class DatasetTask(Task):
    """Problems of a file, a folder of files, or a dataset on the hub.

    Files are JSONL, JSON, CSV, TSV or Parquet, read as they are written (see `data_files`); hub datasets by `datasets`.
    """

    kind: Literal["dataset"] = "dataset"
    path: str
    """Hub id, folder or file."""
    config: str | None = None
    split: str = "test"
    """Ignored for a single file, and for a folder whose files are not named after splits."""
    question: str = "auto"
    """Column of the problem, as text or messages; `auto`: `question`, else one with a similar name."""
    answer: str | None = "auto"
    """Column of the correct answer; `auto`: `answer`, else one with a similar name; None, `none` or empty: none. Of a
    list of answers, only the first counts as right."""
    answer_after: str | None = None
    """The answer itself begins after the last of these marks; without one, it is the whole cell."""
    choices: tuple[str, ...] = ()
    """Columns with the options of a multiple-choice problem: one list, or one per option, then shuffled."""
    keep: Mapping[str, tuple[str, ...]] = {}
    """Only rows with one of these values in a column."""
    grader: str = "auto"
    """`auto` (by the content of each correct answer), `number`, `choice`, `yes_no`, `math`, `text`, `exact`, or one
    from an installed package."""
    system: str = STEP_BY_STEP
    """System prompt."""

    @field_validator("grader")
    @classmethod
    def _loaded(cls, name: str) -> str:
        GRADERS[name]
        return name

    @field_validator("answer")
    @classmethod
    def _none(cls, name: str | None) -> str | None:
        return None if name in ("", "none") else name

    def draw(self, n: int | None, seed: int) -> list[Item]:
        rows = [
            row
            for row in read_table(self.path, self.config, self.split)
            if all(as_written(row.get(column)) in allowed for column, allowed in self.keep.items())
        ]
        if not rows:
            kept = f" with one of the values allowed by keep={dict(self.keep)}" if self.keep else ""
            raise ConfigurationError(f"{self.path} has no rows{kept}; it needs one for each problem")
        if n is not None and n > len(rows):
            raise ConfigurationError(
                f"{self.path} has {counted(len(rows), 'problem')}; {n} were requested: request at most "
                f"{len(rows)}, or for all (--all; in Python, n=None)"
            )
        drawn = rows if n is None else random.Random(seed).sample(rows, n)
        question, answer = self._columns(dict.fromkeys(name for row in rows for name in row))
        self._tell_of_answers([row.get(answer) for row in drawn] if answer else [])
        items = [self._item(row, question, answer) for row in drawn]
        for grader in {item.grader for item in items} & {"math", "number"}:
            require_math_verify(grader)
        return items

    def _columns(self, columns: Collection[str]) -> tuple[str, str | None]:
        """The columns of the problem and of the answer; guesses are reported."""
        guess_question, guess_answer = (c == "auto" and c not in columns for c in (self.question, self.answer))
        question = guessed(columns, QUESTIONS) if guess_question else self.question
        answer = guessed(columns, ANSWERS) if guess_answer else self.answer
        for what, column in (("question", question), ("answer", answer if self.answer is not None else question)):
            if column not in columns:
                lacks = f"no column {column!r}" if column else f"no column that looks like the {what}"
                none = ", or answer=none where there is none" if what == "answer" else ""
                odd = any("," in name or name != name.strip() for name in columns)
                form = "(COLUMN), in parentheses where it has commas or spaces around it" if odd else "COLUMN"
                raise ConfigurationError(
                    f"{self.path} has {lacks}; it has {', '.join(map(repr, columns))}. Name it: "
                    f"dataset:{self.path},{what}={form}{none}"
                )
        assert question is not None
        guesses = [(guess_question, "question", question), (guess_answer, "answer", answer)]
        if told := [f"the {what} from {column!r}" for guess, what, column in guesses if guess and column != what]:
            logger.warning("%s: reading %s; question= and answer= name others", self.path, " and ".join(told))
        return question, answer

    def _tell_of_answers(self, answers: Collection[Any]) -> None:
        """Report answers that are not taken as they are written."""
        several = sum(isinstance(answer, list) and len(answer) > 1 for answer in answers)
        if several:
            told = "%s: %d of %s have several correct answers; only the first of each counts as right"
            logger.warning(told, self.path, several, counted(len(answers), "problem"))
        mark = self.answer_after
        texts = [text for answer in answers if (text := as_written(answer)) is not None]
        if mark is not None and (unmarked := sum(mark not in text for text in texts)):
            told = "%s: %d of %s do not contain answer_after=%r; the whole text counts as the answer"
            logger.warning(told, self.path, unmarked, counted(len(texts), "answer"), mark)

    def _item(self, row: Mapping[str, Any], question_column: str, answer_column: str | None) -> Item:
        question, messages = _asked(row, question_column, self.path)
        answer = row.get(answer_column) if answer_column else None
        if isinstance(answer, list):  # some datasets give several equivalent answers
            answer = answer[0] if answer else None
        if self.choices:
            question, answer = with_choices(question, options(row, self.choices), answer, shuffle=len(self.choices) > 1)
        if as_written(answer) is None:
            return Item(question, None, None, self.system, messages=messages)
        reference = str(as_written(answer)).strip()
        if self.answer_after is not None:
            reference = reference.rpartition(self.answer_after)[2].strip()
            if quantity(reference) is not None:  # commas between thousands, not those of a tuple
                reference = reference.replace(",", "")
        grader = kind_of(reference) if self.grader == "auto" else self.grader
        return Item(question, reference, partial(GRADERS[grader], reference), self.system, grader, messages)


def _asked(row: Mapping[str, Any], column: str, path: str) -> tuple[str, Prompt]:
    """A question, and the conversation before it."""
    value = row.get(column)
    try:
        prompt = as_prompt(value if isinstance(value, list) else as_written(value) or "")
    except (ConfigurationError, TypeError, ValueError, AttributeError) as error:
        where = f"{path}: in the row {json.dumps(row, ensure_ascii=False, default=str):.120}"
        raise ConfigurationError(f"{where}, the question in {column!r} is not a valid prompt: {error}") from error
    return (prompt[-1].content, prompt) if isinstance(value, list) else (str(as_written(value)), ())


_STEM = (
    *("abstract_algebra", "astronomy", "college_biology", "college_chemistry", "college_computer_science"),
    *("college_mathematics", "college_physics", "computer_security", "conceptual_physics", "electrical_engineering"),
    *("elementary_mathematics", "high_school_biology", "high_school_chemistry", "high_school_computer_science"),
    *("high_school_mathematics", "high_school_physics", "high_school_statistics", "machine_learning"),
)
KINDS: dict[str, type[Task]] = {"embedded": EmbeddedTask, "dataset": DatasetTask}
BUILT_IN: dict[str, Task | type[Task]] = {
    "embedded": EmbeddedTask(),
    "embedded-dev": EmbeddedTask(split="dev"),
    "gsm8k": DatasetTask(path="openai/gsm8k", config="main", answer_after="####"),
    "math500": DatasetTask(path="HuggingFaceH4/MATH-500", question="problem"),
    "gaokao2023en": DatasetTask(path="MARIO-Math-Reasoning/Gaokao2023-Math-En", split="train"),
    "olympiadbench": DatasetTask(
        path="Hothan/OlympiadBench", config="OE_TO_maths_en_COMP", split="train", answer="final_answer"
    ),
    "gpqa": DatasetTask(
        path="Idavidrein/gpqa",
        config="gpqa_diamond",
        split="train",
        question="Question",
        answer="Correct Answer",
        choices=("Correct Answer", "Incorrect Answer 1", "Incorrect Answer 2", "Incorrect Answer 3"),
        grader="choice",
    ),
    "mmlu-stem": DatasetTask(
        path="cais/mmlu", config="all", choices=("choices",), grader="choice", keep={"subject": _STEM}
    ),
}
"""Tasks known by name. GPQA requires accepting its terms on the hub first."""


def _of_package(plugin: Plugin) -> Task | type[Task]:
    part = plugin.load()
    return part if isinstance(part, Task) else of_class(Task)(plugin)  # type: ignore[type-abstract]


TASKS: Registry[Task | type[Task]] = Registry("task", "rsd.tasks", BUILT_IN, _of_package)
"""The built-in tasks, and those of installed packages: a task, or a class of tasks built from its fields."""


def find_task(task: str | Mapping[str, Any] | Task) -> Task:
    """A task by name, by the path of a file or folder, by text, or from data.

    Text is `dataset:ORG/NAME,split=train,question=problem`.

    Raises:
        ConfigurationError: Unknown name, a field out of range, or a broken package.
    """
    if isinstance(task, Task):
        return task
    if isinstance(task, str):
        if task in TASKS and isinstance(named := TASKS[task], Task):
            return named
        if task not in TASKS and ":" not in task and (Path(task).suffix.lower() in FILES or Path(task).is_dir()):
            return DatasetTask(path=task)
        kind = task.partition(":")[0]
        cls = _class(kind, task)
        data = from_text(task, {kind: cls}, "task")
    else:
        data = dict(task)
        cls = _class(data.get("kind", "dataset" if "path" in data else "embedded"), task)
    try:
        return cls.model_validate(data)
    except ValidationError as error:
        raise ConfigurationError(f"{task!r} is not a valid task: {explain(error)}") from error


def _class(kind: str, task: object) -> type[Task]:
    """The class of tasks that a text or data begins with."""
    if kind in KINDS:
        return KINDS[kind]
    if kind not in TASKS:
        raise ConfigurationError(
            f"{unknown('task', kind, TASKS)}, the path of a file (.jsonl, .csv, .parquet) or of a folder, and "
            "dataset:PATH or dataset:ORG/NAME, then config=…,split=…,question=…,answer=…,grader=…, each after a comma"
        )
    part = TASKS[kind]
    if isinstance(part, Task):
        raise ConfigurationError(f"{task!r}: the task {kind!r} takes no options; write only its name")
    return part
