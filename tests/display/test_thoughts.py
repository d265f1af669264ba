"""Thoughts in pages and notebooks: folded, dimmed, without markers; unknown values are not made up."""

from __future__ import annotations

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rsd_core import (
    AlwaysTarget,
    BinaryStep,
    DraftOnly,
    Limits,
    Message,
    Reader,
    Result,
    RewardGuidedDecoder,
    Roles,
    Settings,
    StepRecord,
    StructuredDecoder,
    Thinking,
    load,
)
from rsd_core.control_characters import visible
from rsd_core.testing import ScriptedTarget
from rsd_core.thoughts.markers import MARKERS, Markers
from rsd_integrations.display import read, show, to_html
from rsd_integrations.display.reading import CLOSED, MARKER, folded_thought, read_step
from tests.display.pages import Page
from tests.display.thinking import ANSWER, QUESTION, THOUGHT, decoder


def told(result: Result) -> list[str]:
    """The blocks of a result's page."""
    return Page(to_html(result)).blocks


def test_a_page_folds_the_thought_and_shows_no_marker() -> None:
    made = decoder()
    html = to_html(result := made.run(QUESTION), made)
    page = Page(html)
    assert page.blocks == [
        QUESTION,
        "There are 3 rows: 3*4=12.",
        "Two are taken: 12-2=10.",
        "Two are taken: 12-2=9.",
        "So it is 10.",
        "So it is 9.",
        "Seats that are free: 12-2=10.",
        "The answer is \\boxed{10}.",
    ]
    assert "think" not in html.replace("thought", "")
    assert "<summary>thought: 3 steps, 14 tokens, 2 by the target</summary>" in html
    outer, *inner = page.all("details")
    assert outer == {"class": "thought"}  # folded, without a script
    assert inner == [{}, {}]  # the rejected drafts
    assert result.markers == MARKERS["think"]
    assert Page(to_html(result, thoughts=True)).all("details")[0] == {"class": "thought", "open": None}


def test_the_same_result_reads_the_same_from_its_file() -> None:
    made = decoder()
    result = made.run(QUESTION)
    again = Result.from_dict(json.loads(json.dumps(result.to_dict())))
    assert told(again) == told(result)[1:]  # a file has no prompt
    assert repr(show(again, thoughts=True)) == repr(show(result, thoughts=True))


def test_json_tells_thought_raw_text_and_kinds() -> None:
    data = decoder().run(QUESTION).to_dict()
    assert data["text"] == "".join(ANSWER)
    assert data["thought"] == "".join(THOUGHT).replace("\n</think>\n\n", "")
    assert data["raw_text"] == "<think>\n" + "".join(THOUGHT + ANSWER)
    steps = data["steps"]
    assert isinstance(steps, list)
    assert [step["kind"] for step in steps] == ["thought"] * 3 + ["answer"] * 2


def test_a_notebook_folds_the_thought_into_a_line() -> None:
    made = decoder()
    shown = show(made.run(QUESTION), made)
    assert repr(shown).splitlines()[:3] == [
        "    thought: 3 steps, 14 tokens, 2 by the target",
        "  4 ● draft    0.95  Seats that are free: 12-2=10.",
        "  5 ● draft    0.95  The answer is \\boxed{10}.",
    ]
    assert Page(shown._repr_html_()).all("details")[0] == {"class": "thought"}
    whole = show(made.run(QUESTION), made, thoughts=True)
    assert repr(whole).splitlines()[1:3] == [
        "  2 ✕ rejected 0.10  Two are taken: 12-2=9.",
        "  2 ▲ target         Two are taken: 12-2=10.",
    ]
    assert Page(whole._repr_html_()).all("details")[0] == {"class": "thought", "open": None}


def test_a_thought_that_was_closed_at_its_limit_says_so() -> None:
    made = decoder(max_thought_tokens=11)
    result = made.run(QUESTION)
    assert [step.author for step in result.steps] == ["draft", "target", "draft", "limit", "draft"]
    html = to_html(result, made)
    assert Page(html).blocks[-2:] == [CLOSED, "The answer is \\boxed{10}."]
    assert "step limit" in html
    assert "thought_limit: <bdi>max_thought_tokens=11 is reached" in html
    assert "■ limit" in repr(show(result, thoughts=True))
    assert "thought_limit" in repr(show(result))
    assert "3 steps" in repr(show(result)).splitlines()[0]  # the limit wrote none


def test_a_response_without_an_answer_says_so() -> None:
    result = decoder(max_tokens=11).run(QUESTION)
    assert (result.text, result.answer) == ("", None)
    assert "<summary>unfinished thought: 3 steps" in to_html(result)
    assert repr(show(result)).startswith("    unfinished thought: 3 steps")
    assert "no_answer" in repr(show(result))


def test_a_step_that_holds_the_end_of_a_thought_and_an_answer_is_shown_in_both() -> None:
    text = "Seven times six.\n</think>\n\nIt is \\boxed{42}."
    made = decoder([text], [text], granularity="turn")
    result = made.run("6*7?")
    assert told(result) == ["6*7?", "Seven times six.", "It is \\boxed{42}."]
    assert repr(show(result)).startswith("    thought: 1 step\n  1 ● draft")
    assert repr(show(result, thoughts=True)).startswith("  1                  Seven times six.\n  1 ● draft")


def test_a_step_of_a_marker_alone_is_called_that() -> None:
    script = ["<think>\n\n", "One.\n\n", "</think>\n\n", "So \\boxed{1}."]
    result = decoder(script, script, Thinking(MARKERS["think"])).run("1?")
    assert told(result) == ["1?", MARKER, "One.", MARKER, "So \\boxed{1}."]


