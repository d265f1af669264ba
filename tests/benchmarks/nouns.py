"""Chains of two steps that small language models can do: translate a noun into English, then write its plural.

The first step takes knowledge of another language, which grows with the model; the second takes little. So the steps of
an answer differ in how much they need a larger model, like those of a solution.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any, Literal

import yaml

from rsd_core import Prompt, Result, Settings, as_prompt
from rsd_integrations.evaluation import Item, Task

WORDS = Path(__file__).with_name("real_words.yaml")
LABEL = "Plural:"
"""The beginning of the second step."""
DEV_SHARE = 0.15
"""Share of the nouns on which thresholds are chosen."""
SETTINGS = Settings(delimiter="line", max_step_tokens=12, on_abstain="accept").updated(max_steps=2)
"""A base model does not end its answer, so two lines are one. Rules abstain on well-formed steps, which are kept."""
SHOWN = {
    "French": ("chien", "boîte", "ville"),
    "Spanish": ("perro", "caja", "ciudad"),
    "German": ("Hund", "Kiste", "Stadt"),
}
"""Nouns shown with their answers in every prompt; they are never asked for."""
ANSWERS = ("dog", "box", "city")
"""Their meanings."""
_PAIRS = (
    "aircraft:aircraft calf:calves canvas:canvases child:children deer:deer fish:fish foot:feet goose:geese "
    "half:halves hoof:hooves knife:knives leaf:leaves life:lives loaf:loaves louse:lice mouse:mice ox:oxen "
    "person:people scarf:scarves sheep:sheep shelf:shelves stomach:stomachs thief:thieves tooth:teeth wife:wives "
    "wolf:wolves"
)
_IRREGULAR = dict(pair.split(":") for pair in _PAIRS.split())


def plural(noun: str) -> str:
    """The plural of an English noun, by the usual rules of spelling; a plural is unchanged."""
    head, space, last = noun.rpartition(" ")
    if last in _IRREGULAR:
        last = _IRREGULAR[last]
    elif last.endswith("man") and last not in ("human", "german", "roman"):
        last = f"{last[:-3]}men"
    elif last.endswith("y") and last[-2:-1] not in "aeiou":
        last = f"{last[:-1]}ies"
    elif last.endswith(("ss", "x", "z", "ch", "sh")) or last == "bus":
        last += "es"
    elif last not in _IRREGULAR.values() and not last.endswith("s"):
        last += "es" if last in ("hero", "potato", "tomato", "echo", "mosquito", "mango") else "s"
    return head + space + last


@dataclass(frozen=True, slots=True)
class Noun:
    """A noun of another language."""

    language: str
    word: str
    meanings: tuple[str, ...]
    """In English, all equally correct."""

    @property
    def prompt(self) -> Prompt:
        """Three examples and the noun.

        The answer is begun, so that models with and without a chat template read the same text up to the same place.
        """
        shown = "\n\n".join(
            f"{self.language}: {word}\nEnglish: {meaning}\n{LABEL} {plural(meaning)}"
            for word, meaning in zip(SHOWN[self.language], ANSWERS, strict=True)
        )
        ask = f"{self.language} nouns, their English translations, and the plurals of these."
        return as_prompt([("user", ask), ("assistant", f"{shown}\n\n{self.language}: {self.word}\nEnglish:")])

    def right(self, step: str, before: Sequence[str] = ()) -> bool:
        """Whether a step is correct.

        Args:
            step: The step's text.
            before: The steps before it; a plural is correct if it belongs to their translation, correct or not.
        """
        text = step.strip().lower()
        if not before:
            return text in (meaning.lower() for meaning in self.meanings)
        label = LABEL.lower()
        return (
            len(before) == 1
            and text.startswith(label)
            and text.removeprefix(label).strip() == plural(before[0].strip().lower())
        )

    def solved(self, text: str) -> bool:
        """Whether a whole answer, that is both steps, is correct."""
        return all(steps_right(self, text))


def steps_right(noun: Noun, text: str) -> tuple[bool, bool]:
    """Whether each of the two steps of an answer is correct."""
    first, _, second = text.partition("\n")
    return noun.right(first), noun.right(second, [first])


def drafts(noun: Noun, result: Result) -> list[tuple[float, bool]]:
    """The reward of each drafted step that got one, and whether that step was correct in its place."""
    found, before = [], list[str]()
    for step in result.steps:
        draft = step.discarded_draft if step.discarded_draft is not None else step.text
        if step.reward is not None:
            found.append((step.reward, noun.right(draft, before)))
        before.append(step.text)
    return found


@cache
def split(name: Literal["dev", "test"]) -> tuple[Noun, ...]:
    """The nouns of a split, with languages alternating as long as each has nouns left."""
    languages = yaml.safe_load(WORDS.read_text(encoding="utf-8"))
    ranked: list[tuple[float, Noun]] = []
    for language, words in languages.items():
        nouns = [Noun(language, word, tuple(meanings.split("|"))) for word, meanings in words.items()]
        random.Random(f"{language} nouns").shuffle(nouns)
        cut = round(DEV_SHARE * len(nouns))
        own = nouns[:cut] if name == "dev" else nouns[cut:]
        ranked += [(place / len(own), noun) for place, noun in enumerate(own)]
    return tuple(noun for _, noun in sorted(ranked, key=lambda pair: (pair[0], pair[1].language)))


class Nouns(Task):
    """The chains as a task of `rsd_integrations.evaluation`; the first n, so that small runs are part of large ones."""

    kind: Literal["nouns"] = "nouns"
    split: Literal["dev", "test"] = "test"

    def draw(self, n: int | None, seed: int) -> list[Item]:
        return [
            Item(noun.word, noun.meanings[0], partial(Noun.solved, noun), messages=noun.prompt)
            for noun in split(self.split)[:n]
        ]


def rows(n: int) -> list[dict[str, Any]]:
    """The first nouns with a single meaning as rows of a data file for `rsd eval`; the answer itself is the plural."""
    clear = [noun for noun in split("test") if len(noun.meanings) == 1][:n]
    return [
        {
            "question": [{"role": message.role, "content": message.content} for message in noun.prompt],
            "answer": plural(noun.meanings[0]),
        }
        for noun in clear
    ]
