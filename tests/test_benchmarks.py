"""The benchmarks as commands: each takes `--quick --json FILE`, and a sample has the keys of a whole run."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.benchmarks import figures, inprocess, pages, shapes
from tests.benchmarks.command import Command, Size, commit
from tests.benchmarks.keys import RECORD, keys

FOLDER = RECORD.parent
OTHERS = {
    *("client_workloads", "core_workloads", "crowded", "faulty", "gguf_worker", "instant", "keys", "langchain_worker"),
    *("figures", "picture", "serve_models", "servers_worker", "stream_clients"),
}
"""What is run and measures nothing: processes that benchmarks start, what runs them, the record of their keys, and a
drawing."""
NAMES = sorted({file.stem for file in FOLDER.glob("*.py") if 'if __name__ == "__main__":' in file.read_text()} - OTHERS)


@pytest.mark.parametrize("name", NAMES)
def test_every_benchmark_takes_a_sample(name: str, tmp_path: Path) -> None:
    module: Any = import_module(f"tests.benchmarks.{name}")
    command, sizes = module.COMMAND, getattr(module, "SIZES", {})
    json_option = ["--json", str(tmp_path / "figures.json")]
    sample, whole = command.parse(["--quick", *json_option]), command.parse(json_option)
    assert command.name == name
    assert (sample.quick, whole.quick) == (True, False)
    assert sample.json == whole.json == tmp_path / "figures.json"
    for option, size in sizes.items():
        assert (getattr(sample, option), getattr(whole, option)) == (size.quick, size.full)
        assert size.least <= size.quick <= size.full
    said = rf"python -m tests\.benchmarks\.{name} --json FILE (\[--markdown FILE\] )?\[--quick\]"
    assert re.search(said, module.__doc__)


@pytest.mark.parametrize("name", NAMES)
def test_the_page_says_what_each_sample_takes(name: str) -> None:
    """Less than the five minutes that it may take, where it was timed."""
    page = (Path(__file__).parents[1] / "docs" / "benchmarks.md").read_text()
    (took,) = re.findall(rf"^\| `{name}` \|.*\| (\d+ s|–) \|$", page, re.MULTILINE)
    assert took == "–" or int(took.removesuffix(" s")) < 300


@pytest.mark.parametrize(
    ("name", "sizes"), [("agents", ["--n", "2"]), ("budget", ["--steps", "100"]), ("templates", [])]
)
def test_a_sample_has_the_keys_of_a_whole_run(
    name: str, sizes: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "figures.json"
    monkeypatch.setattr("sys.argv", [name, "--quick", *sizes, "--json", str(file)])
    import_module(f"tests.benchmarks.{name}").main()
    data = json.loads(file.read_text())
    assert data["quick"]
    assert sorted(set(keys(data))) == json.loads(RECORD.read_text())[name]


def command() -> Command:
    """One with a size that can be left out and one that cannot."""
    sizes = {"n": Size(1000, 10, "problems"), "more_rounds": Size(5, 1, "rounds", least=0)}
    return Command("example", "What it does.", sizes, lambda data: f"## Heading\n\nIt is {data['figure']}.\n")


@pytest.mark.parametrize("quick", [True, False])
def test_the_page_of_a_sample_says_so(quick: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = ["--json", str(tmp_path / "f.json"), "--markdown", str(tmp_path / "page.md"), "--n", "7"]
    options = command().parse([*files, *(["--quick"] if quick else [])])
    command().write(options, {"figure": 3})
    page = (tmp_path / "page.md").read_text()
    assert "It is 3." in page
    assert ("**A sample**, made with `--quick` (n 7, more rounds 1)" in page) == quick
    assert page.index("## Heading") < page.index("It is 3.")
    assert json.loads((tmp_path / "f.json").read_text()) == {
        "benchmark": "example",
        "quick": quick,
        "commit": commit(),
        "figure": 3,
    }
    assert "It is 3." in capsys.readouterr().out


def test_a_section_names_the_commit_that_was_measured(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# Page\n\n<!-- one -->\n\nolder\n\n<!-- end of one -->\n\nrest\n")
    assert pages.commits(page) == {"one": ""}
    for section, text, measured in (("one", "1", "1a2b3c4d"), ("two", "2", "1a2b3c4d+"), ("one", "3", "5e6f7a8b")):
        pages.put(page, section, text, measured)
    assert pages.commits(page) == {"one": "5e6f7a8b", "two": "1a2b3c4d+"}
    assert re.findall(r"^(older|\d|rest)$", page.read_text(), re.MULTILINE) == ["3", "rest", "2"]


def test_all_sections_of_the_documentation_are_of_one_commit() -> None:
    """Not of different ones, and not of code that no commit has, which a `+` would mark."""
    measured = pages.commits(figures.PAGE)
    assert len(measured) >= 25
    (commit_of_all,) = set(measured.values())
    assert re.fullmatch("[0-9a-f]{8}", commit_of_all)


def test_figures_of_another_commit_are_made_again(tmp_path: Path) -> None:
    file = tmp_path / "example.json"
    assert figures.measured(file) is None
    command().write(command().parse(["--json", str(file)]), {"figure": 3})
    assert figures.measured(file) == commit()
    command().write(command().parse(["--json", str(file), "--quick"]), {"figure": 3})
    assert figures.measured(file) is None


def test_without_a_file_the_figures_are_shown(capsys: pytest.CaptureFixture[str]) -> None:
    command().write(command().parse(["--quick"]), {"figure": 3})
    assert json.loads(capsys.readouterr().out)["figure"] == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--n", "0"], "--n 0 is below 1"),
        (["--more-rounds", "-1"], "--more-rounds -1 is below 0"),
        (["--json", "nowhere/figures.json"], "--json nowhere/figures.json: there is no folder nowhere"),
        (["--markdown", "nowhere/page.md"], "--markdown nowhere/page.md: there is no folder nowhere"),
    ],
)
def test_impossible_sizes_are_refused_before_the_work(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        command().parse(arguments)
    assert message in capsys.readouterr().err


def test_only_a_whole_run_goes_on_from_a_journal(tmp_path: Path) -> None:
    file = tmp_path / "figures.json"
    assert command().journal(command().parse(["--json", str(file)])) == tmp_path / "figures.jsonl"
    assert command().journal(command().parse(["--json", str(file), "--quick"])) is None
    assert command().journal(command().parse([])) is None


def test_no_round_on_published_shapes_makes_no_such_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shapes.Shape, "make", lambda *_: pytest.fail("a model was made"))
    figures = inprocess.published(0, sample=False)
    assert figures == {**dict.fromkeys(shapes.OF_THE_ENGINE), "published": None}
    told = dict.fromkeys(inprocess.GOALS, 1.0) | {"date": "", "machine": "", "rounds": 5, "took_seconds": 60.0}
    told |= {"load_before": [1.0], "load_after": [1.0], "seconds_per_problem": {}, "accuracy": {}}
    page = inprocess.markdown(told | figures)
    assert "| `overhead_batch1` | not measured | ≤ 1.1 | |" in page
    assert "| `overhead_batch1_embedded` | 1.00 | ≤ 1.1 | met |" in page


def test_a_sample_is_made_on_shapes_as_wide_and_less_deep() -> None:
    sample = shapes.SMALL.sample()
    assert (sample.hidden, sample.heads, sample.intermediate) == (896, 14, 4864)
    assert (sample.layers, sample.vocabulary) == (shapes.SAMPLE_LAYERS, shapes.SAMPLE_WORDS)
    assert sample.name == "Qwen2.5-0.5B with 1 of its 24 layers and 4,096 words"


@pytest.fixture
def threads() -> Iterator[None]:
    """As many as before, whatever a benchmark sets."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_lengths_and_decisions_are_replayed_on_other_models(threads: None, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny = shapes.Shape("tiny", 32, 64, 1, 2, 1, 8192)
    for name, value in {"SMALL": tiny, "SMALL_TARGET": tiny, "CONCURRENT": 3}.items():
        monkeypatch.setattr(shapes, name, value)
    figures = shapes.measure(torch.device("cpu"), rounds=1, problems=0, answers=1)
    assert all(figures[name] > 0 for name in shapes.OF_THE_ENGINE)
    assert figures["steps"] > 3
    assert figures["tokens"] > 10 * figures["steps"]