def test_a_dropped_draft_is_read_from_where_it_goes_on() -> None:
    slips = ["<think>\nOne.\n\n", "It is 9.\n</think>\n\n", "So \\boxed{1}."]
    right = [slips[0], "It is 1.\n</think>\n\n", slips[2]]
    result = decoder(slips, right, Thinking(MARKERS["think"])).run("1?")
    assert told(result) == ["1?", "One.", "It is 1.", "It is 9.", "So \\boxed{1}."]


def test_a_dropped_draft_of_a_thought_and_its_answer_is_read_like_any_other_text() -> None:
    opened = Reader(MARKERS["think"]).read("<think>\n")[0]
    assert read_step(opened, "So.\n</think>\n\nIt is 9.") == ("answer", "So.\n\nIt is 9.")
    assert read_step(opened, "</think>\n\n") == ("thought", MARKER)
    assert read_step(opened, "") == ("thought", MARKER)
    assert read_step(Reader(), "plain\n\n") == ("answer", "plain\n\n")
    assert read_step(Reader(), "<think>\nhm") == ("thought", "hm")


@pytest.mark.parametrize("markers", MARKERS.values(), ids=MARKERS)
def test_markers_of_every_family_stay_out(markers: Markers) -> None:
    script = [f"{markers.begin('Twelve less two.')}\n\n", f"Ten.{markers.ending}", "It is \\boxed{10}."]
    made = decoder(script, script, Thinking(markers))
    html = to_html(made.run(QUESTION), made)
    assert Page(html).blocks[1:] == ["Twelve less two.", "Ten.", "It is \\boxed{10}."]


@given(st.text(), st.text())
def test_what_is_thought_stays_text(thought: str, rejected: str) -> None:
    steps = (
        StepRecord(thought, "draft", 0.5, accepted=True, pieces=(("thought", thought),)),
        StepRecord("12", "target", 0.2, accepted=False, discarded_draft=rejected),
    )
    result = Result((), "12", "stop", steps, decoder().run("q").ledger, 0.1, thought=thought, markers=MARKERS["seed"])
    first, second, *_ = Page(to_html(result)).blocks  # fails at any element that we do not make
    assert first == visible(thought.strip(), turning=False).strip("\n") or (first, thought.strip()) == (MARKER, "")
    assert second == "12"


def test_an_earlier_thought_of_the_prompt_is_folded() -> None:
    earlier = Message("assistant", "It is 4.", {"reasoning_content": "Two and <two>."})
    result = decoder().run([Message("user", "2+2?"), earlier, Message("user", QUESTION)])
    page = Page(to_html(result))
    assert page.blocks[:4] == ["2+2?", "Two and <two>.", "It is 4.", QUESTION]
    assert page.all("details")[0] == {"class": "thought"}


def test_thresholds_and_names_are_those_of_each_part() -> None:
    thinker = ScriptedTarget(THOUGHT)
    thinker.name = "the thinker"
    made = decoder()
    mixed = RewardGuidedDecoder(
        drafter=made.drafter,
        verifier=made.verifier,
        target=made.target,
        policy=BinaryStep(delta=0.5),
        thoughts=Roles(target=thinker, policy=BinaryStep(delta=0.9)),
    )
    html = to_html(mixed.run(QUESTION), mixed)
    assert "the threshold: 0.50, and 0.90 in the thought" in html
    assert "reward 0.10, below 0.90" in html
    assert re.findall(r"left:(\d+)", html) == ["90"] * 3 + ["50"] * 2
    assert "the thinker, scripted target" in html
    split = RewardGuidedDecoder(
        drafter=made.drafter, verifier=made.verifier, target=made.target, thoughts=Roles(policy=AlwaysTarget())
    )
    assert "The line in a bar is the threshold 0.70." in to_html(split.run(QUESTION), split)
    assert read(split.run(QUESTION), split).thresholds == {"answer": 0.7, "thought": None}
    split.policy, split.thoughts = AlwaysTarget(), Roles(policy=BinaryStep(delta=0.9))
    assert "The line in a bar is the threshold 0.90." in to_html(split.run(QUESTION), split)


def test_the_threshold_of_thoughts_is_not_reported_where_there_is_none() -> None:
    made = decoder(ANSWER, ANSWER, Thinking(None))
    made.thoughts = Roles(policy=BinaryStep(delta=0.9))
    assert "The line in a bar is the threshold 0.70." in to_html(made.run(QUESTION), made)


def test_the_line_of_a_folded_thought() -> None:
    step = StepRecord("x", "draft", None, accepted=True, size=1200, pieces=(("thought", "x"),))
    assert folded_thought([step]) == "thought: 1 step, 1,200 tokens"
    assert folded_thought([step, None]) == "thought: 2 steps, 1,200 tokens"
    assert folded_thought([None]) == "thought: 1 step"


def test_reasoning_before_structured_output_is_shown_as_thought() -> None:
    decoder = DraftOnly(drafter=load("embedded:draft"), settings=Settings(limits=Limits(max_tokens=300)))
    result = StructuredDecoder(decoder, {"enum": ["yes", "no"]}).run("Mia has 4 pens. Then she buys 2 more. How many?")
    shown = read(result)
    assert [row.kind for row in shown.rows] == [step.kind for step in result.steps]
    assert [row.kind for row in shown.rows][-2:] == ["thought", "answer"]
    assert "boxed" in shown.rows[-2].text
    assert shown.rows[-1].text in ('"yes"', '"no"')
    assert "step" in shown.thought_summary
