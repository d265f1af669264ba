"""The same for models of 2025 and 2026."""

from __future__ import annotations

import re
from typing import Any

from tests.prm_formats.cards import Reading, plain, steps

SPARE_SYSTEM = (
    "You are an expert at solving challenging math problems spanning across various categories and difficulties such "
    "as Algebra, Number Theory, Geometry, Counting and Probability, Precalculus etc. For a given math problem, your "
    "task is to generate a step-by-step reasoning-based solution providing an answer to the question. Identify the "
    "correct concepts, formulas and heuristics that needs to be applied and then derive the contents of the reasoning "
    "steps from the given contexts and accurate calculations from the previous reasoning steps."
)


def babelscape(tok: Any, problem: str, solution: str) -> list[Reading]:
    """The card of Llama-3.1-8B-PRM800k-r, `build_prompt`: scores at ки; what is numbered is not numbered again."""
    lines, (mark,) = _numbered(solution), plain(tok, "ки")
    ids = list(tok(f"Problem: {problem}\nSteps:\n" + "\n".join(lines))["input_ids"])
    return [tuple(ids[: at + 1]) for at, id_ in enumerate(ids) if id_ == mark]


def _numbered(solution: str) -> list[str]:
    lines = []
    for number, step in enumerate(steps(solution), 1):
        numbered = re.match(r"Step \d+\s*[:.]", step)
        lines.append(f"{'' if numbered else f'Step {number}: '}{step}\nки")
    return lines


def spare(tok: Any, problem: str, solution: str) -> list[Reading]:
    """UKPLab/arxiv2025-spare-prm, README.md: a chat, " ки" after each step, which is a line, scores at its last id."""
    ids, mark = _spare_ids(tok, problem, steps(solution)), plain(tok, " ки")
    return [tuple(ids[: at + len(mark)]) for at in range(len(ids)) if ids[at : at + len(mark)] == mark]


def _spare_ids(tok: Any, problem: str, own: list[str]) -> list[int]:
    messages = [
        {"role": "system", "content": SPARE_SYSTEM},
        {"role": "user", "content": problem},
        {"role": "assistant", "content": "".join(f"{step.strip()} ки\n" for step in own)},
    ]
    return plain(tok, tok.apply_chat_template(messages, tokenize=False))


def granite(tok: Any, problem: str, solution: str) -> list[Reading]:
    """The card of granite-3.3-8b-math-prm-v2, `prepare_input`: the logits before each "Y" of the assistant's."""
    messages, found = [], []
    for number, step in enumerate(part.strip() for part in steps(solution)):
        asked = (step if number else f"{problem} {step}") + " Is this response correct so far (Y/N)?"
        messages += [{"role": "user", "content": asked}, {"role": "assistant", "content": "Y"}]
        ids = plain(tok, tok.apply_chat_template(messages, tokenize=False))
        found.append(tuple(ids[: len(ids) - 1 - ids[::-1].index(plain(tok, "Y")[0])]))
    return found
