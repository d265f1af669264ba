"""Graders, tasks, formats and critics of packages: by name wherever a built-in one works, and named where they fail."""

import asyncio
import importlib
import json
from pathlib import Path as Folder
from typing import Any

import pytest
from typer.testing import CliRunner

from rsd_core import ConfigurationError, Path, RSDConfig, RunError, Step, as_prompt, load
from rsd_core.testing import ScriptedDrafter
from rsd_integrations.cli.app import app
from rsd_integrations.evaluation import TASKS, evaluate, find_task
from rsd_integrations.evaluation.graders import GRADERS
from rsd_integrations.prm_formats import CRITICS, FORMATS, find_format, usable
from tests.core import plugin_packages
from tests.huggingface.reward_models import make

SCRIPTED = RSDConfig(drafter="scripted:draft", verifier="scripted:verifier", target="scripted:target")

GRADERS_MODULE = """
import numpy

def close(reference, text):
    "Whether the last number of the text is within a tenth."
    return abs(float(text.split()[-1]) - float(reference)) <= 0.1

def by_numpy(reference, text):
    return numpy.bool_(reference in text)

def unsure(reference, text):
    return "yes"

word = "close"
"""

TASKS_MODULE = """
from typing import Literal

from rsd_core import ConfigurationError
from rsd_integrations.evaluation import Item, Task

class Halls(Task):
    kind: Literal["halls"] = "halls"
    rows: int = 3

    def draw(self, n, seed):
        if n is None:
            raise ConfigurationError("choose a number with --n")
        return [Item(f"{self.rows + i} rows of 4 seats?", "10", lambda text: "{10}" in text) for i in range(n)]

two_rows = Halls(rows=2)
number = 3
"""

FORMATS_MODULE = """
from dataclasses import replace

from rsd_core import Message
from rsd_integrations.prm_formats import FORMATS, Critic

numbered = replace(FORMATS["math-shepherd"], name="whatever", models=("our/prm-8b",), lead=(" S1: ", "\\nS{i}: "))
number = 3

def ask(problem, steps):
    return (Message("user", f"{problem} | {len(steps)} steps, the last: {steps[-1].strip()}"),)

grades = Critic(name="whatever", messages=ask, spoken=r"grade (\\d+)", models=("our/critic-1b",))
by_word = Critic(name="by-word", messages=ask, verdict="Right?")
"""


@pytest.fixture(autouse=True)
def packages(tmp_path: Folder, monkeypatch: pytest.MonkeyPatch) -> Folder:
    """A folder of packages that is on the path."""
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    return folder


def install(folder: Folder, package: str, module: str, **groups: dict[str, str]) -> None:
    plugin_packages.install(folder, package, module, **groups)
    importlib.invalidate_caches()


@pytest.fixture
def graders(packages: Folder) -> None:
    names = ("close", "by_numpy", "unsure", "word")
    install(packages, "rsd-graders", GRADERS_MODULE, graders={name: f"rsd_graders:{name}" for name in names})


@pytest.fixture
def halls(packages: Folder) -> None:
    own = {"halls": "rsd_halls:Halls", "two-rows": "rsd_halls:two_rows", "number": "rsd_halls:number"}
    install(packages, "rsd-halls", TASKS_MODULE, tasks=own)


@pytest.fixture
def formats(packages: Folder) -> None:
    install(
        packages,
        "rsd-formats",
        FORMATS_MODULE,
        prm_formats={"numbered": "rsd_formats:numbered", "number": "rsd_formats:number"},
        critics={"grades": "rsd_formats:grades", "by-word": "rsd_formats:by_word", "number": "rsd_formats:number"},
    )


# -- graders ----------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("graders")
def test_a_grader_of_a_package_grades(tmp_path: Folder) -> None:
    file = tmp_path / "p.jsonl"
    file.write_text('{"question": "How long?", "answer": "2.5"}\n')
    for task in ({"path": str(file), "grader": "close"}, f"dataset:{file},grader=close"):
        (item,) = find_task(task).draw(None, 0)
        assert [item.verdict(text).right for text in ("it is 2.45", "it is 2.7")] == [True, False]
    assert GRADERS["by_numpy"]("2", "12") is True
    assert {"math", "choice", "exact", "close"} <= set(GRADERS)


@pytest.mark.usefixtures("graders")
@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("unsure", "the grader 'unsure' of the package 'rsd-graders' answered 'yes', which is neither True nor False"),
        ("close", r"the grader 'close' of the package 'rsd-graders' failed on 'no\\nnumber': ValueError: "),
    ],
)
def test_a_grader_that_goes_wrong_is_named(name: str, words: str) -> None:
    with pytest.raises(RunError, match=words) as caught:
        GRADERS[name]("2", "no\nnumber")
    assert "\n" not in str(caught.value)


