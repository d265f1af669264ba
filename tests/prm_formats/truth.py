"""The table of truth: the inputs for nasty solutions against those by each model's card."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from rsd_core import Path, Step, Thinking, as_prompt
from rsd_core.splitting import Delimiter
from rsd_core.thoughts.markers import MARKERS
from rsd_integrations.prm_formats import FORMATS, Layouts, bind
from tests.huggingface.reward_models import LLAMA3
from tests.prm_formats import cards, newer_cards
from tests.prm_formats.cards import Reading, Recipe
from tests.prm_formats.solutions import Solution
from tests.real_vocabularies import deepseek, llama3, mistral, qwen_prm, tekken

CHATML = (
    "{% if messages[0]['role'] != 'system' %}<|im_start|>system\n" + cards.QWEN_SYSTEM + "<|im_end|>\n{% endif %}"
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""What Qwen2.5-Math's template makes of a conversation without tools."""


@lru_cache
def vocabulary(name: str) -> Any:
    """A vocabulary with its chat template."""
    make, template = {
        "Qwen2.5": (qwen_prm, CHATML),
        "Llama 3": (llama3, LLAMA3),
        "Mistral 7B": (mistral, None),
        "Mistral tekken": (tekken, None),
        "DeepSeek V3": (deepseek, None),
    }[name]
    tok = copy.copy(make())
    tok.chat_template = template
    return tok


Why = Mapping[str, Callable[[Recipe], Recipe]]
"""Reasons why what is read is right where the card's is not, each with what makes of the card's recipe what we do."""


def _of(change: Callable[[str], str]) -> Callable[[Recipe], Recipe]:
    """The card's recipe of a changed solution."""
    return lambda recipe: lambda tok, problem, solution: recipe(tok, problem, change(solution))


def _without_line_end(solution: str) -> str:
    pieces = solution.split("\n\n")
    last = max(at for at, piece in enumerate(pieces) if piece.strip())
    return "\n\n".join([*pieces[:last], re.sub(r"\r?\n\s*\Z", "", pieces[last])])


def _without_blank_line(solution: str) -> str:
    return re.sub(r"\n\r\n\Z", "", solution)


def _without_blank_steps(solution: str) -> str:
    return "\n\n".join(cards.steps(solution))


def _read_by_place(recipe: Recipe) -> Recipe:
    """The card's reading of the solution up to the end of each step, at the last separator in it."""
    return lambda tok, problem, solution: [
        recipe(tok, problem, beginning)[-1] for beginning in cards.beginnings(solution)
    ]


_STEPS: Why = {
    "the line end after the last step of a solution ends the step, and is no part of it": _of(_without_line_end),
    "so does a blank line of carriage returns; white space before it stays": _of(_without_blank_line),
}
_MARKED: Why = {
    **_STEPS,
    "the separator in the text of a step ends no step": _of(lambda text: text.replace("<extra_0>", " ")),
}
_TURNS: Why = {
    "a step of nothing but white space gets no turn: there is nothing in it to be judged": _of(_without_blank_steps)
}
_LETTERS: Why = {
    "ки in the text of a step is the separator's token, and the card's script reads a score there too": _read_by_place,
    **_STEPS,
}
_BABELSCAPE: Why = {**_LETTERS, "both": lambda recipe: _of(_without_line_end)(_read_by_place(recipe))}


@dataclass(frozen=True)
class Row:
    """A format over one vocabulary."""

    format: str
    vocabulary: str
    recipe: Recipe
    separator: str | None = None
    why: Why = field(default_factory=dict)

    @property
    def name(self) -> str:
        """For people."""
        return f"{self.format}{'' if self.separator is None else f' {self.separator!r}'}, {self.vocabulary}"

    @property
    def by_steps(self) -> bool:
        """Whether a step's score is read at its separator; otherwise all that is written so far counts."""
        return FORMATS[self.format].separator != ""

    def layouts(self) -> Layouts:
        """Our reading."""
        return Layouts(bind(FORMATS[self.format], vocabulary(self.vocabulary), self.format, self.separator))

    def reason(self, solution: Solution) -> str:
        """Why our reading is right where it is not the card's; empty where no reason makes the card's of it."""
        ours, tok = read(self.layouts(), solution), vocabulary(self.vocabulary)
        amended = self.recipe
        for reason, amend in self.why.items():
            if amend(self.recipe)(tok, solution.problem, solution.plain) == ours:
                return reason
            amended = amend(amended)
        together = amended(tok, solution.problem, solution.plain) == ours
        return "; ".join(self.why) if together else ""


ROWS = (
    Row("skywork-prm", "Qwen2.5", cards.skywork("\n")),
    Row("skywork-prm", "Qwen2.5", cards.skywork("\n\n"), "\n\n"),
    Row("qwen2.5-math-prm", "Qwen2.5", cards.qwen(cards.QWEN_SYSTEM), why=_MARKED),
    Row("qwen2.5-math-prm-bare", "Qwen2.5", cards.qwen(None), why=_MARKED),
    Row("actprm", "Qwen2.5", cards.qwen(cards.QWEN_SYSTEM), why=_MARKED),
    Row("math-shepherd", "Mistral 7B", cards.shepherd, why=_LETTERS),
    Row("rlhflow", "Llama 3", cards.rlhflow, why=_TURNS),
    Row("versaprm", "Llama 3", cards.versa),
    Row("versaprm", "Qwen2.5", cards.versa),
    Row("openr", "Qwen2.5", cards.openr),
    *(
        Row("trl", vocabulary, cards.trl(separator), separator, _STEPS)
        for separator in ("\n", "\n\n")
        for vocabulary in ("Qwen2.5", "Llama 3", "Mistral tekken", "DeepSeek V3", "Mistral 7B")
    ),
    Row("trl-blank-line", "Qwen2.5", cards.trl("\n\n"), why=_STEPS),
    Row("pure", "Qwen2.5", cards.trl("\n"), why=_STEPS),
    Row("universal-prm", "Qwen2.5", cards.universal, why=_STEPS),
    Row("reasonflux-prm-1.5b", "Qwen2.5", cards.reasonflux),
    Row("outcome", "Qwen2.5", cards.outcome),
    Row("outcome", "Llama 3", cards.outcome),
    Row("babelscape", "Llama 3", newer_cards.babelscape, why=_BABELSCAPE),
    Row("spare-prm", "Llama 3", newer_cards.spare, why=_LETTERS),
    Row("spare-prm", "Qwen2.5", newer_cards.spare, why=_LETTERS),
    Row("granite-prm", "Llama 3", newer_cards.granite, why=_TURNS),  # no package carries Granite's own vocabulary
)


def written_steps(text: str, more: int = 0) -> Iterator[Step]:
    """The steps of a text as a decoder has them; each may have some of the line ends that follow it."""
    cutter, rest = Delimiter(), text
    while rest.strip():
        end = cutter.end(rest) or len(rest)
        end += min(more, len(rest[end:]) - len(rest[end:].lstrip("\n")))
        yield Step(rest[:end], "delimiter" if rest[end:] else "end")
        rest = rest[end:]


def read(layouts: Layouts, solution: Solution, more: int = 0) -> list[Reading]:
    """What we read up to the score of each step."""
    thinking = Thinking(MARKERS["think"]) if solution.thought else None
    path, found = Path(as_prompt(solution.problem), thinking=thinking), []
    for step in written_steps(solution.written, more):
        layout, before = layouts.step(path, step), layouts.ids(path)[0]
        found.append((*before, *layout.feed[: layout.read[-1] + 1]))
        path = path.extend(step)
    return found
