"""Thoughts in the input of outcome models: once, with nothing lost, as in each template."""

from __future__ import annotations

from typing import Any

import pytest

from rsd_core import ConfigurationError, Path, Step, Thinking, as_prompt
from rsd_core.thoughts.markers import MARKERS
from rsd_integrations.prm_formats import FORMATS, Layouts, bind
from tests.prm_formats.thinkers import FIELDS, faults
from tests.templates.comparing import comparisons
from tests.templates.families import Family
from tests.templates.tiny_tokenizer import tiny_tokenizer
from tests.templates.written import WRITTEN, source

THINK = MARKERS["think"]


@pytest.mark.parametrize("family", WRITTEN, ids=lambda family: family.name)
def test_an_outcome_model_reads_what_its_template_renders(family: Family) -> None:
    for one in comparisons(family, source(family.name)):
        assert not list(faults(one))


def texts(template: str, thinking: Thinking | None, steps: list[str], name: str = "outcome") -> list[str]:
    """What is read with each step."""
    tok: Any = tiny_tokenizer(source(template))
    tok.add_tokens(["<extra_0>"])
    layouts, path, found = Layouts(bind(FORMATS[name], tok, "m")), Path(as_prompt("Why?"), thinking=thinking), []
    for text in steps:
        step = Step(text, "delimiter")
        found.append(layouts.explain(path, step).text)
        path = path.extend(step)
    return found


@pytest.mark.parametrize("name", ["outcome", "qwen2.5-math-prm-bare"])
@pytest.mark.parametrize("template", [family.name for family in WRITTEN])
def test_a_thought_that_is_opened_twice_is_opened_once(template: str, name: str) -> None:
    rest = ["So.\n</think>\n\n", "Yes.\n\n"]
    opened = Thinking(THINK, "<think>\n")
    once = texts(template, opened, ["First.\n\n", *rest], name)
    assert texts(template, opened, ["<think>\nFirst.\n\n", *rest], name) == once
    assert texts(template, opened, ["<think>First.\n\n", *rest], name) == once
    assert all(text.count("<think>") <= 1 for text in once)
    assert all("First." in text for text in once)


@pytest.mark.parametrize("family", [one for one in WRITTEN if one.shown in FIELDS], ids=lambda family: family.name)
def test_a_thought_that_no_answer_follows_yet_is_read_as_its_template_ends_it(family: Family) -> None:
    tok: Any = tiny_tokenizer(source(family.name))
    answer = {"role": "assistant", "content": "", family.shown: "First."}
    own = tok.apply_chat_template([{"role": "user", "content": "Why?"}, answer], tokenize=False)
    assert texts(family.name, Thinking(THINK), ["<think>\nFirst.\n\n"]) == [own]


def test_thoughts_after_each_other_are_distinguished() -> None:
    steps = ["<think>\nFirst.\n\n", "So.</think>", "<think>Again.</think>\n\n", "Yes.\n\n"]
    assert texts("opened_by_the_model", Thinking(THINK), steps)[-1].endswith(
        "<think>\nFirst.\n\nSo.\n\nAgain.\n</think>\n\nYes.\n\n<|im_end|>\n"
    )
    assert texts("no_thoughts", Thinking(THINK), steps)[-1].endswith("First.\n\nSo.\n\nAgain.\n\nYes.\n\n<|im_end|>\n")


def test_a_template_for_tools_alone_is_an_error_that_says_so() -> None:
    tok: Any = tiny_tokenizer("{% for tool in tools %}{{ tool }}{% endfor %}")
    with pytest.raises(ConfigurationError, match=r"m: its chat template cannot render .*user and assistant.*TypeError"):
        bind(FORMATS["outcome"], tok, "m")
