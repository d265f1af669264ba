"""The input of a model by our code against the rendering of the chat template."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from rsd_core import Path, Prompt, Step, Thinking, as_prompt
from rsd_integrations.inprocess.vocabulary import Vocabulary
from tests.templates.families import SHOWN, Family, Mode, Rendering, own_rendering, rendered, turns
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
