"""The table of truth: what is read of nasty solutions, beside what each model's card makes of them."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from rsd_core import Path, Step, Thinking, as_prompt
from rsd_core.splitting import Delimiter
from rsd_core.thoughts.markers import MARKERS
from rsd_integrations.prm_formats import FORMATS, Layouts, bind
from tests.huggingface.reward_models import LLAMA3
from tests.prm_formats import cards
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


Why = Mapping[str, Callable[[Solution], bool]]
"""Reasons why what is read is right where the card's is not, and the solutions that each is for."""
BLANK_TURNS = "a step of nothing but white space gets no turn: there is nothing in it to be judged"
LINE_END = "the line end after the last step of a solution ends the step, and is no part of it"
MARK_IN_TEXT = "the separator in the text of a step ends no step"
LETTERS_IN_TEXT = "ки in the text of a step is the separator's token, where the card's script reads a score as well"


def _ends_a_line(solution: Solution) -> bool:
    last = cards.steps(solution.plain)[-1]
    return last.rstrip(" \t\u00a0") != last.rstrip()


def _has_blank_steps(solution: Solution) -> bool:
    return not all(part.strip() for part in solution.plain.split("\n\n"))


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
        """Why another reading than the card's is right; empty where it would not be."""
        return next((reason for reason, holds in self.why.items() if holds(solution)), "")


_STEPS: Why = {LINE_END: _ends_a_line}
_MARKED: Why = {MARK_IN_TEXT: lambda solution: "<extra_0>" in solution.plain, **_STEPS}
ROWS = (
    Row("skywork-prm", "Qwen2.5", cards.skywork("\n")),
    Row("skywork-prm", "Qwen2.5", cards.skywork("\n\n"), "\n\n"),
    Row("qwen2.5-math-prm", "Qwen2.5", cards.qwen(cards.QWEN_SYSTEM), why=_MARKED),
    Row("qwen2.5-math-prm-bare", "Qwen2.5", cards.qwen(None), why=_MARKED),
    Row("actprm", "Qwen2.5", cards.qwen(cards.QWEN_SYSTEM), why=_MARKED),
    Row("math-shepherd", "Mistral 7B", cards.shepherd, why={LETTERS_IN_TEXT: lambda solution: " ки" in solution.plain}),
    Row("rlhflow", "Llama 3", cards.rlhflow, why={BLANK_TURNS: _has_blank_steps}),
    Row("versaprm", "Llama 3", cards.versa),
    Row("versaprm", "Qwen2.5", cards.versa),
    Row("openr", "Qwen2.5", cards.openr),
    *(
        Row("trl", vocabulary, cards.trl(separator), separator, _STEPS)
        for separator in ("\n", "\n\n")
        for vocabulary in ("Qwen2.5", "Llama 3", "Mistral tekken", "DeepSeek V3", "Mistral 7B")
    ),
    Row("trl-blank-line", "Qwen2.5", cards.trl("\n\n"), why=_STEPS),
    Row("pure", "Qwen2.5", cards.trl("\n\n"), why=_STEPS),
    Row("universal-prm", "Qwen2.5", cards.universal, why=_STEPS),
    Row("reasonflux-prm-1.5b", "Qwen2.5", cards.reasonflux),
    Row("outcome", "Qwen2.5", cards.outcome),
    Row("outcome", "Llama 3", cards.outcome),
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
