"""Tasks: problems with a grader, from the embedded family or through `datasets`."""

from __future__ import annotations

import itertools
import random
from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError, field_validator

from rsd_core import ConfigurationError, MissingDependency, PromptLike
from rsd_core.data import Data, explain, from_text, unknown
from rsd_core.plugins import Plugin, Registry, of_class
from rsd_integrations.embedded import task as embedded
from rsd_integrations.embedded.checker import is_right
from rsd_integrations.evaluation.graders import GRADERS, LETTERS

STEP_BY_STEP = "Please reason step by step, and put your final answer within \\boxed{}."
"""System prompt of the paper's math tasks (`qwen25-math-cot`)."""


@dataclass(frozen=True, slots=True)
class Item:
    """One problem."""

    question: str
    reference: str | None
    """The right answer, for people; None where it is not known."""
    grade: Callable[[str], bool]
    """Whether a text answers the problem rightly."""
    system: str = ""

    @property
    def prompt(self) -> PromptLike:
        """What the models are asked."""
        return [("system", self.system), ("user", self.question)] if self.system else self.question


class Task(Data):
    """A source of problems, as data."""

    @abstractmethod
    def draw(self, n: int | None, seed: int) -> list[Item]:
        """That many distinct problems, the same for the same seed; None is all of them.

        Raises:
            ConfigurationError: There are fewer, or they cannot be read.
        """


class EmbeddedTask(Task):
    """The embedded family's word problems: held out (`test`), or those on which thresholds are chosen (`dev`)."""

    kind: Literal["embedded"] = "embedded"
    split: Literal["test", "dev"] = "test"

    def draw(self, n: int | None, seed: int) -> list[Item]:
        if n is None:
            raise ConfigurationError("the embedded task makes as many problems as are asked for; say how many with --n")
        return [
            Item(problem.question, str(problem.answer), partial(is_right, problem))
            for problem in itertools.islice(embedded.problems(self.split, seed), n)
        ]


class DatasetTask(Task):
    """Problems of a dataset on the hub, a folder, or a JSON, JSONL, CSV or Parquet file, read by `datasets`."""

    kind: Literal["dataset"] = "dataset"
    path: str
    """Hub id, folder or file."""
    config: str | None = None
    split: str = "test"
    """Ignored for a single file."""
    question: str = "question"
    """Name of the field with the problem."""
    answer: str | None = "answer"
    """Name of the field with the right answer; None where there is none."""
    answer_after: str | None = None
    """The answer proper begins after the last of these marks."""
    choices: tuple[str, ...] = ()
    """Fields with the options of a multiple-choice problem: one list, or one each, which are then shuffled."""
    keep: Mapping[str, tuple[str, ...]] = {}
    """Only rows with one of these values in a field."""
    grader: str = "math"
    """`math`, `choice`, `exact`, or one that an installed package brings."""
    system: str = STEP_BY_STEP
    """System prompt."""

    @field_validator("grader")
    @classmethod
    def _loaded(cls, name: str) -> str:
        GRADERS[name]
        return name

    def draw(self, n: int | None, seed: int) -> list[Item]:
        rows = [row for row in self._rows() if all(row.get(field) in allowed for field, allowed in self.keep.items())]
        if not rows or (n is not None and n > len(rows)):
            raise ConfigurationError(f"{self.path} has {len(rows)} problems; {n or 'some'} were asked for")
        return [self._item(row) for row in (rows if n is None else random.Random(seed).sample(rows, n))]

    def _rows(self) -> list[dict[str, Any]]:
        try:
            import datasets
        except ModuleNotFoundError as error:
            raise MissingDependency("datasets", "eval", f"the task {self.path!r}") from error
        builder = {".jsonl": "json", ".json": "json", ".csv": "csv", ".parquet": "parquet"}.get(Path(self.path).suffix)
        try:
            if builder is not None:
                loaded: Iterable[Any] = datasets.load_dataset(builder, data_files=self.path, split="train")
            else:
                loaded = datasets.load_dataset(self.path, self.config, split=self.split)
            return [dict(row) for row in loaded]
        except Exception as error:
            raise ConfigurationError(
                f"the dataset {self.path!r} cannot be read: {str(error) or type(error).__name__}"
            ) from error

    def _item(self, row: dict[str, Any]) -> Item:
        try:
            question, answer = str(row[self.question]), row[self.answer] if self.answer else None
            options = [str(row[field]) for field in self.choices] if len(self.choices) > 1 else None
            if len(self.choices) == 1:
                options = [str(option) for option in row[self.choices[0]]]
        except KeyError as error:
            raise ConfigurationError(
                f"{self.path}: a row has no field {error}; it has {', '.join(row)}. Name fields by question=, answer="
            ) from error
        if isinstance(answer, list):  # some datasets give several equivalent answers
            answer = answer[0] if answer else None
        if answer is None:
            return Item(question, None, lambda _: False, self.system)
        if options is not None:
            question, answer = _with_choices(question, options, answer, shuffle=len(self.choices) > 1)
        reference = str(answer)
        if self.answer_after is not None:
            reference = reference.rpartition(self.answer_after)[2].strip().replace(",", "")
        return Item(question, reference, partial(GRADERS[self.grader], reference), self.system)


