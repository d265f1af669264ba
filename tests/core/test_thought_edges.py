"""Thoughts at their edges: beginnings of markers, several thoughts, limits and models that say nothing."""

from collections.abc import Sequence
from typing import Any

import pytest

from rsd_core import (
    ConfigurationError,
    DraftOnly,
    Generation,
    Limits,
    Markers,
    Path,
    Sentence,
    Settings,
    Splitter,
    Step,
    StepRequest,
    Thinking,
    ThoughtSettings,
    Words,
    as_prompt,
    split,
    visible,
)
from rsd_core.testing import ScriptedDrafter
from rsd_core.thoughts.agreement import agree
from rsd_core.thoughts.markers import MARKERS
from rsd_core.thoughts.reading import Reader

THINK = MARKERS["think"]
OPENED = Thinking(THINK, "<think>\n")
HARMONY = "<|channel|>analysis<|message|>"


def drafter(drafts: Sequence[str], thinking: Thinking | None = None, **settings: Any) -> DraftOnly:
    return DraftOnly(drafter=ScriptedDrafter(list(drafts), thinking=thinking), settings=Settings(**settings))


# Agreement and markers


def test_markers_of_the_settings_stand_above_those_of_the_models() -> None:
    own = Markers("own", "(", ")")
    assert agree([("a", Thinking(THINK)), ("b", Thinking(MARKERS["mistral"]))], own) == Thinking(own)


def test_the_longest_opening_is_agreed_on() -> None:
    assert agree([("a", Thinking(THINK, "<think>")), ("b", OPENED)]) == OPENED


def test_a_model_of_two_roles_is_named_once() -> None:
    off = Thinking(None)
    with pytest.raises(ConfigurationError, match=r"^'a' thinks before it answers, 'b' does not"):
        agree([("a", OPENED), ("b", off), ("a", OPENED), ("b", off)])


def test_an_opening_that_begins_the_answer_switches_thinking_off() -> None:
    cohere = MARKERS["cohere"]
    assert Thinking(cohere, cohere.answer).is_off
    assert not Thinking(cohere, cohere.open).is_off


