"""Formats as data: every built-in one can be written down, and a custom one works wherever a built-in does."""

import asyncio
import json
import sys
from dataclasses import replace
from pathlib import Path as Folder
from typing import Any

import pytest
import yaml

from rsd_core import ConfigurationError, MissingDependency, Path, Step, as_prompt, load
from rsd_integrations.prm_formats import FORMATS, Head, PRMFormat, Text, as_data, find_format, from_data, read_format
from rsd_integrations.prm_formats.known import BUILT_IN
from tests.core.plugin_packages import install
from tests.huggingface.reward_models import make
from tests.inprocess.test_reward_models import QUESTION, STEPS

MINE = """\
prompt: {kind: text, template: "Task: {problem}\\n"}
heads: [{layers: [score], outputs: 2}]
separator: "\\n\\n"
strict: false
models: [our-lab/mine]
"""


def score(model: Any) -> list[float]:
    path, rewards = Path(as_prompt(QUESTION)), []
    for text in STEPS:
        step = Step(f"{text}\n\n", "delimiter")
        rewards += asyncio.run(model.score(path, [step])).rewards
        path = path.extend(step)
    return rewards


@pytest.mark.parametrize("name", BUILT_IN)
@pytest.mark.parametrize("ending", ["yaml", "json"])
def test_every_built_in_format_can_be_written_down(tmp_path: Folder, name: str, ending: str) -> None:
    form, file = FORMATS[name], tmp_path / f"{name}.{ending}"
    data = as_data(form)
    text = json.dumps(data) if ending == "json" else yaml.safe_dump(data, allow_unicode=True)
    file.write_text(text, encoding="utf-8")
    assert read_format(file) == form
    assert from_data(data) == form
    del data["name"]  # it is called as its file
    file.write_text(json.dumps(data) if ending == "json" else yaml.safe_dump(data), encoding="utf-8")
    assert read_format(file) == form


def test_a_custom_format_by_file(tmp_path: Folder) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(MINE)
    form = find_format({"prm_format": "trl"}, {}, "x", str(file))
    assert form == PRMFormat(
        "mine", Text("Task: {problem}\n"), (Head(("score",), 2),), "\n\n", strict=False, models=form.models
    )
    assert form.models == ("our-lab/mine",)