@pytest.mark.usefixtures("graders")
@pytest.mark.parametrize(
    ("grader", "words"),
    [
        ("exactly", r"grader: unknown grader 'exactly', did you mean 'exact'\?"),
        ("word", "'word' of the package 'rsd-graders': rsd_graders:word is 'close', not a function"),
    ],
)
def test_an_invalid_grader_is_reported_with_the_task(grader: str, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        find_task(f"dataset:x.jsonl,grader={grader}")


# -- tasks ------------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("halls")
def test_a_task_of_a_package_is_evaluated() -> None:
    report = evaluate(SCRIPTED, "two-rows", ["rsd", "draft"], 2, 1)
    assert [question for question, _ in report.problems] == ["2 rows of 4 seats?", "3 rows of 4 seats?"]
    assert report.methods["rsd"].accuracy == 1
    for task, rows in (("halls", 3), ("halls:5", 5), ("halls:rows=6", 6), ({"kind": "halls", "rows": 7}, 7)):
        assert find_task(task).draw(1, 0)[0].question == f"{rows} rows of 4 seats?"
    assert {"embedded", "gsm8k", "halls", "two-rows"} <= set(TASKS)


@pytest.mark.usefixtures("halls")
@pytest.mark.parametrize(
    ("task", "words"),
    [
        ("halls:rows=many", "rows: .*'many'"),
        ("halls:row=3", "unknown name, did you mean 'rows'"),
        ("two-rows:5", "the task 'two-rows' takes no options"),
        ("gsm8k:train", "the task 'gsm8k' takes no options"),
        ("number", "'number' of the package 'rsd-halls': rsd_halls:number is 3, not a subclass of Task"),
        ("hall", r"unknown task 'hall', did you mean 'halls'\?"),
        ({"kind": "hall"}, r"unknown task 'hall', did you mean 'halls'\?"),
    ],
)
def test_an_invalid_task_is_reported(task: Any, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words) as caught:
        find_task(task)
    assert "\n" not in str(caught.value)


# -- formats and critics ----------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("formats")
@pytest.mark.filterwarnings("ignore:.*not initialized.*")
def test_a_format_of_a_package_reads_a_reward_model(tmp_path: Folder) -> None:
    folder = make("math-shepherd", tmp_path / "model")
    model = load(f"prm,format=numbered:{folder}")
    (reward,) = asyncio.run(model.score(Path(as_prompt("What is 1+1?")), [Step("It is 2.\n\n", "delimiter")])).rewards
    assert reward is not None
    assert 0 < reward < 1
    assert " S1: It is 2. ки" in model.explain(Path(as_prompt("What?")), Step("It is 2.\n\n", "delimiter")).text
    assert model.reader.format.name == "numbered"
    assert find_format({"prm_format": "numbered"}, {}, "x") == FORMATS["numbered"]
    assert find_format({}, {}, "/models/prm-8b") == FORMATS["numbered"]  # known for its name on the hub


@pytest.mark.usefixtures("formats")
def test_an_invalid_format_is_named_and_does_no_harm(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(ConfigurationError, match="'number' of the package 'rsd-formats': rsd_formats:number is 3, not"):
        find_format({}, {}, "x", "number")
    with pytest.raises(ConfigurationError, match=r"x: unknown format 'numbred', did you mean 'numbered'\?"):
        find_format({}, {}, "x", "numbred")
    with pytest.raises(ConfigurationError, match=r"no known reward head.*math-shepherd.*numbered"):
        find_format({}, {}, "no-such-model")
    assert "'number' of the package 'rsd-formats'" in caplog.text
    assert "numbered" in dict(usable(FORMATS))


@pytest.mark.usefixtures("formats")
def test_rsd_models_lists_the_formats_of_packages_and_leaves_broken_ones_out() -> None:
    result = CliRunner().invoke(app, ["models", "--json"])
    listed = json.loads(result.stdout)
    assert {"trl", "numbered"} <= set(listed["prm_formats"])
    assert {"rubric", "grades"} <= set(listed["critics"])
    assert "number" not in listed["prm_formats"]


@pytest.mark.usefixtures("formats")
def test_a_critic_of_a_package_judges(monkeypatch: pytest.MonkeyPatch) -> None:
    writer = ScriptedDrafter(["So: grade 8"])
    monkeypatch.setattr("rsd_integrations.verifiers.loading.load", lambda spec: writer)
    for spec in ("judge,mode=grades:scripted:draft", "judge:hf:our/critic-1b"):
        judge = load(spec)
        path = Path(as_prompt("What is 1+1?"))
        assert asyncio.run(judge.score(path, [Step("2\n\n", "delimiter")])).rewards == (0.8,)
        assert writer.calls[-1].prompt[0].content == "What is 1+1? | 1 steps, the last: 2"
        assert judge.name == "grades scripted drafter"
    assert {"rubric", "thinkprm", "genprm", "grades"} <= set(CRITICS)
    with pytest.raises(ConfigurationError, match="does not report probabilities of words, which the critic by-word"):
        load("judge,mode=by-word:scripted:draft")
    with pytest.raises(ConfigurationError, match="'number' of the package 'rsd-formats'"):
        load("judge,mode=number:scripted:draft")


# -- broken packages --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("group", "use"),
    [
        ("graders", lambda: find_task("dataset:x.jsonl,grader=gone")),
        ("tasks", lambda: find_task("gone")),
        ("prm_formats", lambda: find_format({}, {}, "x", "gone")),
        ("critics", lambda: load("judge,mode=gone:scripted:draft")),
    ],
)
def test_a_missing_module_is_one_line_that_names_its_package(packages: Folder, group: str, use: Any) -> None:
    install(packages, "rsd-gone", "", **{group: {"gone": "rsd_gone_away:part"}})
    with pytest.raises(
        ConfigurationError, match=r"'gone' of the package 'rsd-gone': .*pip uninstall rsd-gone"
    ) as caught:
        use()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("group", "name", "use"),
    [
        ("graders", "exact", lambda: GRADERS["exact"]("1", "1")),
        ("tasks", "embedded", lambda: find_task("embedded").draw(1, 0)),
        ("prm_formats", "trl", lambda: find_format({}, {}, "x", "trl")),
        ("critics", "rubric", lambda: load("judge,mode=rubric:scripted:draft")),
    ],
)
def test_a_built_in_name_keeps_its_part_and_a_warning_names_the_package(
    packages: Folder, group: str, name: str, use: Any
) -> None:
    install(packages, "rsd-greedy", "", **{group: {name: "rsd_greedy:part"}})
    with pytest.warns(UserWarning, match=f"the built-in .* '{name}' is used, not the one .* package 'rsd-greedy'"):
        assert use()