@pytest.mark.parametrize(
    ("wrong", "reason"), [({"close": " "}, "no white space"), ({"close": ")", "opens": "("}, "opens")]
)
def test_markers_that_are_none_are_refused(wrong: dict[str, str], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        Settings.model_validate({"thoughts": {"markers": {"name": "own", "open": "(", **wrong}}})


# Beginnings of markers, and markers alone


@pytest.mark.parametrize(("text", "thought", "answer"), [("<thin", "", "<thin"), ("<think>Add </", "Add </", "")])
def test_what_only_looks_like_a_marker_at_the_end_is_text_once(text: str, thought: str, answer: str) -> None:
    result = drafter([text]).run("question")
    (step,) = result.steps
    assert (step.thought, step.content) == (result.thought, result.text) == (thought, answer)


def test_neither_space_nor_half_a_marker_is_a_marker() -> None:
    assert [Reader().is_mark(text) for text in ("\n\n", "<thi", "<think>", "<think>\n\n")] == [False, False, True, True]


@pytest.mark.parametrize("bits", [["</think>It is 48."], ["</th", "ink>\n\n", "It is 48."]])
def test_a_template_that_switches_thinking_off_may_write_the_end_of_a_thought_alone(bits: list[str]) -> None:
    reader, answer = Reader(THINK), ""
    for bit in bits:
        reader, pieces = reader.read(bit)
        answer += "".join(text for _, text in pieces)
    assert answer == split("".join(bits), THINK).answer == "It is 48."


@pytest.mark.parametrize("markers", [one for one in MARKERS.values() if one.end], ids=lambda one: one.name)
def test_a_marker_that_ends_the_answer_is_no_text_however_it_comes(markers: Markers) -> None:
    reader, answer = Reader(markers), ""
    for char in f"{markers.wrap('Add.')}a < b{markers.end}ignored":
        reader, pieces = reader.read(char)
        answer += "".join(text for kind, text in pieces if kind == "answer")
    assert answer == "a < b"


@pytest.mark.parametrize(
    ("before", "text"), [("\n\n", "So 48."), (" <th", "ese> are 48."), ("<think>Add.</think> <", " 48.")]
)
def test_what_was_held_back_of_a_step_is_no_part_of_the_next(before: str, text: str) -> None:
    path = Path(as_prompt("question")).extend(Step(before, "delimiter"))
    assert visible(path, Step(text, "end")).answer == text


def test_each_step_after_the_thought_holds_its_own_text() -> None:
    result = drafter(["<think>Add.</think>So 48.\n\n", "Checked.\n\n", "Done."]).run("question")
    assert [step.content for step in result.steps] == ["So 48.\n\n", "Checked.\n\n", "Done."]


# Where thoughts are expected


def test_a_thought_that_the_prompt_begins_has_the_models_markers() -> None:
    begun = {"role": "assistant", "content": "", "reasoning_content": "Add."}
    result = drafter(["Two.[/THINK]\n\n", "So 48."], Thinking(MARKERS["mistral"])).run([("user", "question"), begun])
    assert (result.thought, result.text) == ("Two.", "So 48.")


@pytest.mark.parametrize("first", ["<think>\nOne.", "<th"])
def test_a_thought_that_the_model_opens_has_its_steps_from_the_first_one_on(first: str) -> None:
    requests: list[StepRequest] = []

    class Asked(ScriptedDrafter):
        async def generate(self, path: Path, request: StepRequest) -> Generation:
            requests.append(request)
            text = [first, "ink>" * (first == "<th") + "Two.\n</think>\n\n", "48"][path.depth]
            ending = "end" if path.depth == 2 else "delimiter"
            return Generation((Step(text, ending, size=2),), (await super().generate(path, request)).usage)

    settings = Settings(thoughts=ThoughtSettings(delimiter="sentence"))
    result = DraftOnly(drafter=Asked([""], thinking=Thinking(THINK)), settings=settings).run("question")
    assert [(request.delimiter, request.close) for request in requests] == [
        (Sentence(), "</think>"),
        (Sentence(), "</think>"),
        ("\n\n", ""),
    ]
    assert result.text == "48"


@pytest.mark.parametrize(
    ("splitter", "step", "rest"),
    [
        (StepRequest((0,), delimiter="\n\n", close="</think>").splitter, "Add.</think>\n\n", ""),
        (StepRequest((0,), delimiter="\n\n", close="</think>").splitter, "Add.</think> \n\n", "\n\nSo 48."),
        (StepRequest((0,), delimiter=Sentence(), close="</think>").splitter, "Add</think>\n", "So. Or"),
        (Words(words=("Wait", "But")), "\n\nWait, it is 3.\n\n", "But no.\n\nWait"),
        (Sentence(), "First\n\n", "Then. So"),
        (Sentence(), '"It is 3."', " So."),
        (Sentence(), "  (It is 3!)", " So."),
    ],
)
def test_a_step_ends_with_what_belongs_to_it(splitter: Splitter, step: str, rest: str) -> None:
    assert splitter.end(step + rest) == len(step)


# Limits


def test_a_step_that_opens_a_thought_counts_for_its_limit() -> None:
    result = drafter(["<think>\na b c\n\n", "never", "So 48."], limits=Limits(max_thought_tokens=4)).run("question")
    assert result.raw_text == "<think>\na b c\n\n</think>\n\nSo 48."


def test_two_thoughts_have_one_limit() -> None:
    drafts = [f"{HARMONY}a b<|end|>\n\n", f"<|start|>assistant{HARMONY}c d\n\n", "never", "48"]
    result = drafter(drafts, Thinking(MARKERS["harmony"]), limits=Limits(max_thought_tokens=4)).run("question")
    assert ([step.author for step in result.steps], result.text) == (["draft", "draft", "limit", "draft"], "48")