@pytest.mark.filterwarnings("ignore:.*not initialized.*")
def test_it_scores_as_the_built_in_one(tmp_path: Folder) -> None:
    folder, file = make("math-shepherd", tmp_path / "model"), tmp_path / "copied.yaml"
    file.write_text(yaml.safe_dump(as_data(FORMATS["math-shepherd"]) | {"name": "copied"}, allow_unicode=True))
    built_in = score(load(f"prm,format=math-shepherd:{folder}"))
    mine = load(f"prm,format={file}:{folder}")
    assert mine.reader.format.name == "copied"
    assert score(mine) == built_in
    assert len(set(built_in)) == len(built_in)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("strict: false|strikt: false", r"mine.yaml: unknown field 'strikt', did you mean 'strict'\?"),
        ("kind: text, |", r"mine.yaml: prompt: .* has no kind; it must be one of chat, turns, text"),
        ("kind: text|kind: txt", r"mine.yaml: prompt: unknown kind 'txt', did you mean 'text'\?"),
        ('template: "Task: {problem}|template: "Task: {question}', r"lacks the problem; write \{problem\} for it"),
        ("outputs: 2|outputs: 7", r"mine.yaml: the format mine: a head has 1 output, a value, or 2, wrong and right"),
        ("outputs: 2|outputs: two", r"mine.yaml: heads.0: outputs: Input should be a valid integer.* \(got 'two'\)"),
        (", outputs: 2|", r"mine.yaml: heads.0: outputs: .*required"),
        ("layers: [score]|layer: score", r"mine.yaml: heads.0: unknown field 'layer', did you mean 'layers'\?"),
        ("layers: [score]|layers: []", r"a head has at least one layer"),
        ("heads: [{layers: [score], outputs: 2}]|heads: []", r"it has no heads"),
        ("heads: [{layers: [score], outputs: 2}]|heads: score", r"heads: 'score' is not a list of heads"),
        (
            "{layers: [score], outputs: 2}|score",
            r"heads.0: 'score' is not a head: layers and outputs, or right and wrong",
        ),
        ("{layers: [score], outputs: 2}|{right: '+'}", r"heads.0: wrong: .*required"),
        ("[{layers|[{right: '+', wrong: '-'}, {layers", r"a model that judges by words has no other head"),
        ('separator: "\\n\\n"|separator: null', r"it has no separator; give one, '' for none"),
        ('kind: text, template: "Task: {problem}\\n"|kind: turns', r"steps in turns are judged by words"),
        (
            "strict: false|closing: turn",
            r"it is read at the end of the assistant's turn, which takes a chat and no separator",
        ),
        ("strict: false|closing: never", r"mine.yaml: closing: Input should be '', 'eos' or 'turn'"),
        ("strict: false|lead: [a]", r"mine.yaml: lead: \['a'\] is not a list of two texts"),
        ('strict: false|lead: "Step 1: "', r"mine.yaml: lead: 'Step 1: ' is not a list of two texts, before the first"),
        ("models: [our-lab/mine]|models: our-lab/mine", r"models: 'our-lab/mine' is not a list of names on the hub"),
        ("layers: [score]|layers: score", r"heads.0: layers: 'score' is not a list of names of tensors"),
        ("heads: |separator: x\nheads: ", r"'mine.yaml', line 4, is not YAML: 'separator' is given twice"),
        ("prompt: {|prompt: {{", r"'mine.yaml', line 2, is not YAML"),
    ],
)
def test_what_is_wrong_with_one_is_reported_by_its_field(
    tmp_path: Folder, change: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, _, after = change.partition("|")
    assert before in MINE
    monkeypatch.chdir(tmp_path)
    Folder("mine.yaml").write_text(MINE.replace(before, after))
    with pytest.raises(ConfigurationError, match=message):
        find_format({}, {}, "x", "mine.yaml")


@pytest.mark.parametrize("ending", ["yaml", "json"])
def test_a_mark_of_the_byte_order_is_not_part_of_a_file(tmp_path: Folder, ending: str) -> None:
    """Editors on Windows write one."""
    file = tmp_path / f"mine.{ending}"
    file.write_text(json.dumps(yaml.safe_load(MINE)), encoding="utf-8-sig")
    assert read_format(file).name == "mine"


@pytest.mark.parametrize("text", ["", "[1, 2]", "score"])
def test_a_file_without_fields_is_not_a_format(tmp_path: Folder, text: str) -> None:
    file = tmp_path / "odd.yml"
    file.write_text(text)
    with pytest.raises(ConfigurationError, match=r"odd.yml' has .* instead of fields"):
        read_format(file)


def test_a_file_that_is_not_there_is_named(tmp_path: Folder) -> None:
    with pytest.raises(ConfigurationError, match=r"the format '.*none.yaml' cannot be read: .*No such file"):
        find_format({}, {}, "x", str(tmp_path / "none.yaml"))
    (tmp_path / "odd.json").write_text("{")
    with pytest.raises(ConfigurationError, match=r"odd.json' is not JSON"):
        read_format(tmp_path / "odd.json")


def test_a_checkpoint_names_no_files_of_its_users(tmp_path: Folder) -> None:
    """Its configuration comes from the hub: what it names is looked for among the formats alone."""
    (tmp_path / "mine.yaml").write_text(MINE)
    with pytest.raises(ConfigurationError, match="unknown format"):
        find_format({"prm_format": str(tmp_path / "mine.yaml")}, {}, "x")


def test_without_yaml_json_is_read(tmp_path: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    data = as_data(FORMATS["trl"])
    (tmp_path / "a.json").write_text(json.dumps(data))
    (tmp_path / "a.yaml").write_text(yaml.safe_dump(data))
    monkeypatch.setitem(sys.modules, "yaml", None)
    monkeypatch.delitem(sys.modules, "rsd_integrations.yaml_data", raising=False)
    assert read_format(tmp_path / "a.json") == FORMATS["trl"]
    with pytest.raises(MissingDependency, match=r"a.yaml \(JSON needs no package\) needs the package 'yaml'"):
        read_format(tmp_path / "a.yaml")


def test_a_package_brings_its_format_in_a_file(tmp_path: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    install(tmp_path, "rsd-files", "", prm_formats={"ours": "rsd_files:mine.yaml", "lost": "rsd_files:none.yaml"})
    package = tmp_path / "rsd_files"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "mine.yaml").write_text(MINE)
    assert FORMATS["ours"].name == "ours"
    assert find_format({}, {}, "/models/mine") == FORMATS["ours"]  # known for its name on the hub
    assert find_format({"prm_format": "ours"}, {}, "x") == FORMATS["ours"]
    with pytest.raises(ConfigurationError, match=r"'lost' of the package 'rsd-files': .*pip uninstall rsd-files"):
        FORMATS["lost"]
    (package / "mine.yaml").write_text(MINE.replace("outputs: 2", "outputs: 3"))
    with pytest.raises(ConfigurationError, match=r"rsd-files: mine.yaml.*a head has 1 output"):
        FORMATS["ours"]


def test_fields_that_do_not_go_together_are_refused_in_code_too() -> None:
    with pytest.raises(ConfigurationError, match="the format trl: it has no heads"):
        replace(FORMATS["trl"], heads=())
    assert isinstance(replace(FORMATS["trl"], separator="\n"), PRMFormat)


@pytest.mark.parametrize("change", [{"separator": "\n"}, {"choose_separator": True}, {"prompt": {"kind": "text"}}])
def test_what_is_read_at_the_end_of_a_turn_takes_a_chat_and_no_separator(change: dict[str, Any]) -> None:
    data = {
        "name": "x",
        "prompt": {"kind": "chat"},
        "closing": "turn",
        "separator": "",
        "heads": [{"layers": ["v"], "outputs": 1}],
    }
    assert from_data(data).closing == "turn"
    with pytest.raises(ConfigurationError, match="takes a chat and no separator"):
        from_data(data | change)
