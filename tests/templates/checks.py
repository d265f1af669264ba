"""Properties of every chat template of a thinking model."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Sequence

from rsd_core import Path, RSDError, Step, Thinking, as_prompt, split
from tests.templates.comparing import EARLIER, Comparison
from tests.templates.families import ANSWER, SHOWN, THOUGHT, rendered, turns
from tests.templates.rendering import Turn


def at_every_place(one: Comparison) -> None:
    """The prompt, inside of the thought, after it, and in the answer."""
    thinking = one.thinking()
    assert one.own.prompt.endswith(thinking.opening)
    assert thinking.opening.strip() == one.mode.opening.strip()
    assert thinking.is_off is not one.thinks or not one.mode.opening  # without one, nothing tells
    assert one.fed(one.prompt(), None, ()) == one.own.prompt
    for place, steps in one.written():
        assert one.fed(one.prompt(), thinking, steps) == one.wanted(place, steps)


def with_an_earlier_turn(one: Comparison) -> None:
    """A history whose thoughts the template keeps, drops, or replaces."""
    prompt, own = as_prompt([*turns(one.mode, *EARLIER)]), one.history()
    assert one.fed(prompt, None, ()) == own
    if one.thinks:
        question, answer = EARLIER
        _, _, turn = own.partition(question["content"])
        between = turn.partition(answer["content"])[0]
        assert (answer["reasoning_content"] in between) is (one.family.earlier == "kept")
        if one.family.earlier == "an empty one":
            assert one.family.closing.strip() in between
        if one.family.earlier == "kept in the content":
            written = one.family.begin + answer["reasoning_content"] + one.family.closing + answer["content"]
            assert written in rendered(one.template, one.mode, [question, {"role": "assistant", "content": written}])


def with_the_opening_of_another(one: Comparison) -> None:
    """A thought that another model's template opened."""
    if one.thinks and "in the thought" in one.own.places and one.family.begin[0].strip():
        opened = Thinking(one.thinking().markers, one.family.begin)
        assert one.fed(one.prompt(), opened, THOUGHT[:1]) == one.own.places["in the thought"]


def in_the_text_of_ids(one: Comparison) -> None:
    """The text of the ids that a model samples: markers are part of it, special tokens or not."""
    text = "".join(step for step, _ in one.family.response(one.mode))
    assert one.vocabulary.text(one.tokenizer(text, add_special_tokens=False)["input_ids"]) == text


def with_sampled_ids(one: Comparison) -> None:
    """Ids that a model sampled are fed as they are, though their text has others."""
    ids = 2 * one.tokenizer("\n")["input_ids"]
    assert ids != one.tokenizer("\n\n")["input_ids"]
    path = Path(one.prompt(), thinking=one.thinking())
    step = Step("\n\n", "delimiter", tuple(ids), one.vocabulary.identity)
    before, _ = one.vocabulary.ids(path)
    assert one.vocabulary.ids(path.extend(step))[0] == [*before, *ids]


def with_markers_in_the_question(one: Comparison) -> None:
    """What the user writes opens and closes no thought."""
    question = f"What do {one.family.begin.strip()} and {one.family.closing.strip()} mean?"
    asked = [*turns(one.mode)[:-1], {"role": "user", "content": question}]
    prompt = as_prompt(asked)
    own = one.template.render(asked, generate=True, arguments=one.mode.arguments)
    thinking = one.vocabulary.thinking(prompt)
    assert thinking is not None
    assert own.endswith(thinking.opening)
    assert thinking.opening.strip() in (one.family.begin.strip(), one.mode.opening.strip())
    assert one.fed(prompt, None, ()) == one.fed(prompt, thinking, ()) == own


def no_text_of_other_special_tokens(one: Comparison) -> None:
    """Tokens that end or begin a turn are not text, unless markers consist of them."""
    markers = one.thinking().markers
    ends = "" if markers is None else markers.end
    marks = one.family.begin + one.family.closing + one.family.before_answer + one.mode.opening + ends
    for id_, token in one.tokenizer.added_tokens_decoder.items():
        if token.special and token.content not in marks:
            assert one.vocabulary.text([id_]) == "", token.content


def read_in_two_parts(one: Comparison) -> None:
    """The core tells thought and answer apart in what was written."""
    thinking = one.thinking()
    parts = split(thinking.opening + "".join(step for step, _ in one.family.response(one.mode)), thinking.markers)
    assert parts.answer.strip() == ANSWER[0].strip()
    assert not parts.open
    if one.thinks:
        assert parts.thought == "".join(THOUGHT)


def closed_by_us(one: Comparison) -> None:
    """A thought that is closed at its limit looks as one that the template closes, where it shows one."""
    if one.thinks and "in the answer" in one.own.places and not one.family.shown.startswith("content"):
        markers = one.thinking().markers
        assert markers is not None
        assert markers.begin(THOUGHT[0]).strip() == (one.family.begin + THOUGHT[0]).strip()
        assert markers.ending == one.family.closing


def begun_by_the_prompt(one: Comparison) -> None:
    """A prompt whose last message is the beginning of the response."""
    for place, steps in one.written():
        if place in ("in the thought", "in the answer") and (place in one.own.places or not one.thinks):
            thinking = Thinking(one.thinking().markers) if place == "in the thought" else None
            assert one.fed(one.prompt(_begun(one, place, steps)), thinking, ()) == one.wanted(place, steps)


def _begun(one: Comparison, place: str, steps: Sequence[str]) -> Turn:
    """The message that begins a response: thought and answer apart, or one text for templates that know no thoughts."""
    message = {"role": "assistant", "content": ANSWER[0]}
    if not one.thinks:
        return message
    if one.family.shown == "content":
        return message | {"content": one.mode.opening + "".join(steps)}
    if place == "in the thought":
        return message | {"content": "", "reasoning_content": THOUGHT[0]}
    return message | {"reasoning_content": "".join(THOUGHT)}


def begun_without_a_thought(one: Comparison) -> None:
    """An answer that the prompt begins, of a model that was asked to think: as the template renders such a turn."""
    if not one.thinks or one.family.shown == "content after the opening":
        return  # one that puts its content after the opening reads it as a thought
    content = f"{ANSWER[0]}⟦end⟧"
    if one.family.shown in ("content blocks", "content parts"):
        turn = SHOWN[one.family.shown](one.family, "", content)
    else:
        turn = {"role": "assistant", "content": content}
    whole = one.template.render([*turns(one.mode), turn], generate=False, arguments=one.mode.arguments)
    assert one.fed(one.prompt({"role": "assistant", "content": ANSWER[0]}), None, ()) == whole.partition("⟦end⟧")[0]


CHECKS: dict[str, Callable[[Comparison], None]] = {
    check.__name__: check
    for check in (
        at_every_place,
        with_an_earlier_turn,
        with_the_opening_of_another,
        in_the_text_of_ids,
        with_sampled_ids,
        with_markers_in_the_question,
        no_text_of_other_special_tokens,
        read_in_two_parts,
        closed_by_us,
        begun_by_the_prompt,
        begun_without_a_thought,
    )
}
"""What has to hold of every template, each raising AssertionError where it does not."""


def faults(one: Comparison) -> list[str]:
    """What does not hold, each with the line that says so."""
    wrong = []
    for name, check in CHECKS.items():
        try:
            check(one)
        except (AssertionError, RSDError) as error:
            line = traceback.extract_tb(error.__traceback__)[-1].line
            asked = "thinks" if one.thinks else "answers"
            wrong.append(f"{asked}, {name.replace('_', ' ')}: {error or line}")
    return wrong
