"""The inputs of reward models are those of their cards, on the vocabularies that they were published with."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest

from rsd_core import Path, Step, as_prompt
from rsd_integrations.prm_formats import Layouts
from rsd_integrations.prm_formats.known import BUILT_IN
from tests.benchmarks.reward_model_inputs import compared, measure, table
from tests.docs.blocks import ROOT
from tests.prm_formats.solutions import SOLUTIONS, Solution, random_solution
from tests.prm_formats.truth import ROWS, Row, read, vocabulary
from tests.real_vocabularies import encoding, llama3, mistral, qwen_prm, tekken

rows = pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)


def test_every_built_in_format_has_a_row() -> None:
    assert {row.format for row in ROWS} >= {*BUILT_IN}


@pytest.mark.parametrize(("name", "make"), [("qwen", qwen_prm), ("llama3", llama3), ("tekken", tekken)])
def test_the_vocabularies_are_those_of_their_makers(name: str, make: object) -> None:
    assert callable(make)
    tok, theirs, offset = make(), encoding(name), 1000 if name == "tekken" else 0
    for text in [text for solution in SOLUTIONS for text in (solution.plain, solution.problem)]:
        if "<extra_0>" not in text:
            own = [id_ - offset for id_ in tok(text, add_special_tokens=False)["input_ids"]]
            assert own == theirs.encode(text, disallowed_special=())


def test_published_ids() -> None:
    assert qwen_prm()("<extra_0>")["input_ids"] == [151651]
    assert mistral()("ки + -")["input_ids"] == [1, 12902, 648, 387]
    assert llama3()(" \n\n\n\n", add_special_tokens=False)["input_ids"] == [23535]  # VersaPRM's tag
    assert qwen_prm()(" \n\n\n\n \n\n\n\n\n")["input_ids"][0] == 22701


@rows
def test_what_is_read_is_what_the_card_makes_of_it(row: Row) -> None:
    layouts = row.layouts()
    for solution in SOLUTIONS:
        ours = read(layouts, solution)
        card = row.recipe(vocabulary(row.vocabulary), solution.problem, solution.plain)
        assert ours == card or row.reason(solution), f"{row.name} differs for {solution.name!r}, and nobody says why"
        for more in (1, 9) if row.by_steps else ():  # line ends go with the step before or after them, as tokens do
            assert read(layouts, solution, more) == ours


@rows
def test_white_space_of_every_sort_is_the_cards(row: Row) -> None:
    rng = random.Random(row.name)
    found = compared(row, [random_solution(rng, f"random {i}") for i in range(40)])
    assert not found["unexplained"]
    assert found["equal"] > 15


@rows
@pytest.mark.parametrize("ends", ["\n\r\n\r\n", "\n\r\n", "\r\n\n", "\r\r\n"])
def test_mixed_line_ends_after_the_last_step_are_one_end(row: Row, ends: str) -> None:
    assert not compared(row, [Solution("mixed", "Is 91 prime?", f"It is 7 * 13.\n\nNo{ends}")])["unexplained"]


def test_the_white_space_of_a_blank_step_is_read_with_the_next_one() -> None:
    """A cap on tokens may cut a step anywhere."""
    outcome = next(row for row in ROWS if row.format == "outcome")
    layouts, path, text = outcome.layouts(), Path(as_prompt("Is 91 prime?")), "It is 7 * 13.\n\n\nNo"
    for part in ("It is 7 * 13.", "\n", "\n\n"):
        path = path.extend(Step(part, "length"))
    layout, before = layouts.step(path, Step("No", "end")), layouts.ids(path)[0]
    card = outcome.recipe(vocabulary(outcome.vocabulary), "Is 91 prime?", text)
    assert (*before, *layout.feed) == card[-1]


@rows
def test_what_was_read_of_a_path_never_changes(row: Row) -> None:
    for solution in SOLUTIONS:
        _, kept = _kept(row.layouts(), solution)
        assert all(later[: len(earlier)] == earlier for earlier, later in pairwise(kept))


def _kept(layouts: Layouts, solution: Solution) -> tuple[Path, list[list[int]]]:
    path, kept = Path(as_prompt(solution.problem)), list[list[int]]()
    for part in solution.text.split("\n\n"):
        kept.append(layouts.ids(path)[0])
        path = path.extend(Step(f"{part}\n\n", "delimiter"))
    return path, [*kept, layouts.ids(path)[0]]


def test_the_page_is_what_the_command_writes() -> None:
    assert table({"rows": measure(0)}) in (ROOT / "docs" / "reward-model-inputs.md").read_text()