def _with_choices(question: str, options: list[str], answer: Any, shuffle: bool) -> tuple[str, str]:
    """The question with lettered options (the paper's form), and the letter of the right one."""
    if isinstance(answer, int):
        right = options[answer]
    elif str(answer) in LETTERS[: len(options)]:
        right = options[LETTERS.index(str(answer))]
    else:
        right = str(answer)
    if shuffle:
        random.Random(question).shuffle(options)
    listed = " ".join(f"({letter}) {option}" for letter, option in zip(LETTERS, options, strict=False))
    return f"{question}\nAnswer Choices: {listed}", LETTERS[options.index(right)]


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
"""Tasks known by name. GPQA asks for an agreement on the hub first."""


def _of_package(plugin: Plugin) -> Task | type[Task]:
    part = plugin.load()
    return part if isinstance(part, Task) else of_class(Task)(plugin)  # type: ignore[type-abstract]


TASKS: Registry[Task | type[Task]] = Registry("task", "rsd.tasks", BUILT_IN, _of_package)
"""The built-in tasks, and those of installed packages: a task, or a class of tasks that is made from its fields."""
FILES = (".jsonl", ".json", ".csv", ".parquet")


def find_task(task: str | Mapping[str, Any] | Task) -> Task:
    """A task by name, by the path of a file, by text (`dataset:ORG/NAME,split=train,question=problem`), or from data.

    Raises:
        ConfigurationError: Unknown name, a field out of its range, or a package that is broken.
    """
    if isinstance(task, Task):
        return task
    if isinstance(task, str):
        if task in TASKS and isinstance(named := TASKS[task], Task):
            return named
        if task not in TASKS and ":" not in task and Path(task).suffix in FILES:
            task = f"dataset:{task}"
        kind = task.partition(":")[0]
        cls = _class(kind, task)
        data = from_text(task, {kind: cls}, "task")
    else:
        data = dict(task)
        cls = _class(data.get("kind", "dataset" if "path" in data else "embedded"), task)
    try:
        return cls.model_validate(data)
    except ValidationError as error:
        raise ConfigurationError(f"{task!r} is no valid task: {explain(error)}") from error


def _class(kind: str, task: object) -> type[Task]:
    """The class of tasks that a text or data begins with."""
    if kind in KINDS:
        return KINDS[kind]
    if kind not in TASKS:
        raise ConfigurationError(
            f"{unknown('task', kind, TASKS)}, the path of a .jsonl file, and "
            "dataset:ORG/NAME,config=…,split=…,question=…,answer=…,grader=…"
        )
    part = TASKS[kind]
    if isinstance(part, Task):
        raise ConfigurationError(f"{task!r}: the task {kind!r} is complete as it is; write its name alone")
    return part
