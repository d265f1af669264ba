"""What our vocabulary feeds a model, beside what the chat template renders."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from rsd_core import Path, Prompt, Step, Thinking, as_prompt, split
from rsd_integrations.huggingface.vocabulary import Vocabulary
from tests.templates.families import ANSWER, SHOWN, THOUGHT, Family, Mode, Rendering, own_rendering, rendered, turns
from tests.templates.rendering import Template, Turn
from tests.templates.tiny_tokenizer import tiny_tokenizer

EARLIER: tuple[Turn, ...] = (
    {"role": "user", "content": "What is 2 + 3?"},
    {"role": "assistant", "content": "It is 5.", "reasoning_content": "Two and three make five."},
)
"""A turn before the question, with its thought."""


@dataclass
class Comparison:
    """One template, asked in one way."""

    family: Family
    source: str
    mode: Mode

    def __post_init__(self) -> None:
        self.template = Template(self.source)
        self.tokenizer: Any = tiny_tokenizer(self.source, self.family.special)
        self.vocabulary = Vocabulary(self.tokenizer, len(self.tokenizer), self.mode.arguments)
        self.own: Rendering = own_rendering(self.family, self.template, self.mode)

    @property
    def thinks(self) -> bool:
        """Whether it is asked for a thought."""
        return self.mode is self.family.thinks

    def prompt(self, *further: Turn) -> Prompt:
        """The question, and what comes after it."""
        return as_prompt([*turns(self.mode), *further])

    def thinking(self) -> Thinking:
        """What our code says of the prompt."""
        thinking = self.vocabulary.thinking(self.prompt())
        assert thinking is not None, f"{self.family.name}: nothing is said of its thoughts"
        return thinking

    def fed(self, prompt: Prompt, thinking: Thinking | None, steps: Sequence[str]) -> str:
        """The text that a model reads of a path, from the ids that it is fed; they are those of that text as well."""
        path = Path(prompt, thinking=thinking)
        for step in steps:
            path = path.extend(Step(step, "delimiter"))
        ids, _ = self.vocabulary.ids(path)
        text = str(self.tokenizer.decode(ids, skip_special_tokens=False))
        assert self.vocabulary.path_text(path) == text
        assert ids == self.tokenizer(text, add_special_tokens=False)["input_ids"], f"other ids than those of {text!r}"
        return text

    def written(self) -> Iterator[tuple[str, list[str]]]:
        """Places in the response, and the steps that lead to each."""
        steps: list[str] = []
        yield "prompt", []
        for step, place in self.family.response(self.mode):
            steps = [*steps, step]
            yield place, steps

    def wanted(self, place: str, steps: Sequence[str]) -> str:
        """What the model ought to read: the template's own text; where it has none, the prompt and what was written."""
        as_written = self.own.prompt + "".join(steps)
        assert self.own.places.get(place, as_written) == as_written, f"{self.family.name} is told wrongly at {place}"
        return as_written

    def history(self) -> str:
        """The template's own text of a prompt with an earlier turn, its thought given as the template wants it."""
        question, answer = EARLIER
        thought, content = answer["reasoning_content"], answer["content"]
        if self.family.shown in ("content blocks", "content parts"):
            shown = SHOWN[self.family.shown](self.family, thought, content)
        else:
            fields = dict.fromkeys(("reasoning_content", "reasoning", "thinking"), thought)
            shown = {"role": "assistant", "content": content, **fields}
        return rendered(self.template, self.mode, [question, shown])


def comparisons(family: Family, source: str) -> list[Comparison]:
    """A template in all the ways it can be asked."""
    return [Comparison(family, source, mode) for mode in family.modes().values()]


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
    """Ids that a model sampled are fed as they are, though the text could be cut into others."""
    thinking, ids = one.thinking(), [*one.tokenizer("1")["input_ids"], *one.tokenizer("7")["input_ids"]]
    path = Path(one.prompt(), thinking=thinking)
    step = Step("17", "delimiter", tuple(ids), one.vocabulary.identity)
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
    """Tokens that end a turn, or begin one, are no text, unless markers are made of them."""
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
    if (
        not one.thinks or one.family.shown == "content after the opening"
    ):  # that template reads the content as a thought
        return
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
    """What does not hold."""
    wrong = []
    for name, check in CHECKS.items():
        try:
            check(one)
        except AssertionError as error:
            wrong.append(f"{'thinks' if one.thinks else 'answers'}, {name.replace('_', ' ')}: {error}")
    return wrong
